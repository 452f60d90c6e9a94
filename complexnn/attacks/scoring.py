"""How answers are scored, per query, beside blind answers and the truth of another query.

Only here do answers meet the truth: each group's answers come as a set, and the best assignment
says which of them is compared with which query.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import cache, cached_property
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from torch import Generator, Tensor

from complexnn import metrics
from complexnn.attacks import inference, inversion, keys, span
from complexnn.attacks.attacker import Attacker
from complexnn.attacks.fitting import Observation, best_matching, take
from complexnn.attacks.threat import Answer
from complexnn.attacks.user import Truth
from complexnn.data import tasks
from complexnn.data.images import ImageSet

TOP = 5


@dataclasses.dataclass(eq=False)
class Scoring:
    """The test images of one victim, and everything that answers are compared with."""

    attacker: Attacker
    test: ImageSet
    # Whose classifier of images tells one image from another; None: the attacker's. An attacker
    # with few images, or without labels, makes a poor one.
    evaluator: Attacker | None = None

    @property
    def device(self) -> torch.device:
        return self.attacker.knowledge.device

    # ------------------------------------------------------------------------------- gallery

    @cached_property
    def gallery(self) -> Tensor:
        """Candidates for identification: the judged test images, filled up with the victim's
        training images, whatever the attacker has. ``(N, C, H, W)``."""
        size = self.attacker.config.gallery
        images = _first(self.test, size, self.device)
        missing = size - len(images)
        if missing > 0:
            known = (self.evaluator or self.attacker).knowledge.train
            images = torch.cat([images, _first(known, missing, self.device)])
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

    @cached_property
    def moment(self) -> Tensor | None:
        """Second moment of released parts by the attacker's own images, for groups of more parts
        than numbers."""
        net = self.attacker.knowledge.net.config
        numbers = self.gallery_features[0].numel()
        if net.parts <= numbers:
            return None
        own = self._encoded(_first(self.attacker.knowledge.train, 32 * numbers, self.device))
        return span.second_moment(
            own, parts=net.parts, decoys=net.gaussian_decoys, scale=net.decoy_scale
        )

    @torch.no_grad()
    def evaluated(self, images: Tensor) -> Tensor:
        """Unit features of a classifier that was trained apart from the victim, on images."""
        layers = list((self.evaluator or self.attacker).classifier("images"))[:-1]
        found = []
        for chunk in images.split(256):
            for layer in layers:
                chunk = layer(chunk)
            found.append(F.normalize(chunk, dim=1))
        return torch.cat(found)

    @cached_property
    def gallery_evaluated(self) -> Tensor:
        return self.evaluated(self.gallery)

    # ----------------------------------------------------------------------------- inversion

    @cached_property
    def mean_image(self) -> Tensor:
        images = self.attacker.knowledge.train
        batches = images.batches(256, self.device)
        return sum(b.images.sum(0) for b in batches) / len(images)

    @cache  # noqa: B019 - lives as long as the command
    def codebook(self, answers: int) -> Tensor:
        """The blind answer for a group: the mean image or, for several answers, as many images by
        k-means on the attacker's own, since a varied set gains from the best assignment alone.
        ``(answers, C, H, W)``."""
        if answers == 1:
            return self.mean_image.unsqueeze(0)
        own = _first(self.attacker.knowledge.train, max(4096, 8 * answers), self.device)
        found = KMeans(answers, n_init=1, random_state=0).fit(own.flatten(1).cpu().numpy())
        return torch.from_numpy(found.cluster_centers_).to(own).view(-1, *own.shape[1:])

    def guess(self, truth: Observation, answers: int) -> Tensor:
        """The blind answer to every query, in the batch's order: the best of so many answers, as
        an attack that returns them is scored."""
        book = self.codebook(answers)
        if answers == 1:  # the same for each query of a group
            return book.expand(truth.key.queries, *book.shape[1:])
        return in_order(Answer(book.expand(len(truth.released), *book.shape)), truth)

    @cached_property
    def blend_weight(self) -> float:
        """Of the group's own mean image, in the constant blend with the mean image that is nearest
        to the query: fitted on the attacker's images."""
        rng = torch.Generator().manual_seed(0)
        images = self.attacker.knowledge.validation
        above = below = 0.0
        for batch in self.attacker.knowledge.batches(images, 256):
            own = self.attacker.knowledge.observe(batch, rng)
            blend, truth = self._group_mean(own) - self.mean_image, batch.images - self.mean_image
            above += (blend * truth).sum().item()
            below += blend.square().sum().item()
        return above / below

    def _group_mean(self, truth: Observation) -> Tensor:
        return _per_query(truth.images.mean(dim=1), truth)

    def blend(self, truth: Observation) -> Tensor:
        """The best constant blend of the group's images: what no separation at all would show."""
        return self.mean_image + self.blend_weight * (self._group_mean(truth) - self.mean_image)


