"""The attacks on one victim: train what is missing, judge on the test images, write rows."""

from __future__ import annotations

import dataclasses
import logging
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from complexnn import metrics
from complexnn.attacks import keys, roster, scoring, worst
from complexnn.attacks.attacker import FILES, Attacker, NotTrained
from complexnn.attacks.fitting import FitLog, Knowledge, together
from complexnn.attacks.roster import ROSTER, Attack
from complexnn.attacks.scoring import Scoring
from complexnn.attacks.threat import Seen
from complexnn.attacks.user import Truth, User
from complexnn.config import InputError, NetConfig
from complexnn.config_attack import OWN, AttackConfig, results_of
from complexnn.config_io import from_dict, to_dict
from complexnn.data.images import Dataset, ImageSet
from complexnn.networks.splitnet import SplitNet
from complexnn.runs import checkpoint, results
from complexnn.runs.pictures import keep_pixels, save_grid
from complexnn.runs.progress import duration, track
from complexnn.training.evaluation import eval_batch

log = logging.getLogger("complexnn")
PICTURES = 10  # random test images in a grid
GROUPS = 16  # that share a key, at least, wherever so many can be had
# Of these measures, less is more leakage.
SMALLER = ("angle_error", "rmse", "lpips", "feature_distance", "error")
# Where an answer must not be better than blind on another query's truth. In features and structure
# any sharp image beats the mean image, so these are not among them.
NEGATIVE_CONTROLS = ("angle_error", "top1", "top1_jpeg", "rmse", "psnr", "error")


