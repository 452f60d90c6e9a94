"""Tables: ``python -m complexnn.report runs RUN ...``, ``... tables``, ``... summary``, ..."""

from __future__ import annotations

import base64
import html
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from tyro.conf import Positional

from complexnn.attacks import worst
from complexnn.commands.app import parse
from complexnn.config import InputError, NetConfig
from complexnn.config_attack import AttackConfig
from complexnn.config_io import from_dict
from complexnn.networks.costs import Anatomy, dissect
from complexnn.networks.registry import ARCHITECTURES
from complexnn.report import (
    paper,
    summary,
    verdicts,
)
from complexnn.report.lines import with_data
from complexnn.report.verdicts import MEASURE
from complexnn.runs import results
from complexnn.runs.checkpoint import write_text
from complexnn.runs.tables import Table, page

COLUMNS = ("network", "task error", "angle error", "reconstruction RMSE", "property error")
BESIDE = ("", "chance", "chance", "mean image", "task label known")


@dataclass(frozen=True)
class ReportConfig:
    """Compare runs, or networks, in one table."""

    what: Positional[Literal["runs", "tables", "summary", "frontier", "budgets", "networks"]]
    """runs: task, angle, reconstruction and property errors of each run, beside chance or floor.
    tables: the paper's tables, its numbers, the 2021 reproduction's and these runs' in one line,
    and a verdict per claim and row.
    summary: a verdict on each claim of the paper, and the runs behind it.
    frontier: what defences keep of the server's worth, what they let through, and offloads.
    budgets: how strong each attack is as its training steps grow.
    networks: parameters, work and traffic of every architecture, variant and kind."""
    runs: Positional[tuple[Path, ...]] = ()
    """Run folders; for tables, summary and frontier also folders of run folders."""
    markdown: Path | None = None
    """Also write the tables as Markdown here."""
    html: Path | None = None
    """Also write a page with the tables, and the runs' pictures, here."""
    into: Path | None = None
    """summary and frontier: also put the tables between the marks of this Markdown page."""
    picture: Path | None = None
    """Also copy the last run's grid of reconstructions here."""


