"""The attacks on one victim: train what is missing, judge on the test images, write rows."""

from __future__ import annotations

import csv
import dataclasses
import logging
import math
import re
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from complexnn import checkpoint, metrics, results
from complexnn.attacks import keys, roster, scoring
from complexnn.attacks.attacker import FILES, Attacker
from complexnn.attacks.fitting import FitLog, Knowledge, together
from complexnn.attacks.pictures import keep_pixels, save_grid
from complexnn.attacks.roster import ROSTER, Attack
from complexnn.attacks.scoring import Scoring
from complexnn.attacks.threat import Seen
from complexnn.attacks.user import Truth, User
from complexnn.config import AttackConfig, InputError, NetConfig, to_dict
from complexnn.images import Dataset
from complexnn.networks.split import SplitNet
from complexnn.progress import duration, track
from complexnn.training import eval_batch

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

    def __init__(self, net: SplitNet, dataset: Dataset, config: AttackConfig, folder: Path) -> None:
        device = next(net.parameters()).device
        self.victim_hash = checkpoint.sha256(config.victim / "model.safetensors")
        knowledge = Knowledge(net, dataset.train.to(device), dataset.validation.to(device), device)
        attackers = folder / "attackers" / self.victim_hash[:12]
        self.attacker = Attacker(knowledge, dataset.classes, config, attackers, self.victim_hash)
        count = judged(config, net.config, len(dataset.test))
        order = torch.randperm(len(dataset.test), generator=torch.Generator().manual_seed(0))
        chosen = order[:count] if count < len(order) else torch.arange(count)
        self.test = dataset.test.subset(chosen).to(device)
        self.user = User(net, self.test, knowledge.train, device, config.seed)
        self.scoring = Scoring(self.attacker, self.test)
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


def check(config: AttackConfig, net: NetConfig, dataset: Dataset) -> None:
    """Refuse, before anything is written, attacks that the victim or its data have nothing for.

    Raises:
        InputError: no key, nothing hidden, an unknown name, too few images for groups.
    """
    if config.attack in ("angle", "intersection") and net.parts == 1:
        raise InputError(f"kind {net.kind} has no key: attack {config.attack} needs kind complex")
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
    for what, images, least in (
        ("training", dataset.train, dim),
        ("validation", dataset.validation, dim),
        ("test", dataset.test, 2 * dim),  # a wrong key is another group's
    ):
        if len(images) < least:
            raise InputError(
                f"attacks on groups of {dim} need {least} {what} images or more, {dataset.name} "
                f"has {len(images)}: attack a network of smaller --dim, or use more images"
            )


