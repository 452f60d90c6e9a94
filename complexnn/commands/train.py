"""``python train.py``: train a split network, test it once, save it."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import math
import shutil
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
from complexnn.config import InputError, NetConfig, TrainConfig
from complexnn.config_io import changed, from_dict, to_dict
from complexnn.data import datasets
from complexnn.data.images import Dataset
from complexnn.networks.registry import build, topology
from complexnn.networks.splitnet import SplitNet
from complexnn.runs import (
    checkpoint,
    progress,
    results,
)
from complexnn.runs.devices import make_accelerator
from complexnn.training import loop

C = TypeVar("C")
log = logging.getLogger("complexnn")

# What a run writes; a folder with any of it is not written over without being told to.
OWN_FILES = ("config.json", "model.safetensors", "log.jsonl", "results.jsonl", "state")
# What attacks put beside it, which goes with the run that they attacked.
MADE_OF_IT = ("attackers", "control", "examples", "report.html")


def main(argv: list[str]) -> None:
    """``python train.py``: train a split network, test it once, save it."""
    with unwritable("go on with --resume"):
        _main(argv)


def _main(argv: list[str]) -> None:
    argv = _bare_resume(argv)
    config = parse(TrainConfig, argv, "train.py")
    folder = config.run_dir
    going_on = config.resume == "yes" or (
        config.resume == "auto" and (folder / "config.json").is_file()
    )
    if going_on:
        config = _saved_config(folder, argv)

    started = time.time()
    accelerator = make_accelerator(config.device, config.precision)
    fresh = not going_on and not config.dry_run
    if fresh:
        _together(accelerator, lambda: _check_free(folder, overwrite=config.overwrite))
    config, net, dataset = _prepared(config, accelerator)
    if not config.dry_run:
        _together(accelerator, lambda: _claim(folder) if fresh else results.prepare_folder(folder))
    if accelerator.is_main_process:
        print(f"output: {folder}", flush=True)
        log.info("%s", describe(net, dataset))

    steps = dataset.train.steps(config.batch_size)
    run = loop.Training(net, config, accelerator, min(steps, 2) if config.dry_run else steps)
    run.begun = started
    if config.dry_run:
        run.config = dataclasses.replace(config, epochs=1)
        loop.fit(run, dataset, on_epoch=lambda row: None, save=lambda: None)
        if accelerator.is_main_process:
            print(f"dry run: {config.epochs} epochs of {steps} steps would be written to {folder}")
        return
    if going_on and (state := checkpoint.load_state(folder / "state")) is not None:
        run.restore(state)
    if going_on:
        log.info("going on in epoch %d at step %d", run.epoch, run.step)
    _train(run, dataset, folder)
    if accelerator.is_main_process:
        _finish(run, dataset, folder)
        print(f"output: {folder}", flush=True)


def _prepared(
    config: TrainConfig, accelerator: Accelerator
) -> tuple[TrainConfig, SplitNet, Dataset]:
    """Settings, network and images of a run, checked, on their device; nothing is written yet."""
    if config.batch_size % accelerator.num_processes:
        raise InputError(
            f"batch_size {config.batch_size} cannot be shared by {accelerator.num_processes} "
            "processes; give a multiple"
        )
    device = accelerator.device
    # Before images of that size are looked at.
    if config.data.resize is not None and config.data.dataset in datasets.RESIZED:
        loop.check_memory(dataclasses.replace(config, net=_foreseen(config)), device)
    # The first process downloads what is missing, and the others find it there.
    dataset = _together(accelerator, lambda: datasets.load(config.data, workers=config.workers))
    if dataset is None:
        dataset = datasets.load(config.data, workers=config.workers)
    config = dataclasses.replace(config, net=for_dataset(config.net, dataset))
    loop.check_groups(dataset, config)
    loop.check_memory(config, device)
    torch.manual_seed(config.seed)
    net = build(config.net)
    if config.compile:
        loop.check_compiler(device, "leave --compile out")
        loop.compile_parts(net)
    return config, net.to(device), dataset.to(device)


def _foreseen(config: TrainConfig) -> NetConfig:
    """The network with the size and channels of images that are known before they are read."""
    _, (channels, *size), labels = datasets.plan(config.data)
    each = {"in_channels": channels, "mean": (0.5,) * channels, "std": (0.25,) * channels}
    labels = max(2, labels)
    return dataclasses.replace(config.net, image_size=tuple(size), num_classes=labels, **each)


def _together(accelerator: Accelerator, work: Callable[[], C]) -> C | None:
    """What ``work`` returns in the first process, before any other goes on; None in the others.

    Where it fails for a reason that the user can mend, the first process says so and all end.
    """
    found, failed = None, [False]
    if accelerator.is_main_process:
        try:
            found = work()
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
    return found


def _train(run: loop.Training, dataset: Dataset, folder: Path) -> None:
    """Train to the last epoch; the first process writes settings, epochs and states."""
    main = run.accelerator.is_main_process
    if main:
        results.write_config(folder, to_dict(run.config))
        results.keep_epochs(folder / "log.jsonl", run.epoch)

    def save() -> None:
        state = run.state()  # asks all processes
        if main:
            checkpoint.save_state(folder / "state", state)

    def on_epoch(row: dict[str, Any]) -> None:
        if main:
            results.append_row(folder / "log.jsonl", row)

    try:
        loop.fit(run, dataset, on_epoch=on_epoch, save=save)
    except progress.Interrupted as end:
        where = f"{end}; saved in {folder / 'state'}: go on with --resume --output-dir {folder}"
        raise progress.Interrupted(where, end.number) from None
    except loop.NotFinite as error:
        raise InputError(f"{error}; {_how_to_retry(folder)}") from error


def _finish(run: loop.Training, dataset: Dataset, folder: Path) -> None:
    """Save the weights, read the test set, write its row; once for each final state."""
    config, weights = run.config, folder / "model.safetensors"
    if config.save_as == "fp16":
        checkpoint.save_tensors(weights, checkpoint.halve(run.net), to_dict(config.net))
    else:
        checkpoint.save(weights, run.net, to_dict(config.net))
    victim = checkpoint.sha256(weights)
    rows = results.read_rows(folder / "results.jsonl")
    row = next((r for r in rows if r["name"] == "task" and r["victim"] == victim), None)
    if row is None:
        device = run.accelerator.device
        log.info("testing %d images, %d draws", len(dataset.test), config.draws)
        tested = loop.evaluate(run.net, dataset.test, device, draws=config.draws, seed=config.seed)
        (low, high), error = tested["interval"], tested["error"]
        numbers = {"value": error, "low": low, "high": high} | {
            name: tested[name] for name in ("chance", "draws")
        }
        row = {
            "name": "task",
            "metrics": {"error": numbers},
            "images": len(dataset.test),
            "data": dataset.about,
            "config": to_dict(config),
            "victim": victim,
            **results.stamp(device, run.begun),
        }
        results.append_row(folder / "results.jsonl", row)
    percent = {k: 100 * v for k, v in row["metrics"]["error"].items() if k != "draws"}
    print(
        "test error {value:.2f} % (95 % interval {low:.2f} to {high:.2f}, "
        "chance {chance:.1f} %)".format(**percent)
    )


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


def _how_to_retry(folder: Path) -> str:
    """What to type for another try where a run diverged. If it saved nothing, its folder is free
    again."""
    if (folder / "state").is_dir():
        return (
            f"the last good state is in {folder / 'state'}; to start again with other settings, "
            "give --overwrite or another --output-dir"
        )
    (folder / "config.json").unlink(missing_ok=True)
    return "nothing was saved, so the same folder can be used again"


def command() -> int:
    """``complexnn-train``, which an installation puts on the path."""
    return run(main)


def for_dataset(net: NetConfig, dataset: Dataset) -> NetConfig:
    """Fill in what a network must know about its images."""
    channels, *size = dataset.shape
    return dataclasses.replace(
        net, num_classes=len(dataset.labels), in_channels=channels, image_size=tuple(size),
        mean=dataset.mean, std=dataset.std,
    )  # fmt: skip


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


def _check_free(folder: Path, *, overwrite: bool) -> None:
    """Refuse an output folder with a run in it, which is lost only on request."""
    there = [name for name in OWN_FILES if (folder / name).exists()]
    if there and not overwrite:
        raise InputError(
            f"{folder} already holds a run ({', '.join(there)}): give another --output-dir, "
            "or --overwrite to replace it"
        )


def _claim(folder: Path) -> None:
    """Take an output folder; the run that is there goes, with all that attacks made of it."""
    results.prepare_folder(folder)
    there = [folder / name for name in OWN_FILES if (folder / name).exists()]
    if there:
        there += [folder / name for name in MADE_OF_IT if (folder / name).exists()]
    for path in there:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


if __name__ == "__main__":
    sys.exit(command())
