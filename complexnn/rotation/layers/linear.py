"""Linear layers: every part through the same weights, or two parts as one complex number."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from complexnn.rotation import functional as cF


def _refuse_bias(bias: bool) -> None:
    if bias:
        raise ValueError("a bias breaks rotation equivariance: f(Rx) + b is not R(f(x) + b)")


class Conv2d(nn.Conv2d):
    """Convolution without bias, its real weights shared by all parts.

    Takes the arguments of :class:`torch.nn.Conv2d`; ``bias=True`` is refused.

    Shape: ``(B, d, C, H, W) -> (B, d, C', H', W')``.
    """

    def __init__(self, *args: Any, bias: bool = False, **kwargs: Any) -> None:
        _refuse_bias(bias)
        super().__init__(*args, bias=False, **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        return cF.per_part(super().forward, x)


class Linear(nn.Linear):
    """Fully connected layer without bias, its real weights shared by all parts.

    Shape: ``(B, d, C) -> (B, d, C')``.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = False) -> None:
        _refuse_bias(bias)
        super().__init__(in_features, out_features, bias=False)


class ComplexConv2d(nn.Module):
    r"""Convolution with complex weights :math:`W = U + iV`, d = 2 only.

    .. math:: y = W x = (U x_1 - V x_2) + i (V x_1 + U x_2)

    The rule of the 2021 reproductions, kept for comparison: twice the parameters and four times
    the multiplications of real weights, and V mixes the counterpart into the query's path.

    Equivariance: rotations of the plane; a reflection (complex conjugation) does not commute.

    Shape: ``(B, 2, C, H, W) -> (B, 2, C', H', W')``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        *,
        bias: bool = False,
    ) -> None:
        super().__init__()
        _refuse_bias(bias)
        self.real = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=False)
        self.imag = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=False)
        for conv in (self.real, self.imag):  # half the variance each: |W|^2 as in a real layer
            conv.weight.data.div_(math.sqrt(2))

    def forward(self, x: Tensor) -> Tensor:
        # One convolution of twice the channels: [[U, -V], [V, U]] on the stacked parts.
        u, v = self.real.weight, self.imag.weight
        weight = torch.cat([torch.cat([u, -v], 1), torch.cat([v, u], 1)], 0)
        y = nn.functional.conv2d(x.flatten(1, 2), weight, None, self.real.stride, self.real.padding)
        return y.unflatten(1, (2, -1))


class ComplexLinear(nn.Module):
    r"""Fully connected layer with complex weights, d = 2 only; see :class:`ComplexConv2d`.

    Shape: ``(B, 2, C) -> (B, 2, C')``.
    """

    def __init__(self, in_features: int, out_features: int, *, bias: bool = False) -> None:
        super().__init__()
        _refuse_bias(bias)
        self.real = nn.Linear(in_features, out_features, bias=False)
        self.imag = nn.Linear(in_features, out_features, bias=False)
        for linear in (self.real, self.imag):
            linear.weight.data.div_(math.sqrt(2))

    def forward(self, x: Tensor) -> Tensor:
        u, v = self.real(x), self.imag(x)
        first, second = u[:, 0] - v[:, 1], v[:, 0] + u[:, 1]
        return torch.stack([first, second], dim=1)