def run(
    config: AttackConfig,
    victim: SplitNet,
    control: SplitNet | None,
    dataset: Dataset,
    device: torch.device,
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
        folder = config.output_dir / "control" if config.output_dir else config.control
        results.prepare_folder(folder)
        alone = dataclasses.replace(config, victim=config.control, control=None)
        compared = Target(control, dataset, alone, folder)
        beside = _attack(compared, needed, {})
    target = Target(victim, dataset, config, config.run_dir)
    _attack(target, attacks, beside)
    if config.attack in ("inversion", "all") and config.only is None:
        _worst_case(target)
        _draw(target, compared)


def made(config: AttackConfig, folder: Path, victim_hash: str) -> dict[str, dict[str, Any]]:
    """Rows of attacks that were made on these weights, beside the same control, with the same
    settings, by name."""
    # Which attacks, on what and where; the control is compared by its weights.
    where = dict.fromkeys(
        ("attack", "only", "victim", "output_dir", "data_dir", "device", "control")
    )
    settings, control = to_dict(config) | where, _control_hash(config)
    return {
        row["name"]: row
        for row in results.read_rows(folder / "results.jsonl")
        if row["victim"] == victim_hash
        and "attack" in row["config"]
        and row["control"] == control
        and row["config"] | where == settings
    }


def _control_hash(config: AttackConfig) -> str | None:
    weights = None if config.control is None else config.control / "model.safetensors"
    return checkpoint.sha256(weights) if weights and weights.is_file() else None


def done(config: AttackConfig, net: NetConfig, victim_hash: str, *, hidden: bool) -> bool:
    """Whether every attack that ``config`` asks for was made on these weights."""
    there = made(config, config.run_dir, victim_hash)
    return all(attack.name in there for attack in roster.chosen(config, net, hidden=hidden))


def _attack(
    target: Target, attacks: Sequence[Attack], beside: dict[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Those attacks that are not made yet; all rows by name. ``beside`` are the control's rows."""
    config, attacker = target.config, target.attacker
    rows = made(config, target.folder, target.victim_hash)
    (target.folder / "examples").mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    for number, attack in enumerate(attacks, start=1):
        if attack.name in rows:
            log.info("%s: already done, see %s", attack.name, target.folder / "results.jsonl")
            continue
        log.info(
            "attack %d of %d: %s (%s so far)",
            number, len(attacks), attack.name, duration(time.monotonic() - started),
        )  # fmt: skip
        begun = time.time()
        for name in attack.needs:
            getattr(attacker, name)
        measured, extra = _judge(target, attack)
        count, draws = target.judged(attack)
        _beside(measured, beside.get(attack.control or attack.name))
        row = {
            "name": attack.name,
            "family": attack.family,
            "metrics": measured,
            "flags": extra,
            "images": count,
            "draws": draws,
            "config": to_dict(config),
            "victim": target.victim_hash,
            "control": _control_hash(config),
            **results.stamp(attacker.knowledge.device, begun),
        }
        results.append_row(target.folder / "results.jsonl", row)
        rows[attack.name] = row
        print(summary(row), flush=True)
    return rows


def _judge(target: Target, attack: Attack) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """An attack's measures with intervals and blind answers, and what looks wrong about it."""
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
    path = target.folder / "examples" / f"{_slug(attack.name)}.csv"
    means = {name: values.mean(dim=0) for name, values in own.columns.items()}
    _write_csv(path, means | {"group": groups[0]})
    return measured, _flags(attacker.logs, attack, measured, other.columns, groups)


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
        return metrics.mean_interval(values.mean(dim=0))
    each = [metrics.mean_interval(v, groups=g) for v, g in zip(values, groups, strict=True)]
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
    if groups is not None and _count(groups) < min(GROUPS, groups.shape[1]):
        found.append(f"{_count(groups)} groups judged: too few for an interval")
    for name in (*attack.needs, attack.name.replace("property ", "property_")):
        file = FILES.get(name, name)
        if file in logs:
            found += [f"{file}: {flag}" for flag in logs[file].flags()]
    for name in NEGATIVE_CONTROLS:
        if name not in others:
            continue
        blind = measured[name].get("chance", measured[name].get("floor"))
        low, high = interval(name, others[name], groups)
        middle, width = (low + high) / 2, 0.8 * (high - low)  # about three standard errors
        ahead = blind - middle if name in SMALLER else middle - blind
        if ahead > max(width, 0.05 * abs(blind)):
            found.append(f"{name}: better than blind on other queries' truth: evaluation leaks")
    return found


def _worst_case(target: Target) -> None:
    """A row of the strongest attack on each image, over all attacks that were judged on it."""
    config, folder, name = target.config, target.folder, "inversion worst case"
    rows = made(config, folder, target.victim_hash)
    family = [r for r in rows.values() if r["family"] == "inversion" and r["name"] != name]
    if name in rows or not family:
        return
    tables = {row["name"]: folder / "examples" / f"{_slug(row['name'])}.csv" for row in family}
    if missing := [name for name, path in tables.items() if not path.is_file()]:
        # Published runs hold rows, not every image.
        log.info("no worst case: no numbers per image of %s", ", ".join(missing))
        return
    best: dict[int, dict[str, float]] = {}
    for path in tables.values():
        with path.open(newline="") as file:
            for line in csv.DictReader(file):
                found = {k: float(v) for k, v in line.items() if k in ("rmse", "psnr", "ssim")}
                image = int(line["image"])
                if image not in best or found["rmse"] < best[image]["rmse"]:
                    best[image] = found
    table = {k: torch.tensor([b[k] for b in best.values()]) for k in ("rmse", "psnr", "ssim")}
    _write_csv(folder / "examples" / f"{_slug(name)}.csv", table)
    widest = max(family, key=lambda r: r["images"])
    measured = {}
    for measure, values in table.items():
        low, high = metrics.mean_interval(values)
        beside = {k: widest["metrics"][measure].get(k) for k in ("floor", "blend", "control")}
        measured[measure] = {"value": values.mean().item(), "low": low, "high": high, **beside}
    row = {**widest, "name": name, "metrics": measured, "flags": []}
    results.append_row(folder / "results.jsonl", row)
    print(summary(row), flush=True)


def _draw(target: Target, control: Target | None) -> None:
    """A grid of random test images: what went in, and what each attack made of it."""
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
                answer = scoring.in_order(attack.answer(of.attacker, seen), truth)
                rows[attack.name.removeprefix("inversion ") + what] = answer.detach().cpu()
    own = [images for name, images in rows.items() if name != "input" and "(control)" not in name]
    errors = torch.stack([metrics.rmse(images, rows["input"]) for images in own])
    picked = torch.stack(own)[errors.argmin(dim=0), torch.arange(len(chosen))]
    rows = {"input": rows.pop("input"), "worst case": picked, **rows}
    grid = {name: images[:PICTURES] for name, images in rows.items()}
    keep_pixels(target.folder / "examples" / "inversion.safetensors", grid)
    save_grid(
        target.folder / "examples" / "inversion.png",
        grid,
        f"{min(PICTURES, len(chosen))} test images drawn at random with seed {seed}",
    )  # fmt: skip


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9*]+", "-", name.lower()).strip("-").replace("*", "star")


def _write_csv(path: Path, table: dict[str, Tensor]) -> None:
    """Per-image measures, mean over the draws, a line per test image."""
    with checkpoint.replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", *table])
        columns = torch.stack(list(table.values()), dim=1).tolist()
        writer.writerows([index, *(f"{v:.6g}" for v in row)] for index, row in enumerate(columns))


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
