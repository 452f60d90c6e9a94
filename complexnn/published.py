"""The paper, the 2021 reproduction and this project's rows, side by side."""

from __future__ import annotations

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from complexnn import results, verdicts
from complexnn.config import (
    MAY_CHANGE,
    DataConfig,
    InputError,
    NetConfig,
    TrainConfig,
    command,
    from_dict,
)
from complexnn.progress import duration
from complexnn.tables import Table

PUBLISHED = Path(__file__).parent.parent / "assets" / "published_results.json"
NOT_PUBLISHED, NOT_RUN = "n.p.", "not run"
LEGEND = (
    "n.p.: not published, or not recovered. not run: no such row among the results given. "
    "[k]: the run's command and seeds, in the last table."
)

# What the columns of the paper's tables hold, as labels of this project's networks.
KINDS = {
    "original": "original",
    "additional": "additional_layers",
    "noisy γ=0.2": "noisy_0_2",
    "noisy γ=0.5": "noisy_0_5",
    "noisy γ=1": "noisy_1_0",
    "complex d=2 decoy": "complex",
}
PROPERTIES = {
    "property images": "classifier trained on raw images, applied to reconstructions",
    "property features": "classifier trained on recovered features a*",
    "property reconstructions": "classifier trained on reconstructions",
    "property released": "classifier trained on all released parts",
    "property dss": "classifier trained on denoised views",
}


_NAMED = {spec.name for cls in (NetConfig, DataConfig) for spec in fields(cls)}
_NAMED |= {*MAY_CHANGE, "seed"}  # shown elsewhere, or without effect on the result


@dataclass
class Runs:
    """Runs that differ in nothing but their seed."""

    config: TrainConfig  # of the first
    number: int = 0
    seeds: list[int] = field(default_factory=list)
    rows: list[dict[str, dict[str, Any]]] = field(default_factory=list)  # by name, one per seed
    folders: list[Path] = field(default_factory=list)  # where each was trained

    @property
    def network(self) -> str:
        net = self.config.net
        return f"{net.arch}-{net.variant}" if net.arch.startswith("resnet") else net.arch

    @property
    def dataset(self) -> str:
        """The data set and what was changed about it, as in the published rows."""
        data = self.config.data
        name = data.data_dir.name if data.dataset == "folder" else data.dataset
        return name if data.groups is None else f"{name} by {Path(data.groups).stem}"

    @property
    def trained(self) -> str:
        """On what, and for how long: the same for runs that may be compared with each other."""
        limit = self.config.data.limit_train
        images = "" if limit is None else f" of {limit:,} images"
        return f"{self.network}, {self.dataset}, {self.config.epochs} epochs{images}"

    @property
    def released(self) -> str:
        """What the server sees, and whether no critic helped to train it."""
        rotated = self.config.net.kind == "complex"
        critic = not rotated or self.config.adversarial_weight
        return self.config.net.label + ("" if critic else ", no critic")

    @property
    def budget(self) -> str:
        limit = self.config.data.limit_train
        images = "all images" if limit is None else f"{limit:,} images"
        # Runs that differ in how they were trained must not share a line.
        other = command(self.config, leave_out=_NAMED).removeprefix("python train.py")
        return f"{images}, {self.config.epochs} epochs{other}"

    @property
    def attacked(self) -> dict[str, dict[str, Any]]:
        """The rows of the seed that was attacked; of the first one if none was."""
        return max(self.rows, key=len)

    def values(self, name: str, metric: str, key: str = "value") -> list[float]:
        found = (rows[name]["metrics"].get(metric, {}) for rows in self.rows if name in rows)
        return [numbers[key] for numbers in found if numbers.get(key) is not None]

    def best(self, family: str, metric: str) -> list[float]:
        """The value of the strongest attack of a family, one per seed."""
        found = (verdicts.strongest(rows, family, metric) for rows in self.rows)
        return [best[1]["value"] for best in found if best is not None]

    def best_cell(self, family: str, metric: str, digits: int = 3) -> str:
        values = self.best(family, metric)
        return f"{mean_std(values, digits)} [{self.number}]" if values else NOT_RUN

    def cell(self, name: str, metric: str, scale: float = 1.0, digits: int = 3) -> str:
        """Mean ± standard deviation over the seeds, and the run's number."""
        values = [scale * v for v in self.values(name, metric)]
        return f"{mean_std(values, digits)} [{self.number}]" if values else NOT_RUN


