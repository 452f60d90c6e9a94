"""How answers are scored, per query, beside the truth of another query.

Only functions of this file compare answers with the user's truth. ``trial`` calls them for rows,
``grid`` for pictures, ``baselines`` for blind answers.

Each group's answers come as a set, since the release could not show their order: exchanging two
members and two columns of the key releases the same numbers. So the best assignment says which
answer is compared with which query. Where answers were made from views it looks at the views'
directions alone, so that what an answer says plays no part in the choice; where there are none it
looks at the images, and a blind set is matched in the same way.

A score function returns the measures of each query against its own truth, and the same measures of
the same answers against another query's, which must be no better than blind: else the evaluation
leaks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from complexnn import metrics
from complexnn.attacks import inversion, span, unmixing
from complexnn.attacks.fitting import OwnRelease, best_matching, take
from complexnn.attacks.gallery import Gallery, fingerprints, same
from complexnn.attacks.threat import Answer
from complexnn.attacks.user import Truth
from complexnn.data import tasks

TOP = 5  # places, beside the first, that count as identified
Measures = dict[str, Tensor]  # each (queries,)

# --------------------------------------------------------------------------------------- matching


def order_by_direction_or_image(answer: Answer, truth: OwnRelease) -> Tensor:
    """The answer to each query, in the batch's order, ``(queries, ...)``: of a group's set, what
    the best assignment gives to the query, by the directions that showed the answers or, for
    images made without, by the images themselves."""
    if answer.shown_by is not None or answer.values.shape[1] == 1:
        return unmixing.order_by_direction(answer, truth)
    queries = truth.key.directions.shape[1]
    columns = inversion.match(answer.values, truth.images[:, :queries])
    return take(answer.values, columns).flatten(0, 1)[: truth.key.queries]


def choices(answer: Answer) -> int:
    """Answers to a query among which the truth may choose by what they say."""
    return 1 if answer.shown_by is not None else answer.values.shape[1]


def per_query(groups: Tensor, truth: OwnRelease) -> Tensor:
    """What holds for a group, for each of its queries: ``(G, ...) -> (queries, ...)``."""
    return groups.repeat_interleave(truth.key.directions.shape[1], dim=0)[: truth.key.queries]


def next_group(truth: OwnRelease) -> Tensor:
    """For each query the place of one that is neither in its packed group nor a copy of it, in the
    next group that has one."""
    group, count = truth.key.directions.shape[1], truth.key.queries
    content, own = fingerprints(truth.batch.images).cpu(), torch.arange(count)
    other = own.roll(group)
    for shift in range(2 * group, count, group):
        copies = content[other] == content
        if not copies.any():
            break
        other = torch.where(copies, own.roll(shift), other)
    return other  # on the CPU, where any tensor takes it


# -------------------------------------------------------------------------------- keys and groups


def score_angle(gallery: Gallery, answer: Answer, truth: Truth) -> tuple[Measures, Measures]:
    """Angle between each query's direction and its estimate; and under the next group's key."""
    mine, count = truth.key.directions, truth.key.queries
    own, other = (
        unmixing.errors(answer.values, directions).flatten()[:count]
        for directions in (mine, mine.roll(1, dims=0))
    )
    return {"angle_error": own}, {"angle_error": other}


def score_release(gallery: Gallery, answer: Answer, truth: Truth) -> tuple[Measures, Measures]:
    """Angle between each query's direction and the one recovered for it, blind guessing where none
    was; and the share of queries for which one was."""
    net = gallery.attacker.victim
    blindly = unmixing.chance(net, answers=net.parts)
    missed = ~answer.values.any(dim=2)

    def measured(directions: Tensor) -> Measures:
        directions = directions.to(answer.values)
        # Members that were not recovered are no worse a match than 60 degrees.
        along = (directions @ answer.values.mT).masked_fill(missed.unsqueeze(1), 0.5)
        columns = best_matching(-along)
        apart = metrics.angle_between(take(answer.values, columns), directions)
        none = missed.gather(1, columns)
        measures = {"angle_error": apart.masked_fill(none, blindly), "share": (~none).float()}
        return {k: v.flatten()[: truth.key.queries] for k, v in measures.items()}

    mine = truth.key.directions
    return measured(mine), measured(mine.roll(1, dims=0))


def score_span(gallery: Gallery, answer: Answer, truth: Truth) -> tuple[Measures, Measures]:
    """Whether each query ranks first among the candidates that are not in its group, as it is and
    after JPEG compression; and whether the next group's does."""
    images, members = truth.batch.images, truth.key.members
    features = gallery.encoded(images)
    copies = same(images, features, gallery.images, gallery.features)
    excluded = per_query(copies[members].any(dim=1), truth)
    # By chance a query is a counterpart in the other group: then it is there, and no stranger.
    first = same(images, features, images, features).byte().argmax(dim=1)  # copies share theirs
    there = per_query(first[members.roll(1, dims=0)], truth)
    guest = (there == first.unsqueeze(1)).any(dim=1)
    views = {
        "top1": (features, gallery.features),
        "top1_jpeg": (gallery.encoded(span.jpeg(images)), gallery.damaged_features),
    }

    def measured(released: Tensor, present: Tensor) -> Measures:
        each, measures = per_query(released, truth), {}
        for name, (own, candidates) in views.items():
            mine = span.own_scores(each, own, gallery.moment).to(own)
            others = per_query(span.scores(released, candidates, gallery.moment), truth).to(own)
            measures[name] = span.placed(mine, others, excluded) * ~present
            if name == "top1":
                others = per_query(span.shares(released, candidates), truth)
                measures["share"] = span.own_shares(each, own)
                measures["best_other"] = others.masked_fill(excluded, 0).amax(dim=1)
        return measures

    own = measured(answer.values, torch.zeros_like(guest))
    return own, measured(answer.values.roll(1, dims=0), guest)