Measured = dict[str, Tensor]  # each (queries,)


def in_order(answer: Answer, truth: Observation) -> Tensor:
    """The answer to each query, in the batch's order, ``(queries, ...)``: of a group's set, what
    the best assignment gives to the query, by the directions that showed the answers or, for
    images made without, by the images themselves."""
    if answer.shown_by is not None or answer.values.shape[1] == 1:
        return keys.in_order(answer, truth)
    queries = truth.key.directions.shape[1]
    columns = inversion.match(answer.values, truth.images[:, :queries])
    return take(answer.values, columns).flatten(0, 1)[: truth.key.queries]


def choices(answer: Answer) -> int:
    """Answers to a query among which the truth may choose by what they say."""
    return 1 if answer.shown_by is not None else answer.values.shape[1]


def _per_query(groups: Tensor, truth: Observation) -> Tensor:
    """What holds for a group, for each of its queries: ``(G, ...) -> (queries, ...)``."""
    return groups.repeat_interleave(truth.key.directions.shape[1], dim=0)[: truth.key.queries]


def same(images: Tensor, features: Tensor, others: Tensor, their_features: Tensor) -> Tensor:
    """Which images are a copy of which others, or have the same feature as far as rounding lets it
    be told: ``(n, ...)`` and ``(N, ...)`` of each to ``(n, N)`` bool.

    A copy of what is there is no stranger, and no score could tell the two apart.
    """
    mine, theirs = features.flatten(1), their_features.flatten(1)
    power = mine.square().sum(dim=1, keepdim=True) + theirs.square().sum(dim=1)
    # Products of float32 say who is suspected, differences who is the same.
    equal = power - 2 * mine @ theirs.T <= 1e-5 * power
    rows, columns = equal.nonzero(as_tuple=True)
    for row, column in zip(rows.split(1024), columns.split(1024), strict=True):
        apart = (mine[row] - theirs[column]).square().sum(dim=1)
        equal[row, column] = apart <= 1e-10 * power[row, column]
    return equal | (_fingerprints(images).unsqueeze(1) == _fingerprints(others))


def _fingerprints(images: Tensor) -> Tensor:
    """A number for each image, equal for equal pixels and else hardly ever."""
    pixels = (images.flatten(1) * 255).round().long()
    weights = torch.randint(2**63 - 1, pixels.shape[1:], generator=Generator().manual_seed(0))
    return (pixels * weights.to(pixels.device)).sum(dim=1)


def score_angle(scoring: Scoring, answer: Answer, truth: Truth) -> tuple[Measured, Measured]:
    """Angle between each query's direction and its estimate; and under the next group's key."""
    mine = truth.key.directions
    found = [keys.errors(answer.values, t).flatten() for t in (mine, mine.roll(1, dims=0))]
    count = truth.key.queries
    return tuple({"angle_error": f[:count]} for f in found)


def score_release(scoring: Scoring, answer: Answer, truth: Truth) -> tuple[Measured, Measured]:
    """Angle between each query's direction and the one found for it, blind guessing where none
    was; and the share of queries for which one was."""
    missed = ~answer.values.any(dim=2)
    blindly = blind(scoring, "release")["angle_error"]["chance"]
    found = []
    for directions in (truth.key.directions, truth.key.directions.roll(1, dims=0)):
        directions = directions.to(answer.values)
        # Members that were not found are no worse a match than 60 degrees.
        along = (directions @ answer.values.mT).masked_fill(missed.unsqueeze(1), 0.5)
        columns = best_matching(-along)
        apart = metrics.angle_between(take(answer.values, columns), directions)
        none = missed.gather(1, columns)
        measured = {"angle_error": apart.masked_fill(none, blindly), "share": (~none).float()}
        found.append({k: v.flatten()[: truth.key.queries] for k, v in measured.items()})
    return found[0], found[1]


