"""Layers that scale all parts of an entry by one factor, which no rotation changes."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
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


def _elu_slope(t: Tensor) -> Tensor:
    below = t.clamp(max=-1e-12)  # exp(t) - 1 over t is 1 there, in every precision
    return torch.expm1(below) / below


# Activations t g(t), and their slopes g.
SLOPES: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": lambda t: 0.5 * (1 + torch.erf(t / math.sqrt(2))),
    "silu": torch.sigmoid,
    "hardswish": F.hardsigmoid,
    "mish": lambda t: torch.tanh(F.softplus(t)),
    "elu": _elu_slope,
}


class SmoothGate(nn.Module):
    r"""The form of an activation :math:`t\, g(t)` with a continuous slope g, such as GELU's
    :math:`\Phi` or SiLU's sigmoid:

    .. math:: y = x\, g(r - c/2), \quad r = \|x\| / \sqrt d

    with c the mean of r over the sample (``c=None``), or fixed. It follows from the paper's gate,
    which is a ReLU's slope (0 below 0, 1 above) averaged over a window of width c below r:

    .. math:: \frac{1}{c} \int_{r-c}^{r} g(t)\, dt = \min\Big(\frac{r}{c}, 1\Big).

    For a continuous g, its value in the middle of the window stands for the average.
    The mean is over all entries of a sample, so like the plain activation, the layer does not mind
    which axis holds the channels.

    Shape: ``(B, d, C, *) -> (B, d, C, *)``.
    """

    def __init__(self, slope: str, c: float | None = None) -> None:
        super().__init__()
        if slope not in SLOPES:
            raise ValueError(f"slope must be one of {', '.join(SLOPES)}, got {slope}")
        if c is not None and c <= 0:
            raise ValueError(f"c must be positive, got {c}")
        self.slope, self.c = slope, c

    def forward(self, x: Tensor) -> Tensor:
        return x * SLOPES[self.slope](cF.signed_stand_in(x, self.c)).to(x.dtype)

    def extra_repr(self) -> str:
        return f"{self.slope}, c={self.c}"


class LeakyGate(nn.Module):
    r"""The form of a ReLU that lets a share ``a`` of negative values through:
    :math:`a x + (1 - a)\, \mathrm{gate}(x)`.

    Args:
        gate: the form of the ReLU.
        a: a number, or a parameter with one number or one per channel, which is learned (PReLU).

    Shape: ``(B, d, C, *) -> (B, d, C, *)``.
    """

    def __init__(self, gate: nn.Module, a: float | nn.Parameter) -> None:
        super().__init__()
        self.gate, self.weight = gate, a

    def forward(self, x: Tensor) -> Tensor:
        a = self.weight
        if isinstance(a, Tensor):
            a = a.to(x.dtype)
            a = a.view(-1, *[1] * (x.dim() - 3)) if a.numel() > 1 else a
        return a * x + (1 - a) * self.gate(x)

    def extra_repr(self) -> str:
        return "learned" if isinstance(self.weight, Tensor) else f"{self.weight:g}"


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


class StochasticDepth(nn.Module):
    """Drop whole samples (``row``) or the whole batch with probability p, with all parts; factor
    1 / (1 - p) for the others (Huang et al. 2016, arXiv 1603.09382).

    Shape: ``(B, d, C, *) -> (B, d, C, *)``.
    """

    def __init__(self, p: float, mode: str = "row") -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"p must be in [0, 1), got {p}")
        if mode not in ("row", "batch"):
            raise ValueError(f"mode must be row or batch, got {mode}")
        self.p, self.mode = p, mode

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        count = x.shape[0] if self.mode == "row" else 1
        return x * F.dropout(x.new_ones(count, *[1] * (x.dim() - 1)), self.p)

    def extra_repr(self) -> str:
        return f"p={self.p:g}, mode={self.mode}"