def latest(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The newest row of each name."""
    return {row["name"]: row for row in rows}


def line(folder: Path) -> list[str]:
    """A run as one line of the table.

    Raises:
        InputError: a folder without results.
    """
    rows = latest(results.read_rows(folder / "results.jsonl"))
    if "task" not in rows:
        raise InputError(f"{folder} has no finished run (no task row in results.jsonl)")
    net = from_dict(NetConfig, rows["task"]["config"]["net"])
    cells = [f"{net.arch} {net.label}"]
    task = rows["task"]["metrics"]["error"]
    cells.append(f"{100 * task['value']:.1f} % ({100 * task['chance']:.0f} %)")
    found = verdicts.strongest(rows, "angle")
    cells.append("no key" if found is None else "{value:.3f} rad ({chance:.3f})".format(**found[1]))
    found = verdicts.strongest(rows, "inversion", "rmse")
    cells.append(
        "not run"
        if found is None
        else "{value:.3f} ({floor:.3f}) by {0}".format(*found[:1], **found[1])
    )
    found = verdicts.strongest(rows, "property")
    cells.append(
        "not run"
        if found is None
        else f"{100 * found[1]['value']:.1f} % "
        f"({100 * verdicts.blind(found[1]):.0f} %) by {found[0]}"
    )
    return cells


def network_table() -> Table:
    """Every architecture, variant and kind: what device and server compute, keep and send."""
    head = ("network", "kind", "parameters (device + server)", "MFLOPs (device + server)")
    head += ("server's work", "activations", "released, fp32", "bf16")
    rows = []
    kinds = {
        "original": {"kind": "original"},
        "additional": {"kind": "additional"},
        "complex, decoy d=2": {"kind": "complex"},
        "complex, packed d=2": {"kind": "complex", "group": "packed"},
        "local": {"kind": "local"},
    }
    for arch, entry in ARCHITECTURES.items():
        for variant in entry.variants:
            for kind, settings in kinds.items():
                size = (entry.image_size,) * 2
                found = dissect(NetConfig(arch, variant, image_size=size, **settings))
                rows.append((f"{arch}-{variant}", kind, *_costs(found)))
    note = "Per query, 10 classes, images as in the paper. FLOPs: 2 for a multiply-add."
    return Table("Networks", head, rows, note)


def _costs(found: Anatomy) -> list[str]:
    def pair(counts: dict[str, float], unit: float, digits: int = 0) -> str:
        server = counts["processing"]
        return f"{(sum(counts.values()) - server) / unit:,.{digits}f} + {server / unit:,.{digits}f}"

    kib = [f"{found.bytes_released(t) / 1024:,.0f} KiB" for t in (torch.float32, torch.bfloat16)]
    return [
        pair(found.parameters, 1),
        pair(found.flops, 1e6, 1),
        f"{100 * found.server_share:.0f} %",
        f"{sum(found.activations.values()):,.0f}",
        *kib,
    ]


NOTE = (
    "In brackets: what an attacker reaches without seeing anything. Lower errors of angle, "
    "reconstruction and property mean less privacy. Reconstruction and property: the strongest of "
    "the attacks that were run, pixels in [0, 1]."
)


def budget_table(folders: tuple[Path, ...]) -> Table:
    """Each attack's main measure under every budget it was run with, and what the last doubling
    of the steps changed, in the measure and, for angles, in the distance from blind guessing.
    Properties are counted as accuracy, since a doubling says little about a rare error.

    Raises:
        InputError: folders without attacks.
    """
    found: dict[tuple[str, str, str], dict[tuple[float, int], float]] = {}
    blind: dict[tuple[str, str, str], float] = {}
    for folder in folders:
        for file in sorted(folder.rglob("results.jsonl")):
            for row in results.read_rows(file):
                measure = MEASURE.get(row.get("family", ""), ("", False))[0]
                if measure in row["metrics"] and not worst.of_the_old_rule(row):
                    config = from_dict(AttackConfig, row["config"])
                    value = row["metrics"][measure]["value"]
                    if measure == "error":
                        measure, value = "accuracy", 1 - value
                    place = config.capacity, config.spend.steps
                    attack = row["name"], measure, config.victim.name
                    found.setdefault(attack, {})[place] = value
                    if measure == "angle_error":
                        blind[attack] = row["metrics"][measure]["chance"]
    if not found:
        raise InputError(f"no attacks in or below {', '.join(map(str, folders))}")
    every = {place for values in found.values() for place in values}
    grown = sorted(place for place in every if place[0] == 1)
    places = grown + sorted(every - set(grown))
    several = len({victim for _, _, victim in found}) > 1
    lines = []
    for attack, values in found.items():
        name, measure, victim = attack
        cells = [f"{values[p]:.4g}" if p in values else "not run" for p in places]
        known = [values[p] for p in grown if p in values][-2:]
        start = blind.get(attack)
        from_blind = [] if start is None else [start - value for value in known]
        on = f" ({victim})" if several else ""
        lines.append((name + on, measure, *cells, _growth(known), _growth(from_blind)))
    wide = {c: "" if c == 1 else f", {c:g} times as wide" for c, _ in places}
    head = ("attack", "measure", *(f"{steps:,} steps{wide[c]}" for c, steps in places))
    title = "Strength of attacks as their budget grows"
    head += ("last doubling of steps", "in distance from chance")
    note = "angle_error: in rad, less is stronger. All other measures: more is stronger."
    return Table(title, head, lines, note)


def _growth(values: list[float]) -> str:
    return f"{100 * (values[1] / values[0] - 1):+.1f} %" if len(values) == 2 else ""


def run_table(runs: tuple[Path, ...]) -> Table:
    """A line for each run."""
    beside = tuple(f"({text})" if text else "" for text in BESIDE)
    lines = [beside, *(tuple(line(folder)) for folder in runs)]
    note = with_data(NOTE, paper.collect(runs))
    return Table("What the server sees, and what it learns from it", COLUMNS, lines, note)


def figure(folder: Path, title: str) -> str:
    """A run's grid of reconstructions for a page; empty if there is none."""
    grid = folder / "examples" / "inversion.png"
    if not grid.is_file():
        return ""
    image = base64.b64encode(grid.read_bytes()).decode()
    return (
        f'<figure><img alt="reconstructions" src="data:image/png;base64,{image}">'
        f"<figcaption>{html.escape(title)}</figcaption></figure>"
    )


def main(argv: list[str]) -> None:
    """Print the tables; write page, Markdown and picture where asked."""
    config = parse(ReportConfig, argv, "python -m complexnn.report")
    figures: list[str] = []
    if config.into is not None and config.what not in ("summary", "frontier"):
        raise InputError("--into goes with report summary and report frontier")
    if config.what == "networks":
        if config.runs or config.picture:
            raise InputError("report networks takes no run folders and no --picture")
        tables = [network_table()]
    elif not config.runs:
        raise InputError("name at least one run folder")
    elif config.what == "tables":
        tables = paper.tables(config.runs)
    elif config.what == "summary":
        tables = summary.front_page(config.runs)
    elif config.what == "frontier":
        tables = summary.beyond_page(config.runs)
    elif config.what == "budgets":
        tables = [budget_table(config.runs)]
    else:
        tables = [run_table(config.runs)]
        shown = zip(config.runs, tables[0].rows[1:], strict=True)
        figures = [figure(folder, cells[0]) for folder, cells in shown]
    print("\n\n".join(table.as_text() for table in tables))
    if config.markdown is not None:
        write_text(config.markdown, "\n".join(table.as_markdown() for table in tables) + "\n")
    if config.into is not None:
        write_text(config.into, summary.write_into(config.into, tables))
    if config.html is not None:
        parts = [table.as_html() for table in tables] + figures
        write_text(config.html, page("complexnn report", parts))
    if config.picture is not None:
        source = config.runs[-1] / "examples" / "inversion.png"
        if not source.is_file():
            raise InputError(f"{config.runs[-1]} has no picture; run attack.py inversion on it")
        config.picture.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, config.picture)
        print(f"picture: {config.picture}")
