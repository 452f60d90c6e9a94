"""The lines of a campaign as jobs: parsed, looked up in the run folders, and put in order."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from complexnn.attacks import evaluation
from complexnn.commands.app import parse
from complexnn.commands.attack import check_control
from complexnn.commands.measure import MEASUREMENTS
from complexnn.config import DataConfig, InputError, NetConfig, TrainConfig
from complexnn.config_attack import AttackConfig, results_of
from complexnn.config_io import MAY_CHANGE, command, from_dict
from complexnn.data import datasets
from complexnn.runs import checkpoint, results
from complexnn.runs.progress import track

_planned = cache(datasets.plan)  # to list a folder of 50,000 images takes seconds


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

    @property
    def is_report(self) -> bool:
        return self.words[0] == "report"

    @property
    def shown(self) -> list[str]:
        """Its words as in the campaign's list, which leaves out how trainings go on."""
        words = list(self.words)
        return words[:-2] if words[-2:] == ["--resume", "auto"] else words


# --------------------------------------------------------------------------------- parsing


def resolve(
    lines: Sequence[str], *, data_dir: Path | None = None, device: str = "auto"
) -> list[Job]:
    """Parse every command; equal ones run once.

    Args:
        data_dir: of commands that do not say.
        device: of commands that do not say.

    Raises:
        InputError: a line that is no command, wrong flags, a victim that nothing trains.
    """
    defaults = {"--data-dir": str(data_dir)} if data_dir is not None else {}
    defaults |= {"--device": device} if device != "auto" else {}
    jobs: list[Job] = []
    trained: dict[Path, Job] = {}
    different = list(dict.fromkeys(line.strip() for line in lines))
    for line in track(different, len(different), "checking commands", every=5.0):
        if not line or line.startswith("#"):
            continue
        script, *flags = shlex.split(line)
        if script == "report":
            jobs.append(Job((script, *flags), None))
            continue
        if script not in ("train.py", "attack.py", *MEASUREMENTS):
            expected = f"train.py, attack.py, {', '.join(MEASUREMENTS)} or report"
            raise InputError(f"expected {expected}, got: {line}")
        for flag, value in defaults.items():
            flags += [] if given(flag, flags) else [flag, value]
        if script == "train.py":
            job = _training(flags)
            trained[job.config.run_dir] = job
        elif script == "attack.py":
            job = _attacking(flags, trained, [job.config for job in jobs])
        else:
            job = _measuring(script, flags, trained)
        jobs.append(job)
    if not jobs:
        raise InputError("no commands on standard input; see scripts/*.sh for campaigns")
    return jobs


def given(flag: str, words: Sequence[str]) -> bool:
    """Whether a command sets a flag, as ``--flag value`` or ``--flag=value``."""
    return any(word.partition("=")[0] == flag for word in words)


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


def _attacking(flags: list[str], trained: dict[Path, Job], before: Sequence[Any]) -> Job:
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
    finished = weights.is_file() and _is_trained(config.victim, trained)
    if finished:
        victim_hash = checkpoint.sha256(weights)
        finished = evaluation.done(config, net, victim_hash, hidden=datasets.hides(data_config))
    reads, writes = {config.victim}, {config.run_dir}
    if config.control is not None:  # it gets the same attacks, unless it had them
        kept = config.output_dir and config.output_dir / "control"
        attacks = [c for c in before if isinstance(c, AttackConfig)]
        covered = any(evaluation.covers(earlier, config) for earlier in attacks)
        reads |= {config.control, results_of(config.control)}
        writes |= set() if covered else {kept or results_of(config.control)}
    return Job(words, config, data_config, net, finished, frozenset(reads), frozenset(writes))


def _measuring(script: str, flags: list[str], trained: dict[Path, Job]) -> Job:
    config = parse(MEASUREMENTS[script].config, list(flags), f"python -m complexnn.{script}")
    finished = _is_trained(config.victim, trained) and results.measured(config, script)
    reads, writes = frozenset({config.victim}), frozenset({results_of(config.victim)})
    return Job((script, *flags), None, None, None, finished, reads, writes)


def _network(folder: Path, trained: dict[Path, Job]) -> NetConfig:
    """The network that is trained into ``folder``, or was before."""
    if folder in trained:
        return trained[folder].net
    return from_dict(TrainConfig, results.read_config(folder)).net


def _is_trained(victim: Path, trained: dict[Path, Job]) -> bool:
    """Whether the victim is what it will be when it is its turn."""
    return victim not in trained or trained[victim].finished


def looked_at(config: DataConfig) -> tuple[int, tuple[int, int, int], int]:
    """:func:`complexnn.data.datasets.plan`; a folder is listed once for all its groupings."""
    count, shape, labels = _planned(dataclasses.replace(config, groups=None, limit_train=None))
    return min(count, config.limit_train or count), shape, labels


def _sized(config: TrainConfig) -> NetConfig:
    """The network with the images that it will get, where they can be looked at."""
    try:
        _, (channels, *size), labels = looked_at(config.data)
    except InputError:
        return config.net
    each = {"in_channels": channels, "mean": (0.5,) * channels, "std": (0.25,) * channels}
    return dataclasses.replace(config.net, image_size=tuple(size), num_classes=labels, **each)


# ----------------------------------------------------------------------------------- order


def waits(jobs: Sequence[Job]) -> list[tuple[frozenset[int], frozenset[int]]]:
    """For each job, the earlier ones that must have ended before it starts, and those of them that
    must have succeeded: the trainings of what it reads.

    It waits for those that write what it uses, or read what it writes, so that all find what they
    would find one after the other. A report waits for everything before it.
    """
    folders = [[{f.resolve() for f in used} for used in (job.reads, job.writes)] for job in jobs]
    waiting = []
    for number, (job, (reads, writes)) in enumerate(zip(jobs, folders, strict=True)):
        after, needs = set(), set()
        for other, (read, written) in enumerate(folders[:number]):
            if job.is_report or written & (reads | writes) or read & writes:
                after.add(other)
            if jobs[other].words[0] == "train.py" and written & reads:
                needs.add(other)
        waiting.append((frozenset(after), frozenset(needs)))
    return waiting


def together(jobs: Sequence[Job]) -> list[list[int]]:
    """Jobs in groups that do not wait for each other, for machines of their own; no reports."""
    groups: list[set[int]] = []
    for number, (after, needs) in enumerate(waits(jobs)):
        if not jobs[number].is_report:
            met = [group for group in groups if group & (after | needs)]
            groups = [group for group in groups if group not in met]
            groups.append({number}.union(*met))
    return sorted(map(sorted, groups))
