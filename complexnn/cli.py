"""The command line: flags from the dataclasses, run folders, one-line errors."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
import tyro
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from complexnn import checkpoint, data, results, training
from complexnn.config import (
    AttackConfig,
    DataConfig,
    InputError,
    NetConfig,
    TrainConfig,
    from_dict,
    to_dict,
)
from complexnn.networks.registry import build
from complexnn.networks.split import SplitNet

C = TypeVar("C")
log = logging.getLogger("complexnn")

# What a run writes; a folder with any of it is not written over without being told to.
OWN_FILES = ("config.json", "model.safetensors", "log.jsonl", "results.jsonl")


def run(main: Callable[[list[str]], None], argv: Sequence[str] | None = None) -> int:
    """Run a command and turn its end into an exit status.

    0: done. 2: something the user can mend, told in one line. Faults of ours keep their
    traceback (status 1).
    """
    handler = logging.StreamHandler(sys.stderr)
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        main(list(sys.argv[1:] if argv is None else argv))
    except InputError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    finally:
        log.removeHandler(handler)
    return 0


def parse(cls: type[C], argv: list[str], prog: str) -> C:
    """Parse flags into ``cls``. ``--help`` prints and exits; bad flags are an InputError."""
    message = io.StringIO()
    try:
        with contextlib.redirect_stderr(message):
            return tyro.cli(cls, args=argv, prog=prog, config=(tyro.conf.OmitArgPrefixes,))
    except SystemExit as error:
        if error.code in (0, None):
            raise
        reason = _first_section(re.sub(r"\x1b\[[0-9;]*m", "", message.getvalue()))
        if "nrecognized" in reason:
            reason += f"; known: {' '.join(_flags(cls))}"
        raise InputError(f"{reason}; see {prog} --help") from None


def _first_section(text: str) -> str:
    """What tyro's message says above its first inner rule, drawn as a box or in plain ASCII."""
    lines = text.splitlines()
    if any(line.startswith("│") for line in lines):
        lines = [line.strip("│ ") for line in lines if line.startswith("│")]
    else:
        lines = lines[2:]  # title and rule
    rule = next(
        (i for i, line in enumerate(lines) if line.strip() and not line.strip("─- ")), len(lines)
    )
    return " ".join(lines[:rule]).strip() or " ".join(text.split())


def _flags(cls: type) -> list[str]:
    flags = []
    for spec in dataclasses.fields(cls):
        if isinstance(spec.default_factory, type):  # a nested group, its flags without prefix
            flags += _flags(spec.default_factory)
        elif "Suppress" not in str(spec.type) and "Positional" not in str(spec.type):
            flags.append("--" + spec.name.replace("_", "-"))
    return flags


def make_accelerator(device: str, precision: str = "fp32") -> Accelerator:
    """Device and precision; the device is checked before any work.

    Raises:
        InputError: a device that this machine does not have.
    """
    if device != "auto":
        try:
            torch.empty(1, device=device)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(f"device {device!r} is not available here ({reason})") from error
    if device.startswith("cuda:"):
        torch.cuda.set_device(device)
    AcceleratorState._reset_state(reset_partial_state=True)  # one process may run several commands
    return Accelerator(
        cpu=device == "cpu", mixed_precision={"fp32": "no"}.get(precision, precision)
    )


