"""``python attack.py``: attack a trained network, or compare attacked ones."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path

import torch
import tyro

from complexnn.commands.app import opened, parse, run
from complexnn.config import DataConfig, InputError, NetConfig
from complexnn.config_attack import AttackConfig
from complexnn.data import datasets
from complexnn.data.images import Dataset
from complexnn.networks.splitnet import SplitNet
from complexnn.runs import results
from complexnn.runs.devices import make_accelerator


def main(argv: list[str]) -> None:
    """``python attack.py``: attack a trained network, or compare attacked ones."""
    if argv[:1] == ["compare"]:
        _compare(argv[1:])
        return
    config = parse(AttackConfig, argv, "attack.py")
    # Here, since --help need not wait for them.
    from complexnn.attacks import auxiliary, evaluation, target
    from complexnn.report import attack_tables

    folder = config.run_dir
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("attack.py runs in one process: start it without torchrun")
    device = make_accelerator(config.device).device
    victim, trained_on = opened(config.victim, config.data_dir, device)
    control, controls_data = _opened_control(config, device)
    dataset = datasets.load(trained_on)
    if controls_data not in (None, trained_on):  # equal ones are not decoded twice
        _check_task(config, dataset, datasets.load(controls_data))
    nets = [net.config for net in (victim, control) if net is not None]
    tested = torch.cat([target.chosen_images(config, net, dataset) for net in nets])
    own = auxiliary.attacker_images(config, trained_on, dataset, tested)
    evaluation.check(config, victim.config, dataset, own)
    results.prepare_folder(folder)
    print(f"output: {folder}", flush=True)
    evaluation.run(
        config, victim, control, dataset, own,
        announce=lambda row: print(evaluation.summary(row), flush=True),
    )  # fmt: skip
    if config.attack == "all" and config.only is None:
        print(attack_tables.write_report(folder, config.victim))
    print(f"output: {folder}", flush=True)


def _opened_control(
    config: AttackConfig, device: torch.device
) -> tuple[SplitNet | None, DataConfig | None]:
    """The positive control, and which data it was trained on; nothing if none is named."""
    if config.control is None:
        return None, None
    control, trained_on = opened(config.control, config.data_dir, device)
    check_control(config.control, control.config)
    return control, trained_on


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


def _check_task(config: AttackConfig, dataset: Dataset, other: Dataset) -> None:
    """Refuse a control that was trained on another task than the victim."""
    ours, theirs = ((d.name, d.classes, d.labels) for d in (dataset, other))
    if ours != theirs:
        raise InputError(
            f"control {config.control} was trained on another task than {config.victim}"
        )


# ------------------------------------------------------------------------------- attack.py compare


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


def command() -> int:
    """``complexnn-attack``, likewise."""
    return run(main)


if __name__ == "__main__":
    sys.exit(command())
