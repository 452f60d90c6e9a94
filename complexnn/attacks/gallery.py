"""The gallery: candidates among which a query is to be identified, and what tells them apart."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from complexnn.attacks import span
from complexnn.attacks.attacker import Attacker
from complexnn.data.images import ImageSet

CHUNK = 256  # images that a network is shown at a time


@dataclass(eq=False)
class Gallery:
    """Candidates for identification: the test images that attacks are judged on, filled up with the
    victim's training images, whatever the attacker has."""

    attacker: Attacker
    test: ImageSet
    # Whose classifier of images tells one image from another; None: the attacker's. An attacker
    # with few images, or without labels, makes a poor one.
    evaluator: Attacker | None = None

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def images(self) -> Tensor:
        """``(N, C, H, W)``."""
        size, device = self.attacker.config.gallery, self.attacker.knowledge.device
        images = first_images(self.test, size, device)
        missing = size - len(images)
        if missing > 0:
            known = (self.evaluator or self.attacker).knowledge.train
            images = torch.cat([images, first_images(known, missing, device)])
        return images

    # --------------------------------------------------------------------- by the public encoder

    @torch.no_grad()
    def encoded(self, images: Tensor) -> Tensor:
        """The victim's features of images, before any key."""
        net = self.attacker.knowledge.net
        return torch.cat([net.features(chunk) for chunk in images.split(CHUNK)])

    @cached_property
    def features(self) -> Tensor:
        return self.encoded(self.images)

    @cached_property
    def damaged_features(self) -> Tensor:
        """Features of the candidates after JPEG compression."""
        return self.encoded(span.jpeg(self.images))

    @cached_property
    def moment(self) -> Tensor | None:
        """Second moment of released parts by the attacker's own images, for groups of more parts
        than numbers."""
        knowledge, numbers = self.attacker.knowledge, self.features[0].numel()
        net = knowledge.net.config
        if net.parts <= numbers:
            return None
        # 32 samples for each number: the moment's error is small beside it. Chosen by hand.
        own = self.encoded(first_images(knowledge.train, 32 * numbers, knowledge.device))
        return span.second_moment(
            own, parts=net.parts, decoys=net.gaussian_decoys, scale=net.decoy_scale
        )

    # ------------------------------------------------------------------ by another network's eyes

    @torch.no_grad()
    def embedded(self, images: Tensor) -> Tensor:
        """Unit features of a classifier that was trained apart from the victim, on images."""
        layers = list((self.evaluator or self.attacker).classifier("images"))[:-1]
        embeddings = []
        for chunk in images.split(CHUNK):
            for layer in layers:
                chunk = layer(chunk)
            embeddings.append(F.normalize(chunk, dim=1))
        return torch.cat(embeddings)

    @cached_property
    def embeddings(self) -> Tensor:
        return self.embedded(self.images)


def first_images(images: ImageSet, count: int, device: torch.device) -> Tensor:
    """The first ``count`` images of a set, or all there are: ``(n, C, H, W)``."""
    chosen = images.subset(torch.arange(min(count, len(images))))
    return torch.cat([batch.images for batch in chosen.batches(CHUNK, device)])


# ----------------------------------------------------------------------------------------- copies


def same(images: Tensor, features: Tensor, others: Tensor, their_features: Tensor) -> Tensor:
    """Which images are a copy of which others, or have the same feature as far as rounding lets it
    be told: ``(n, ...)`` and ``(N, ...)`` of each to ``(n, N)`` bool.

    A copy of what is there is no stranger, and no score could tell the two apart.
    """
    mine, theirs = features.flatten(1), their_features.flatten(1)
    power = mine.square().sum(dim=1, keepdim=True) + theirs.square().sum(dim=1)
    # Products of float32 say who is suspected, differences who is the same: a product's rounding is
    # relative to the power, a difference's to itself. Both bounds are well above the rounding.
    equal = power - 2 * mine @ theirs.T <= 1e-5 * power
    rows, columns = equal.nonzero(as_tuple=True)
    for row, column in zip(rows.split(1024), columns.split(1024), strict=True):
        apart = (mine[row] - theirs[column]).square().sum(dim=1)
        equal[row, column] = apart <= 1e-10 * power[row, column]
    return equal | (fingerprints(images).unsqueeze(1) == fingerprints(others))


def fingerprints(images: Tensor) -> Tensor:
    """A number for each image, equal for equal pixels and else hardly ever."""
    pixels = (images.flatten(1) * 255).round().long()
    weights = torch.randint(2**63 - 1, pixels.shape[1:], generator=Generator().manual_seed(0))
    return (pixels * weights.to(pixels.device)).sum(dim=1)
