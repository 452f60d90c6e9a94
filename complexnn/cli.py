"""The command line: flags from the dataclasses, run folders, one-line errors."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import errno
import io
import itertools
import logging
import math
import os
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
import tyro
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from complexnn import checkpoint, data, privacy, progress, results, training
from complexnn.config import (
    AttackConfig,
    DataConfig,
    InputError,
    NetConfig,
    TrainConfig,
    changed,
    from_dict,
    to_dict,
)
from complexnn.images import Dataset
from complexnn.networks.registry import build, load, topology
from complexnn.networks.split import SplitNet

C = TypeVar("C")
log = logging.getLogger("complexnn")

# What a run writes; a folder with any of it is not written over without being told to.
OWN_FILES = ("config.json", "model.safetensors", "log.jsonl", "results.jsonl", "state")


def _keep_memory() -> None:
    """Tell glibc to keep freed memory, where it would hand tensors of many megabytes back to the
    kernel after every step and fault them in again: up to a third of a step on a CPU."""
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return  # another C library
    no_mmap, trim_threshold, top_pad = (-4, 0), (-1, 2**31 - 1), (-2, 64 << 20)
    for option, value in (no_mmap, trim_threshold, top_pad):
        mallopt(option, value)


def run(main: Callable[[list[str]], None], argv: Sequence[str] | None = None) -> int:
    """Run a command and turn its end into an exit status.

    0: done. 2: something the user can mend, told in one line. Faults of ours keep their
    traceback (status 1).
    """

    def terminate(number: int, frame: object) -> None:
        raise progress.Interrupted("terminated; what was finished is kept", number)

    _keep_memory()
    handler = logging.StreamHandler(sys.stderr)
    in_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, terminate) if in_main else None
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        main(list(sys.argv[1:] if argv is None else argv))
    except InputError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise
        hint = "make room or mend the permissions, then go on with --resume"
        print(f"error: {error}: {hint}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; what was finished is kept", file=sys.stderr)
        return 128 + signal.SIGINT
    except progress.Interrupted as end:
        print(end, file=sys.stderr)
        return 128 + end.number
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()  # or its threads abort the interpreter's end
        log.removeHandler(handler)
        if in_main:
            signal.signal(signal.SIGTERM, before)
    return 0


def parse(cls: type[C], argv: list[str], prog: str, default: C | None = None) -> C:
    """Parse flags into ``cls``. ``--help`` prints and exits; bad flags are an InputError."""
    known = {} if default is None else {"default": default}
    message = io.StringIO()
    try:
        with contextlib.redirect_stderr(message):
            return tyro.cli(cls, args=argv, prog=prog, config=(tyro.conf.OmitArgPrefixes,), **known)
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
    torch.backends.cudnn.allow_tf32 = False  # fp32 means 24 bits, not 11, on every device
    AcceleratorState._reset_state(reset_partial_state=True)  # one process may run several commands
    # Without being told, processes of torchrun on CPUs would not find each other.
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    cpu = device == "cpu" or (device == "auto" and not alone and not torch.cuda.is_available())
    return Accelerator(cpu=cpu, mixed_precision={"fp32": "no"}.get(precision, precision))


def train_main(argv: list[str]) -> None:
    """``python train.py``: train a split network, test it once, save it."""
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
    if config.batch_size % accelerator.num_processes:
        raise InputError(
            f"batch_size {config.batch_size} cannot be shared by {accelerator.num_processes} "
            "processes; give a multiple"
        )
    dataset = data.load(config.data, workers=config.workers)
    config = dataclasses.replace(config, net=for_dataset(config.net, dataset))
    training.check_groups(dataset, config)
    torch.manual_seed(config.seed)
    net = build(config.net)
    if config.compile:
        training.check_compiler(accelerator.device, "leave --compile out")
        training.compile_parts(net)
    main = accelerator.is_main_process
    if main and not config.dry_run:
        results.prepare_folder(folder)
        if not going_on:
            _claim(folder, overwrite=config.overwrite)
    if main:
        print(f"output: {folder}", flush=True)
        log.info("%s", describe(net, dataset))
    accelerator.wait_for_everyone()

    device = accelerator.device
    net = net.to(device)
    dataset = dataset.to(device)
    steps = dataset.train.steps(config.batch_size)
    run = training.Training(net, config, accelerator, min(steps, 2) if config.dry_run else steps)
    if config.dry_run:
        run.config = dataclasses.replace(config, epochs=1)
        training.fit(run, dataset, on_epoch=lambda row: None, save=lambda: None)
        print(f"dry run: {config.epochs} epochs of {steps} steps would be written to {folder}")
        return

    state = checkpoint.load_state(folder / "state") if going_on else None
    if state is not None:
        run.restore(state)
    if going_on:
        log.info("going on in epoch %d at step %d", run.epoch, run.step)
    if main:
        results.write_config(folder, to_dict(config))
        results.keep_epochs(folder / "log.jsonl", run.epoch)

    def save() -> None:
        if main:
            checkpoint.save_state(folder / "state", run.state())

    def on_epoch(row: dict[str, Any]) -> None:
        if main:
            results.append_row(folder / "log.jsonl", row)

    try:
        training.fit(run, dataset, on_epoch=on_epoch, save=save)
    except progress.Interrupted as end:
        where = f"{end}; saved in {folder / 'state'}: go on with --resume --output-dir {folder}"
        raise progress.Interrupted(where, end.number) from None
    except training.NotFinite as error:
        raise InputError(f"{error}; {_last_state(folder)}") from error
    if main:
        _finish(run, dataset, folder, started)
        print(f"output: {folder}", flush=True)


def _finish(run: training.Training, dataset: Dataset, folder: Path, started: float) -> None:
    """Save the weights, read the test set, write its row; once for each final state."""
    config, weights = run.config, folder / "model.safetensors"
    checkpoint.save(weights, run.net, to_dict(config.net))
    victim = checkpoint.sha256(weights)
    rows = results.read_rows(folder / "results.jsonl")
    row = next((r for r in rows if r["name"] == "task" and r["victim"] == victim), None)
    if row is None:
        device = run.accelerator.device
        tested = training.evaluate(
            run.net, dataset.test, device, draws=config.draws, seed=config.seed
        )
        (low, high), error = tested["interval"], tested["error"]
        numbers = {"value": error, "low": low, "high": high} | {
            name: tested[name] for name in ("chance", "draws")
        }
        row = {
            "name": "task",
            "metrics": {"error": numbers},
            "images": len(dataset.test),
            "config": to_dict(config),
            "victim": victim,
            **results.stamp(device, started),
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


def _last_state(folder: Path) -> str:
    if (folder / "state").is_dir():
        return f"the last good state is in {folder / 'state'}"
    return "no epoch was finished, so nothing was saved"


def attack_main(argv: list[str]) -> None:
    """``python attack.py``: attack a trained network, or compare attacked ones."""
    from complexnn import verdicts
    from complexnn.attacks import suite

    if argv[:1] == ["compare"]:
        _compare(argv[1:])
        return
    config = parse(AttackConfig, argv, "attack.py")
    folder = config.run_dir
    accelerator = make_accelerator(config.device)
    victim, shown = _opened(config.victim, config.data_dir, accelerator.device)
    control, beside = None, shown
    if config.control is not None:
        control, beside = _opened(config.control, config.data_dir, accelerator.device)
    dataset = data.load(shown)
    if beside != shown:  # equal ones are not decoded twice
        other = data.load(beside)
        if (other.name, other.classes, other.labels) != (
            dataset.name, dataset.classes, dataset.labels,
        ):  # fmt: skip
            raise InputError(
                f"control {config.control} was trained on another task than {config.victim}"
            )
    suite.check(config, victim.config, dataset)
    results.prepare_folder(folder)
    print(f"output: {folder}", flush=True)
    suite.run(config, victim, control, dataset, accelerator.device)
    if config.attack == "all" and config.only is None:
        print(verdicts.write_report(folder, config.victim))
    print(f"output: {folder}", flush=True)


@dataclasses.dataclass(frozen=True)
class CompareConfig:
    """Put attacked networks side by side."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders that attack.py was run on."""
    picture: Path | None = None
    """Also draw task error against leakage here."""


