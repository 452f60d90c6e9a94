"""Layers that scale all parts of an entry by one factor, which no rotation changes."""

from __future__ import annotations

from torch import Tensor, nn

from complexnn.rotation import functional as cF


class SoftGate(nn.Module):
    r"""Shrink features of modulus below ``c``; leave larger ones, and every phase, alone.

    .. math:: \delta(x) = \frac{\|x\|}{\max(\|x\|, c)} x

    Shape: ``(B, d, C, *) -> (B, d, C, *)``.
    """

    def __init__(self, c: float = 1.0) -> None:
        super().__init__()
        if c <= 0:
            raise ValueError(f"c must be positive, got {c}")
        self.c = c

    def forward(self, x: Tensor) -> Tensor:
        return cF.soft_gate(x, self.c)

    def extra_repr(self) -> str:
        return f"c={self.c:g}"


class Bound(nn.Module):
    r"""Limit the modulus, the counterpart of ReLU6's upper end: :math:`x \min(1, b / \|x\|)`.

    Shape: ``(B, d, C, *) -> (B, d, C, *)``.
    """

    def __init__(self, bound: float) -> None:
        super().__init__()
        if bound <= 0:
            raise ValueError(f"bound must be positive, got {bound}")
        self.bound = bound

    def forward(self, x: Tensor) -> Tensor:
        return cF.bound(x, self.bound)

    def extra_repr(self) -> str:
        return f"{self.bound:g}"


class MeanGate(nn.Module):
    r"""The gate with :math:`c_k = E_{ij}\|x_{ijk}\|`: each channel's mean modulus, per sample.

    Shape: ``(B, d, C, *) -> (B, d, C, *)``.
    """

    def forward(self, x: Tensor) -> Tensor:
        return cF.mean_gate(x)


class Dropout(nn.Module):
    """Dropout that keeps or drops an entry, or a whole channel, with all its parts.

    Shape: ``(B, d, C, *) -> (B, d, C, *)``.
    """

    def __init__(self, p: float = 0.5, *, whole_channels: bool = False) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"p must be in [0, 1), got {p}")
        self.p, self.whole_channels = p, whole_channels

    def forward(self, x: Tensor) -> Tensor:
        return cF.shared_dropout(x, self.p, self.training, whole_channels=self.whole_channels)

    def extra_repr(self) -> str:
        return f"p={self.p:g}"
