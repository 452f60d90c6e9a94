"""Blind answers: what is reached without seeing anything of a query, to put beside an attack.

An attack that returns a set gains from the assignment alone, so a blind answer is a set of as many,
matched in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property, partial

import torch
from sklearn.cluster import KMeans
from torch import Generator, Tensor

from complexnn.attacks import inference, mean_feature, unmixing
from complexnn.attacks.attacker import Attacker
from complexnn.attacks.fitting import OwnRelease
from complexnn.attacks.gallery import Gallery, first_images
from complexnn.attacks.scoring import TOP, order_by_direction_or_image, per_query
from complexnn.attacks.threat import Answer
from complexnn.data import tasks

GUESSES = 8  # blind ones of each of the attacker's own groups


@dataclass(eq=False)
class Baselines:
    """Blind answers to the queries on which attacks are judged."""

    gallery: Gallery

    @property
    def attacker(self) -> Attacker:
        return self.gallery.attacker

    def chances(self, family: str) -> dict[str, dict[str, float]]:
        """What blind answers reach, by measure, where it can be computed without any."""
        net, size = self.attacker.victim, len(self.gallery)
        match family:
            case "angle":
                return {"angle_error": {"chance": self.angle(unmixing.candidates(net))}}
            case "intersection":
                releases = self.attacker.config.resources.repeats
                return {"angle_error": {"chance": self.angle(net.queries), "releases": releases}}
            case "release":
                return {"angle_error": {"chance": unmixing.chance(net, answers=net.parts)}}
            case "span":
                return {name: {"chance": 1 / size} for name in ("top1", "top1_jpeg")}
            case "inversion":
                return {"top1": {"chance": 1 / size}, f"top{TOP}": {"chance": TOP / size}}
            case _:
                return self._property()

    def _property(self) -> dict[str, dict[str, float]]:
        train, test = self.attacker.knowledge.train, self.gallery.test
        occurring = 2 if test.classes.dim() == 2 else len(test.classes.unique())
        return {
            "error": {
                "chance": tasks.blind_error(test.classes, train.classes),
                "given_label": inference.given_label(train, test),
            },
            "balanced_accuracy": {"chance": 1 / occurring},
            "tpr_at_1_fpr": {"chance": 0.01},
        }

    @cache  # noqa: B019 - lives as long as the command
    def angle(self, answers: int) -> float:
        """Error of a blind guess of so many directions: of a random frame or, where that is better,
        of one that knows the mean feature, measured on the attacker's own images. One vector for
        one query is compared with the former alone: there the latter is an attack."""
        attacker = self.attacker
        blindly = unmixing.chance(attacker.victim, answers=answers)
        if answers == 1:
            return blindly
        rng = attacker.networks.rng("blind")
        own = attacker.knowledge.held_out(attacker.config.batch_size)
        whitening = attacker.key_attacks.whitening
        guess = partial(mean_feature.guess, members=attacker.victim.dim, count=answers)
        errors = [
            unmixing.errors(guess(o.released, whitening, rng), o.key.directions)
            for _ in range(GUESSES)
            for o in own
        ]
        return min(blindly, torch.cat(errors).mean().item())

    # -------------------------------------------------------------------------------- images

    @cached_property
    def mean_image(self) -> Tensor:
        images = self.attacker.knowledge.train
        batches = images.batches(256, self.attacker.knowledge.device)
        return sum(b.images.sum(0) for b in batches) / len(images)

    @cache  # noqa: B019 - lives as long as the command
    def codebook(self, answers: int) -> Tensor:
        """The blind answer for a group: the mean image or, for several answers, as many images by
        k-means on the attacker's own, since a varied set gains from the best assignment alone.
        ``(answers, C, H, W)``."""
        if answers == 1:
            return self.mean_image.unsqueeze(0)
        knowledge = self.attacker.knowledge
        own = first_images(knowledge.train, max(4096, 8 * answers), knowledge.device)
        clusters = KMeans(answers, n_init=1, random_state=0).fit(own.flatten(1).cpu().numpy())
        return torch.from_numpy(clusters.cluster_centers_).to(own).view(-1, *own.shape[1:])

    def guess(self, truth: OwnRelease, answers: int) -> Tensor:
        """The blind answer to every query, in the batch's order: the best of so many answers, as
        an attack that returns them is scored."""
        book = self.codebook(answers)
        if answers == 1:  # the same for each query of a group
            return book.expand(truth.key.queries, *book.shape[1:])
        return order_by_direction_or_image(
            Answer(book.expand(len(truth.released), *book.shape)), truth
        )

    def blend(self, truth: OwnRelease) -> Tensor:
        """The best constant blend of the group's images: what no separation at all would show."""
        return self.mean_image + self.blend_weight * (_group_mean(truth) - self.mean_image)

    @cached_property
    def blend_weight(self) -> float:
        """Of the group's own mean image, in the constant blend with the mean image that is nearest
        to the query: least squares on the attacker's images."""
        rng, knowledge = Generator().manual_seed(0), self.attacker.knowledge
        above = below = 0.0
        for batch in knowledge.batches(knowledge.validation, 256):
            own = knowledge.observe(batch, rng)
            blend, truth = _group_mean(own) - self.mean_image, batch.images - self.mean_image
            above += (blend * truth).sum().item()
            below += blend.square().sum().item()
        return above / below


def _group_mean(truth: OwnRelease) -> Tensor:
    """The mean image of each query's group."""
    return per_query(truth.images.mean(dim=1), truth)