# ----------------------------------------------------------------------------------------- images


def image_measures(images: Tensor) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """Measures of images of this size; LPIPS where its weights are on the disk."""
    measures = {"rmse": metrics.rmse, "psnr": metrics.psnr, "ssim": metrics.ssim}
    if metrics.lpips_weights().is_file() and min(images.shape[-2:]) >= 32:
        measures["lpips"] = metrics.lpips
    return measures


def score_images(gallery: Gallery, answer: Answer, truth: Truth) -> tuple[Measures, Measures]:
    """RMSE, PSNR, SSIM, distance of an independent classifier's features, and identification: the
    query's place among the candidates nearest to its reconstruction in those features."""
    return score_reconstructions(gallery, order_by_direction_or_image(answer, truth), truth)


def score_reconstructions(
    gallery: Gallery, answer: Tensor, truth: Truth
) -> tuple[Measures, Measures]:
    """The same for one image of each query."""
    answer, images, other = answer.clamp(0, 1), truth.batch.images, next_group(truth)
    mine, wanted = gallery.embedded(answer), gallery.embedded(images)

    def measured(images: Tensor, wanted: Tensor) -> Measures:
        measures = {name: f(answer, images) for name, f in image_measures(images).items()}
        return measures | {"feature_distance": 1 - (mine * wanted).sum(dim=1)}

    excluded = same(images, wanted, gallery.images, gallery.embeddings)
    alike, others = (mine * wanted).sum(dim=1), mine @ gallery.embeddings.T
    places = {
        name: span.placed(alike, others, excluded, top)
        for name, top in (("top1", 1), (f"top{TOP}", TOP))
    }
    return measured(images, wanted) | places, measured(images[other], wanted[other])


# -------------------------------------------------------------------------------------- properties


def score_property(gallery: Gallery, answer: Answer, truth: Truth) -> tuple[Measures, Measures]:
    """Error of the hidden classes; and of another query's."""
    classes = truth.batch.classes.cpu()
    given = tasks.answers(logits(answer, truth).cpu(), classes)
    own, other = (tasks.errors(given, t) for t in (classes, classes[next_group(truth)]))
    return {"error": own}, {"error": other}


def logits(answer: Answer, truth: Truth) -> Tensor:
    """The logits of each query, ``(queries, K)`` or ``(queries, attributes)``."""
    return unmixing.order_by_direction(answer, truth)


def summarise_property(logits: Tensor, truth: Tensor) -> dict[str, dict[str, Any]]:
    """Balanced accuracy, and for binary properties the true-positive rate at 1 % false positives,
    mean over draws: logits ``(draws, N, K)``."""
    balanced = _mean(tasks.balanced_accuracy(tasks.answers(s, truth), truth) for s in logits)
    summary = {"balanced_accuracy": {"value": balanced}}
    if truth.dim() == 2:
        columns = range(truth.shape[1])
        rates = [metrics.tpr_at_fpr(s[:, c], truth[:, c]) for s in logits for c in columns]
    elif logits.shape[2] == 2:
        rates = [metrics.tpr_at_fpr(s[:, 1] - s[:, 0], truth == 1) for s in logits]
    else:
        return summary
    known = [rate for rate in rates if not math.isnan(rate)]
    return summary | {"tpr_at_1_fpr": {"value": _mean(known)}} if known else summary


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values)


SCORES = {
    "angle": score_angle,
    "span": score_span,
    "release": score_release,
    "intersection": score_angle,
    "inversion": score_images,
    "property": score_property,
}
