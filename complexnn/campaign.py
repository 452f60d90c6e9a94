"""Campaigns: ``python -m complexnn.campaign < COMMANDS`` runs many commands, one after the other.

A line is ``train.py FLAGS``, ``attack.py FLAGS``, a measurement (``offload FLAGS``,
``linearity FLAGS``, ``gaussianity FLAGS``) or ``report FLAGS``. Everything is checked before the
first one starts: every flag, the data, the room on the disk. What is finished is skipped and what
was interrupted goes on, so that a broken campaign is simply started again.
"""

from __future__ import annotations

import dataclasses
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from complexnn import checkpoint, data, estimates, results
from complexnn.attacks import suite
from complexnn.cli import check_control, parse, run
from complexnn.config import (
    MAY_CHANGE,
    AttackConfig,
    DataConfig,
    InputError,
    NetConfig,
    TrainConfig,
    command,
    from_dict,
)
from complexnn.gaussianity import GaussianityConfig
from complexnn.linearity import LinearityConfig
from complexnn.offload import OffloadConfig
from complexnn.progress import Interrupted, duration, track
from complexnn.tables import Table

ROOT = Path(__file__).parent.parent
_planned = cache(data.plan)  # to list a folder of 50,000 images takes seconds

MEASUREMENTS = {
    "offload": OffloadConfig,
    "linearity": LinearityConfig,
    "gaussianity": GaussianityConfig,
}


