"""One attack on one target: what it reaches, with intervals, beside blind answers, and flags."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from complexnn import metrics
from complexnn.attacks import scoring, worst
from complexnn.attacks.attacker import FILES
from complexnn.attacks.fitting import FitLog
from complexnn.attacks.roster import Attack
from complexnn.attacks.target import GROUPS, Target

# Of these measures, less is more leakage.
SMALLER = ("angle_error", "rmse", "lpips", "feature_distance", "error")
# Where an answer must not be better than blind on another query's truth. In features and structure
# any sharp image beats the mean image, so these are not among them.
NEGATIVE_CONTROLS = ("angle_error", "top1", "top1_jpeg", "rmse", "psnr", "error")

Numbers = dict[str, dict[str, Any]]  # measure -> value, low, high and what stands beside them


class Columns:
    """What was measured of every query in every draw, by name: ``(draws, images, ...)``."""

    def __init__(self, draws: int, images: int) -> None:
        self.columns: dict[str, Tensor] = {}
        self.size = draws, images

    def note(self, draw: int, index: Tensor, measures: dict[str, Tensor]) -> None:
        """Put the values of some images in their places."""
        for name, values in measures.items():
            values = values.detach().cpu().double()
            if name not in self.columns:
                self.columns[name] = values.new_full((*self.size, *values.shape[1:]), math.nan)
            self.columns[name][draw, index] = values


@dataclass(frozen=True)
class Scores:
    """The scores of all answers of an attack, each ``(draws, images, ...)``."""

    own: dict[str, Tensor]
    other: dict[str, Tensor]  # against another query's truth
    groups: Tensor  # which images share a key
    logits: Tensor | None  # of property attacks
    choices: int  # answers to a query among which the truth chose


@dataclass(frozen=True)
class Measured:
    """What a row says of an attack."""

    metrics: Numbers
    flags: list[str]
    groups: int  # of a draw, over which the intervals are


def measure(target: Target, attack: Attack) -> Measured:
    """Ask the attack about every query of every draw, score its answers, and write the table of
    the numbers per image."""
    scores = ask(target, attack)
    numbers = _with_intervals(scores)
    if scores.logits is not None:
        known = target.test.classes[: scores.logits.shape[1]].cpu()
        numbers |= scoring.summarise_property(scores.logits, known)
    for name, chances in target.baselines.chances(attack.family).items():
        if name in numbers:
            numbers[name] |= chances
    if attack.family == "inversion":
        _add_blind_images(target, numbers, scores)
    _write_table(target, attack, scores)
    logs = target.attacker.networks.logs
    raised = flags(logs, attack, numbers, scores.other, scores.groups)
    return Measured(numbers, raised, _count(scores.groups))


def ask(target: Target, attack: Attack) -> Scores:
    """Every draw of the user's queries through the attack: the attacker gets what the server sees,
    and its answers go with the truth to :mod:`complexnn.attacks.scoring`."""
    count, draws = target.images_and_draws(attack)
    own, other, logits = (Columns(draws, count) for _ in range(3))
    choices = 1
    for draw in range(draws):
        sent = target.releases(draw, count, attack.name, again=attack.again, whole=attack.whole)
        for observation, truth in sent:
            answer = attack.answer(target.attacker, observation)
            mine, others = scoring.SCORES[attack.family](target.gallery, answer, truth)
            own.note(draw, truth.index, mine | {"group": truth.clusters})
            other.note(draw, truth.index, others)
            if attack.family == "property":
                logits.note(draw, truth.index, {"logits": scoring.logits(answer, truth)})
            choices = scoring.choices(answer)
    groups = own.columns.pop("group").long()
    return Scores(own.columns, other.columns, groups, logits.columns.get("logits"), choices)


# -------------------------------------------------------------------------------------- intervals


def _with_intervals(scores: Scores) -> Numbers:
    numbers: Numbers = {}
    for name, values in scores.own.items():
        low, high = interval(name, values, scores.groups)
        numbers[name] = {"value": values.mean().item(), "low": low, "high": high}
        if name in scores.other:
            numbers[name]["negative"] = scores.other[name].mean().item()
    return numbers


def interval(name: str, values: Tensor, groups: Tensor | None = None) -> tuple[float, float]:
    """The 95 % interval of the mean of a measure, ``(draws, images)``.

    Over images, each averaged over its draws. Where images share a key, which ``groups`` of the
    same shape say, it is over groups: the mean of each draw's interval, which more draws do not
    narrow, as other draws put other images together.
    """
    if groups is None or _count(groups) == groups.shape[1]:
        return metrics.interval(name, values.mean(dim=0))
    each = [metrics.interval(name, v, g) for v, g in zip(values, groups, strict=True)]
    low, high = torch.tensor(each, dtype=torch.float64).mean(dim=0).tolist()
    return low, high


def _count(groups: Tensor) -> int:
    """How many groups a draw has, of ``(draws, images)``."""
    return min(len(draw.unique()) for draw in groups)


def _write_table(target: Target, attack: Attack, scores: Scores) -> None:
    means = {name: values.mean(dim=0) for name, values in scores.own.items()}
    index, count = target.index, scores.groups.shape[1]
    group = index[scores.groups[0]].double()  # the lowest place of its images, as an image
    path = worst.table_path(target.folder, attack.name + target.config.has)
    worst.write_table(path, means | {"group": group}, index[:count].tolist())


# -------------------------------------------------------------------------------- what is beside


def _add_blind_images(target: Target, numbers: Numbers, scores: Scores) -> None:
    """The same measures of as many blind answers and, where images share a group, of the best
    constant blend of them."""
    baselines, count = target.baselines, scores.groups.shape[1]
    # Rows call the blind answer of images "floor": the name that published rows have.
    blind = {"floor": partial(baselines.guess, answers=scores.choices)}
    if target.attacker.rotated:
        blind["blend"] = baselines.blend
    for kind, answer in blind.items():
        chunks = [
            scoring.score_reconstructions(target.gallery, answer(truth), truth)[0]
            for _, truth in target.releases(0, count, kind)
        ]
        for name in numbers:
            if "chance" not in numbers[name]:
                numbers[name][kind] = torch.cat([c[name] for c in chunks]).mean().item()


def flags(
    logs: dict[str, FitLog],
    attack: Attack,
    numbers: Numbers,
    others: dict[str, Tensor],
    groups: Tensor | None = None,
) -> list[str]:
    """What an attack, or its evaluation, shows of being broken; ``others`` are the measures on
    other queries' truth, ``(draws, images)``."""
    raised = []
    few = groups is not None and _count(groups) < min(GROUPS, groups.shape[1])
    if few:
        raised.append(f"{_count(groups)} groups judged: too few for an interval")
    for name in (*attack.needs, attack.name.replace("property ", "property_")):
        file = FILES.get(name, name)
        if file in logs:
            raised += [f"{file}: {flag}" for flag in logs[file].flags()]
    for name in NEGATIVE_CONTROLS:
        if few or name not in others:  # a leak is told by an interval
            continue
        blind = numbers[name].get("chance", numbers[name].get("floor"))
        low, high = interval(name, others[name], groups)
        # An interval of 95 % is four standard errors wide: 0.8 of it are about three, and 5 % of
        # the blind answer is what nobody would call a leak. Both chosen by hand.
        middle, width = (low + high) / 2, 0.8 * (high - low)
        ahead = blind - middle if name in SMALLER else middle - blind
        if ahead > max(width, 0.05 * abs(blind)):
            raised.append(f"{name}: better than blind on other queries' truth: evaluation leaks")
    return raised
