r"""Rotation-equivariant layers for features ``(B, d, C, *)``.

**Equivariance.** For every layer here and any orthogonal matrices ``R``, one per sample,
``layer(rotate(x, R)) == rotate(layer(x), R)``, in train and in eval mode (:class:`ComplexConv2d`
and :class:`ComplexLinear`: for rotations at d = 2, not for reflections). In eval mode a sample's
output never depends on the other samples of its batch. Rules and formulas: Xiang et al.,
"Interpretable Complex-Valued Neural Networks for Privacy Protection", ICLR 2020.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from complexnn.rotation import functional as cF
from complexnn.rotation import fused


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


class BatchNorm(nn.Module):
    r"""Batch normalisation without centre and shift.

    .. math:: y_k = w_k \frac{x_k}{\sqrt{E[x_k^2] + \epsilon}}

    The mean runs over samples, parts and positions; subtracting a mean, or adding a shift, would
    not commute with the rotation. A learned scale ``w`` does. Where several processes train
    together, the mean runs over all of them. Training uses the batch's mean
    square and tracks it in the buffer ``running_mean_square``, which eval mode uses alone.

    Deviation: the paper's :math:`E[\|x_k\|^2]` sums over the parts where this averages, so features
    come out :math:`\sqrt d` larger, each part of unit mean square as in a network without
    rotation; networks scale the gate's c by :math:`\sqrt d`, so it passes the same features.

    Shape: ``(B, d, C, *) -> (B, d, C, *)``.
    """

    running_mean_square: Tensor
    num_batches_tracked: Tensor

    def __init__(self, num_features: int, *, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.weight = nn.Parameter(torch.ones(num_features))
        self.register_buffer("running_mean_square", torch.ones(num_features))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        return self._normalised(x)

    @property
    def _scale(self) -> Tensor:
        """What eval mode multiplies each channel by."""
        return self.weight * torch.rsqrt(self.running_mean_square + self.eps)

    def _normalised(self, x: Tensor, shortcut: Tensor | None = None) -> Tensor:
        if not self.training:
            return fused.scaled(x, self._scale, shortcut)
        self._refuse_one_value(x)
        y, power = fused.PowerNorm.apply(x, self.weight, self.eps, shortcut)
        self._track(power)
        return y

    def _refuse_one_value(self, x: Tensor) -> None:
        if x.shape[0] * math.prod(x.shape[3:]) == 1:
            raise ValueError(
                "BatchNorm in train mode needs more than one value per channel, "
                f"got shape {tuple(x.shape)}; use a larger batch"
            )

    @torch.no_grad()
    def _track(self, power: Tensor) -> None:
        tracked = power.to(self.running_mean_square.dtype)
        self.running_mean_square.lerp_(tracked, self.momentum)
        self.num_batches_tracked.add_(1)

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps:g}, momentum={self.momentum:g}"


class NormAdd(BatchNorm):
    """Batch normalisation and the sum with a shortcut behind it, in one pass:
    ``BatchNorm(x) + shortcut``.

    Shape: ``(B, d, C, *), (B, d, C, *) -> (B, d, C, *)``.
    """

    def forward(self, x: Tensor, shortcut: Tensor) -> Tensor:
        return self._normalised(x, shortcut)


class NormGate(BatchNorm):
    r"""Batch normalisation and the gate behind it, in one pass: ``SoftGate(c)(BatchNorm(x))``, or
    with ``c=None`` ``MeanGate()(BatchNorm(x))``.

    Shape: ``(B, d, C, *) -> (B, d, C, *)``.
    """

    def __init__(self, num_features: int, c: float | None = 1.0, **kwargs: float) -> None:
        super().__init__(num_features, **kwargs)
        if c is not None and c <= 0:
            raise ValueError(f"c must be positive, got {c}")
        self.c = c

    def forward(self, x: Tensor) -> Tensor:
        if self.c is None:
            return cF.mean_gate(super().forward(x))
        if self.training:
            self._refuse_one_value(x)
        elif not torch.is_grad_enabled():
            return fused.gated(x, self.c, self._scale)
        power = None if self.training else self.running_mean_square
        y, power = fused.NormGate.apply(x, self.weight, self.eps, self.c, power)
        if self.training:
            self._track(power)
        return y

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, c={self.c}"


class NormMixingGate(BatchNorm):
    r"""Batch normalisation and a gate that sees all channels of its position, not in the paper:

    .. math:: z_k = 2\,\sigma\Big(\sum_j W_{kj} e_j + b_k\Big)\, y_k, \quad
        e = 2 c\, \frac{\|y\| - c}{\|y\| + c}, \quad
        y = \mathrm{BatchNorm}(x)

    e is the modulus beyond its usual c, :math:`\sqrt d` behind a norm, bounded for outliers.

    Moduli are what a rotation leaves alone, so any function of them may scale a feature; the
    paper's gate lets each channel see only its own. One 1x1 convolution per group, whatever d.

    Shape: ``(B, d, C, *) -> (B, d, C, *)``.
    """

    def __init__(self, num_features: int, c: float = 1.0, **kwargs: float) -> None:
        super().__init__(num_features, **kwargs)
        if c <= 0:
            raise ValueError(f"c must be positive, got {c}")
        self.c = c
        self.mix = nn.Linear(num_features, num_features)

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        length = cF.modulus(y)
        excess = 2 * self.c * (length - self.c) / (length + self.c)
        gate = 2 * self.mix(excess.movedim(2, -1)).sigmoid().movedim(-1, 2)
        return y * gate.to(y)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, c={self.c}"


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


class AvgPool2d(nn.AvgPool2d):
    """Average pooling of every part; arguments of :class:`torch.nn.AvgPool2d`."""

    def forward(self, x: Tensor) -> Tensor:
        return cF.per_part(super().forward, x)


class AdaptiveAvgPool2d(nn.AdaptiveAvgPool2d):
    """Average pooling of every part to a given size; 1 is the global pool."""

    def forward(self, x: Tensor) -> Tensor:
        return cF.per_part(super().forward, x)


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


class Flatten(nn.Module):
    """``(B, d, C, *) -> (B, d, C * ...)``."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2)
