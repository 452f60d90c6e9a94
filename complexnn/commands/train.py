"""``python train.py``: train a split network, test it once, save it."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from complexnn import privacy
from complexnn.commands.app import parse, run, unwritable
from complexnn.commands.run_folder import Record, check_free, claim, save_weights, what_to_do_next
from complexnn.config import InputError, NetConfig, TrainConfig
from complexnn.config_io import changed, from_dict, to_dict
from complexnn.data import datasets
from complexnn.data.images import Dataset
from complexnn.networks.registry import build, topology
from complexnn.networks.splitnet import SplitNet
from complexnn.runs import checkpoint, results
from complexnn.runs.devices import make_accelerator
from complexnn.training import checks, compiling, loop
from complexnn.training.evaluation import evaluate

C = TypeVar("C")
log = logging.getLogger("complexnn")


def command() -> int:
    """``complexnn-train``, which an installation puts on the path."""
    return run(main)


@unwritable("go on with --resume")
def main(argv: list[str]) -> None:
    """``python train.py``: train a split network, test it once, save it."""
    config, folder, goes_on = _settings(argv)
    started = time.time()
    accelerator = make_accelerator(config.device, config.precision)
    fresh = not (goes_on or config.dry_run)
    if fresh:
        _together(accelerator, lambda: check_free(folder, overwrite=config.overwrite))

    config, net, dataset = _built(config, accelerator)
    if not config.dry_run:
        _together(accelerator, lambda: claim(folder) if fresh else results.prepare_folder(folder))
    if accelerator.is_main_process:
        print(f"output: {folder}", flush=True)
        log.info("%s", describe(net, dataset))

    training = loop.Training(net, config, accelerator, dataset.train.steps(config.batch_size))
    training.begun = started
    if config.dry_run:
        _try(training, dataset, folder)
        return
    if goes_on:
        _go_on(training, folder)
    record = Record(training, folder)
    with what_to_do_next(folder):
        loop.fit(training, dataset, on_epoch=record.epoch, save=record.state)

    if accelerator.is_main_process:
        _test(training, dataset, folder)
        print(f"output: {folder}", flush=True)


# ------------------------------------------------------------------------------------ settings


def _settings(argv: list[str]) -> tuple[TrainConfig, Path, bool]:
    """What the flags say: the settings, the run's folder, and whether a run goes on there."""
    argv = _bare_resume(argv)
    config = parse(TrainConfig, argv, "train.py")
    folder = config.run_dir
    goes_on = config.resume == "yes" or (
        config.resume == "auto" and (folder / "config.json").is_file()
    )
    return _saved_config(folder, argv) if goes_on else config, folder, goes_on


def _bare_resume(argv: list[str]) -> list[str]:
    """``--resume`` without a value means yes, ``--no-resume`` no."""
    full = []
    for word, after in itertools.zip_longest(argv, argv[1:]):
        bare = word == "--resume" and after not in ("no", "yes", "auto")
        full += ["--resume", "yes"] if bare else [word]
    return [part for word in full for part in
            (("--resume", "no") if word == "--no-resume" else (word,))]  # fmt: skip


def _saved_config(folder: Path, argv: list[str]) -> TrainConfig:
    """The settings of the run in ``folder``, with those flags of ``argv`` that may change."""
    saved = from_dict(TrainConfig, results.read_config(folder))
    config = parse(TrainConfig, argv, "train.py", default=saved)
    other = changed(saved, config)
    if other:
        raise InputError(
            f"{folder} was begun with other settings: {', '.join(other)}; leave these flags out, "
            "or give another --output-dir"
        )
    return config


# ----------------------------------------------------------------------------- network and data


def _built(config: TrainConfig, accelerator: Accelerator) -> tuple[TrainConfig, SplitNet, Dataset]:
    """Settings, network and images of a run, checked, on their device; nothing is written yet."""
    if config.batch_size % accelerator.num_processes:
        raise InputError(
            f"batch_size {config.batch_size} cannot be shared by {accelerator.num_processes} "
            "processes; give a multiple"
        )
    device = accelerator.device
    # Before images of that size are looked at.
    if config.data.resize is not None and config.data.dataset in datasets.RESIZED:
        checks.check_memory(dataclasses.replace(config, net=_foreseen(config)), device)
    # The first process downloads what is missing, and the others find it there.
    dataset = _together(accelerator, lambda: datasets.load(config.data, workers=config.workers))
    if dataset is None:
        dataset = datasets.load(config.data, workers=config.workers)
    config = dataclasses.replace(config, net=for_dataset(config.net, dataset))
    checks.check_groups(dataset, config)
    checks.check_memory(config, device)
    torch.manual_seed(config.seed)
    net = build(config.net)
    if config.compile:
        compiling.check_compiler(device, "leave --compile out")
        compiling.compile_parts(net)
    return config, net.to(device), dataset.to(device)


def _foreseen(config: TrainConfig) -> NetConfig:
    """The network with the size and channels of images that are known before they are read."""
    _, (channels, *size), labels = datasets.plan(config.data)
    each = {"in_channels": channels, "mean": (0.5,) * channels, "std": (0.25,) * channels}
    labels = max(2, labels)
    return dataclasses.replace(config.net, image_size=tuple(size), num_classes=labels, **each)


