r"""Denoising source separation (Särelä and Valpola, JMLR 2005), the denoiser learned.

An encoder makes few of all possible features. A denoiser, trained on views that lie between a
member and the rest of its group, sends a view at an angle φ from a member to that member. What it
makes of all views of a frame U, projected on the span of what was released, becomes the next
frame, orthonormal again because the rows of a key are, while the angle falls:

.. math:: U \leftarrow \mathrm{polar}\left(M - \kappa\, \mathrm{diag}(M U^T)\, U\right), \qquad
    M = D_\varphi(U X)\, X^T (X X^T)^{-1}, \text{ rows of unit length}.

With tanh for D this is FastICA, which shifts by the mean derivative in the place of a share κ of
what each row keeps of itself.

The denoiser works where there is less to learn. Where features have fewer numbers than images, it
is a network of white features, in whose every direction members differ from mixtures as much as
in every other. Where they have more, they fill few of their directions, and whitening would show
little else than the rest: there it is a decoder to images, the encoder after it, and knows no
angle.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from complexnn.attacks.fitting import FitLog, Knowledge, OwnRelease, fit
from complexnn.attacks.unmixing import nearest_orthogonal
from complexnn.attacks.whitening import Whitening
from complexnn.config import NetConfig
from complexnn.config_attack import AttackConfig
from complexnn.metrics import double
from complexnn.networks.attack_networks import FeatureDenoiser, UNet
from complexnn.rotation import functional as cF
from complexnn.training.terms import near_members

# All of these are chosen by hand.
ITERATIONS = 60
FIRST, LAST = 1.0, 0.3  # supposed angle of a view from its member, in rad
# It falls geometrically over two thirds of the steps, then stays; or is the same, where unknown.
FALLING = tuple(
    FIRST * (LAST / FIRST) ** min(1, 1.5 * step / ITERATIONS) for step in range(ITERATIONS)
)
STEADY = (LAST,) * ITERATIONS
WIDEST = 1.5  # furthest view that the denoiser of features learns from
WIDTH = 64  # channels of the denoiser of features
PACE = 4  # of its steps take as long as one of a decoder to images
SHIFT = 0.5  # the share κ, with a denoiser of features; a decoder to images takes none

Denoise = Callable[[Tensor, float], Tensor]  # views (B, C, H, W) and their angle -> features


def near(
    own: OwnRelease, generator: Generator, *, widest: float | None = None
) -> tuple[Tensor, Tensor]:
    """Places of members in their groups ``(G, n)``, and mixtures of the group's parts beside them
    ``(G, n, parts)``: one for each packed query; in decoy groups, of one random member."""
    groups, dim = own.key.members.shape
    place = torch.arange(dim).expand(groups, dim)
    if own.key.group == "decoy":
        place = torch.randint(0, dim, (groups, 1), generator=generator)
    return place, near_members(place, own.released.shape[1], generator, widest=widest)


def mixed_views(own: OwnRelease, generator: Generator) -> tuple[Tensor, Tensor]:
    """Views of each group between its members and random mixtures of the rest, and which images of
    the batch those members are."""
    place, mixing = near(own, generator)
    members = own.key.members
    members = members.gather(1, place.to(members.device)).flatten()
    views = cF.rotate(own.rotated_back, mixing.to(own.released))
    return views.flatten(0, 1), members


# ------------------------------------------------------------------------------------ denoisers


def fit_denoiser(
    model: UNet, knowledge: Knowledge, config: AttackConfig, generator: Generator
) -> FitLog:
    """Train a decoder from views to the image of the member that each is a view of."""

    def loss(model: UNet, own: OwnRelease) -> Tensor:
        views, members = mixed_views(own, generator)
        return (model(views).squeeze(1) - own.batch.images[members]).square().mean()

    return fit(model, loss, knowledge, config, generator, "denoiser of views")


def of_features(net: NetConfig, released: tuple[int, ...]) -> bool:
    """Whether views are denoised as features, since these have fewer numbers than images."""
    return math.prod(released) < net.in_channels * math.prod(net.image_size)


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
    """Train a network from white views and their angle to the white feature of the member."""

    def loss(model: FeatureDenoiser, own: OwnRelease) -> Tensor:
        return denoising_error(model, known, own, generator)

    steps = PACE * config.resources.steps
    return fit(model, loss, knowledge, config, generator, "denoiser of features", steps=steps)


def denoising_error(
    model: Callable[[Tensor, Tensor], Tensor],
    known: Whitening,
    own: OwnRelease,
    generator: Generator,
) -> Tensor:
    r"""Mean of :math:`\|D(v, \varphi) - a\|^2 / (N \sin^2\varphi)` over views v at random angles
    :math:`\varphi` from members a, both white and without what they have along the mean: of a view
    that is the sum of its weights, of a member the mean itself.

    The best linear denoiser, :math:`D = v \cos\varphi`, has about 1 at every angle: small angles
    count as much as large ones.
    """
    place, mixing = near(own, generator, widest=WIDEST)
    white = known.without_mean(known(own.rotated_back))
    every = torch.arange(len(place)).unsqueeze(1)
    angle = mixing.gather(2, place.unsqueeze(2)).clamp(-1, 1).acos().clamp(min=0.02)
    angle = angle.flatten().to(white)
    views = cF.rotate(white, mixing.to(white)).flatten(0, 1)
    error = model(views, angle) - white[every, place].flatten(0, 1)
    return (error / angle.sin().view(-1, 1, 1, 1)).square().mean()


def restore(model: FeatureDenoiser, known: Whitening, views: Tensor, angle: float) -> Tensor:
    """What that network makes of white views at a supposed angle, with the mean of a member."""
    features = model(known.without_mean(views), views.new_full((len(views),), angle))
    return features + known.white_mean


# ----------------------------------------------------------------------------------- separation


@torch.no_grad()
def separate(
    released: Tensor,
    denoise: Denoise,
    starts: Iterable[Tensor],
    *,
    shift: float = 0.0,
    angles: Sequence[float] = STEADY,
) -> Tensor:
    """Of the frames that separation passes at the last angle, for each group the one whose views
    the denoiser changes least.

    Args:
        released: ``(G, d, C, H, W)``; white, where the denoiser is for white features.
        denoise: views ``(B, C, H, W)``, and their angle from a member, to features.
        starts: frames ``(G, d, d)`` to start from.
        shift: share of what each row keeps of itself that is taken off: faster, where the denoiser
            knows the angle; where it does not, it sends views further than it should, anyway.
        angles: what the denoiser is told at each step.

    Returns:
        Directions ``(G, d, d)``, in no order.
    """
    groups, dim = released.shape[:2]
    flat = released.flatten(2)
    # A pseudo-inverse: copies in a group make parts that depend on each other.
    inverse = torch.linalg.pinv(double(flat @ flat.mT), hermitian=True).to(flat)
    least = torch.full((groups,), torch.inf, device=released.device)
    best = torch.eye(dim).to(flat).expand(groups, dim, dim)
    for frame in starts:
        for angle in angles:
            clean, change = _denoised(released, frame, denoise, angle)
            if angle == angles[-1]:
                # What shows one member is what the denoiser makes of it, so little change is the
                # sign of a good frame, which needs no truth. At other angles it is not comparable.
                best = torch.where((change < least).view(-1, 1, 1), frame, best)
                least = torch.minimum(change, least)
            # Project: the coefficients of the parts that come nearest to what was made.
            rows = F.normalize(clean @ flat.mT @ inverse, dim=-1)
            # The more of itself a row keeps, the slower it moves: a share of that is taken off.
            own = (rows * frame).sum(dim=-1, keepdim=True)
            # Polar factor: rows of a key are orthonormal, so that no two views may end at one
            # member. Of all orthonormal frames it is the nearest.
            frame = nearest_orthogonal(rows - shift * own * frame)
    return best


def _denoised(
    released: Tensor, frame: Tensor, denoise: Denoise, angle: float
) -> tuple[Tensor, Tensor]:
    """What the denoiser makes of each view of a frame, ``(G, d, C·H·W)``, and how far that is from
    the views, relative to their power, on average: ``(G,)``."""
    views = cF.rotate(released, frame)
    clean = denoise(views.flatten(0, 1), angle).unflatten(0, views.shape[:2]).flatten(2)
    power = views.flatten(2).square().sum(-1).clamp(min=1e-30)
    change = (clean - views.flatten(2)).square().sum(-1) / power
    return clean, change.mean(dim=1)
