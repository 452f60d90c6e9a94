"""How answers are scored, per query, beside blind answers and the truth of another query."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from torch import Tensor

from complexnn import metrics, tasks
from complexnn.attacks import inference, inversion, keys, span
from complexnn.attacks.attacker import Attacker
from complexnn.attacks.fitting import Observation, take
from complexnn.images import ImageSet

TOP = 5


@dataclasses.dataclass(eq=False)
class Scoring:
    """The test images of one victim, and everything that answers are compared with."""

    attacker: Attacker
    test: ImageSet

    @property
    def device(self) -> torch.device:
        return self.attacker.knowledge.device

    # ------------------------------------------------------------------------------- gallery

    @cached_property
    def gallery(self) -> Tensor:
        """Candidates for identification: the judged test images, filled up with the attacker's
        own. ``(N, C, H, W)``."""
        size = self.attacker.config.gallery
        images = _first(self.test, size, self.device)
        missing = size - len(images)
        if missing > 0:
            own = _first(self.attacker.knowledge.train, missing, self.device)
            images = torch.cat([images, own])
        return images

    @torch.no_grad()
    def _encoded(self, images: Tensor) -> Tensor:
        return torch.cat([self.attacker.knowledge.net.features(c) for c in images.split(256)])

    @cached_property
    def gallery_features(self) -> Tensor:
        return self._encoded(self.gallery)

    @cached_property
    def damaged_features(self) -> Tensor:
        """Features of the candidates after JPEG compression."""
        return self._encoded(span.jpeg(self.gallery))

    @torch.no_grad()
    def evaluated(self, images: Tensor) -> Tensor:
        """Unit features of a classifier that was trained apart from the victim, on images."""
        layers = list(self.attacker.classifier("images"))[:-1]
        found = []
        for chunk in images.split(256):
            for layer in layers:
                chunk = layer(chunk)
            found.append(F.normalize(chunk, dim=1))
        return torch.cat(found)

    @cached_property
    def gallery_evaluated(self) -> Tensor:
        return self.evaluated(self.gallery)

    def _others(self, seen: Observation, *, members: bool) -> Tensor:
        """Candidates that are the query itself or, with ``members``, of its group:
        ``(queries, N)`` bool, to be left out of the ranking."""
        count, queries = len(self.gallery), seen.key.queries
        places = seen.index[seen.key.members.cpu()] if members else None
        if members:
            per_group = places.unsqueeze(1).expand(-1, seen.key.directions.shape[1], -1)
            places = per_group.flatten(0, 1)[:queries]
        else:
            places = seen.index.unsqueeze(1)
        out = torch.zeros(queries, count, dtype=torch.bool)
        inside = places < min(count, len(self.test))
        rows = torch.arange(queries).unsqueeze(1).expand_as(places)
        out[rows[inside], places[inside]] = True
        return out.to(self.device)

    # ----------------------------------------------------------------------------- inversion

    @cached_property
    def mean_image(self) -> Tensor:
        images = self.attacker.knowledge.train
        batches = images.batches(256, self.device)
        return sum(b.images.sum(0) for b in batches) / len(images)

    @cached_property
    def codebook(self) -> Tensor:
        """The blind answer for a group: the mean image; for packed queries, whose answers the best
        assignment puts in order, as many images as there are queries, by k-means on the attacker's
        own, since a varied set gains from the assignment alone. ``(queries, C, H, W)``."""
        queries = self.attacker.knowledge.net.config.queries
        if queries == 1:
            return self.mean_image.unsqueeze(0)
        own = _first(self.attacker.knowledge.train, max(4096, 8 * queries), self.device)
        found = KMeans(queries, n_init=1, random_state=0).fit(own.flatten(1).cpu().numpy())
        return torch.from_numpy(found.cluster_centers_).to(own).view(-1, *own.shape[1:])

    def guess(self, seen: Observation) -> Tensor:
        """The blind answer to every query, in the batch's order."""
        book = self.codebook.expand(len(seen.released), *self.codebook.shape)
        truth = seen.images[:, : len(self.codebook)]
        ordered = take(book, inversion.match(book, truth))
        return ordered.flatten(0, 1)[: seen.key.queries]

    @cached_property
    def blend_weight(self) -> float:
        """Of the group's own mean image, in the constant blend with the mean image that is nearest
        to the query: fitted on the attacker's images."""
        rng = torch.Generator().manual_seed(0)
        images = self.attacker.knowledge.validation
        above = below = 0.0
        for batch in images.batches(256, self.device):
            seen = self.attacker.knowledge.observe(batch, rng)
            blend, truth = self._group_mean(seen) - self.mean_image, batch.images - self.mean_image
            above += (blend * truth).sum().item()
            below += blend.square().sum().item()
        return above / below

    def _group_mean(self, seen: Observation) -> Tensor:
        queries = seen.key.directions.shape[1]
        mean = seen.images.mean(dim=1).repeat_interleave(queries, dim=0)
        return mean[: seen.key.queries]

    def blend(self, seen: Observation) -> Tensor:
        """The best constant blend of the group's images: what no separation at all would show."""
        return self.mean_image + self.blend_weight * (self._group_mean(seen) - self.mean_image)


