r"""Denoising source separation (Särelä and Valpola, JMLR 2005), the denoiser learned.

An encoder makes few of all possible features. A denoiser, trained on views that lie between a
member and the rest of its group, sends a view at an angle φ from a member to that member. What it
makes of all views of a frame U, projected on the span of what was released, becomes the next
frame, orthonormal again because the rows of a key are, while the angle falls:

.. math:: U \leftarrow \mathrm{polar}\left(M - \tfrac12 \mathrm{diag}(M U^T)\, U\right), \qquad
    M = D_\varphi(U X)\, X^T (X X^T)^{-1}, \text{ rows of unit length}.

With tanh for D this is FastICA, whose shift is the derivative's mean in the place of a half of
what a row keeps of itself.

The denoiser is a network of white features, in whose every direction members differ from mixtures
as much as in every other. For features whose covariance is too large, it is a decoder to images
and the encoder after it, which knows no angle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from complexnn import functional as cF
from complexnn.adversaries import near_members
from complexnn.attacks.fitting import FitLog, Knowledge, Observation, fit
from complexnn.attacks.keys import nearest_orthogonal
from complexnn.attacks.whitening import Whitening
from complexnn.config import AttackConfig
from complexnn.networks.attackers import FeatureDenoiser, UNet

ITERATIONS = 40
FIRST, LAST = 1.0, 0.3  # supposed angle of a view from its member, first and last, in rad
WIDEST = 1.5  # furthest view that the denoiser of features learns from
WIDTH = 64  # channels of the denoiser of features
PACE = 4  # of its steps take as long as one of a decoder to images
SHIFT = 0.5  # share of what each row keeps of itself that is taken off

Denoise = Callable[[Tensor, float], Tensor]  # views (B, C, H, W) and their angle -> features


def near(
    seen: Observation, generator: Generator, *, widest: float | None = None
) -> tuple[Tensor, Tensor]:
    """Places of members in their groups ``(G, n)``, and mixtures of the group's parts beside them
    ``(G, n, parts)``: one for each packed query; in decoy groups, of one random member."""
    groups, dim = seen.key.members.shape
    place = torch.arange(dim).expand(groups, dim)
    if seen.key.group == "decoy":
        place = torch.randint(0, dim, (groups, 1), generator=generator)
    return place, near_members(place, seen.parts.shape[1], generator, widest=widest)


def mixed_views(seen: Observation, generator: Generator) -> tuple[Tensor, Tensor]:
    """Views of each group between its members and random mixtures of the rest, and which images of
    the batch those members are."""
    place, mixing = near(seen, generator)
    members = seen.key.members.gather(1, place.to(seen.key.members.device))
    return cF.rotate(seen.parts, mixing.to(seen.parts)).flatten(0, 1), members.flatten()


# ------------------------------------------------------------------------------------ denoisers


def fit_denoiser(
    model: UNet, knowledge: Knowledge, config: AttackConfig, generator: Generator
) -> FitLog:
    """Train a decoder from views to the image of the member that each is a view of."""

    def loss(model: UNet, seen: Observation) -> Tensor:
        views, members = mixed_views(seen, generator)
        return (model(views).squeeze(1) - seen.batch.images[members]).square().mean()

    return fit(model, loss, knowledge, config, generator, "denoiser of views")


def make_feature_denoiser(released: tuple[int, int, int], *, width: int = WIDTH) -> FeatureDenoiser:
    """A fresh denoiser of white features."""
    channels, *size = released
    return FeatureDenoiser(channels, tuple(size), width=width)


def fit_feature_denoiser(
    model: FeatureDenoiser,
    known: Whitening,
    knowledge: Knowledge,
    config: AttackConfig,
    generator: Generator,
) -> FitLog:
    r"""Train a network from white views and their angle to the white feature of the member.

    Loss: :math:`\|D(v, \varphi) - a\|^2 / (N \sin^2\varphi)`, which is 1 at every angle for the
    best linear denoiser: small angles count as much as large ones.
    """

    def loss(model: FeatureDenoiser, seen: Observation) -> Tensor:
        place, mixing = near(seen, generator, widest=WIDEST)
        white, every = known(seen.parts), torch.arange(len(place)).unsqueeze(1)
        angle = mixing.gather(2, place.unsqueeze(2)).clamp(-1, 1).acos().clamp(min=0.02)
        angle = angle.flatten().to(white)
        views = cF.rotate(white, mixing.to(white)).flatten(0, 1)
        error = model(views, angle) - white[every, place].flatten(0, 1)
        return (error / angle.sin().view(-1, 1, 1, 1)).square().mean()

    steps = PACE * config.spend.steps
    return fit(model, loss, knowledge, config, generator, "denoiser of features", steps=steps)


# ----------------------------------------------------------------------------------- separation


@torch.no_grad()
def separate(
    released: Tensor,
    denoise: Denoise,
    starts: Iterable[Tensor],
    *,
    iterations: int = ITERATIONS,
) -> Tensor:
    """Of the frames that separation ends with, for each group the one whose views the denoiser
    changes least.

    Args:
        released: ``(G, d, C, H, W)``; white, where the denoiser is for white features.
        denoise: views ``(B, C, H, W)``, and their angle from a member, to features.
        starts: frames ``(G, d, d)`` to start from.
        iterations: steps from each, while the angle falls geometrically.

    Returns:
        Directions ``(G, d, d)``, in no order.
    """
    groups, dim = released.shape[:2]
    flat = released.flatten(2)
    inverse = torch.linalg.pinv((flat @ flat.mT).double(), hermitian=True).to(flat)

    def restored(frame: Tensor, angle: float) -> tuple[Tensor, Tensor]:
        """What the denoiser makes of each view, and how far from it, relative to its power."""
        views = cF.rotate(released, frame)
        found = denoise(views.flatten(0, 1), angle).unflatten(0, views.shape[:2]).flatten(2)
        power = views.flatten(2).square().sum(-1).clamp(min=1e-30)
        return found, (found - views.flatten(2)).square().sum(-1) / power

    least = torch.full((groups,), torch.inf, device=released.device)
    best = torch.eye(dim).to(flat).expand(groups, dim, dim)
    for frame in starts:
        for step in range(iterations):
            angle = FIRST * (LAST / FIRST) ** (step / max(1, iterations - 1))
            found, _ = restored(frame, angle)
            rows = F.normalize(found @ flat.mT @ inverse, dim=-1)
            own = (rows * frame).sum(dim=-1, keepdim=True)
            frame = nearest_orthogonal(rows - SHIFT * own * frame)
        change = restored(frame, LAST)[1].mean(dim=1)
        best = torch.where((change < least).view(-1, 1, 1), frame, best)
        least = torch.minimum(change, least)
    return best