def mean_std(values: list[float], digits: int) -> str:
    """``8.87`` for one value, ``8.87 ± 0.12`` for several."""
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def collect(folders: Iterable[Path]) -> list[Runs]:
    """Every finished run below ``folders``, those of one configuration together.

    Attacks belong to the run whose weights they were made on, whichever folder they stand in; of
    several rows of one name the newest counts.

    Raises:
        InputError: a folder without any results.
    """
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
    groups: dict[str, Runs] = {}
    for victim, named in victims.items():
        if "task" not in named:
            continue
        config = from_dict(TrainConfig, named["task"]["config"])
        key = command(config, leave_out=("output_dir", "seed", "resume", "overwrite", "device"))
        runs = groups.setdefault(key, Runs(config))
        if config.seed not in runs.seeds:
            runs.seeds.append(config.seed)
            runs.rows.append(named)
            runs.folders.append(trained[victim])
    ordered = sorted(groups.values(), key=lambda r: (r.network, r.dataset, r.budget))
    for number, runs in enumerate(ordered, start=1):
        runs.number = number
    return ordered


def read_published(path: Path = PUBLISHED) -> dict[str, Any]:
    """The published numbers.

    Raises:
        InputError: the file is not there, as in an installation without the repository.
    """
    if not path.is_file():
        raise InputError(f"no {path}: run this from a clone of the repository")
    return json.loads(path.read_text(encoding="utf-8"))


def tables(folders: Iterable[Path]) -> list[Table]:
    """Errors, angles, reconstructions, properties, further networks, and the runs behind them."""
    published, ours = read_published(), collect(folders)
    return [
        _errors(published["classification_error_percent"], ours),
        _angles(published["angle_error_radian"]["rows"], ours),
        _reconstructions(published["reconstruction_error"]["rows"], ours),
        _properties(published["property_inference_error_cifar100_of_100_classes"]["rows"], ours),
        _further(ours),
        _commands(ours),
    ]


def by_network(ours: list[Runs]) -> dict[tuple[str, str, str], dict[str, Runs]]:
    """(network, data, budget) to the runs that were trained alike, by label. Those without the
    adversarial term stand apart. Where rotated networks were trained both with decoys from closed
    blocks and as early versions drew them, these have two lines, and the others stand in both."""
    alike: dict[tuple[str, str, str], list[Runs]] = defaultdict(list)
    for runs in ours:
        if runs.released == runs.config.net.label:
            alike[runs.network, runs.dataset, runs.budget].append(runs)
    lines: dict[tuple[str, str, str], dict[str, Runs]] = {}
    for (network, data, budget), members in alike.items():
        drawn = {r.config.net.counterparts for r in members if r.config.net.kind == "complex"}
        for how in sorted(drawn, reverse=True) or [""]:
            told = f"{budget} --counterparts {how}" if len(drawn) > 1 else budget
            lines[network, data, told] = {
                r.config.net.label: r
                for r in members
                if r.config.net.kind != "complex" or r.config.net.counterparts == how
            }
    return lines


def _number(value: float | None, digits: int) -> str:
    return NOT_PUBLISHED if value is None else f"{value:.{digits}f}"


def _theirs(
    published: list[dict[str, Any]], keys: list[str], digits: int
) -> list[tuple[str, str, tuple[str, ...]]]:
    """Published lines (network, data, cells); the last cell is a measure of this project alone."""
    lines = []
    for row in published:
        source = "paper" if row["source"] == "paper" else "2021"
        numbers = (_number(row.get(key), digits) for key in keys)
        lines.append((row["arch"], row["dataset"], (source, *numbers, NOT_PUBLISHED)))
    return lines


def _merged(
    theirs: list[tuple[str, str, tuple[str, ...]]], mine: list[tuple[str, str, tuple[str, ...]]]
) -> list[tuple[str, ...]]:
    """Lines (network, data, cells) in the published order, ours behind those of their network."""
    order = list(dict.fromkeys((network, data) for network, data, _ in theirs + mine))
    return [
        (network, data, *cells)
        for at in order
        for network, data, cells in theirs + mine
        if (network, data) == at
    ]


def _errors(published: list[dict[str, Any]], ours: list[Runs]) -> Table:
    theirs = _theirs(published, list(KINDS.values()), 2)
    mine = []
    for (network, data, budget), labels in by_network(ours).items():
        cells = [
            labels[kind].cell("task", "error", 100, 2) if kind in labels else NOT_RUN
            for kind in (*KINDS, "local")
        ]
        if any(cell != NOT_RUN for cell in cells):
            mine.append((network, data, (f"ours: {budget}", *cells)))
    head = ("network", "data", "source", *KINDS, "local")
    return Table("Classification error in %", head, _merged(theirs, mine), LEGEND)


