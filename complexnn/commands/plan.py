"""What a campaign needs before it starts: the time and disk of its jobs, and their data."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from complexnn.commands import estimates
from complexnn.commands.jobs import Job, looked_at
from complexnn.config import DataConfig, InputError, TrainConfig
from complexnn.data import datasets
from complexnn.runs import results
from complexnn.runs.progress import duration, track
from complexnn.runs.tables import Table


@dataclass(frozen=True)
class Data:
    """Where the data of jobs are, and why others are not there."""

    places: dict[DataConfig, tuple[str, int]]  # in words, and megabytes to download
    missing: dict[DataConfig, str]

    @property
    def reasons(self) -> str:
        return "; ".join(dict.fromkeys(self.missing.values()))

    @property
    def downloads(self) -> dict[tuple[str, str], tuple[DataConfig, int]]:
        """Each data set once, whatever of it the jobs use, with its megabytes."""
        return {
            (config.dataset, place): (config, size)
            for config, (place, size) in self.places.items()
            if size
        }


def find_data(jobs: Sequence[Job]) -> Data:
    """Look for the data of what is not finished."""
    places, missing = {}, {}
    unfinished = [job for job in jobs if job.config is not None and not job.finished]
    for config in {job.data: None for job in unfinished}:
        try:
            places[config] = datasets.whereabouts(config)
        except InputError as error:
            missing[config] = str(error)
    return Data(places, missing)


def costs(
    jobs: Sequence[Job], missing: Collection[DataConfig], *, gpu: bool, threads: int
) -> list[tuple[float, float]]:
    """Seconds and megabytes of each job, with the threads that it will have."""
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


def estimate(job: Job, device: torch.device) -> tuple[float, float]:
    """Seconds and megabytes that a job takes, both rough."""
    if job.finished:
        return 0.0, 0.0
    if job.config is None:  # reads and measures
        return estimates.START, 0.0
    if isinstance(job.config, TrainConfig):
        flops, size = estimates.training(job.config, job.net, looked_at(job.data)[0])
        flops *= 1 - begun(job.config)
    else:
        flops, size = estimates.attacking(job.config, job.net, hidden=datasets.hides(job.data))
    return estimates.START + flops / estimates.throughput(device, job.config.precision), size


def begun(config: TrainConfig) -> float:
    """The share of a training's epochs that an interrupted one has behind it."""
    folder = config.run_dir
    if not (folder / "state").is_dir():
        return 0.0
    return min(1.0, len(results.read_rows(folder / "log.jsonl")) / config.epochs)


def check_disk(needed: float) -> None:
    """Refuse a campaign that the disk has no room for.

    Raises:
        InputError: says how many megabytes it needs, and how many there are.
    """
    free = shutil.disk_usage(Path.cwd()).free / 1e6
    if free < needed:
        raise InputError(
            f"this needs about {needed:,.0f} MB, and {free:,.0f} MB are free here: make room first"
        )


def tables(jobs: Sequence[Job], needed: Sequence[tuple[float, float]], data: Data) -> list[Table]:
    """The plan: commands with their time and disk, and where the data are."""
    lines = []
    for job, (seconds, size) in zip(jobs, needed, strict=True):
        time_left = "finished" if job.finished else f"about {duration(seconds)}"
        if job.config is None and not job.finished:
            time_left = "always" if job.is_report else "minutes"
        elif job.data in data.missing:
            time_left = "data missing"
        lines.append((time_left, f"{size:,.0f} MB" if size else "", " ".join(job.shown)))
    where = {config.dataset: place for config, (place, _) in data.places.items()}
    where |= {config.dataset: reason for config, reason in data.missing.items()}
    note = (
        "Estimates of time are rough: by the FLOPs, at the speed just measured here, which is less "
        "while something else runs."
    )
    return [
        Table("Commands", ("time", "disk", "command"), lines, note),
        Table("Data", ("data set", "where"), list(where.items())),
    ]
