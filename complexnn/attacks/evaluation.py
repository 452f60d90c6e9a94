"""The attacks on one victim: what is asked for and not there yet is measured and becomes a row.

The walk of a released tensor to a row: :func:`run` → :func:`make_rows` →
:func:`~complexnn.attacks.trial.measure` → ``ask``, which gives it to the attack's ``answer`` and
the answer to :mod:`complexnn.attacks.scoring` → ``results.append_row``.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from complexnn.attacks import grid, roster, worst
from complexnn.attacks.fitting import together
from complexnn.attacks.roster import Attack
from complexnn.attacks.target import Target
from complexnn.attacks.trial import Measured, Numbers, measure
from complexnn.config import InputError, NetConfig
from complexnn.config_attack import OWN, AttackConfig
from complexnn.config_io import from_dict, to_dict
from complexnn.data.images import Dataset, ImageSet
from complexnn.networks.splitnet import SplitNet
from complexnn.runs import checkpoint, results
from complexnn.runs.progress import duration

log = logging.getLogger("complexnn")
Row = dict[str, Any]
Rows = dict[str, Row]  # by name
Announce = Callable[[Row], None]  # is told each new row, once it is on disk


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
    _check_sizes(together(net), own, dataset.test)


def _check_sizes(dim: int, own: tuple[ImageSet, ImageSet], test: ImageSet) -> None:
    for what, images, least, advice in (
        ("training", own[0], dim, "give the attacker more (--auxiliary, --auxiliary-limit)"),
        ("validation", own[1], dim, "give the attacker more (--auxiliary, --auxiliary-limit)"),
        ("test", test, 2 * dim, "use more images"),  # a wrong key is another group's
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
    announce: Announce,
) -> None:
    """Run the attacks that ``config`` asks for, which :func:`check` has passed; write rows, tables
    and pictures, and ``announce`` each row.

    The positive control gets the same attacks first. Rows that are there already, of the same
    weights and settings, are not made again, so a run that was interrupted goes on.
    """
    attacks = roster.chosen(config, victim.config, hidden=dataset.hidden)
    compared, control_rows = None, {}
    if control is not None:
        compared, control_rows = _attack_control(config, attacks, control, dataset, own, announce)
    target = Target(victim, dataset, config, config.run_dir, own)
    before = made(config, target.folder, target.victim_hash)
    rows = make_rows(target, attacks, control_rows, announce)
    if config.attack in ("inversion", "all") and config.only is None and not config.has:
        row = worst.append(target.folder, rows, compared and compared.folder, control_rows)
        if row is not None:
            announce(row)
        if any(a.family == "inversion" and a.name not in before for a in attacks):
            grid.draw(target, compared)


def _attack_control(
    config: AttackConfig,
    attacks: Sequence[Attack],
    control: SplitNet,
    dataset: Dataset,
    own: tuple[ImageSet, ImageSet],
    announce: Announce,
) -> tuple[Target, Rows]:
    """The unprotected network, and the rows of the attacks on it that stand beside ``attacks``; all
    that it allows, where not only some were asked for."""
    every = dataclasses.replace(config, only=None)
    needed = roster.chosen(every, control.config, hidden=dataset.hidden)
    if config.only is not None:
        names = roster.compared_with(attacks)
        needed = [attack for attack in needed if attack.name in names]
    alone = dataclasses.replace(config, victim=config.control, control=None)
    folder = config.output_dir / "control" if config.output_dir else alone.run_dir
    results.prepare_folder(folder)
    target = Target(control, dataset, alone, folder, own)
    return target, make_rows(target, needed, {}, announce)


def make_rows(
    target: Target, attacks: Sequence[Attack], control_rows: Rows, announce: Announce
) -> Rows:
    """Measure those attacks that are not made yet, and append their rows; all rows by name."""
    config, attacker = target.config, target.attacker
    rows = made(config, target.folder, target.victim_hash)
    (target.folder / "examples").mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    for number, attack in enumerate(attacks, start=1):
        name = attack.name + config.has
        if name in rows:
            log.info("%s: already done, %s", name, rows[name].get("time", ""))
            continue
        so_far = duration(time.monotonic() - started)
        log.info("attack %d of %d: %s (%s so far)", number, len(attacks), name, so_far)
        begun = time.time()
        for needed in attack.needs:
            attacker.network(needed)
        measured = measure(target, attack)
        beside = (attack.control or attack.name) + config.has
        _put_beside(measured.metrics, control_rows.get(beside))
        rows[name] = _row(target, attack, measured, begun)
        results.append_row(target.folder / "results.jsonl", rows[name])
        announce(rows[name])
    return rows


def _put_beside(numbers: Numbers, control: Row | None) -> None:
    """The same measures of the attack on the control."""
    for name, of_measure in numbers.items():
        known = control["metrics"].get(name, {}) if control else {}
        of_measure["control"] = known.get("value")


def _row(target: Target, attack: Attack, measured: Measured, begun: float) -> Row:
    config, (count, draws) = target.config, target.images_and_draws(attack)
    return {
        "name": attack.name + config.has,
        "version": attack.version,
        "family": attack.family,
        "metrics": measured.metrics,
        "flags": measured.flags,
        "images": count,
        "groups": measured.groups,
        "draws": draws,
        "config": to_dict(config),
        "victim": target.victim_hash,
        "control": _control_hash(config),
        **results.stamp(target.attacker.knowledge.device, begun),
    }


# ------------------------------------------------------------------------- rows that are there


def made(config: AttackConfig, folder: Path, victim_hash: str) -> Rows:
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


def covers(before: AttackConfig, config: AttackConfig) -> bool:
    """Whether ``before`` makes every row that ``config`` needs of its control, which is then only
    read."""
    return (
        before.victim == config.control
        and before.attack in ("all", config.attack)
        and before.only is before.output_dir is config.output_dir is None
        and _settings(before) == _settings(config)
    )


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


def summary(row: Row) -> str:
    """One line about a row: each measure with its interval and what it stands beside."""
    parts = []
    for measure_name, numbers in row["metrics"].items():
        beside = [
            f"{what.replace('_', ' ')} {numbers[what]:.4g}"
            for what in ("chance", "floor", "blend", "given_label", "control")
            if numbers.get(what) is not None
        ]
        interval = f" [{numbers['low']:.4g}, {numbers['high']:.4g}]" if "low" in numbers else ""
        known = f" ({', '.join(beside)})" if beside else ""
        parts.append(f"{measure_name} {numbers['value']:.4g}{interval}{known}")
    flags = "".join(f"; FLAG {flag}" for flag in row["flags"])
    return f"{row['name']}: " + "; ".join(parts) + flags