class Target:
    """A network under attack, its user, and the images that attacks are judged on."""

    def __init__(
        self,
        net: SplitNet,
        dataset: Dataset,
        config: AttackConfig,
        folder: Path,
        own: tuple[ImageSet, ImageSet],
    ) -> None:
        device = next(net.parameters()).device
        self.victim_hash = checkpoint.sha256(config.victim / "model.safetensors")
        knowledge = Knowledge(net, *(images.to(device) for images in own), device)
        attackers = folder / "attackers" / worst.slug(self.victim_hash[:12] + config.has)
        published = config.victim / "attackers" / attackers.name
        if folder == results_of(config.victim) and published.is_dir() and not attackers.is_dir():
            shutil.copytree(published, attackers)
        self.attacker = Attacker(knowledge, dataset.classes, config, attackers, self.victim_hash)
        # Which images of the test set these are: a control may be judged on some more.
        self.index = judged_images(config, net.config, dataset)
        self.test = dataset.test.subset(self.index).to(device)
        self.user = User(net, self.test, dataset.train.to(device), device, config.seed)
        evaluator = None
        if config.has:
            every = dataclasses.replace(config, auxiliary=None, auxiliary_limit=None)
            whole = Knowledge(net, dataset.train.to(device), dataset.validation.to(device), device)
            full = folder / "attackers" / self.victim_hash[:12]
            evaluator = Attacker(whole, dataset.classes, every, full, self.victim_hash)
        self.scoring = Scoring(self.attacker, self.test, evaluator)
        self.folder, self.config = folder, config

    def judged(self, attack: Attack) -> tuple[int, int]:
        """Images and draws that an attack is judged on."""
        net = self.attacker.victim
        draws = min(self.config.draws, self.config.spend.slow_draws if attack.slow else math.inf)
        return judged(self.config, net, len(self.test), slow=attack.slow), draws

    def releases(self, attack: Attack, draw: int, count: int) -> Iterator[tuple[Seen, Truth]]:
        """One draw of the user's queries, sent as the attack needs it."""
        times = self.config.spend.repeats
        if attack.whole:
            yield self.user.sends_whole(draw, count, again=attack.again, times=times)
            return
        batches = -(-count // eval_batch(together(self.attacker.victim)))
        sent = self.user.sends(draw, count, again=attack.again, times=times)
        yield from track(sent, batches, attack.name)


def judged(config: AttackConfig, net: NetConfig, test: int, *, slow: bool = False) -> int:
    """Of ``test`` test images, how many attacks are judged on: whole groups, two at least, and by
    default sixteen, since intervals are over groups."""
    dim, spend = together(net), config.spend
    least = dim * (2 if config.limit_test else GROUPS)
    wanted = max(spend.slow_images if slow else spend.images, least)
    return min(wanted, test) // dim * dim


def judged_images(config: AttackConfig, net: NetConfig, dataset: Dataset) -> Tensor:
    """Which test images attacks are judged on: the first of a fixed order, or all."""
    count = judged(config, net, len(dataset.test))
    order = torch.randperm(len(dataset.test), generator=torch.Generator().manual_seed(0))
    return order[:count] if count < len(order) else torch.arange(count)


def check(
    config: AttackConfig, net: NetConfig, dataset: Dataset, own: tuple[ImageSet, ImageSet]
) -> None:
    """Refuse, before anything is written, attacks that the victim or its data have nothing for.

    Raises:
        InputError: no key, nothing hidden, an unknown name, too few images for groups.
    """
    if config.attack in ("angle", "release", "intersection") and net.parts == 1:
        raise InputError(f"kind {net.kind} has no key: attack {config.attack} needs kind complex")
    if config.attack == "property" and config.auxiliary not in OWN:
        raise InputError(
            f"images of {config.auxiliary} have none of the victim's properties: attack property "
            "needs --auxiliary held-out, or none"
        )
    if config.attack == "property" and not dataset.hidden:
        raise InputError(
            f"the victim learned the classes of {dataset.name} themselves, so nothing is hidden: "
            "train it with --groups"
        )
    if not roster.chosen(config, net, hidden=dataset.hidden):
        every = dataclasses.replace(config, only=None)
        names = [attack.name for attack in roster.chosen(every, net, hidden=dataset.hidden)]
        raise InputError(
            f"no attack has {config.only!r} in its name; there are: {', '.join(names)}"
        )
    dim = together(net)
    for what, images, least, advice in (
        ("training", own[0], dim, "give the attacker more (--auxiliary, --auxiliary-limit)"),
        ("validation", own[1], dim, "give the attacker more (--auxiliary, --auxiliary-limit)"),
        ("test", dataset.test, 2 * dim, "use more images"),  # a wrong key is another group's
    ):
        if len(images) < least:
            raise InputError(
                f"attacks on groups of {dim} need {least} {what} images or more, and there are "
                f"{len(images)}: attack a network of smaller --dim, or {advice}"
            )


def run(
    config: AttackConfig,
    victim: SplitNet,
    control: SplitNet | None,
    dataset: Dataset,
    own: tuple[ImageSet, ImageSet],
) -> None:
    """Run the attacks that ``config`` asks for, which :func:`check` has passed; write rows, tables
    and pictures.

    The positive control gets the same attacks first. Rows that are there already, of the same
    weights and settings, are not made again, so a run that was interrupted goes on.
    """
    attacks = roster.chosen(config, victim.config, hidden=dataset.hidden)
    beside: dict[str, dict[str, Any]] = {}
    compared = None
    if control is not None:
        every = dataclasses.replace(config, only=None)
        needed = roster.chosen(every, control.config, hidden=dataset.hidden)
        if config.only is not None:
            names = roster.compared_with(attacks)
            needed = [attack for attack in needed if attack.name in names]
        alone = dataclasses.replace(config, victim=config.control, control=None)
        folder = config.output_dir / "control" if config.output_dir else alone.run_dir
        results.prepare_folder(folder)
        compared = Target(control, dataset, alone, folder, own)
        beside = _attack(compared, needed, {})
    target = Target(victim, dataset, config, config.run_dir, own)
    before = made(config, target.folder, target.victim_hash)
    rows = _attack(target, attacks, beside)
    if config.attack in ("inversion", "all") and config.only is None and not config.has:
        row = worst.append(target.folder, rows, compared and compared.folder, beside)
        if row is not None:
            print(summary(row), flush=True)
        if any(a.family == "inversion" and a.name not in before for a in attacks):
            _draw(target, compared)


def made(config: AttackConfig, folder: Path, victim_hash: str) -> dict[str, dict[str, Any]]:
    """Rows of attacks as they are now that were made on these weights with the same settings, by
    name, and beside the same control, if ``config`` names one."""
    control = _control_hash(config)
    versions = {name + config.has: version for name, version in roster.VERSIONS.items()}
    return {
        row["name"]: row
        for row in results.rows_about(config.victim, folder)
        if row["victim"] == victim_hash
        and "attack" in row["config"]
        and control in (None, row["control"])
        and row.get("version", 1) == versions.get(row["name"], 1)
        and _settings(from_dict(AttackConfig, row["config"])) == _settings(config)
    }


def _settings(config: AttackConfig) -> dict[str, Any]:
    """What a row depends on: not which attacks were asked for, on what and where. The victim and
    the control are compared by their weights."""
    where = ("attack", "only", "victim", "output_dir", "data_dir", "device", "control")
    return to_dict(config) | dict.fromkeys(where)


def _control_hash(config: AttackConfig) -> str | None:
    weights = None if config.control is None else config.control / "model.safetensors"
    return checkpoint.sha256(weights) if weights and weights.is_file() else None


def done(config: AttackConfig, net: NetConfig, victim_hash: str, *, hidden: bool) -> bool:
    """Whether every attack that ``config`` asks for was made on these weights."""
    there = made(config, config.run_dir, victim_hash)
    asked = roster.chosen(config, net, hidden=hidden)
    return all(attack.name + config.has in there for attack in asked)


def _attack(
    target: Target, attacks: Sequence[Attack], beside: dict[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Those attacks that are not made yet; all rows by name. ``beside`` are the control's rows."""
    config, attacker = target.config, target.attacker
    rows = made(config, target.folder, target.victim_hash)
    (target.folder / "examples").mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    for number, attack in enumerate(attacks, start=1):
        name = attack.name + config.has
        if name in rows:
            log.info("%s: already done, %s", name, rows[name].get("time", ""))
            continue
        log.info(
            "attack %d of %d: %s (%s so far)",
            number, len(attacks), name, duration(time.monotonic() - started),
        )  # fmt: skip
        begun = time.time()
        for needed in attack.needs:
            getattr(attacker, needed)
        measured, extra, groups = _judge(target, attack)
        count, draws = target.judged(attack)
        _beside(measured, beside.get((attack.control or attack.name) + config.has))
        row = {
            "name": name,
            "version": attack.version,
            "family": attack.family,
            "metrics": measured,
            "flags": extra,
            "images": count,
            "groups": groups,
            "draws": draws,
            "config": to_dict(config),
            "victim": target.victim_hash,
            "control": _control_hash(config),
            **results.stamp(attacker.knowledge.device, begun),
        }
        results.append_row(target.folder / "results.jsonl", row)
        rows[name] = row
        print(summary(row), flush=True)
    return rows


def _judge(target: Target, attack: Attack) -> tuple[dict[str, dict[str, Any]], list[str], int]:
    """An attack's measures with intervals and blind answers, what looks wrong about it, and how
    many groups of a draw the intervals are over."""
    attacker, family = target.attacker, attack.family
    count, draws = target.judged(attack)
    own, other, logits = (Columns(draws, count) for _ in range(3))
    answers = 1
    for draw in range(draws):
        for seen, truth in target.releases(attack, draw, count):
            answer = attack.answer(attacker, seen)
            mine, others = scoring.SCORES[family](target.scoring, answer, truth)
            own.note(draw, truth.index, mine | {"group": truth.clusters})
            other.note(draw, truth.index, others)
            if family == "property":
                logits.note(draw, truth.index, {"logits": keys.in_order(answer, truth)})
            answers = scoring.choices(answer)
    groups = own.columns.pop("group").long()
    measured: dict[str, dict[str, Any]] = {}
    for name, values in own.columns.items():
        low, high = interval(name, values, groups)
        measured[name] = {"value": values.mean().item(), "low": low, "high": high}
        if name in other.columns:
            measured[name]["negative"] = other.columns[name].mean().item()
    if family == "property":
        known = target.test.classes[:count].cpu()
        measured |= scoring.summarise_property(logits.columns["logits"], known)
    for name, values in scoring.blind(target.scoring, family).items():
        if name in measured:
            measured[name] |= values
    if family == "inversion":
        _floors(target, attack, measured, count, answers)
    means = {name: values.mean(dim=0) for name, values in own.columns.items()}
    path = worst.table_path(target.folder, attack.name + target.config.has)
    index = target.index
    group = index[groups[0]].double()  # the lowest place of its images, as an image
    worst.write_table(path, means | {"group": group}, index[:count].tolist())
    flags = _flags(attacker.logs, attack, measured, other.columns, groups)
    return measured, flags, _count(groups)


class Columns:
    """What was measured of every query in every draw, by name: ``(draws, images, ...)``."""

    def __init__(self, draws: int, images: int) -> None:
        self.columns: dict[str, Tensor] = {}
        self.size = draws, images

    def note(self, draw: int, index: Tensor, found: dict[str, Tensor]) -> None:
        """Put the values of some images in their places."""
        for name, values in found.items():
            values = values.detach().cpu().double()
            if name not in self.columns:
                self.columns[name] = values.new_full((*self.size, *values.shape[1:]), math.nan)
            self.columns[name][draw, index] = values


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


def _floors(
    target: Target, attack: Attack, measured: dict[str, dict[str, Any]], count: int, answers: int
) -> None:
    """The same measures of as many blind answers and, where images share a group, of the best
    constant blend of them."""
    judge = target.scoring
    blind = {"floor": partial(judge.guess, answers=answers)}
    if target.attacker.rotated:
        blind["blend"] = judge.blend
    once = dataclasses.replace(attack, again=None, whole=False)
    for kind, answer in blind.items():
        chunks = [
            scoring.score_reconstructions(judge, answer(truth), truth)[0]
            for _, truth in target.releases(dataclasses.replace(once, name=kind), 0, count)
        ]
        for name in measured:
            if "chance" not in measured[name]:
                measured[name][kind] = torch.cat([c[name] for c in chunks]).mean().item()


def _beside(measured: dict[str, dict[str, Any]], control: dict[str, Any] | None) -> None:
    for name, numbers in measured.items():
        known = control["metrics"].get(name, {}) if control else {}
        numbers["control"] = known.get("value")


def _flags(
    logs: dict[str, FitLog],
    attack: Attack,
    measured: dict[str, dict[str, Any]],
    others: dict[str, Tensor],
    groups: Tensor | None = None,
) -> list[str]:
    """What an attack, or its evaluation, shows of being broken; ``others`` are the measures on
    other queries' truth, ``(draws, images)``."""
    found = []
    few = groups is not None and _count(groups) < min(GROUPS, groups.shape[1])
    if few:
        found.append(f"{_count(groups)} groups judged: too few for an interval")
    for name in (*attack.needs, attack.name.replace("property ", "property_")):
        file = FILES.get(name, name)
        if file in logs:
            found += [f"{file}: {flag}" for flag in logs[file].flags()]
    for name in NEGATIVE_CONTROLS:
        if few or name not in others:  # a leak is told by an interval
            continue
        blind = measured[name].get("chance", measured[name].get("floor"))
        low, high = interval(name, others[name], groups)
        middle, width = (low + high) / 2, 0.8 * (high - low)  # about three standard errors
        ahead = blind - middle if name in SMALLER else middle - blind
        if ahead > max(width, 0.05 * abs(blind)):
            found.append(f"{name}: better than blind on other queries' truth: evaluation leaks")
    return found


def _draw(target: Target, control: Target | None) -> None:
    """A grid of random test images: what went in, and what each attack made of it that has its
    networks; none is trained for a picture."""
    for of in (target, control):
        if of is not None:
            of.attacker.may_train = False
    seed, dim = target.config.seed, together(target.attacker.victim)
    generator = torch.Generator().manual_seed(seed)
    count = min(-(-max(PICTURES, 2 * dim) // dim) * dim, len(target.test))
    chosen = torch.randperm(len(target.test), generator=generator)[:count]
    rows: dict[str, Tensor] = {}
    for what, of in (("", target), (" (control)", control)):
        if of is None:
            continue
        user = dataclasses.replace(of.user, images=of.test.subset(chosen))
        for attack in ROSTER:
            shown = attack.family == "inversion" and roster.applicable(attack, of.attacker.victim)
            if shown and (not what or attack.name == "inversion dec(x)"):
                times = target.config.spend.repeats
                seen, truth = user.sends_whole(0, count, again=attack.again, times=times)
                rows.setdefault("input", truth.batch.images.cpu())
                try:
                    answer = attack.answer(of.attacker, seen)
                except NotTrained:
                    continue
                ordered = scoring.in_order(answer, truth).detach().cpu()
                rows[attack.name.removeprefix("inversion ") + what] = ordered
    own = [images for name, images in rows.items() if name != "input" and "(control)" not in name]
    errors = torch.stack([metrics.rmse(images, rows["input"]) for images in own])
    picked = torch.stack(own)[errors.argmin(dim=0), torch.arange(len(chosen))]
    rows = {"input": rows.pop("input"), "worst case": picked, **rows}
    grid = {name: images[:PICTURES] for name, images in rows.items()}
    keep_pixels(target.folder / "examples" / "inversion.safetensors", grid, target.victim_hash)
    save_grid(
        target.folder / "examples" / "inversion.png",
        grid,
        f"{min(PICTURES, len(chosen))} test images drawn at random with seed {seed}",
    )  # fmt: skip


def summary(row: dict[str, Any]) -> str:
    """One line about a row: each measure with its interval and what it stands beside."""
    parts = []
    for measure, numbers in row["metrics"].items():
        beside = [
            f"{what.replace('_', ' ')} {numbers[what]:.4g}"
            for what in ("chance", "floor", "blend", "given_label", "control")
            if numbers.get(what) is not None
        ]
        interval = f" [{numbers['low']:.4g}, {numbers['high']:.4g}]" if "low" in numbers else ""
        known = f" ({', '.join(beside)})" if beside else ""
        parts.append(f"{measure} {numbers['value']:.4g}{interval}{known}")
    flags = "".join(f"; FLAG {flag}" for flag in row["flags"])
    return f"{row['name']}: " + "; ".join(parts) + flags
