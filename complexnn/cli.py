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
from accelerate.utils import broadcast_object_list

from complexnn import checkpoint, data, privacy, progress, results, tables, training
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
# What attacks put beside it, which goes with the run that they attacked.
MADE_OF_IT = ("attackers", "control", "examples", "report.html")
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)


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
    tables.escape_what_cannot_be_shown(sys.stdout)
    handler = logging.StreamHandler(sys.stderr)
    in_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, terminate) if in_main else None
    log.addHandler(handler)
    # Of several processes the first one tells how far they are.
    log.setLevel(logging.WARNING if progress.process_number() else logging.INFO)
    try:
        main(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
    except InputError as error:
        _say(f"error: {' '.join(str(error).split())}")
        return 2
    except BrokenPipeError:
        return _hung_up()
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        again = "go on with --resume" if main is train_main else "start the command again"
        _say(f"error: {error}: make room or mend the permissions, then {again}")
        return 2
    except KeyboardInterrupt:
        _say("interrupted; what was finished is kept")
        return 128 + signal.SIGINT
    except progress.Interrupted as end:
        _say(str(end))
        return 128 + end.number
    except SystemExit as end:  # --help, which a pager may have cut short
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            return _hung_up()
        raise end
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()  # or its threads abort the interpreter's end
        log.removeHandler(handler)
        if in_main:
            signal.signal(signal.SIGTERM, before)
    return 0


def _say(message: str) -> None:
    """A last line on standard error; several processes tell theirs apart."""
    number = progress.process_number()
    print(f"process {number}: {message}" if number else message, file=sys.stderr)


def _hung_up() -> int:
    """The status of a command whose reader, such as ``head``, has gone: no further output, not even
    at the interpreter's end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 128 + signal.SIGPIPE


def parse(cls: type[C], argv: list[str], prog: str, default: C | None = None) -> C:
    """Parse flags into ``cls``. ``--help`` prints and exits; bad flags are an InputError."""
    for before, word in zip([prog, *argv], argv, strict=False):
        if not word or (word.startswith("--") and word.endswith("=")):
            raise InputError(f"the value of {(word or before).rstrip('=')} is empty")
    known = {} if default is None else {"default": default}
    message = io.StringIO()
    try:
        with contextlib.redirect_stderr(message):
            return tyro.cli(cls, args=argv, prog=prog, config=(tyro.conf.OmitArgPrefixes,), **known)
    except SystemExit as error:
        if error.code in (0, None):
            raise
        reason = _first_section(re.sub(r"\x1b\[[0-9;]*m", "", message.getvalue()))
        reason = re.sub(r"^Error parsing \w+: ", "", reason)  # of a dataclass, which no user knows
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
        InputError: a device that this machine does not have, or a precision that it has not.
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
    accelerator = Accelerator(cpu=cpu, mixed_precision={"fp32": "no"}.get(precision, precision))
    if precision == "fp16" and accelerator.device.type == "cpu":  # it would train in fp32
        raise InputError("precision fp16 needs a GPU: use bf16 or fp32 on a CPU")
    return accelerator


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
    run = training.Training(net, config, accelerator, min(steps, 2) if config.dry_run else steps)
    run.begun = started
    if config.dry_run:
        run.config = dataclasses.replace(config, epochs=1)
        training.fit(run, dataset, on_epoch=lambda row: None, save=lambda: None)
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
    if config.data.resize is not None and config.data.dataset in data.RESIZED:
        training.check_memory(dataclasses.replace(config, net=_foreseen(config)), device)
    # The first process downloads what is missing, and the others find it there.
    dataset = _together(accelerator, lambda: data.load(config.data, workers=config.workers))
    if dataset is None:
        dataset = data.load(config.data, workers=config.workers)
    config = dataclasses.replace(config, net=for_dataset(config.net, dataset))
    training.check_groups(dataset, config)
    training.check_memory(config, device)
    torch.manual_seed(config.seed)
    net = build(config.net)
    if config.compile:
        training.check_compiler(device, "leave --compile out")
        training.compile_parts(net)
    return config, net.to(device), dataset.to(device)


def _foreseen(config: TrainConfig) -> NetConfig:
    """The network with the size and channels of images that are known before they are read."""
    _, (channels, *size), labels = data.plan(config.data)
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


def _train(run: training.Training, dataset: Dataset, folder: Path) -> None:
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
        training.fit(run, dataset, on_epoch=on_epoch, save=save)
    except progress.Interrupted as end:
        where = f"{end}; saved in {folder / 'state'}: go on with --resume --output-dir {folder}"
        raise progress.Interrupted(where, end.number) from None
    except training.NotFinite as error:
        raise InputError(f"{error}; {_how_to_retry(folder)}") from error


def _finish(run: training.Training, dataset: Dataset, folder: Path) -> None:
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


def train_command() -> int:
    """``complexnn-train``, which an installation puts on the path."""
    return run(train_main)


def attack_command() -> int:
    """``complexnn-attack``, likewise."""
    return run(attack_main)


def attack_main(argv: list[str]) -> None:
    """``python attack.py``: attack a trained network, or compare attacked ones."""
    from complexnn import verdicts
    from complexnn.attacks import suite
    from complexnn.attacks.auxiliary import attacker_images

    if argv[:1] == ["compare"]:
        _compare(argv[1:])
        return
    config = parse(AttackConfig, argv, "attack.py")
    folder = config.run_dir
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("attack.py runs in one process: start it without torchrun")
    accelerator = make_accelerator(config.device)
    victim, shown = _opened(config.victim, config.data_dir, accelerator.device)
    control, beside = None, shown
    if config.control is not None:
        control, beside = _opened(config.control, config.data_dir, accelerator.device)
        check_control(config.control, control.config)
    dataset = data.load(shown)
    if beside != shown:  # equal ones are not decoded twice
        other = data.load(beside)
        if (other.name, other.classes, other.labels) != (
            dataset.name, dataset.classes, dataset.labels,
        ):  # fmt: skip
            raise InputError(
                f"control {config.control} was trained on another task than {config.victim}"
            )
    nets = [net.config for net in (victim, control) if net is not None]
    judged = torch.cat([suite.judged_images(config, net, dataset) for net in nets])
    own = attacker_images(config, shown, dataset, judged)
    suite.check(config, victim.config, dataset, own)
    results.prepare_folder(folder)
    print(f"output: {folder}", flush=True)
    suite.run(config, victim, control, dataset, own)
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
    _check_own(folder, net.config, from_dict(NetConfig, config["net"]))
    data_config = from_dict(DataConfig, config["data"])
    if data_dir is not None:
        data_config = dataclasses.replace(data_config, data_dir=data_dir)
    return net, data_config


def _check_own(folder: Path, inside: NetConfig, trained: NetConfig) -> None:
    """Refuse weights of another network than the folder's run; warn of those of another training.

    Raises:
        InputError: naming the settings that differ.
    """
    weights, own, other = folder / "model.safetensors", to_dict(trained), to_dict(inside)
    if differ := [f"{k} {own[k]} -> {other[k]}" for k in own if own[k] != other[k]]:
        raise InputError(
            f"{weights} is another network than config.json says ({', '.join(differ)}): put the "
            "run's own weights there, or name the folder that they come from"
        )
    tested = [
        r["victim"] for r in results.read_rows(folder / "results.jsonl") if r["name"] == "task"
    ]
    if tested and checkpoint.sha256(weights) not in tested:
        log.warning("%s is not what this run trained and tested; it may be another run's", weights)


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
