"""``python attack.py``: attack a trained network, or compare attacked ones."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path

import torch
import tyro

from complexnn.commands.app import (
    opened,
    parse,
    run,
)
from complexnn.config import InputError, NetConfig
from complexnn.config_attack import AttackConfig
from complexnn.data import datasets
from complexnn.runs import (
    results,
)
from complexnn.runs.devices import make_accelerator


def main(argv: list[str]) -> None:
    """``python attack.py``: attack a trained network, or compare attacked ones."""
    from complexnn.attacks import evaluation
    from complexnn.attacks.auxiliary import attacker_images
    from complexnn.report import attack_tables

    if argv[:1] == ["compare"]:
        _compare(argv[1:])
        return
    config = parse(AttackConfig, argv, "attack.py")
    folder = config.run_dir
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("attack.py runs in one process: start it without torchrun")
    accelerator = make_accelerator(config.device)
    victim, shown = opened(config.victim, config.data_dir, accelerator.device)
    control, beside = None, shown
    if config.control is not None:
        control, beside = opened(config.control, config.data_dir, accelerator.device)
        check_control(config.control, control.config)
    dataset = datasets.load(shown)
    if beside != shown:  # equal ones are not decoded twice
        other = datasets.load(beside)
        if (other.name, other.classes, other.labels) != (
            dataset.name, dataset.classes, dataset.labels,
        ):  # fmt: skip
            raise InputError(
                f"control {config.control} was trained on another task than {config.victim}"
            )
    nets = [net.config for net in (victim, control) if net is not None]
    judged = torch.cat([evaluation.judged_images(config, net, dataset) for net in nets])
    own = attacker_images(config, shown, dataset, judged)
    evaluation.check(config, victim.config, dataset, own)
    results.prepare_folder(folder)
    print(f"output: {folder}", flush=True)
    evaluation.run(config, victim, control, dataset, own)
    if config.attack == "all" and config.only is None:
        print(attack_tables.write_report(folder, config.victim))
    print(f"output: {folder}", flush=True)


def command() -> int:
    """``complexnn-attack``, likewise."""
    return run(main)


@dataclasses.dataclass(frozen=True)
class CompareConfig:
    """Put attacked networks side by side."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders that attack.py was run on."""
    picture: Path | None = None
    """Also draw task error against leakage here."""


def _compare(argv: list[str]) -> None:
    from complexnn.report import attack_tables
    from complexnn.report.figures import plots

    config = parse(CompareConfig, argv, "attack.py compare")
    if not config.runs:
        raise InputError("name at least one run folder")
    print(attack_tables.compare(config.runs).as_text())
    if config.picture is not None:
        plots.comparison(config.runs, config.picture)
        print(f"picture: {config.picture}")


def check_control(folder: Path, net: NetConfig) -> None:
    """Refuse a positive control that is protected itself.

    Raises:
        InputError: says what protects it.
    """
    if net.kind in ("complex", "noisy") or net.defence != "none":
        raise InputError(
            f"control {folder} is protected itself ({net.label}): give a network that releases its "
            "features as they are, such as --kind additional"
        )


if __name__ == "__main__":
    sys.exit(command())
