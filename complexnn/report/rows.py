"""The rows of finished runs, brought together: which runs are seeds of one network, which were
trained alike and may stand in one line, and how those are told apart that share a name."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from complexnn.config import DataConfig, InputError, NetConfig, TrainConfig
from complexnn.config_idle import OF_SOME_NETWORKS
from complexnn.config_io import MAY_CHANGE, command, from_dict
from complexnn.data.datasets import DATASETS
from complexnn.report import verdicts
from complexnn.runs import results

NOT_RUN = "not run"

_NET = {spec.name for spec in fields(NetConfig)}
_ALL = _NET | {spec.name for cls in (DataConfig, TrainConfig) for spec in fields(cls)}
# Without effect on what is computed, or chance alone: runs that differ in no more are one network.
_IDLE = {*MAY_CHANGE, "seed", "save_as", "compile"} - {"epochs"}
# What network, data set, images and epochs tell already.
_TOLD = {"dataset", "data_dir", "groups", "limit_train", "epochs"} | _NET
# Settings of some networks that no label tells.
_WAYS = {"counterparts"} | (OF_SOME_NETWORKS - _NET - {"adversarial_weight"})

Alike = tuple[str, str, str, str]  # network, data set, budget, what is unofficial about the data


@dataclass
class Runs:
    """Runs that differ in nothing but their seed."""

    config: TrainConfig  # of the first
    number: int = 0
    seeds: list[int] = field(default_factory=list)
    rows: list[dict[str, dict[str, Any]]] = field(default_factory=list)  # by name, one per seed
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
    def attacked(self) -> dict[str, dict[str, Any]]:
        """The rows of the seed that was attacked; of the first one if none was."""
        return max(self.rows, key=len)

    def values(self, name: str, metric: str, key: str = "value") -> list[float]:
        found = (rows[name]["metrics"].get(metric, {}) for rows in self.rows if name in rows)
        return [numbers[key] for numbers in found if numbers.get(key) is not None]

    def strongest(self, family: str, metric: str | None = None) -> list[tuple[str, dict[str, Any]]]:
        """The strongest attack of a family on each seed that was attacked: name and numbers."""
        found = (verdicts.strongest(rows, family, metric) for rows in self.rows)
        return [best for best in found if best is not None]

    def best(self, family: str, metric: str) -> list[float]:
        """The value of the strongest attack of a family, one per seed."""
        return [numbers["value"] for _, numbers in self.strongest(family, metric)]

    def best_cell(self, family: str, metric: str, digits: int = 3) -> str:
        values = self.best(family, metric)
        return f"{mean_std(values, digits)} [{self.number}]" if values else NOT_RUN

    def cell(self, name: str, metric: str, scale: float = 1.0, digits: int = 3) -> str:
        """Mean ± standard deviation over the seeds, and the run's number."""
        values = [scale * v for v in self.values(name, metric)]
        return f"{mean_std(values, digits)} [{self.number}]" if values else NOT_RUN


def _flags(config: TrainConfig, names: set[str]) -> str:
    """The flags of these settings, where they are not the defaults."""
    return command(config, leave_out=_ALL - names).removeprefix("python train.py").strip()


def mean_std(values: list[float], digits: int) -> str:
    """``8.87`` for one value, ``8.87 ± 0.12`` for several."""
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def collect(folders: Iterable[Path]) -> list[Runs]:
    """Every finished run below ``folders``, those of one configuration together, by their seeds.

    Attacks belong to the run whose weights they were made on, whichever folder they stand in; of
    several rows of one name the newest counts. Of several runs with one seed, such as copies in
    half precision, the one that was attacked most counts.

    Raises:
        InputError: a folder without any results.
    """
    victims, trained = _victims(folders)
    groups: dict[tuple[str, ...], Runs] = {}
    seeds: dict[tuple[str, ...], dict[int, str]] = defaultdict(dict)
    for victim, named in victims.items():
        if "task" not in named:
            continue
        config = from_dict(TrainConfig, named["task"]["config"])
        alone = Runs(config, rows=[named])
        key = command(config, leave_out=_IDLE), alone.dataset, alone.source
        groups.setdefault(key, Runs(config))
        other = seeds[key].get(config.seed)
        if other is None or len(named) > len(victims[other]):
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


def _victims(folders: Iterable[Path]) -> tuple[dict[str, dict[str, Any]], dict[str, Path]]:
    """The newest row of each name by the weights it is about, and where these were trained."""
    victims: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    trained: dict[str, Path] = {}
    for folder in folders:
        files = sorted(folder.rglob("results.jsonl"))
        if not files:
            raise InputError(f"no results.jsonl in or below {folder}: train a network first")
        for file in files:
            for row in results.read_rows(file):
                victims[row["victim"]][row["name"]] = row
                if row["name"] == "task":
                    trained[row["victim"]] = file.parent
    return victims, trained


def trained_alike(ours: Iterable[Runs]) -> dict[Alike, list[Runs]]:
    """Runs of one network on the same images, as often and by the same recipe."""
    lines: dict[Alike, list[Runs]] = defaultdict(list)
    for runs in ours:
        lines[runs.alike].append(runs)
    return lines


def by_network(ours: Iterable[Runs]) -> dict[tuple[str, str, str], dict[str, Runs]]:
    """(network, data, budget) to the runs that were trained alike, by label. Those without the
    adversarial term stand apart. Where rotated networks of one label were trained in several ways,
    such as with decoys from closed blocks and as early versions drew them, each way has a line,
    and the others stand in all."""
    alike = trained_alike(runs for runs in ours if runs.critic)
    told = [line[:3] for line in alike]
    lines: dict[tuple[str, str, str], dict[str, Runs]] = {}
    for line, members in alike.items():
        (network, data, budget), source = line[:3], line[3]
        if told.count(line[:3]) > 1:
            budget += f"; {source or 'official data'}"
        for way, labels in ways(members).items():
            lines[network, data, f"{budget} {way}".rstrip()] = labels
    return lines


def ways(members: list[Runs]) -> dict[str, dict[str, Runs]]:
    """Runs that were trained alike by label, for each way that rotated ones were trained in,
    today's defaults first; with the flags that tell ways apart, where there are several. Others
    that have flags of their own, such as a defence's weight, have these behind their label."""
    every = sorted({r.way for r in members if r.config.net.kind == "complex"}) or [""]
    plain = {
        ", ".join(filter(None, (r.config.net.label, r.way))): r
        for r in members
        if r.config.net.kind != "complex"
    }
    rotated = [r for r in members if r.config.net.kind == "complex"]
    return {
        way if len(every) > 1 else "": plain
        | {r.config.net.label: r for r in rotated if r.way == way}
        for way in every
    }
