r"""What an attacker measures on its own features, and what their mean alone tells of a key.

All members of a group share the mean feature μ. Released parts :math:`x_i = \sum_j R_{ij} a_j`
share it, too, in the direction :math:`s = R\,(1, \dots, 1)^T / \sqrt d`, which least squares finds
from what was released: the coefficients of μ in each part. Every row of the key, which shows one
member, has the inner product :math:`1 / \sqrt d` with s.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from sklearn.covariance import ledoit_wolf_shrinkage
from torch import Generator, Tensor

from complexnn.attacks.fitting import Knowledge
from complexnn.rotation import functional as cF

# Numbers of a feature up to which their covariance is taken in full; beyond, that of channels.
FULL = 2048


@dataclass(frozen=True)
class Whitening:
    """The mean feature, and a linear map after which features have about unit covariance.

    The map is the symmetric one, so that what was local stays local. It is for whole features of
    up to ``FULL`` numbers, for the channels of each place of larger ones.
    """

    mean: Tensor  # (C, H, W)
    matrix: Tensor  # (C·H·W, C·H·W) or (C, C)

    def __call__(self, features: Tensor) -> Tensor:
        """Whitened maps, their mean kept: ``(..., C, H, W) -> (..., C, H, W)``."""
        if in_full(self.mean.shape):
            return (features.flatten(-3) @ self.matrix).view_as(features)
        return (self.matrix @ features.flatten(-2)).view_as(features)

    @cached_property
    def white_mean(self) -> Tensor:
        return self(self.mean)

    def without_mean(self, white: Tensor) -> Tensor:
        """White maps without what they have along the mean."""
        unit = F.normalize(self.white_mean.flatten(), dim=0)
        along = (white.flatten(-3) @ unit)[..., None, None, None]
        return white - along * unit.view_as(self.mean)


def in_full(released: tuple[int, ...]) -> bool:
    """Whether features ``(C, H, W)`` are small enough to be whitened as a whole."""
    return math.prod(released) <= FULL


@torch.no_grad()
def measure_whitening(
    knowledge: Knowledge, generator: Generator, *, limit: int = 16384
) -> Whitening:
    """Mean and covariance of up to ``limit`` of the attacker's own features, the covariance shrunk
    towards a multiple of the identity as few samples need it (Ledoit and Wolf 2004)."""
    found: list[Tensor] = []
    for batch in knowledge.shuffled(min(256, len(knowledge.train)), generator):
        seen = knowledge.observe(batch, generator)
        members, numbers = seen.key.directions.shape[1], seen.released[0, 0].numel()
        found.append(cF.first_parts(seen.parts, members))
        # Of large features fewer do: every place of a map is a sample.
        if sum(map(len, found)) >= min(limit, limit * 1024 // numbers):
            break
    features = torch.cat(found)
    mean = features.mean(dim=0)
    samples = (features - mean).flatten(1)
    if not in_full(mean.shape):
        samples = (features - mean).movedim(1, -1).flatten(0, -2)
    return Whitening(mean, _inverse_root(samples.cpu().double()).to(mean))


def _inverse_root(samples: Tensor) -> Tensor:
    """The symmetric inverse root of the covariance of centred samples ``(n, p)``: ``(p, p)``."""
    count, numbers = samples.shape
    covariance = samples.T @ samples / count
    scale = covariance.diagonal().mean().clamp(min=1e-12)
    shrinkage = ledoit_wolf_shrinkage(samples[: 4 * FULL].numpy(), assume_centered=True)
    shrunk = (1 - shrinkage) * covariance + shrinkage * scale * torch.eye(numbers).double()
    values, vectors = torch.linalg.eigh(shrunk)
    return vectors * values.clamp(min=1e-6 * scale).rsqrt() @ vectors.T


def shared_direction(released: Tensor, known: Whitening) -> Tensor:
    """The unit vector s of each group along which its parts hold the mean feature:
    ``(G, d, C, H, W) -> (G, d)``."""
    white = known(released).flatten(2)
    return F.normalize(white @ known.white_mean.flatten(), dim=1)


def sharing_frames(shared: Tensor, members: int, generator: Generator) -> Tensor:
    r"""Random orthonormal frames whose first ``members`` rows share the direction s equally.

    Uniform among the orthogonal U with :math:`U s = t`, where t is :math:`1 / \sqrt m` for members
    and 0 for Gaussian decoys, which have no mean: with reflections that map the first axis to s
    and to t, :math:`U = H_t \, \mathrm{diag}(1, V) \, H_s` for a uniform V.

    Shape: ``(G, d) -> (G, d, d)``.
    """
    groups, dim = shared.shape
    target = torch.zeros(1, dim, dtype=torch.float64)
    target[:, :members] = 1 / math.sqrt(members)
    inner = torch.zeros(groups, dim, dim, dtype=torch.float64)
    inner[:, 0, 0] = 1
    inner[:, 1:, 1:] = _orthogonal(groups, dim - 1, generator)
    frames = _reflection(target) @ inner @ _reflection(shared.cpu().double())
    return frames.to(shared)


def _orthogonal(count: int, dim: int, generator: Generator) -> Tensor:
    """Uniform on O(d) for every d; at d = 1 a sign, at d = 2 turns and reflections."""
    found = cF.draw_rotations(count, dim, generator)
    if dim <= 2:
        signs = 1 - 2 * (cF.uniform((count,), generator) < 0.5).double()
        found[:, 0] = found[:, 0] * signs.unsqueeze(1)
    return found


def _reflection(unit: Tensor) -> Tensor:
    """The Householder matrix that exchanges the first axis and each unit vector."""
    first = torch.zeros_like(unit)
    first[:, 0] = 1
    normal = F.normalize(unit - first, dim=1)  # zero where they are the same: the identity
    return torch.eye(unit.shape[1]).to(unit) - 2 * normal.unsqueeze(2) * normal.unsqueeze(1)


def guess(
    released: Tensor, known: Whitening, generator: Generator, *, members: int, count: int
) -> Tensor:
    r"""Directions that the mean feature alone suggests, without any separation: ``(G, n, d)``.

    One vector, at d = 2 with a decoy: a key is a proper rotation, so that a stands an eighth of a
    turn behind :math:`s = (\cos(\theta + \pi/4), \sin(\theta + \pi/4))`.
    """
    shared = shared_direction(released, known)
    if count > 1:
        return sharing_frames(shared, members, generator)[:, :count]
    turn = cF.angle_matrix(torch.tensor([-math.pi / 4])).to(shared)
    return (shared @ turn[0].mT).unsqueeze(1)
