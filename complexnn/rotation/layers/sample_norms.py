"""Norms within one sample, which keep their centre: its mean is linear in the parts, and rotates
with them. Only the shift goes. At d = 1 they are the plain layers without shift."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from complexnn.rotation import functional as cF


class LayerNorm(nn.Module):
    r"""Layer norm without shift, over the last axes and the parts.

    .. math:: y_j = w \frac{x_j - E[x_j]}{\sqrt{E_j\big[(x_j - E[x_j])^2\big] + \epsilon}}

    :math:`E` is the mean over the last axes, those of ``shape``, within one part; :math:`E_j` is
    over all parts, too.

    Shape: ``(B, d, *, *shape) -> (B, d, *, *shape)``.
    """

    centre = True

    def __init__(
        self, shape: int | tuple[int, ...], *, eps: float | None = 1e-5, affine: bool = True
    ) -> None:
        super().__init__()
        self.shape, self.eps = (shape,) if isinstance(shape, int) else tuple(shape), eps
        self.weight = nn.Parameter(torch.ones(self.shape)) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2:][-len(self.shape) :] != self.shape:
            raise ValueError(f"needs features (B, d, *, {self.shape}), got {tuple(x.shape)}")
        eps = torch.finfo(x.dtype).eps if self.eps is None else self.eps
        return cF.layer_norm(x, len(self.shape), self.weight, eps, centre=self.centre)

    def extra_repr(self) -> str:
        return f"{self.shape}, eps={self.eps}, affine={self.weight is not None}"


class RMSNorm(LayerNorm):
    r"""RMS norm, over the last axes and the parts: :class:`LayerNorm` without centre.

    .. math:: y_j = w \frac{x_j}{\sqrt{E_j[x_j^2] + \epsilon}}

    ``eps=None`` is the precision of the features' type, as in torch.

    Shape: ``(B, d, *, *shape) -> (B, d, *, *shape)``.
    """

    centre = False


class GroupNorm(nn.Module):
    r"""Group norm without shift: :class:`LayerNorm` over all positions of each group of channels,
    with a scale per channel. As many groups as channels: instance norm.

    Shape: ``(B, d, C, *) -> (B, d, C, *)``.
    """

    def __init__(
        self, groups: int, channels: int, *, eps: float = 1e-5, affine: bool = True
    ) -> None:
        super().__init__()
        self.groups, self.channels, self.eps = groups, channels, eps
        self.weight = nn.Parameter(torch.ones(channels)) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] != self.channels:
            raise ValueError(f"needs features (B, d, {self.channels}, *), got {tuple(x.shape)}")
        return cF.group_norm(x, self.groups, self.weight, self.eps)

    def extra_repr(self) -> str:
        return f"{self.groups}, {self.channels}, eps={self.eps:g}"