def _compare(argv: list[str]) -> None:
    from complexnn import figures, verdicts

    config = parse(CompareConfig, argv, "attack.py compare")
    if not config.runs:
        raise InputError("name at least one run folder")
    print(verdicts.compare(config.runs).as_text())
    if config.picture is not None:
        figures.comparison(config.runs, config.picture)
        print(f"picture: {config.picture}")


def open_run(folder: Path, data_dir: Path | None, device: torch.device) -> tuple[SplitNet, Dataset]:
    """A trained network, ready on ``device``, with its data set."""
    net, shown = _opened(folder, data_dir, device)
    return net, data.load(shown)


def _opened(
    folder: Path, data_dir: Path | None, device: torch.device
) -> tuple[SplitNet, DataConfig]:
    """A trained network, ready on ``device``, and which data it was trained on."""
    config = results.read_config(folder)
    if not (folder / "model.safetensors").is_file():
        raise InputError(
            f"{folder} is no finished run (no model.safetensors): go on with "
            f"train.py --resume --output-dir {folder}"
        )
    net = load(folder, device=device)
    data_config = from_dict(DataConfig, config["data"])
    if data_dir is not None:
        data_config = dataclasses.replace(data_config, data_dir=data_dir)
    return net, data_config


def for_dataset(net: NetConfig, dataset: Dataset) -> NetConfig:
    """Fill in what a network must know about its images."""
    channels, *size = dataset.shape
    return dataclasses.replace(
        net, num_classes=len(dataset.labels), in_channels=channels, image_size=tuple(size),
        mean=dataset.mean, std=dataset.std,
    )  # fmt: skip


def _proof(config: NetConfig) -> str:
    """What the Gaussian decoys of ``config`` prove about one release of one query."""
    if not config.gaussian_decoys:
        return ""
    numbers = math.prod(topology(config).released)
    freedom = privacy.degrees_of_freedom(numbers, config.gaussian_decoys)
    if freedom < 2:
        return f"; the decoys prove nothing: {numbers} numbers a part need {numbers + 1} or more"
    epsilon = privacy.epsilon_for(1e-6, freedom, numbers / config.decoy_scale**2)
    if math.isinf(epsilon):
        return "; the decoys prove nothing at a δ of 1e-6: add some, or enlarge them"
    return f"; one release of a query is ({epsilon:.2g}, 1e-6)-private"


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


def _claim(folder: Path, *, overwrite: bool) -> None:
    """Take an output folder; a run that is already there is lost only on request."""
    there = [name for name in OWN_FILES if (folder / name).exists()]
    if there and not overwrite:
        raise InputError(
            f"{folder} already holds a run ({', '.join(there)}): give another --output-dir, "
            "or --overwrite to replace it"
        )
    for name in there:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
