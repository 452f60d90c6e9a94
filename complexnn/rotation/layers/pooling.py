"""Pools, and the flattening behind them."""

from __future__ import annotations

from torch import Tensor, nn

from complexnn.rotation import functional as cF


class MaxPool2d(nn.Module):
    """Max pooling by modulus: all parts of the entry with the largest modulus in its window.

    Shape: ``(B, d, C, H, W) -> (B, d, C, H', W')``.
    """

    def __init__(
        self,
        kernel_size: int,
        stride: int | None = None,
        padding: int = 0,
        *,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        self.kernel_size, self.padding, self.ceil_mode = kernel_size, padding, ceil_mode
        self.stride = kernel_size if stride is None else stride

    def forward(self, x: Tensor) -> Tensor:
        return cF.max_pool2d(
            x, self.kernel_size, self.stride, self.padding, ceil_mode=self.ceil_mode
        )

    def extra_repr(self) -> str:
        return f"{self.kernel_size}, stride={self.stride}, padding={self.padding}"


class AdaptiveAvgPool2d(nn.AdaptiveAvgPool2d):
    """Average pooling of every part to a given size; 1 is the global pool."""

    def forward(self, x: Tensor) -> Tensor:
        return cF.per_part(super().forward, x)


class Flatten(nn.Module):
    """``(B, d, C, *) -> (B, d, C * ...)``."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2)
