"""The rows of finished runs, brought together: the one place where rows are read for reports.

Of several rows of one name one counts (:func:`newest`); runs that differ in nothing but their seed
are one network (:class:`Runs`, :func:`collect`); networks that share a name are told apart.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, fields
from operator import itemgetter
from pathlib import Path
from typing import Any

from complexnn.config import DataConfig, InputError, NetConfig, TrainConfig
from complexnn.config_idle import OF_SOME_NETWORKS
from complexnn.config_io import MAY_CHANGE, command, from_dict
from complexnn.data.datasets import DATASETS
from complexnn.report import ranking
from complexnn.report.ranking import Best, Row, Rows
from complexnn.runs import results
from complexnn.runs.checkpoint import sha256

_NET = {spec.name for spec in fields(NetConfig)}
_ALL = _NET | {spec.name for cls in (DataConfig, TrainConfig) for spec in fields(cls)}
# Without effect on what is computed, or chance alone: runs that differ in no more are one network.
_IDLE = {*MAY_CHANGE, "seed", "save_as", "compile"} - {"epochs"}
# What network, data set, images and epochs tell already.
_TOLD = {"dataset", "data_dir", "groups", "limit_train", "epochs"} | _NET
# Settings of some networks that no label tells.
_WAYS = {"counterparts"} | (OF_SOME_NETWORKS - _NET - {"adversarial_weight"})

Alike = tuple[str, str, str, str]  # network, data set, budget, what is unofficial about the data


# ------------------------------------------------------------------------------ rows that count


def read(folders: Iterable[Path]) -> Iterator[tuple[Path, Row]]:
    """Every row in and below ``folders``, with the folder that holds it.

    Raises:
        InputError: a folder without any results.
    """
    for folder in folders:
        files = sorted(folder.rglob("results.jsonl"))
        if not files:
            raise InputError(f"no results.jsonl in or below {folder}: train a network first")
        for file in files:
            for row in results.read_rows(file):
                yield file.parent, row


def newest(rows: Iterable[Row], by: Callable[[Row], Any] = itemgetter("name")) -> dict[Any, Row]:
    """Of the rows of one name the one that counts: made by the attack's latest version, of these
    the last one made; where rows do not say when, the last one read."""
    counting: dict[Any, Row] = {}
    for row in rows:
        before = counting.get(by(row))
        if before is None or _made(row) >= _made(before):
            counting[by(row)] = row
    return counting


def _made(row: Row) -> tuple[int, str]:
    return row.get("version", 1), row.get("time", "")


def of_run(folder: Path, attacks: Path | None = None) -> Rows:
    """The rows that count about a folder's present weights (or, where only rows were published,
    about the last ones that were tested); those of attacks may lie in another folder.

    Raises:
        InputError: the folder is no finished run.
    """
    rows = results.read_rows(folder / "results.jsonl")
    weights = folder / "model.safetensors"
    tested = [row["victim"] for row in rows if row["name"] == "task"]
    if not tested:
        raise InputError(f"{folder} is no finished run (no task row in results.jsonl)")
    victim = sha256(weights) if weights.is_file() else tested[-1]
    if victim not in tested:
        raise InputError(f"{folder} is no finished run (no task row about its present weights)")
    if attacks not in (None, folder):
        rows += results.read_rows(attacks / "results.jsonl")
    return newest(row for row in rows if row["victim"] == victim)


def of_attacked_run(folder: Path, attacks: Path | None = None) -> Rows:
    """The same of a run that was attacked.

    Raises:
        InputError: the folder is no finished run, or was not attacked.
    """
    rows = of_run(folder, attacks)
    if len(rows) == 1:
        raise InputError(f"{folder} was not attacked: run attack.py all --victim {folder}")
    return rows


# -------------------------------------------------------------------------------------- networks


@dataclass
class Runs:
    """Runs that differ in nothing but their seed."""

    config: TrainConfig  # of the first
    number: int = 0
    seeds: list[int] = field(default_factory=list)
    rows: list[Rows] = field(default_factory=list)  # one per seed
    folders: list[Path] = field(default_factory=list)  # where each was trained
    apart: str = ""  # what tells it from others that would have the same name

    @property
    def network(self) -> str:
        net = self.config.net
        return f"{net.arch}-{net.variant}" if net.arch.startswith("resnet") else net.arch

    @property
    def dataset(self) -> str:
        """The data set and what was changed about it, as in the published rows. A user's folder
        has its own name, unless that is another data set's."""
        data = self.config.data
        name = data.dataset
        if name == "folder":
            name = data.data_dir.name
            name = f"folder {name}" if name in DATASETS else name
        return name if data.groups is None else f"{name} by {Path(data.groups).stem}"

    @property
    def source(self) -> str:
        """What is unofficial about the data, as the row says; empty if nothing is known to be."""
        return self.rows[0]["task"].get("data", {}).get("source", "")

    @property
    def alike(self) -> Alike:
        """The same for runs that may be compared with each other."""
        return self.network, self.dataset, self.budget, self.source

    @property
    def trained(self) -> str:
        """On what, and for how long."""
        limit = self.config.data.limit_train
        images = "" if limit is None else f" of {limit:,} images"
        return f"{self.network}, {self.dataset}, {self.config.epochs} epochs{images}"

    @property
    def recipe(self) -> str:
        """The flags of training that every kind of network has, where they are not the defaults."""
        return _flags(self.config, _ALL - _IDLE - _TOLD - OF_SOME_NETWORKS)

    @property
    def budget(self) -> str:
        return f"{self._spent} {self.recipe}".rstrip()

    @property
    def _spent(self) -> str:
        limit = self.config.data.limit_train
        images = "all images" if limit is None else f"{limit:,} images"
        return f"{images}, {self.config.epochs} epochs"

    @property
    def order(self) -> tuple[str, ...]:
        """By which runs are numbered; those of one place as their folders are."""
        flags = _flags(self.config, _ALL - _IDLE - _TOLD)
        return self.network, self.dataset, f"{self._spent} {flags}".rstrip()

    @property
    def size(self) -> tuple[float, int]:
        """By which budgets are ordered: images first, then how often they were seen."""
        return self.config.data.limit_train or math.inf, self.config.epochs

    @property
    def critic(self) -> bool:
        """Whether it was trained as the paper says: rotated networks with a critic."""
        return self.config.net.kind != "complex" or self.config.adversarial_weight > 0

    @property
    def way(self) -> str:
        """Flags of this network that its label does not tell, such as ``--counterparts batch``."""
        critic = {"adversarial_weight"} if self.critic else set()  # without one, the name tells
        return _flags(self.config, _WAYS | critic)

    @property
    def name(self) -> str:
        """What the server sees, and what no critic helped to train."""
        return self.config.net.label + ("" if self.critic else ", no critic")

    @property
    def released(self) -> str:
        """The same; what was trained as long under one name is told apart."""
        return f"{self.name}, {self.apart}" if self.apart else self.name

    @property
    def errors(self) -> list[dict[str, float]]:
        """The task error of each seed, with its interval."""
        return [rows["task"]["metrics"]["error"] for rows in self.rows]

    @property
    def attacked(self) -> Rows:
        """The rows of the seed that was attacked; of the first one if none was."""
        return max(self.rows, key=len)

    def values(self, name: str, measure: str, key: str = "value") -> list[float]:
        """A number of the rows of one name, of each seed that has it."""
        every = (rows[name]["metrics"].get(measure, {}) for rows in self.rows if name in rows)
        return [numbers[key] for numbers in every if numbers.get(key) is not None]

    def strongest(self, family: str, measure: str | None = None) -> list[Best]:
        """The strongest attack of a family on each seed that was attacked: name and numbers."""
        every = (ranking.strongest(rows, family, measure) for rows in self.rows)
        return [best for best in every if best is not None]

    def task_error(self, digits: int) -> str:
        """The task error in %: mean and deviation over the seeds."""
        return mean_std([100 * value for value in self.values("task", "error")], digits)


