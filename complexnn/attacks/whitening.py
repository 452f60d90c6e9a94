r"""What an attacker measures on its own features: their mean, and what makes them white.

Two kinds, for two uses. :class:`Whitening` is the sharper one, of whole features where these are
small, and keeps the mean, which tells something of the key. :class:`ChannelWhitening` drops the
mean and takes the positions of a map for samples of one covariance, which a few images show; ICA
uses it, as it looks for what the mean does not tell.

Both maps are linear and act on each part alone, so that they commute with every key.
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
from complexnn.metrics import double
from complexnn.rotation import functional as cF

# Numbers of a feature up to which their covariance is taken in full; beyond, that of channels.
# Chosen by hand: an eigendecomposition of this size takes seconds on a CPU.
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
    chunks: list[Tensor] = []
    for batch in knowledge.shuffled(min(256, len(knowledge.train)), generator):
        own = knowledge.observe(batch, generator)
        members = own.key.directions.shape[1]
        numbers = own.released[0, 0].numel()
        chunks.append(cF.first_parts(own.rotated_back, members))
        # Of large features fewer do: every place of a map is a sample.
        if sum(map(len, chunks)) >= min(limit, limit * 1024 // numbers):
            break
    features = torch.cat(chunks)
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
    # The share is an estimate itself: a part of the samples will do.
    shrinkage = ledoit_wolf_shrinkage(samples[: 4 * FULL].numpy(), assume_centered=True)
    shrunk = (1 - shrinkage) * covariance + shrinkage * scale * torch.eye(numbers).double()
    values, vectors = torch.linalg.eigh(shrunk)
    return vectors * values.clamp(min=1e-6 * scale).rsqrt() @ vectors.T


@dataclass(frozen=True)
class ChannelWhitening:
    """The mean feature, and a matrix after which channels have unit covariance over positions."""

    mean: Tensor  # (C, H, W)
    whiten: Tensor  # (C, C)

    def apply(self, released: Tensor) -> Tensor:
        """Parts without the mean feature's direction, their channels white:
        ``(G, d, C, H, W) -> (G, d, C·H·W)``."""
        mean = F.normalize(self.mean.flatten(), dim=0)
        flat = released.flatten(2)
        flat = flat - (flat @ mean).unsqueeze(-1) * mean
        maps = flat.view_as(released).flatten(3)
        return (self.whiten @ maps).flatten(2)


@torch.no_grad()
def measure_channels(
    knowledge: Knowledge, generator: Generator, *, limit: int = 2048
) -> ChannelWhitening:
    """Mean feature and channel covariance of up to ``limit`` of the attacker's own features."""
    chunks: list[Tensor] = []
    for batch in knowledge.shuffled(256, generator):
        chunks.append(cF.first_parts(knowledge.observe(batch, generator).rotated_back, 1))
        if sum(map(len, chunks)) >= limit:
            break
    features = torch.cat(chunks)
    mean = features.mean(dim=0)
    rest = (features - mean).movedim(1, 0).flatten(1)
    covariance = rest @ rest.T / rest.shape[1]
    values, vectors = torch.linalg.eigh(double(covariance))
    scale = values.clamp(min=1e-6 * values.max().clamp(min=1e-12)).rsqrt()
    return ChannelWhitening(mean, (vectors * scale @ vectors.T).to(mean))