def for_dataset(net: NetConfig, dataset: Dataset) -> NetConfig:
    """Fill in what a network must know about its images."""
    channels, *size = dataset.shape
    return dataclasses.replace(
        net, num_classes=len(dataset.labels), in_channels=channels, image_size=tuple(size),
        mean=dataset.mean, std=dataset.std,
    )  # fmt: skip


def describe(net: SplitNet, dataset: Dataset) -> str:
    """One line about a run: network, data, sizes, and what Gaussian decoys prove."""
    config = net.config
    parameters = sum(p.numel() for p in net.parameters())
    return (
        f"{config.arch} {config.variant} {config.label}, {parameters:,} parameters; "
        f"{dataset.name}: {len(dataset.train)} training, {len(dataset.validation)} validation, "
        f"{len(dataset.test)} test images of {'x'.join(map(str, dataset.shape))}, "
        f"{len(dataset.labels)} {'labels' if dataset.test.labels.dim() == 1 else 'attributes'}"
        f"{_proof(config)}"
    )


def _proof(config: NetConfig) -> str:
    """What the Gaussian decoys of ``config`` prove about a query that is sent once."""
    if not config.gaussian_decoys:
        return ""
    numbers = math.prod(topology(config).released)
    freedom = privacy.degrees_of_freedom(numbers, config.gaussian_decoys)
    if freedom < 2:
        return f"; the decoys prove nothing: {numbers} numbers a part need {numbers + 1} or more"
    accountant, groups = privacy.Accountant(), privacy.releases_per_query(config)
    accountant.step(freedom=freedom, ratio=numbers / config.decoy_scale**2, releases=groups)
    epsilon = accountant.get_epsilon(1e-6)
    if math.isinf(epsilon):
        return "; the decoys prove nothing at a δ of 1e-6: add some, or enlarge them"
    where = "the group that holds it" if groups == 1 else f"the {groups} groups that hold it"
    shown = privacy.rounded_up(epsilon)
    return f"; a query that is sent once is ({shown}, 1e-6)-private, over {where}"


def _together(accelerator: Accelerator, work: Callable[[], C]) -> C | None:
    """What ``work`` returns in the first process, before any other goes on; None in the others.

    Where it fails for a reason that the user can mend, the first process says so and all end.
    """
    made, failed = None, [False]
    if accelerator.is_main_process:
        try:
            made = work()
        except InputError:
            failed = [True]
            if accelerator.num_processes == 1:
                raise
            broadcast_object_list(failed)
            raise
    if accelerator.num_processes > 1:
        broadcast_object_list(failed)
        if failed[0]:
            raise SystemExit(2)
    return made


# ------------------------------------------------------------------------------------ training


def _try(training: loop.Training, dataset: Dataset, folder: Path) -> None:
    """``--dry-run``: two steps and a validation. Nothing is written."""
    config, steps = training.config, training.steps
    training.config, training.steps = dataclasses.replace(config, epochs=1), min(steps, 2)
    loop.fit(training, dataset, on_epoch=lambda row: None, save=lambda: None)
    if training.accelerator.is_main_process:
        print(f"dry run: {config.epochs} epochs of {steps} steps would be written to {folder}")


def _go_on(training: loop.Training, folder: Path) -> None:
    """``--resume``: from the saved state, or from the beginning if none was saved."""
    if (state := checkpoint.load_state(folder / "state")) is not None:
        training.restore(state)
    log.info("going on in epoch %d at step %d", training.epoch, training.step)


# ---------------------------------------------------------------------------------------- test


def _test(training: loop.Training, dataset: Dataset, folder: Path) -> None:
    """Save the weights, read the test set, write its row; once for each final state."""
    victim = save_weights(training, folder)
    rows = results.read_rows(folder / "results.jsonl")
    row = next((r for r in rows if r["name"] == "task" and r["victim"] == victim), None)
    if row is None:
        row = _tested(training, dataset, victim)
        results.append_row(folder / "results.jsonl", row)
    percent = {k: 100 * v for k, v in row["metrics"]["error"].items() if k != "draws"}
    print(
        "test error {value:.2f} % (95 % interval {low:.2f} to {high:.2f}, "
        "chance {chance:.1f} %)".format(**percent)
    )


def _tested(training: loop.Training, dataset: Dataset, victim: str) -> dict[str, Any]:
    """The row of the final test."""
    config, device, test = training.config, training.accelerator.device, dataset.test
    log.info("testing %d images, %d draws", len(test), config.draws)
    tested = evaluate(training.net, test, device, draws=config.draws, seed=config.seed)
    low, high = tested["interval"]
    error = {
        "value": tested["error"], "low": low, "high": high,
        "chance": tested["chance"], "draws": tested["draws"],
    }  # fmt: skip
    return {
        "name": "task",
        "metrics": {"error": error},
        "images": len(test),
        "data": dataset.about,
        "config": to_dict(config),
        "victim": victim,
        **results.stamp(device, training.begun),
    }


if __name__ == "__main__":
    sys.exit(command())
