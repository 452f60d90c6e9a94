"""Tables: ``python -m complexnn.report runs RUN RUN ...`` and ``... report networks``."""

from __future__ import annotations

import base64
import html
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from tyro.conf import Positional

from complexnn import results
from complexnn.checkpoint import replacing
from complexnn.cli import parse, run
from complexnn.config import InputError, NetConfig, from_dict
from complexnn.networks.anatomy import Anatomy, dissect
from complexnn.networks.registry import ARCHITECTURES

COLUMNS = ("network", "task error", "angle error", "reconstruction RMSE", "property error")
BESIDE = ("", "chance", "chance", "mean image", "chance; task label known")


@dataclass(frozen=True)
class ReportConfig:
    """Compare runs, or networks, in one table."""

    what: Positional[Literal["runs", "networks"]]
    """runs: task, angle, reconstruction and property errors of each run, beside chance or floor.
    networks: parameters, work and traffic of every architecture, variant and kind."""
    runs: Positional[tuple[Path, ...]] = ()
    """Run folders, each with results.jsonl."""
    html: Path | None = None
    """Also write a page with table and pictures here."""
    picture: Path | None = None
    """Also copy the last run's grid of reconstructions here."""


def latest(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The newest row of each name."""
    return {row["name"]: row for row in rows}


def strongest(
    rows: dict[str, dict[str, Any]], prefix: str, metric: str
) -> tuple[str, dict[str, Any]] | None:
    """The attack of a family with the lowest error, and its numbers."""
    family = {
        name.removeprefix(prefix).strip(): row["metrics"][metric]
        for name, row in rows.items()
        if name.startswith(prefix) and metric in row["metrics"]
    }
    if not family:
        return None
    name = min(family, key=lambda n: family[n]["value"])
    return name, family[name]


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
    found = strongest(rows, "angle", "angle_error")
    cells.append("no key" if found is None else "{value:.3f} rad ({chance:.3f})".format(**found[1]))
    found = strongest(rows, "inversion", "rmse")
    cells.append(
        "not run"
        if found is None
        else "{value:.3f} ({floor:.3f}) by {0}".format(*found[:1], **found[1])
    )
    found = strongest(rows, "property", "error")
    cells.append(
        "not run"
        if found is None
        else f"{100 * found[1]['value']:.1f} % ({100 * found[1]['chance']:.0f} %; "
        f"{100 * found[1]['given_label']:.0f} %) by {found[0]}"
    )
    return cells


def network_table() -> list[list[str]]:
    """Every architecture, variant and kind: what device and server compute, keep and send."""
    head = ["network", "kind", "parameters (device + server)", "MFLOPs (device + server)"]
    table = [[*head, "server's work", "activations", "released, fp32", "bf16"]]
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
                table.append([f"{arch}-{variant}", kind, *_costs(found)])
    return table


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


def as_text(table: list[list[str]]) -> str:
    """A table in columns."""
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in table]
    return "\n".join(line.rstrip() for line in lines)


NOTE = (
    "In brackets: what an attacker reaches without seeing anything. Lower errors of angle, "
    "reconstruction and property mean less privacy. Reconstruction and property: the strongest of "
    "the attacks that were run, pixels in [0, 1]."
)


def as_page(table: list[list[str]], runs: tuple[Path, ...]) -> str:
    """A self-contained HTML page."""
    head, *body = (
        [f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row]
        for tag, row in zip(["th"] + ["td"] * len(table), table, strict=False)
    )
    rows = "\n".join(f"<tr>{''.join(cells)}</tr>" for cells in [head, *body])
    figures = []
    for folder, cells in zip(runs, table[2:], strict=True):
        grid = folder / "examples" / "inversion.png"
        if grid.is_file():
            data = base64.b64encode(grid.read_bytes()).decode()
            figures.append(
                f'<figure><img alt="reconstructions" src="data:image/png;base64,{data}">'
                f"<figcaption>{html.escape(cells[0])}</figcaption></figure>"
            )
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>complexnn report</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto }}
table {{ border-collapse: collapse }}
th, td {{ text-align: left; padding: .35rem .8rem; border-bottom: 1px solid #ccc }}
img {{ max-width: 100% }}
</style>
<h1>What the server sees, and what it learns from it</h1>
<table>
{rows}
</table>
<p>{html.escape(NOTE)}</p>
{chr(10).join(figures)}
</html>
"""


def main(argv: list[str]) -> None:
    """Print the table; write page and picture where asked."""
    config = parse(ReportConfig, argv, "python -m complexnn.report")
    if config.what == "networks":
        if config.runs or config.html or config.picture:
            raise InputError("report networks takes no run folders, --html or --picture")
        print(as_text(network_table()))
        print("Per query, 10 classes, images as in the paper. FLOPs: 2 for a multiply-add.")
        return
    if not config.runs:
        raise InputError("name at least one run folder")
    table = [list(COLUMNS), [f"({text})" if text else "" for text in BESIDE]]
    table += [line(folder) for folder in config.runs]
    print(as_text(table))
    print(NOTE)
    if config.html is not None:
        config.html.parent.mkdir(parents=True, exist_ok=True)
        with replacing(config.html) as temporary:
            temporary.write_text(as_page(table, config.runs))
        print(f"page: {config.html}")
    if config.picture is not None:
        source = config.runs[-1] / "examples" / "inversion.png"
        if not source.is_file():
            raise InputError(f"{config.runs[-1]} has no picture; run attack.py inversion on it")
        config.picture.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, config.picture)
        print(f"picture: {config.picture}")


if __name__ == "__main__":
    sys.exit(run(main))