Measured = dict[str, Tensor]  # each (queries,)


def score_angle(scoring: Scoring, answer: Tensor, seen: Observation) -> tuple[Measured, Measured]:
    """Angle between each query's direction and its estimate; and under the next group's key."""
    truth = seen.key.directions
    found = [keys.errors(answer, t).flatten() for t in (truth, truth.roll(1, dims=0))]
    count = seen.key.queries
    return tuple({"angle_error": f[:count]} for f in found)


def score_span(scoring: Scoring, answer: Tensor, seen: Observation) -> tuple[Measured, Measured]:
    """Whether each query ranks first among the candidates outside its group, as it is and after
    JPEG compression; and whether the next group's does."""
    queries, count = seen.key.directions.shape[1], seen.key.queries
    images = seen.images[:, :queries].flatten(0, 1)[:count]
    excluded = scoring._others(seen, members=True)
    found = []
    # By chance a query is a counterpart in the other group: then it is there, and no stranger.
    there = torch.zeros(count, dtype=torch.bool)
    guests = seen.key.members.cpu().roll(1, dims=0).repeat_interleave(queries, dim=0)[:count]
    guest = (guests == torch.arange(count).unsqueeze(1)).any(dim=1)
    for released, known in ((answer, there), (answer.roll(1, dims=0), guest)):
        each = released.repeat_interleave(queries, dim=0)[:count]
        measured = {}
        for name, own, gallery in (
            ("top1", images, scoring.gallery_features),
            ("top1_jpeg", span.jpeg(images), scoring.damaged_features),
        ):
            mine = span.own_shares(each, scoring._encoded(own))
            others = span.shares(released, gallery).repeat_interleave(queries, dim=0)[:count]
            first = span.ranks(mine, others, excluded) == 1
            measured[name] = (first & ~known.to(first.device)).double()
            if name == "top1":
                measured["share"] = mine
                measured["best_other"] = others.masked_fill(excluded, 0).amax(dim=1)
        found.append(measured)
    return found[0], found[1]


def image_measures(images: Tensor) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """Measures of images of this size; LPIPS where its weights are on the disk."""
    found = {"rmse": metrics.rmse, "psnr": metrics.psnr, "ssim": metrics.ssim}
    if metrics.lpips_weights().is_file() and min(images.shape[-2:]) >= 32:
        found["lpips"] = metrics.lpips
    return found