def train_main(argv: list[str]) -> None:
    """``python train.py``: train a split network, test it once, save it."""
    config = parse(TrainConfig, argv, "train.py")
    started = time.time()
    folder = config.run_dir
    accelerator = make_accelerator(config.device, config.precision)
    dataset = data.load(config.data, workers=config.workers)
    net_config = for_dataset(config.net, dataset)
    config = dataclasses.replace(config, net=net_config)
    training.check_groups(dataset, config)
    torch.manual_seed(config.seed)
    net = build(net_config)
    if not config.dry_run:
        _claim(folder, overwrite=config.overwrite)
    print(f"output: {folder}", flush=True)
    log.info("%s", describe(net, dataset))

    device = accelerator.device
    net = net.to(device)
    dataset = dataclasses.replace(
        dataset,
        train=dataset.train.to(device),
        validation=dataset.validation.to(device),
        test=dataset.test.to(device),
    )
    if config.compile:
        for module in (net.encoder, net.processing, net.decoder):
            module.compile()
    if config.dry_run:
        short = dataclasses.replace(config, epochs=1)
        training.fit(net, dataset, short, accelerator, lambda row: None, max_steps=2)
        print(f"dry run: {config.epochs} epochs would be written to {folder}")
        return

    results.write_config(folder, to_dict(config))
    training.fit(
        net, dataset, config, accelerator, lambda row: results.append_row(folder / "log.jsonl", row)
    )
    weights = folder / "model.safetensors"
    checkpoint.save(weights, net, to_dict(net_config))
    tested = training.evaluate(net, dataset.test, device, draws=config.draws, seed=config.seed)
    row = {
        "name": "task",
        "metrics": {
            "error": {
                "value": tested["error"],
                "low": tested["interval"][0],
                "high": tested["interval"][1],
                "chance": tested["chance"],
                "draws": tested["draws"],
            }
        },
        "images": len(dataset.test),
        "config": to_dict(config),
        "victim": checkpoint.sha256(weights),
        **results.stamp(device, started),
    }
    results.append_row(folder / "results.jsonl", row)
    low, high = tested["interval"]
    print(
        f"test error {100 * tested['error']:.2f} % "
        f"(95 % interval {100 * low:.2f} to {100 * high:.2f}, "
        f"chance {100 * tested['chance']:.1f} %)"
    )
    print(f"output: {folder}", flush=True)


def attack_main(argv: list[str]) -> None:
    """``python attack.py``: attack a trained network."""
    from complexnn.attacks import suite

    config = parse(AttackConfig, argv, "attack.py")
    folder = config.run_dir
    accelerator = make_accelerator(config.device)
    victim, dataset, _ = open_run(config.victim, config.data_dir, accelerator.device)
    control = None
    if config.control is not None:
        control, other, _ = open_run(config.control, config.data_dir, accelerator.device)
        if (other.name, other.classes, other.labels) != (
            dataset.name, dataset.classes, dataset.labels,
        ):  # fmt: skip
            raise InputError(
                f"control {config.control} was trained on another task than {config.victim}"
            )
    results.prepare_folder(folder)
    print(f"output: {folder}", flush=True)
    suite.run(config, victim, control, dataset, accelerator.device)
    print(f"output: {folder}", flush=True)


def open_run(
    folder: Path, data_dir: Path | None, device: torch.device
) -> tuple[SplitNet, data.Dataset, dict[str, Any]]:
    """A trained network, ready on ``device``, with its data set and configuration."""
    config = results.read_config(folder)
    state, about = checkpoint.read(folder / "model.safetensors")
    net = build(from_dict(NetConfig, about))
    checkpoint.restore(net, state, str(folder / "model.safetensors"))
    data_config = from_dict(DataConfig, config["data"])
    if data_dir is not None:
        data_config = dataclasses.replace(data_config, data_dir=data_dir)
    dataset = data.load(data_config)
    return net.to(device).eval().requires_grad_(False), dataset, config


def for_dataset(net: NetConfig, dataset: data.Dataset) -> NetConfig:
    """Fill in what a network must know about its images."""
    channels, *size = dataset.shape
    return dataclasses.replace(
        net, num_classes=len(dataset.labels), in_channels=channels, image_size=tuple(size),
        mean=dataset.mean, std=dataset.std,
    )  # fmt: skip


def describe(net: SplitNet, dataset: data.Dataset) -> str:
    """One line about a run: network, data, sizes."""
    config = net.config
    parameters = sum(p.numel() for p in net.parameters())
    parts = f" d={config.dim} {config.group}" if config.kind == "complex" else ""
    return (
        f"{config.arch} {config.variant} {config.kind}{parts}, {parameters:,} parameters; "
        f"{dataset.name}: {len(dataset.train)} training, {len(dataset.validation)} validation, "
        f"{len(dataset.test)} test images of {'x'.join(map(str, dataset.shape))}, "
        f"{len(dataset.labels)} labels"
    )


def _claim(folder: Path, *, overwrite: bool) -> None:
    """Take an output folder; a run that is already there is lost only on request."""
    results.prepare_folder(folder)
    there = [name for name in OWN_FILES if (folder / name).exists()]
    if there and not overwrite:
        raise InputError(
            f"{folder} already holds a run ({', '.join(there)}): give another --output-dir, "
            "or --overwrite to replace it"
        )
    for name in there:
        (folder / name).unlink()
