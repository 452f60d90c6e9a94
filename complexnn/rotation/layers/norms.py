"""Batch norms without centre and shift, alone or in one pass with what stands behind them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from complexnn.rotation import functional as cF
from complexnn.rotation import fused


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
