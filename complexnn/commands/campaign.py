"""Campaigns: ``python -m complexnn.campaign < COMMANDS`` runs many commands, several at once.

A line is ``train.py FLAGS``, ``attack.py FLAGS``, a measurement (``offload FLAGS``,
``linearity FLAGS``, ``gaussianity FLAGS``) or ``report FLAGS``. Everything is checked before the
first one starts: every flag, the data, the room on the disk. What is finished is skipped and what
was interrupted goes on, so that a broken campaign is simply started again. A command that reads or
writes a run waits for those before it that write or read the same run, so that how many run at once
changes nothing but the time, and the rounding where that depends on the threads.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import shlex
import shutil
import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from complexnn.attacks import evaluation
from complexnn.commands import cluster, estimates
from complexnn.commands.app import parse
from complexnn.commands.attack import check_control
from complexnn.commands.jobs import (
    Command,
    Limits,
    run_all,
)
from complexnn.config import DataConfig, InputError, NetConfig, TrainConfig, at_least, check_numbers
from complexnn.config_attack import AttackConfig, results_of
from complexnn.config_io import MAY_CHANGE, command, from_dict
from complexnn.data import datasets
from complexnn.measurements.gaussianity import GaussianityConfig
from complexnn.measurements.linearity import LinearityConfig
from complexnn.measurements.offloading import OffloadConfig
from complexnn.runs import checkpoint, results
from complexnn.runs.devices import make_accelerator
from complexnn.runs.progress import duration, track
from complexnn.runs.tables import Table

MODULES = {"train.py": "complexnn.commands.train", "attack.py": "complexnn.commands.attack"}
LOGS = Path("logs")
_planned = cache(datasets.plan)  # to list a folder of 50,000 images takes seconds

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
    devices: str | None = None
    """Several devices, as cuda:0,cuda:1, over which the commands are spread."""
    jobs: int = 1
    """Commands that run at once. They share the device; on CPUs each has its part of the cores."""
    hours: float | None = None
    """Stop then: what will be finished in time is started first, then trainings that will not be,
    which are asked to save their state at the end and go on the next time."""
    slurm: tuple[str, ...] | None = None
    """Hand the commands to Slurm instead, as one array, with these settings of sbatch, such as
    partition=gpu gres=gpu:1 time=240; the time in minutes."""

    def __post_init__(self) -> None:
        check_numbers(self)
        at_least(self, 1, "jobs")
        if self.hours is not None and self.hours <= 0:
            raise InputError(f"hours must be positive, got {self.hours}")
        if self.devices is not None and self.device != "auto":
            raise InputError("give --device, or --devices for several, not both")

    @property
    def spread(self) -> tuple[str, ...]:
        """The devices of ``devices``."""
        return tuple(self.devices.replace(" ", "").split(",")) if self.devices else ()


@dataclass(frozen=True)
class Job:
    """One command, resolved."""

    words: tuple[str, ...]  # script and flags, as they will be run
    config: TrainConfig | AttackConfig | None  # None: a report, a measurement
    data: DataConfig | None = None
    net: NetConfig | None = None  # what is trained, or attacked
    finished: bool = False
    reads: frozenset[Path] = frozenset()  # runs
    writes: frozenset[Path] = frozenset()

    @property
    def name(self) -> str:
        """Script and run, in a few words."""
        if self.config is not None:
            about = [self.config.attack] if isinstance(self.config, AttackConfig) else []
            return " ".join([self.words[0], *about, str(self.config.run_dir)])
        return " ".join(
            [self.words[0], *(map(str, self.writes) if self.writes else self.words[1:2])]
        )


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
            wanted = parse(MEASUREMENTS[script], list(flags), f"python -m complexnn.{script}")
            finished = _trained(wanted.victim, trained) and results.measured(wanted, script)
            reads, writes = frozenset({wanted.victim}), frozenset({results_of(wanted.victim)})
            job = Job((script, *flags), None, None, None, finished, reads, writes)
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
    writes = frozenset({folder})
    return Job(words, config, config.data, _sized(config), finished, frozenset(), writes)


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
        finished = evaluation.done(config, net, victim_hash, hidden=hidden(data_config))
    reads, writes = {config.victim}, {config.run_dir}
    if config.control is not None:  # it gets the same attacks
        reads.add(config.control)
        kept = config.output_dir and config.output_dir / "control"
        writes.add(kept or results_of(config.control))
    return Job(words, config, data_config, net, finished, frozenset(reads), frozenset(writes))


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
    """:func:`complexnn.data.datasets.plan`; a folder is listed once for all its groupings."""
    count, shape, labels = _planned(dataclasses.replace(config, groups=None, limit_train=None))
    return min(count, config.limit_train or count), shape, labels


def estimate(job: Job, device: torch.device) -> tuple[float, float]:
    """Seconds and megabytes that a job takes, both rough."""
    if job.finished:
        return 0.0, 0.0
    if job.config is None:  # reads and measures
        return estimates.START, 0.0
    if isinstance(job.config, TrainConfig):
        flops, size = estimates.training(job.config, job.net, _looked_at(job.data)[0])
        flops *= 1 - _begun(job.config)
    else:
        flops, size = estimates.attacking(job.config, job.net, hidden=hidden(job.data))
    return estimates.START + flops / estimates.throughput(device, job.config.precision), size


def _begun(config: TrainConfig) -> float:
    """The share of a training's epochs that an interrupted one has behind it."""
    folder = config.run_dir
    if not (folder / "state").is_dir():
        return 0.0
    return min(1.0, len(results.read_rows(folder / "log.jsonl")) / config.epochs)