def score_images(scoring: Scoring, answer: Tensor, seen: Observation) -> tuple[Measured, Measured]:
    """RMSE, PSNR, SSIM, distance of an independent classifier's features, and identification: the
    query's place among the candidates nearest to its reconstruction in those features."""
    answer, truth, other = answer.clamp(0, 1), seen.batch.images, _next_group(seen)
    mine, wanted = scoring.evaluated(answer), scoring.evaluated(truth)
    found = []
    for images, features in ((truth, wanted), (truth[other], wanted[other])):
        measured = {name: f(answer, images) for name, f in image_measures(images).items()}
        measured["feature_distance"] = 1 - (mine * features).sum(dim=1)
        found.append(measured)
    excluded = scoring._others(seen, members=False)
    rank = span.ranks((mine * wanted).sum(dim=1), mine @ scoring.gallery_evaluated.T, excluded)
    found[0] |= {"top1": (rank == 1).double(), f"top{TOP}": (rank <= TOP).double()}
    return found[0], found[1]


def score_property(
    scoring: Scoring, answer: Tensor, seen: Observation
) -> tuple[Measured, Measured]:
    """Error of the hidden classes; and of another query's."""
    truth = seen.batch.classes.to(answer.device)
    given = tasks.answers(answer, truth)
    found = [{"error": tasks.errors(given, t)} for t in (truth, truth[_next_group(seen)])]
    return found[0], found[1]


def _next_group(seen: Observation) -> Tensor:
    """For each query the place of one that is not in its packed group."""
    shift = seen.key.directions.shape[1]
    return torch.arange(seen.key.queries).roll(shift)  # on the CPU, where any tensor takes it


def blind(scoring: Scoring, family: str) -> dict[str, dict[str, float]]:
    """What is reached without seeing anything, by measure: ``chance`` or ``floor``."""
    attacker = scoring.attacker
    gallery = len(scoring.gallery)
    net = attacker.knowledge.net.config
    if family == "angle":
        return {"angle_error": {"chance": attacker.blind_angle}}
    if family == "intersection":
        releases = attacker.config.spend.repeats
        blindly = keys.chance(net, answers=net.queries)
        if net.queries > 1:
            blindly = attacker.blind_angle
        return {"angle_error": {"chance": blindly, "releases": releases}}
    if family == "span":
        return {name: {"chance": 1 / gallery} for name in ("top1", "top1_jpeg")}
    if family == "inversion":
        return {"top1": {"chance": 1 / gallery}, f"top{TOP}": {"chance": TOP / gallery}}
    train, test = attacker.knowledge.train, scoring.test
    occurring = 2 if test.classes.dim() == 2 else len(test.classes.unique())
    return {
        "error": {
            "chance": tasks.blind_error(test.classes, train.classes),
            "given_label": inference.given_label(train, test),
        },
        "balanced_accuracy": {"chance": 1 / occurring},
        "tpr_at_1_fpr": {"chance": 0.01},
    }


def summarise_property(logits: Tensor, truth: Tensor) -> dict[str, dict[str, Any]]:
    """Balanced accuracy, and for binary properties the true-positive rate at 1 % false positives,
    mean over draws: logits ``(draws, N, K)``."""
    found = {
        "balanced_accuracy": {
            "value": _mean(tasks.balanced_accuracy(tasks.answers(s, truth), truth) for s in logits)
        }
    }
    if truth.dim() == 2:
        columns = range(truth.shape[1])
        rates = [metrics.tpr_at_fpr(s[:, c], truth[:, c]) for s in logits for c in columns]
    elif logits.shape[2] == 2:
        rates = [metrics.tpr_at_fpr(s[:, 1] - s[:, 0], truth == 1) for s in logits]
    else:
        return found
    known = [rate for rate in rates if not math.isnan(rate)]
    return found | {"tpr_at_1_fpr": {"value": _mean(known)}} if known else found


def _mean(values: Any) -> float:
    values = list(values)
    return sum(values) / len(values)


def _first(images: ImageSet, count: int, device: torch.device) -> Tensor:
    chosen = images.subset(torch.arange(min(count, len(images))))
    return torch.cat([batch.images for batch in chosen.batches(256, device)])


SCORES = {
    "angle": score_angle,
    "span": score_span,
    "intersection": score_angle,
    "inversion": score_images,
    "property": score_property,
}
