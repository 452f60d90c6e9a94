"""The key from the histogram of phases, where features have one sign or are copied (d = 2)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from complexnn.attacks.whitening import ChannelWhitening
from complexnn.metrics import double
from complexnn.rotation import functional as cF


def phase(released: Tensor, known: ChannelWhitening) -> Tensor:
    r"""The support of the phase histogram, d = 2.

    Features of one sign put every phase into :math:`[\theta, \theta + \pi/2]`, so that the widest
    empty arc ends at θ. If all phases agree modulo π, b is a copy of a, and θ stands π/4 before
    them; which of the two it is, the attacker's own mean feature says. A histogram without an
    empty arc says nothing.

    Shape: ``(G, 2, C, H, W) -> (G, 1, 2)``.
    """
    x, y = released.flatten(2).unbind(dim=1)
    length = torch.hypot(x, y)
    angle = torch.atan2(y, x)
    # The phase of an entry near 0 is rounding. 1e-4 of the largest entry is chosen by hand.
    kept = length > 1e-4 * length.amax(dim=1, keepdim=True)
    # Left-out entries repeat an angle that is there, which moves no gap.
    first = angle.gather(1, length.argmax(dim=1, keepdim=True))
    ordered = torch.where(kept, angle, first).sort(dim=1).values
    following = torch.cat([ordered[:, 1:], ordered[:, :1] + 2 * math.pi], dim=1)
    widest = (following - ordered).argmax(dim=1, keepdim=True)
    theta = following.gather(1, widest).squeeze(1)

    copied, copies = _of_copies(released, known)
    theta = torch.where(copies, copied, theta)
    return torch.stack([theta.cos(), theta.sin()], dim=-1).unsqueeze(1)


def _of_copies(released: Tensor, known: ChannelWhitening) -> tuple[Tensor, Tensor]:
    """θ of each group if its b is a copy of its a, and whether it is: ``(G,), (G,)``.

    Both parts are multiples of one map then. Their Gram matrix has rank 1, and its leading
    eigenvector is (cos, sin) of θ + π/4, or its negative.
    """
    both = released.flatten(2)
    values, vectors = torch.linalg.eigh(double(both @ both.mT))
    along = vectors[:, :, 1].to(both)
    view = cF.rotate(released, along.unsqueeze(1)).squeeze(1)
    along = along * (view * known.mean).sum(dim=(1, 2, 3)).sign().unsqueeze(1)
    theta = torch.atan2(along[:, 1], along[:, 0]) - math.pi / 4
    rounding = 1e-6 * values[:, 1]  # of a Gram matrix in float32
    return theta, (values[:, 0] < rounding).to(theta.device)
