"""What every command does: flags from dataclasses, one-line errors, exit statuses, trained runs."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import errno
import io
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import torch
import tyro

from complexnn.config import DataConfig, InputError, NetConfig
from complexnn.config_io import from_dict, to_dict
from complexnn.data import datasets
from complexnn.data.images import Dataset
from complexnn.networks.registry import load
from complexnn.networks.splitnet import SplitNet
from complexnn.runs import checkpoint, progress, results, tables

C = TypeVar("C")
log = logging.getLogger("complexnn")
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)


def run(main: Callable[[list[str]], None], argv: Sequence[str] | None = None) -> int:
    """Run a command and turn its end into an exit status.

    0: done. 2: something the user can mend, told in one line. Faults of ours keep their
    traceback (status 1).
    """
    _keep_memory()
    tables.escape_what_cannot_be_shown(sys.stdout)
    try:
        with _log_on_stderr(), _interrupted_by_sigterm(), _process_group_ended():
            with unwritable("start the command again"):
                main(list(sys.argv[1:] if argv is None else argv))
            sys.stdout.flush()
    except InputError as error:
        _say(f"error: {' '.join(str(error).split())}")
        return 2
    except BrokenPipeError:
        return _hung_up()
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
    return 0


@contextlib.contextmanager
def unwritable(again: str) -> Iterator[None]:
    """A full disk or a folder without permission is the user's to mend, who then does ``again``."""
    try:
        yield
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        advice = f"make room or mend the permissions, then {again}"
        raise InputError(f"{error}: {advice}") from error


@contextlib.contextmanager
def _log_on_stderr() -> Iterator[None]:
    """Show the log; of several processes the first one tells how far they are."""
    handler = logging.StreamHandler(sys.stderr)
    log.addHandler(handler)
    log.setLevel(logging.WARNING if progress.process_number() else logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)


@contextlib.contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end the command as Ctrl-C does; Python delivers it to the main thread only."""

    def terminate(number: int, frame: object) -> None:
        raise progress.Interrupted("terminated; what was finished is kept", number)

    in_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, terminate) if in_main else None
    try:
        yield
    finally:
        if in_main:
            signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _process_group_ended() -> Iterator[None]:
    """Leave no group of processes behind, whose threads would abort the interpreter's end."""
    try:
        yield
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


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
    # tyro would draw a box on standard error. The contract of every command is one line there and
    # exit status 2, which run() gives an InputError: scripts and campaigns read and repeat it.
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


def open_run(folder: Path, data_dir: Path | None, device: torch.device) -> tuple[SplitNet, Dataset]:
    """A trained network, ready on ``device``, with its data set."""
    net, shown = opened(folder, data_dir, device)
    return net, datasets.load(shown)


def opened(
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
