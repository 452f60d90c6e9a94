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
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from complexnn import checkpoint, data, results
from complexnn.attacks import roster, suite
from complexnn.cli import parse, run
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
from complexnn.networks.anatomy import dissect
from complexnn.networks.attackers import UNet
from complexnn.networks.registry import build
from complexnn.offload import OffloadConfig
from complexnn.progress import Interrupted, duration
from complexnn.tables import Table

ROOT = Path(__file__).parent.parent
# A training step costs about three forward passes; the critic about doubles it.
BACKWARD, CRITIC = 3.0, 2.0
# Networks that a family of attacks trains, in units of one decoder.
ATTACKERS = {"angle": 2, "span": 0, "intersection": 1, "inversion": 6, "property": 3}

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
    for line in dict.fromkeys(line.strip() for line in lines):
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
            job = Job((script, *flags), None, finished=results.measured(wanted, script))
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
        _, (channels, *size), labels = data.plan(config.data)
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
    finished = weights.is_file() and (
        config.victim not in trained or trained[config.victim].finished
    )
    if finished:
        victim_hash = checkpoint.sha256(weights)
        finished = suite.done(config, net, victim_hash, hidden=_hidden(data_config))
    return Job(words, config, data_config, net, finished)


def _hidden(data_config: DataConfig) -> bool:
    return data_config.groups is not None or data_config.dataset == "celeba"


# -------------------------------------------------------------------------------- estimates


def throughput(device: torch.device) -> float:
    """Forward FLOPs per second while ResNet-20 trains, measured for about a second."""
    net = build("resnet20", kind="additional").to(device).train()
    images = torch.rand(32, 3, 32, 32, device=device)
    flops = sum(dissect(net.config).flops.values()) * len(images)

    def step() -> None:
        net(images, generator=torch.Generator()).sum().backward()
        if device.type == "cuda":
            torch.cuda.synchronize()

    step()
    started, steps = time.monotonic(), 0
    while time.monotonic() - started < 1:
        step()
        steps += 1
    return BACKWARD * flops * steps / (time.monotonic() - started)


def estimate(job: Job, rate: float) -> tuple[float, float]:
    """Seconds and megabytes that a job takes, both rough."""
    if job.config is None or job.finished:
        return 0.0, 0.0
    counted = dissect(job.net)
    forward = sum(counted.flops.values())
    weights = 4e-6 * sum(counted.parameters.values())
    if isinstance(job.config, TrainConfig):
        images = data.plan(job.data)[0] * job.config.epochs
        critic = job.net.kind == "complex" and job.config.adversarial_weight > 0
        cost = BACKWARD * forward * (CRITIC if critic else 1.0)
        # The weights, and two states of weights and two moments each.
        return images * cost / rate, 7 * weights + 1
    every = roster.chosen(job.config, job.net, hidden=_hidden(job.data))
    attackers = sum(ATTACKERS[name] for name in {attack.family for attack in every})
    spend = job.config.spend
    unet, size = _unet_costs(job.net, spend.width)
    cost = BACKWARD * unet + counted.flops["encoder"]
    training = attackers * spend.steps * job.config.batch_size * cost
    optimised = spend.slow_images * min(spend.slow_draws, job.config.draws)
    searching = 2 * optimised * spend.iterations * (1 + spend.restarts) * counted.flops["encoder"]
    return (training + BACKWARD * searching) / rate, attackers * size + 10


def _unet_costs(net: NetConfig, width: int) -> tuple[float, float]:
    """FLOPs of one pass and megabytes of an attacker's decoder."""
    with torch.device("meta"):
        model = UNet(net.parts * 16, (net.in_channels, *net.image_size), width=width)
        with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
            model(torch.empty(1, net.parts * 16, *net.image_size))
    parameters = sum(p.numel() for p in model.parameters())
    return counter.get_total_flops(), 4e-6 * parameters


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
    rate = throughput(torch.device("cuda" if gpu else "cpu")) if _unfinished(jobs) else 1.0
    costs = [estimate(job, rate) if job.data not in missing else (0.0, 0.0) for job in jobs]
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
        if job.config is None:
            time_left = "always"
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
