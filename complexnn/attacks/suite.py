"""The attacks on one victim: train what is missing, judge on the test images, write rows."""

from __future__ import annotations

import csv
import dataclasses
import logging
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from complexnn import checkpoint, metrics, results
from complexnn.attacks import roster, scoring
from complexnn.attacks.attacker import FILES, Attacker, NotTrained
from complexnn.attacks.fitting import FitLog, Knowledge, Observation
from complexnn.attacks.pictures import keep_pixels, save_grid
from complexnn.attacks.roster import ROSTER, Attack
from complexnn.attacks.scoring import Scoring
from complexnn.config import AttackConfig, InputError, NetConfig, from_dict, results_of, to_dict
from complexnn.images import Dataset
from complexnn.networks.split import SplitNet
from complexnn.progress import duration, track
from complexnn.training import eval_batch, random_for

log = logging.getLogger("complexnn")
PICTURES = 10  # random test images in a grid
# Of these measures, less is more leakage.
SMALLER = ("angle_error", "rmse", "lpips", "feature_distance", "error")
# Where an answer must not be better than blind on another query's truth. In features and structure
# any sharp image beats the mean image, so these are not among them.
NEGATIVE_CONTROLS = ("angle_error", "top1", "top1_jpeg", "rmse", "psnr", "error")


