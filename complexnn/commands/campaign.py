"""Campaigns: ``python -m complexnn.campaign < COMMANDS`` runs many commands, several at once.

A line is ``train.py FLAGS``, ``attack.py FLAGS``, a measurement (``offload FLAGS``,
``linearity FLAGS``, ``gaussianity FLAGS``) or ``report FLAGS``. Everything is checked before the
first one starts: every flag, the data, the room on the disk. What is finished is skipped and what
was interrupted goes on, so that a broken campaign is simply started again. A command that reads or
writes a run waits for those before it that write or read the same run, so that how many run at once
changes nothing but the time, and the rounding where that depends on the threads.
"""

from __future__ import annotations

import hashlib
import re
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from complexnn.commands import cluster, plan
from complexnn.commands.app import parse
from complexnn.commands.jobs import Job, given, resolve, together, waits
from complexnn.commands.scheduler import Command, Limits, run_all
from complexnn.config import DataConfig, InputError, at_least, check_numbers
from complexnn.data import datasets
from complexnn.runs.devices import make_accelerator
from complexnn.runs.progress import duration

# Modules, not the files train.py and attack.py: a campaign runs in any folder.
MODULES = {"train.py": "complexnn.commands.train", "attack.py": "complexnn.commands.attack"}
LOGS = Path("logs")


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
    jobs = resolve(lines, data_dir=config.data_dir, device=config.device)
    threads = max(1, torch.get_num_threads() // config.jobs)
    jobs, seconds, downloads = _checked(jobs, config, threads)
    if config.dry_run:
        return
    for each in downloads:
        datasets.load(each)  # here, where several commands would do it at once
    if config.slurm is not None:
        _submit(jobs, config)
        return
    hours = float("inf") if config.hours is None else config.hours
    limits = Limits(config.jobs, threads, config.spread, started + 3600 * hours)
    if status := run_all(commands(jobs, seconds), limits):
        raise SystemExit(status)


def _checked(
    jobs: list[Job], config: CampaignConfig, threads: int
) -> tuple[list[Job], list[float], list[DataConfig]]:
    """The jobs that can run, their seconds, and what is to be downloaded; a dry run shows them.

    Raises:
        InputError: missing data, or too little room on the disk.
    """
    data = plan.find_data(jobs)
    if data.missing and config.available:
        count, jobs = len(jobs), [job for job in jobs if job.data not in data.missing]
        print(f"left out {count - len(jobs)} of {count} commands: {data.reasons}")
    gpu = (config.devices or config.device).startswith(("auto", "cuda"))
    costs = plan.costs(jobs, data.missing, gpu=gpu, threads=threads)
    seconds, sizes = [s for s, _ in costs], [size for _, size in costs]
    downloads = data.downloads.values()
    disk = sum(sizes) + sum(size for _, size in downloads)
    if config.dry_run:
        for table in plan.tables(jobs, costs, data):
            print(table.as_text(), end="\n\n")
        print(f"in all about {duration(sum(seconds) / config.jobs)} and {disk:,.0f} MB")
    if data.missing and not config.available:
        raise InputError(f"{data.reasons}. Or leave these runs out with --available")
    plan.check_disk(disk)
    return jobs, seconds, [each for each, _ in downloads]


def commands(jobs: Sequence[Job], seconds: Sequence[float]) -> list[Command]:
    """The jobs as processes, each with a log of its own and what it waits for."""
    processes = []
    for job, estimated, (after, needs) in zip(jobs, seconds, waits(jobs), strict=True):
        script, *flags = job.words
        start = ["-m", MODULES.get(script, f"complexnn.{script}")]
        shown = shlex.join(job.shown)
        digest = hashlib.sha256(shown.encode()).hexdigest()[:8]
        slug = re.sub(r"[^\w.]+", "-", job.name.replace(".py", "", 1))[-100:].strip("-")
        processes.append(
            Command(
                job.name, shown, (sys.executable, *start, *flags), LOGS / f"{slug}-{digest}.log",
                seconds=estimated, kind=script, after=after, needs=needs, finished=job.finished,
                goes_on=script == "train.py",
                anywhere=not job.is_report and not given("--device", flags), loud=job.is_report,
            )
        )  # fmt: skip
    return processes


def _submit(jobs: list[Job], config: CampaignConfig) -> None:
    """Hand groups of jobs that wait for each other to Slurm, each as a campaign of its own."""
    groups = [[jobs[number] for number in group] for group in together(jobs)]
    lines = [
        [shlex.join(job.shown) for job in group]
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
        if job.is_report:
            print(f"when they are done: python -m complexnn.{shlex.join(job.words)}")
