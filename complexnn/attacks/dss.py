r"""Denoising source separation (Särelä and Valpola, JMLR 2005), the denoiser learned.

An encoder makes few of all possible features. A denoiser, trained on views that lie between a
member and the rest of its group, sends any view to the image that dominates it, and the encoder
makes a feature of that. Projected on the span of what was released, all views of a group together
become the next frame, orthonormal again because the rows of a key are:

.. math:: U \leftarrow \mathrm{polar}\left(D(U X)\, X^T (X X^T)^{-1}\right), \qquad
    D = g \circ \mathrm{dec}.

With tanh for D this is, but for a shift, FastICA.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from complexnn import functional as cF
from complexnn.adversaries import near_members
from complexnn.attacks.fitting import FitLog, Knowledge, Observation, fit
from complexnn.attacks.keys import nearest_orthogonal
from complexnn.config import AttackConfig
from complexnn.metrics import double
from complexnn.networks.attackers import UNet

ITERATIONS = 60


def mixed_views(seen: Observation, generator: Generator) -> tuple[Tensor, Tensor]:
    """Views of each group between its members and random mixtures of the rest, and which images of
    the batch those members are: one view for each packed query; in decoy groups, of one random
    member."""
    parts, (groups, dim) = seen.parts, seen.key.members.shape
    place = torch.arange(dim).expand(groups, dim)
    if seen.key.group == "decoy":
        place = torch.randint(0, dim, (groups, 1), generator=generator)
    views = cF.rotate(parts, near_members(place, parts.shape[1], generator).to(parts))
    members = seen.key.members.gather(1, place.to(seen.key.members.device))
    return views.flatten(0, 1), members.flatten()


def fit_denoiser(
    model: UNet, knowledge: Knowledge, config: AttackConfig, generator: Generator
) -> FitLog:
    """Train a decoder from views to the image of the member that each is a view of."""

    def loss(model: UNet, seen: Observation) -> Tensor:
        views, members = mixed_views(seen, generator)
        return (model(views).squeeze(1) - seen.batch.images[members]).square().mean()

    return fit(model, loss, knowledge, config, generator, "denoiser of views")


@torch.no_grad()
def separate(
    released: Tensor,
    denoise: Callable[[Tensor], Tensor],
    *,
    starts: int,
    iterations: int = ITERATIONS,
) -> Tensor:
    """The frame of each group whose views the denoiser changes least, of all that it passes.

    Args:
        released: ``(G, d, C, H, W)``.
        denoise: views ``(B, C, H, W)`` to features that an image could have.
        starts: random frames to start from, each with the signs that the denoiser prefers.
        iterations: steps from each.

    Returns:
        Directions ``(G, d, d)``, in no order.
    """
    groups, dim = released.shape[:2]
    flat = released.flatten(2)
    inverse = torch.linalg.pinv(double(flat @ flat.mT), hermitian=True).to(flat)

    def restored(frame: Tensor) -> tuple[Tensor, Tensor]:
        """What the denoiser makes of each view, and how far from it, relative to its power."""
        views = cF.rotate(released, frame)
        found = denoise(views.flatten(0, 1)).unflatten(0, views.shape[:2]).flatten(2)
        power = views.flatten(2).square().sum(-1).clamp(min=1e-30)
        return found, (found - views.flatten(2)).square().sum(-1) / power

    least = torch.full((groups,), torch.inf, device=released.device)
    best = torch.eye(dim).to(flat).expand(groups, dim, dim)
    for start in range(starts):
        frame = cF.draw_rotations(groups, dim, Generator().manual_seed(start)).to(flat)
        upright = restored(frame)[1] <= restored(-frame)[1]
        frame = torch.where(upright.unsqueeze(-1), frame, -frame)
        for _ in range(iterations):
            found, change = restored(frame)
            change = change.mean(dim=1)
            best = torch.where((change < least).view(-1, 1, 1), frame, best)
            least = torch.minimum(change, least)
            inside = found @ flat.mT @ inverse
            frame = nearest_orthogonal(F.normalize(inside, dim=-1))
    return best