class Target:
    """A network under attack, and the images it is judged on."""

    def __init__(self, net: SplitNet, dataset: Dataset, config: AttackConfig, folder: Path) -> None:
        device = next(net.parameters()).device
        self.victim_hash = checkpoint.sha256(config.victim / "model.safetensors")
        knowledge = Knowledge(net, dataset.train.to(device), dataset.validation.to(device), device)
        attackers = folder / "attackers" / self.victim_hash[:12]
        published = config.victim / "attackers" / self.victim_hash[:12]
        if folder == results_of(config.victim) and published.is_dir() and not attackers.is_dir():
            shutil.copytree(published, attackers)
        self.attacker = Attacker(knowledge, dataset, config, attackers, self.victim_hash)
        count = min(config.spend.images, len(dataset.test))
        order = torch.randperm(len(dataset.test), generator=torch.Generator().manual_seed(0))
        chosen = order[:count] if count < len(order) else torch.arange(count)
        self.test = dataset.test.subset(chosen).to(device)
        self.scoring = Scoring(self.attacker, self.test)
        self.folder, self.dataset, self.config = folder, dataset, config

    def judged(self, attack: Attack) -> tuple[int, int]:
        """Images and draws that an attack is judged on."""
        spend = self.config.spend
        least = 2 * self.attacker.knowledge.net.config.dim  # so that groups can be filled
        if attack.slow:
            images = min(max(spend.slow_images, least), len(self.test))
            return images, min(self.config.draws, spend.slow_draws)
        return len(self.test), self.config.draws

    def observations(self, draw: int, what: str, count: int) -> Iterator[Observation]:
        """Queries of the victim's user under fresh keys, one draw of them."""
        knowledge = self.attacker.knowledge
        rng = random_for("evaluation", self.config.seed, draw)
        size = eval_batch(knowledge.net.config.dim)
        images = self.test.subset(torch.arange(count))
        begun = 0
        for batch in track(images.batches(size, knowledge.device), -(-count // size), what):
            seen = knowledge.observe(batch, rng)
            index = torch.arange(begun, begun + len(batch.images))
            begun += len(batch.images)
            yield Observation(batch, seen.released, seen.key, index)


def run(
    config: AttackConfig,
    victim: SplitNet,
    control: SplitNet | None,
    dataset: Dataset,
    device: torch.device,
) -> None:
    """Run the attacks that ``config`` asks for; write rows, tables and pictures.

    The positive control gets the same attacks first. Rows that are there already, of the same
    weights and settings, are not made again, so a run that was interrupted goes on.

    Raises:
        InputError: an attack that the victim has nothing for.
    """
    if config.attack in ("angle", "intersection") and victim.config.parts == 1:
        raise InputError(
            f"kind {victim.config.kind} has no key: attack {config.attack} needs kind complex"
        )
    if config.attack == "property" and not dataset.hidden:
        raise InputError(
            f"the victim learned the classes of {dataset.name} themselves, so nothing is hidden: "
            "train it with --groups"
        )
    attacks = roster.chosen(config, victim.config, hidden=dataset.hidden)
    every = dataclasses.replace(config, only=None)
    if not attacks:
        names = roster.chosen(every, victim.config, hidden=dataset.hidden)
        raise InputError(
            f"no attack has {config.only!r} in its name; there are: "
            + ", ".join(attack.name for attack in names)
        )
    beside: dict[str, dict[str, Any]] = {}
    compared = None
    if control is not None:
        needed = roster.chosen(every, control.config, hidden=dataset.hidden)
        if config.only is not None:
            names = roster.compared_with(attacks)
            needed = [attack for attack in needed if attack.name in names]
        alone = dataclasses.replace(config, victim=config.control, control=None)
        folder = config.output_dir / "control" if config.output_dir else alone.run_dir
        results.prepare_folder(folder)
        compared = Target(control, dataset, alone, folder)
        beside = _attack(compared, needed, {})
    target = Target(victim, dataset, config, config.run_dir)
    before = made(config, target.folder, target.victim_hash)
    _attack(target, attacks, beside)
    if config.attack in ("inversion", "all") and config.only is None:
        _worst_case(target)
        if any(a.family == "inversion" and a.name not in before for a in attacks):
            _draw(target, compared)


def made(config: AttackConfig, folder: Path, victim_hash: str) -> dict[str, dict[str, Any]]:
    """Rows of attacks that were made on these weights with the same settings, by name, and beside
    the same control, if ``config`` names one."""
    control = _control_hash(config)
    return {
        row["name"]: row
        for row in results.rows_about(config.victim, folder)
        if row["victim"] == victim_hash
        and "attack" in row["config"]
        and control in (None, row["control"])
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
            log.info("%s: already done, %s", attack.name, rows[attack.name].get("time", ""))
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
    score = scoring.SCORES[family]
    own: list[dict[str, Tensor]] = []
    other: list[dict[str, Tensor]] = []
    logits = []
    for draw in range(draws):
        for seen in target.observations(draw, attack.name, count):
            answer = attack.answer(attacker, seen)
            for chunks, found in zip(
                (own, other), score(target.scoring, answer, seen), strict=True
            ):
                chunks.append({k: v.detach().cpu().double() for k, v in found.items()})
            if family == "property":
                logits.append(answer.detach().cpu())
    tables = [
        {k: torch.cat([c[k] for c in chunks]).view(draws, count).mean(dim=0) for k in chunks[0]}
        for chunks in (own, other)
    ]
    measured: dict[str, dict[str, Any]] = {}
    for name, values in tables[0].items():
        low, high = metrics.mean_interval(values)
        measured[name] = {"value": values.mean().item(), "low": low, "high": high}
        if name in tables[1]:
            measured[name]["negative"] = tables[1][name].mean().item()
    if family == "property":
        truth = target.test.classes[:count].cpu()
        every = torch.cat(logits).view(draws, count, -1)
        measured |= scoring.summarise_property(every, truth)
    for name, values in scoring.blind(target.scoring, family).items():
        if name in measured:
            measured[name] |= values
    if family == "inversion":
        _floors(target, measured, count)
    path = target.folder / "examples" / f"{_slug(attack.name)}.csv"
    _write_csv(path, tables[0])
    return measured, _flags(attacker.logs, attack, measured, tables[1])


def _floors(target: Target, measured: dict[str, dict[str, Any]], count: int) -> None:
    """The same measures of the blind answer and, where images share a group, of the best constant
    blend of them."""
    judge = target.scoring
    answers = {"floor": judge.guess}
    if target.attacker.rotated:
        answers["blend"] = judge.blend
    for kind, answer in answers.items():
        chunks = [
            scoring.score_images(judge, answer(seen), seen)[0]
            for seen in target.observations(0, kind, count)
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
) -> list[str]:
    """What an attack, or its evaluation, shows of being broken."""
    found = []
    for name in (*attack.needs, attack.name.replace("property ", "property_")):
        file = FILES.get(name, name)
        if file in logs:
            found += [f"{file}: {flag}" for flag in logs[file].flags()]
    for name in NEGATIVE_CONTROLS:
        if name not in others:
            continue
        blind = measured[name].get("chance", measured[name].get("floor"))
        low, high = metrics.mean_interval(others[name])
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
    """A grid of random test images: what went in, and what each attack made of it that has its
    networks; none is trained for a picture."""
    for of in (target, control):
        if of is not None:
            of.attacker.may_train = False
    attacker, seed = target.attacker, target.config.seed
    parts = attacker.knowledge.net.config.parts
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(target.test), generator=generator)[: max(PICTURES, 2 * parts)]
    rows: dict[str, Tensor] = {}
    for what, of in (("", target), (" (control)", control)):
        if of is None:
            continue
        knowledge = of.attacker.knowledge
        images = of.test.subset(chosen)
        batch = next(iter(images.batches(len(chosen), knowledge.device)))
        seen = knowledge.observe(batch, random_for("evaluation", seed, 0))
        rows.setdefault("input", batch.images.cpu())
        for attack in ROSTER:
            shown = attack.family == "inversion" and roster.applicable(attack, knowledge.net.config)
            if shown and (not what or attack.name == "inversion dec(x)"):
                try:
                    answer = attack.answer(of.attacker, seen).detach().cpu()
                except NotTrained:
                    continue
                rows[attack.name.removeprefix("inversion ") + what] = answer
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
