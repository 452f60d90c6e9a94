"""Grids of pictures: what attacks make of inputs, network by network."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from complexnn.config import InputError
from complexnn.report.cohorts import cohorts
from complexnn.report.rows import Runs
from complexnn.runs.pictures import read_pixels, save_grid

GRID = ("original", "additional", "noisy γ=0.2", "noisy γ=0.5", "noisy γ=1", "complex d=2 decoy")


def grids(ours: Sequence[Runs]) -> dict[str, list[Runs]]:
    """The networks of the paper's grid, as far as their inputs were attacked, by network and data;
    only where the rotated one is among them; of several budgets, the largest."""
    grids: dict[str, list[Runs]] = {}
    for (network, data), several in cohorts(ours).items():
        name = re.sub(r"[^a-z0-9]+", "-", f"{network} {data}".lower()).strip("-")
        for cohort in several:
            shown = [runs for label in GRID if (runs := cohort.own.get(label))]
            shown = [runs for runs in shown if _pixels(runs).is_file()]
            if shown and shown[-1].config.net.label == GRID[-1]:
                grids.setdefault(name, shown)
    return grids


def _pixels(runs: Runs) -> Path:
    return runs.folders[0] / "examples" / "inversion.safetensors"


def reconstructions(runs: Sequence[Runs], path: Path) -> str:
    """The paper's layout: inputs, what decoders make of each kind's features, and the strongest.

    Raises:
        InputError: a run without its pictures.
    """
    rows: dict[str, Any] = {}
    for of in runs:
        if not _pixels(of).is_file():
            raise InputError(f"{of.folders[0]} has no pictures: run attack.py all on it")
        grid = read_pixels(_pixels(of))
        rows.setdefault("input", grid["input"])
        label = of.config.net.label
        if of.config.net.parts == 1:
            rows[label] = grid["dec(x)"]
            continue
        rows |= {f"{label}: {name}": grid[name] for name in ("dec(a*)", "dec(x)")}
        rows[f"{label}: strongest"] = grid["worst case"]
    save_grid(path, rows, "")
    number = len(rows["input"])
    return (
        f"{runs[0].network} on {runs[0].dataset}: {number} test images drawn at random with seed 0 "
        "(first row), and what an attacker reconstructs from what each network releases: a decoder "
        "of the released features; for the rotated network also a decoder of features recovered "
        "with an estimated key, dec(a*), and the strongest attack on each image. One network and "
        "one draw of keys each."
    )