def _angles(published: list[dict[str, Any]], ours: list[Runs]) -> Table:
    theirs = [
        (
            row["arch"],
            row["dataset"],
            (_number(row["paper"], 4), _number(row["reproduction"], 4), NOT_RUN, ""),
        )
        for row in published
    ]
    mine = []
    for (network, data, budget), labels in by_network(ours).items():
        runs = labels.get("complex d=2 decoy")
        if runs and runs.best("angle", "angle_error"):
            cell = f"{runs.best_cell('angle', 'angle_error', 4)}: {budget}"
            mine.append((network, data, ("", "", cell, f"{math.pi / 2:.4f}")))
    return Table(
        "Error of the recovered angle in rad (smaller: less private)",
        ("network", "data", "paper", "2021", "ours", "blind guess"),
        _merged(theirs, mine),
        "Paper: its convention is unknown; nearly all values sit at π/4, blind guessing modulo π. "
        "2021: mean absolute error of a regressor without wrap-around. Ours: on the circle, by the "
        "strongest of the attacks that were run.",
    )


def _reconstructions(published: list[dict[str, Any]], ours: list[Runs]) -> Table:
    columns = [
        *((label, key, "inversion dec(x)") for label, key in list(KINDS.items())[:-1]),
        ("complex d=2 decoy", "complex_dec_a", "inversion dec(a*)"),
        ("complex d=2 decoy", "complex_dec_x", "inversion dec(x)"),
    ]
    theirs = _theirs(published, [key for _, key, _ in columns], 4)
    mine = []
    for (network, data, budget), labels in by_network(ours).items():
        cells = [
            labels[label].cell(name, "rmse") if label in labels else NOT_RUN
            for label, _, name in columns
        ]
        floors = [f for r in labels.values() for f in r.values("inversion dec(x)", "rmse", "floor")]
        if floors:
            mine.append((network, data, (f"ours: {budget}", *cells, f"{floors[0]:.3f}")))
    head = ("original", "additional", "noisy γ=0.2", "noisy γ=0.5", "noisy γ=1")
    return Table(
        "Reconstruction error (smaller: less private)",
        ("network", "data", "source", *head, "complex dec(a*)", "complex dec(x)", "mean image"),
        _merged(theirs, mine),
        "Ours: RMSE per image, pixels in [0, 1]; so, it is thought, is the paper's. 2021: mean "
        "absolute error of normalised pixels, another unit.",
    )


def _properties(published: list[dict[str, Any]], ours: list[Runs]) -> Table:
    data = "cifar100 by superclasses"
    theirs = [
        (
            "resnet56-alpha",
            data,
            (
                "2021",
                row["attack"],
                *(_number(row[k], 3) for k in ("additional_layers", "complex")),
                "0.990",
            ),
        )
        for row in published
    ]
    mine = []
    for (network, where, budget), labels in by_network(ours).items():
        runs = [labels.get(label) for label in ("additional", "complex d=2 decoy")]
        names = sorted(
            {n for r in runs if r for rows in r.rows for n in rows if n.startswith("property")}
        )
        for name in names:
            cells = [r.cell(name, "error") if r else NOT_RUN for r in runs]
            chance = next(
                verdicts.blind(rows[name]["metrics"]["error"])
                for r in runs if r for rows in r.rows if name in rows
            )  # fmt: skip
            attack = PROPERTIES.get(name, f"{name.removeprefix('property ')} on a*")
            mine.append((network, where, (f"ours: {budget}", attack, *cells, f"{chance:.3f}")))
    return Table(
        "Error of the inferred hidden property (smaller: less private)",
        ("network", "data", "source", "attack", "additional", "complex d=2 decoy", "blind guess"),
        _merged(theirs, mine),
        "The paper's numbers were not recovered. Features a*: of additional, the released ones. "
        "Blind guess: ours knows the network's label.",
    )


def _further(ours: list[Runs]) -> Table:
    """Networks without a column of their own."""
    lines = []
    for runs in ours:
        own_column = runs.config.net.label in (*KINDS, "local")
        if own_column and runs.released == runs.config.net.label:
            continue
        lines.append((
            runs.network, runs.dataset, runs.budget, runs.released,
            runs.cell("task", "error", 100, 2),
            runs.best_cell("angle", "angle_error") if runs.config.net.parts > 1 else "no key",
            runs.best_cell("inversion", "rmse"),
        ))  # fmt: skip
    head = ("network", "data", "budget", "kind", "task error in %", "angle error", "best RMSE")
    return Table("Further networks of this project", head, lines)


def _commands(ours: list[Runs]) -> Table:
    lines = []
    for runs in ours:
        tasks = [rows["task"] for rows in runs.rows]
        seconds = [row["seconds"] for row in tasks]
        lines.append((
            f"[{runs.number}]",
            f"{command(runs.config, leave_out=('output_dir', 'seed', 'resume', 'overwrite'))}",
            ", ".join(map(str, sorted(runs.seeds))),
            mean_std([100 * v for v in runs.values("task", "error")], 2),
            duration(statistics.mean(seconds)),
            ", ".join(sorted({row["device"] for row in tasks})),
        ))  # fmt: skip
    head = ("", "command", "seeds", "error in %", "time", "device")
    return Table("Runs (add --seed and --output-dir)", head, lines)