def check_disk(needed: float) -> None:
    """Refuse a campaign that the disk has no room for."""
    free = shutil.disk_usage(Path.cwd()).free / 1e6
    if free < needed:
        raise InputError(
            f"this needs about {needed:,.0f} MB, and {free:,.0f} MB are free here: make room first"
        )


# ------------------------------------------------------------------------------ side by side


def waits(jobs: Sequence[Job]) -> list[tuple[frozenset[int], frozenset[int]]]:
    """For each job, the earlier ones that must have ended before it starts, and those of them that
    must have succeeded: the trainings of what it reads.

    It waits for those that write what it uses, or read what it writes, so that all find what they
    would find one after the other. A report waits for everything before it.
    """
    folders = [[{f.resolve() for f in used} for used in (job.reads, job.writes)] for job in jobs]
    found = []
    for number, (job, (reads, writes)) in enumerate(zip(jobs, folders, strict=True)):
        after, needs = set(), set()
        for other, (read, written) in enumerate(folders[:number]):
            if job.words[0] == "report" or written & (reads | writes) or read & writes:
                after.add(other)
            if jobs[other].words[0] == "train.py" and written & reads:
                needs.add(other)
        found.append((frozenset(after), frozenset(needs)))
    return found


def together(jobs: Sequence[Job]) -> list[list[int]]:
    """Jobs in groups that do not wait for each other, for machines of their own; no reports."""
    groups: list[set[int]] = []
    for number, (after, needs) in enumerate(waits(jobs)):
        if jobs[number].words[0] != "report":
            met = [group for group in groups if group & (after | needs)]
            groups = [group for group in groups if group not in met]
            groups.append({number}.union(*met))
    return sorted(map(sorted, groups))


def commands(jobs: Sequence[Job], seconds: Sequence[float]) -> list[Command]:
    """The jobs as processes, each with a log of its own and what it waits for."""
    found = []
    for job, estimated, (after, needs) in zip(jobs, seconds, waits(jobs), strict=True):
        script, *flags = job.words
        start = ["-m", MODULES.get(script, f"complexnn.{script}")]
        shown, report = shlex.join(_shown(job)), script == "report"
        digest = hashlib.sha256(shown.encode()).hexdigest()[:8]
        slug = re.sub(r"[^\w.]+", "-", job.name.replace(".py", "", 1))[-100:].strip("-")
        found.append(
            Command(
                job.name, shown, (sys.executable, *start, *flags), LOGS / f"{slug}-{digest}.log",
                seconds=estimated, kind=script, after=after, needs=needs, finished=job.finished,
                goes_on=script == "train.py", anywhere=not report and "--device" not in flags,
                loud=report,
            )
        )  # fmt: skip
    return found


# -------------------------------------------------------------------------------------- main