@dataclass(frozen=True)
class CampaignConfig:
    """Run the commands that stand on standard input, skipping what is finished."""

    dry_run: bool = False
    """Show what would run, with estimates of time and disk, check data and disk, and stop."""
    list: bool = False
    """Print the commands as they are, for another campaign, and stop."""
    available: bool = False
    """Leave out runs whose data are not there, instead of refusing the campaign."""
    data_dir: Path | None = None
    """Where the data sets lie, for commands that do not say."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""


@dataclass(frozen=True)
class Job:
    """One command, resolved."""

    words: tuple[str, ...]  # script and flags, as they will be run
    config: TrainConfig | AttackConfig | None  # None: a report, a measurement
    data: DataConfig | None = None
    net: NetConfig | None = None  # what is trained, or attacked
    finished: bool = False


def resolve(lines: Sequence[str], config: CampaignConfig) -> list[Job]:
    """Parse every command; equal ones run once.

    Raises:
        InputError: a line that is no command, wrong flags, a victim that nothing trains.
    """
    jobs: list[Job] = []
    trained: dict[Path, Job] = {}
    wanted = list(dict.fromkeys(line.strip() for line in lines))
    for line in track(wanted, len(wanted), "checking commands", every=5.0):
        if not line or line.startswith("#"):
            continue
        script, *flags = shlex.split(line)
        if script == "report":
            jobs.append(Job((script, *flags), None))
            continue
        if script not in ("train.py", "attack.py", *MEASUREMENTS):
            expected = f"train.py, attack.py, {', '.join(MEASUREMENTS)} or report"
            raise InputError(f"expected {expected}, got: {line}")
        if config.data_dir is not None and "--data-dir" not in flags:
            flags += ["--data-dir", str(config.data_dir)]
        if config.device != "auto" and "--device" not in flags:
            flags += ["--device", config.device]
        if script == "train.py":
            job = _training(flags)
            trained[job.config.run_dir] = job
        elif script in MEASUREMENTS:
            asked = parse(MEASUREMENTS[script], list(flags), f"python -m complexnn.{script}")
            finished = _trained(asked.victim, trained) and results.measured(asked, script)
            job = Job((script, *flags), None, finished=finished)
        else:
            job = _attacking(flags, trained)
        jobs.append(job)
    if not jobs:
        raise InputError("no commands on standard input; see scripts/*.sh for campaigns")
    return jobs


def _training(flags: list[str]) -> Job:
    config = parse(TrainConfig, list(flags), "train.py")
    folder, finished = config.run_dir, False
    if (folder / "config.json").is_file():
        saved = from_dict(TrainConfig, results.read_config(folder))
        before, now = (command(c, leave_out=MAY_CHANGE) for c in (saved, config))
        if before != now:
            raise InputError(
                f"{folder} holds another run ({before}) than {now}: remove or rename it"
            )
        tested = [r["name"] for r in results.read_rows(folder / "results.jsonl")]
        finished = saved.epochs >= config.epochs and "task" in tested
    words = ("train.py", *flags, "--resume", "auto")
    return Job(words, config, config.data, _sized(config), finished)


def _sized(config: TrainConfig) -> NetConfig:
    """The network with the images that it will get, where they can be looked at."""
    try:
        _, (channels, *size), labels = _looked_at(config.data)
    except InputError:
        return config.net
    each = {"in_channels": channels, "mean": (0.5,) * channels, "std": (0.25,) * channels}
    return dataclasses.replace(config.net, image_size=tuple(size), num_classes=labels, **each)


def _attacking(flags: list[str], trained: dict[Path, Job]) -> Job:
    config = parse(AttackConfig, list(flags), "attack.py")
    words = ("attack.py", *flags)
    weights = config.victim / "model.safetensors"
    if config.victim in trained:
        data_config, net = trained[config.victim].data, trained[config.victim].net
    elif weights.is_file():
        saved = from_dict(TrainConfig, results.read_config(config.victim))
        data_config, net = saved.data, saved.net
    else:
        raise InputError(f"no command trains {config.victim}, which is to be attacked")
    if config.control is not None:
        check_control(config.control, _network(config.control, trained))
    finished = weights.is_file() and _trained(config.victim, trained)
    if finished:
        victim_hash = checkpoint.sha256(weights)
        finished = suite.done(config, net, victim_hash, hidden=hidden(data_config))
    return Job(words, config, data_config, net, finished)


def _network(folder: Path, trained: dict[Path, Job]) -> NetConfig:
    """The network that is trained into ``folder``, or was before."""
    if folder in trained:
        return trained[folder].net
    return from_dict(TrainConfig, results.read_config(folder)).net


def _trained(victim: Path, trained: dict[Path, Job]) -> bool:
    """Whether the victim is what it will be when it is its turn."""
    return victim not in trained or trained[victim].finished


def hidden(data_config: DataConfig) -> bool:
    """Whether the images have classes or attributes that the network is not trained on."""
    return data_config.groups is not None or data_config.dataset == "celeba"


# -------------------------------------------------------------------------------- estimates


def _looked_at(config: DataConfig) -> tuple[int, tuple[int, int, int], int]:
    """:func:`complexnn.data.plan`, which lists a folder once for all its groupings and limits."""
    count, shape, labels = _planned(dataclasses.replace(config, groups=None, limit_train=None))
    return min(count, config.limit_train or count), shape, labels


def estimate(job: Job, device: torch.device) -> tuple[float, float]:
    """Seconds and megabytes that a job takes, both rough."""
    if job.config is None or job.finished:
        return 0.0, 0.0
    if isinstance(job.config, TrainConfig):
        flops, size = estimates.training(job.config, job.net, _looked_at(job.data)[0])
    else:
        flops, size = estimates.attacking(job.config, job.net, hidden=hidden(job.data))
    return estimates.START + flops / estimates.throughput(device, job.config.precision), size


def check_disk(needed: float) -> None:
    """Refuse a campaign that the disk has no room for."""
    free = shutil.disk_usage(Path.cwd()).free / 1e6
    if free < needed:
        raise InputError(
            f"this needs about {needed:,.0f} MB, and {free:,.0f} MB are free here: make room first"
        )


# -------------------------------------------------------------------------------------- main


def main(argv: list[str]) -> None:
    """Check, show or run the commands on standard input."""
    config = parse(CampaignConfig, argv, "python -m complexnn.campaign")
    lines = sys.stdin.read().splitlines()
    if config.list:
        print("\n".join(lines))
        return
    jobs = resolve(lines, config)
    places, missing = _places(jobs)
    if missing and config.available:
        jobs = [job for job in jobs if job.data not in missing]
    gpu = config.device in ("auto", "cuda") and torch.cuda.is_available()
    device = torch.device("cuda" if gpu else "cpu")
    costs = [
        estimate(job, device) if job.data not in missing else (0.0, 0.0)
        for job in track(jobs, len(jobs), "estimating commands", every=5.0)
    ]
    downloads = sum({place: size for place, size in places.values()}.values())
    disk = sum(size for _, size in costs) + downloads
    if config.dry_run:
        for table in _plan(jobs, costs, places, missing):
            print(table.as_text(), end="\n\n")
        print(f"in all about {duration(sum(s for s, _ in costs))} and {disk:,.0f} MB")
    if missing and not config.available:
        reasons = "; ".join(dict.fromkeys(missing.values()))
        raise InputError(f"{reasons}. Or leave these runs out with --available")
    check_disk(disk)
    if not config.dry_run:
        _run(jobs, [seconds for seconds, _ in costs])


def _unfinished(jobs: list[Job]) -> list[Job]:
    return [job for job in jobs if job.config is not None and not job.finished]


def _places(jobs: list[Job]) -> tuple[dict[DataConfig, tuple[str, int]], dict[DataConfig, str]]:
    """Where each data set is, and why others are not there."""
    places, missing = {}, {}
    for config in {job.data: None for job in _unfinished(jobs)}:
        try:
            places[config] = data.whereabouts(config)
        except InputError as error:
            missing[config] = str(error)
    return places, missing


def _plan(
    jobs: list[Job],
    costs: list[tuple[float, float]],
    places: dict[DataConfig, tuple[str, int]],
    missing: dict[DataConfig, str],
) -> list[Table]:
    lines = []
    for job, (seconds, size) in zip(jobs, costs, strict=True):
        time_left = "finished" if job.finished else f"about {duration(seconds)}"
        if job.config is None and not job.finished:
            time_left = "always" if job.words[0] == "report" else "minutes"
        elif job.data in missing:
            time_left = "data missing"
        lines.append((time_left, f"{size:,.0f} MB" if size else "", " ".join(_shown(job))))
    where = {config.dataset: place for config, (place, _) in places.items()}
    where |= {config.dataset: reason for config, reason in missing.items()}
    note = "Estimates of time are rough: by the FLOPs, at the speed just measured here."
    return [
        Table("Commands", ("time", "disk", "command"), lines, note),
        Table("Data", ("data set", "where"), list(where.items())),
    ]


def _shown(job: Job) -> list[str]:
    words = list(job.words)
    return words[:-2] if words[-2:] == ["--resume", "auto"] else words


def _run(jobs: list[Job], seconds: list[float]) -> None:
    """One process for each command, so that none sees another's state."""
    for number, job in enumerate(jobs, start=1):
        if job.finished:
            print(f"[{number}/{len(jobs)}] finished: {' '.join(_shown(job))}", flush=True)
            continue
        left = duration(sum(seconds[number - 1 :]))
        print(f"[{number}/{len(jobs)}] {' '.join(_shown(job))}  (all: about {left})", flush=True)
        status = _call(job.words)
        if status:
            raise SystemExit(status)


def _call(words: tuple[str, ...]) -> int:
    script, *flags = words
    start = [str(ROOT / script)] if script.endswith(".py") else ["-m", f"complexnn.{script}"]
    process = subprocess.Popen([sys.executable, *start, *flags])
    try:
        status = process.wait()
    except (KeyboardInterrupt, Interrupted):
        process.send_signal(signal.SIGTERM)  # it saves its state
        process.wait()
        raise
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(run(main))