def score_span(scoring: Scoring, answer: Answer, truth: Truth) -> tuple[Measured, Measured]:
    """Whether each query ranks first among the candidates that are not in its group, as it is and
    after JPEG compression; and whether the next group's does."""
    images, members = truth.batch.images, truth.key.members
    features = scoring._encoded(images)
    copies = same(images, features, scoring.gallery, scoring.gallery_features)
    excluded = _per_query(copies[members].any(dim=1), truth)
    # By chance a query is a counterpart in the other group: then it is there, and no stranger.
    first = same(images, features, images, features).byte().argmax(dim=1)  # copies share theirs
    there = _per_query(first[members.roll(1, dims=0)], truth)
    guest = (there == first.unsqueeze(1)).any(dim=1)
    found = []
    for released, known in (
        (answer.values, torch.zeros_like(guest)),
        (answer.values.roll(1, dims=0), guest),
    ):
        each, measured = _per_query(released, truth), {}
        for name, own, gallery in (
            ("top1", features, scoring.gallery_features),
            ("top1_jpeg", scoring._encoded(span.jpeg(images)), scoring.damaged_features),
        ):
            mine = span.own_scores(each, own, scoring.moment).to(own)
            others = _per_query(span.scores(released, gallery, scoring.moment), truth).to(own)
            measured[name] = span.placed(mine, others, excluded) * ~known
            if name == "top1":
                others = _per_query(span.shares(released, gallery), truth)
                measured["share"] = span.own_shares(each, own)
                measured["best_other"] = others.masked_fill(excluded, 0).amax(dim=1)
        found.append(measured)
    return found[0], found[1]


def image_measures(images: Tensor) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """Measures of images of this size; LPIPS where its weights are on the disk."""
    found = {"rmse": metrics.rmse, "psnr": metrics.psnr, "ssim": metrics.ssim}
    if metrics.lpips_weights().is_file() and min(images.shape[-2:]) >= 32:
        found["lpips"] = metrics.lpips
    return found


def score_images(scoring: Scoring, answer: Answer, truth: Truth) -> tuple[Measured, Measured]:
    """RMSE, PSNR, SSIM, distance of an independent classifier's features, and identification: the
    query's place among the candidates nearest to its reconstruction in those features."""
    return score_reconstructions(scoring, in_order(answer, truth), truth)


def score_reconstructions(
    scoring: Scoring, answer: Tensor, truth: Truth
) -> tuple[Measured, Measured]:
    """The same for one image of each query."""
    answer, images, other = answer.clamp(0, 1), truth.batch.images, _next_group(truth)
    mine, wanted = scoring.evaluated(answer), scoring.evaluated(images)
    found = []
    for compared, features in ((images, wanted), (images[other], wanted[other])):
        measured = {name: f(answer, compared) for name, f in image_measures(compared).items()}
        measured["feature_distance"] = 1 - (mine * features).sum(dim=1)
        found.append(measured)
    gallery = scoring.gallery_evaluated
    excluded = same(images, wanted, scoring.gallery, gallery)
    own, others = (mine * wanted).sum(dim=1), mine @ gallery.T
    for name, top in (("top1", 1), (f"top{TOP}", TOP)):
        found[0][name] = span.placed(own, others, excluded, top)
    return found[0], found[1]


def score_property(scoring: Scoring, answer: Answer, truth: Truth) -> tuple[Measured, Measured]:
    """Error of the hidden classes; and of another query's."""
    classes = truth.batch.classes.cpu()
    given = tasks.answers(keys.in_order(answer, truth).cpu(), classes)
    found = [{"error": tasks.errors(given, t)} for t in (classes, classes[_next_group(truth)])]
    return found[0], found[1]


def _next_group(truth: Observation) -> Tensor:
    """For each query the place of one that is neither in its packed group nor a copy of it, in the
    next group that has one."""
    group, count = truth.key.directions.shape[1], truth.key.queries
    content, own = _fingerprints(truth.batch.images).cpu(), torch.arange(count)
    other = own.roll(group)
    for shift in range(2 * group, count, group):
        copies = content[other] == content
        if not copies.any():
            break
        other = torch.where(copies, own.roll(shift), other)
    return other  # on the CPU, where any tensor takes it


def blind(scoring: Scoring, family: str) -> dict[str, dict[str, float]]:
    """What is reached without seeing anything, by measure: ``chance`` or ``floor``."""
    attacker = scoring.attacker
    gallery = len(scoring.gallery)
    net = attacker.knowledge.net.config
    if family == "angle":
        return {"angle_error": {"chance": attacker.blind_angle(keys.candidates(net))}}
    if family == "intersection":
        releases = attacker.config.spend.repeats
        blindly = attacker.blind_angle(net.queries)
        return {"angle_error": {"chance": blindly, "releases": releases}}
    if family == "release":
        return {"angle_error": {"chance": keys.chance(net, answers=net.parts)}}
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
    "release": score_release,
    "intersection": score_angle,
    "inversion": score_images,
    "property": score_property,
}