def main(argv: list[str]) -> None:
    """Check, show or run the commands on standard input."""
    started = time.monotonic()
    config = parse(CampaignConfig, argv, "python -m complexnn.campaign")
    lines = sys.stdin.read().splitlines()
    if config.list:
        print("\n".join(lines))
        return
    if config.slurm is None:
        for device in config.spread:
            make_accelerator(device)  # refuses one that is not there
    jobs = resolve(lines, config)
    places, missing = _places(jobs)
    if missing and config.available:
        count, jobs = len(jobs), [job for job in jobs if job.data not in missing]
        reasons = "; ".join(dict.fromkeys(missing.values()))
        print(f"left out {count - len(jobs)} of {count} commands: {reasons}")
    threads = max(1, torch.get_num_threads() // config.jobs)
    costs = _costs(jobs, missing, config, threads)
    # Each data set once, whatever of it the commands use.
    downloads = {
        (each.dataset, place): (each, size) for each, (place, size) in places.items() if size
    }
    disk = sum(size for _, size in [*costs, *downloads.values()])
    if config.dry_run:
        for table in _plan(jobs, costs, places, missing):
            print(table.as_text(), end="\n\n")
        seconds = sum(s for s, _ in costs) / config.jobs
        print(f"in all about {duration(seconds)} and {disk:,.0f} MB")
    if missing and not config.available:
        reasons = "; ".join(dict.fromkeys(missing.values()))
        raise InputError(f"{reasons}. Or leave these runs out with --available")
    check_disk(disk)
    if config.dry_run:
        return
    for each, _ in downloads.values():
        datasets.load(each)  # here, where several commands would do it at once
    if config.slurm is not None:
        _submit(jobs, config)
        return
    hours = float("inf") if config.hours is None else config.hours
    limits = Limits(config.jobs, threads, config.spread, started + 3600 * hours)
    if status := run_all(commands(jobs, [seconds for seconds, _ in costs]), limits):
        raise SystemExit(status)


def _costs(
    jobs: list[Job], missing: Collection[DataConfig], config: CampaignConfig, threads: int
) -> list[tuple[float, float]]:
    """Seconds and megabytes of each job, with the threads that it will have."""
    gpu = (config.devices or config.device).startswith(("auto", "cuda"))
    device = torch.device("cuda" if gpu and torch.cuda.is_available() else "cpu")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return [
            estimate(job, device) if job.data not in missing else (0.0, 0.0)
            for job in track(jobs, len(jobs), "estimating commands", every=5.0)
        ]
    finally:
        torch.set_num_threads(before)


def _submit(jobs: list[Job], config: CampaignConfig) -> None:
    groups = [[jobs[number] for number in group] for group in together(jobs)]
    lines = [
        [shlex.join(_shown(job)) for job in group]
        for group in groups
        if not all(job.finished for job in group)
    ]
    argv = [sys.executable, "-m", "complexnn.campaign", "--jobs", str(config.jobs)]
    argv += ["--devices", config.devices] if config.devices else []
    argv += ["--hours", str(config.hours)] if config.hours else []
    elements = cluster.submit(lines, argv, config.slurm, folder=LOGS / "slurm")
    for element, group in zip(elements, lines, strict=True):
        print(f"{element.job_id}: {len(group)} commands from {group[0]}")
    print(f"what they say goes to {LOGS / 'slurm'}, what their commands say to {LOGS}")
    for job in jobs:
        if job.words[0] == "report":
            print(f"when they are done: python -m complexnn.{shlex.join(job.words)}")


def _unfinished(jobs: list[Job]) -> list[Job]:
    return [job for job in jobs if job.config is not None and not job.finished]


def _places(jobs: list[Job]) -> tuple[dict[DataConfig, tuple[str, int]], dict[DataConfig, str]]:
    """Where each data set is, and why others are not there."""
    places, missing = {}, {}
    for config in {job.data: None for job in _unfinished(jobs)}:
        try:
            places[config] = datasets.whereabouts(config)
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
    note = (
        "Estimates of time are rough: by the FLOPs, at the speed just measured here, which is less "
        "while something else runs."
    )
    return [
        Table("Commands", ("time", "disk", "command"), lines, note),
        Table("Data", ("data set", "where"), list(where.items())),
    ]


def _shown(job: Job) -> list[str]:
    words = list(job.words)
    return words[:-2] if words[-2:] == ["--resume", "auto"] else words