def _flags(config: TrainConfig, names: set[str]) -> str:
    """The flags of these settings, where they are not the defaults."""
    return command(config, leave_out=_ALL - names).removeprefix("python train.py").strip()


def mean_std(values: list[float], digits: int) -> str:
    """``8.87`` for one value, ``8.87 ± 0.12`` for several."""
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def collect(folders: Iterable[Path]) -> list[Runs]:
    """Every finished run below ``folders``, those of one configuration together, by their seeds.

    Attacks belong to the run whose weights they were made on, whichever folder they stand in. Of
    several runs with one seed, such as copies in half precision, the one that was attacked most
    counts.

    Raises:
        InputError: a folder without any results.
    """
    victims, trained = _by_victim(folders)
    groups: dict[tuple[str, ...], Runs] = {}
    seeds: dict[tuple[str, ...], dict[int, str]] = defaultdict(dict)
    for victim, rows in victims.items():
        if "task" not in rows:
            continue
        config = from_dict(TrainConfig, rows["task"]["config"])
        alone = Runs(config, rows=[rows])
        key = command(config, leave_out=_IDLE), alone.dataset, alone.source
        groups.setdefault(key, Runs(config))
        other = seeds[key].get(config.seed)
        if other is None or len(rows) > len(victims[other]):
            seeds[key][config.seed] = victim
    for key, runs in groups.items():
        for seed, victim in sorted(seeds[key].items()):
            runs.seeds.append(seed)
            runs.rows.append(victims[victim])
            runs.folders.append(trained[victim])
        runs.config = from_dict(TrainConfig, runs.rows[0]["task"]["config"])
    ordered = sorted(groups.values(), key=lambda runs: runs.order)
    for number, runs in enumerate(ordered, start=1):
        runs.number = number
    _tell_apart(ordered)
    return ordered


def _tell_apart(ours: list[Runs]) -> None:
    """The one rule by which runs are told apart that were trained as long and have one name: by the
    flags, beyond today's defaults, and by the origin of the data, wherever these differ."""
    namesakes: dict[tuple[str, str], list[Runs]] = defaultdict(list)
    for runs in ours:
        namesakes[runs.trained, runs.name].append(runs)
    for members in namesakes.values():
        told = [(r.recipe, r.way, r.source or "official data") for r in members]
        differ = [len(set(kind)) > 1 for kind in zip(*told, strict=True)]
        for runs, words in zip(members, told, strict=True):
            shown = (word for word, differs in zip(words, differ, strict=True) if differs and word)
            runs.apart = ", ".join(shown)


def _by_victim(folders: Iterable[Path]) -> tuple[dict[str, Rows], dict[str, Path]]:
    """The rows that count by the weights they are about, and where these were trained."""
    rows: dict[str, list[Row]] = defaultdict(list)
    trained: dict[str, Path] = {}
    for folder, row in read(folders):
        rows[row["victim"]].append(row)
        if row["name"] == "task":
            trained[row["victim"]] = folder
    return {victim: newest(about) for victim, about in rows.items()}, trained
