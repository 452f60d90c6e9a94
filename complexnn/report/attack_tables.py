"""Tables of single run folders: every attack on one network, and networks side by side."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from pathlib import Path

from complexnn.attacks import worst
from complexnn.config import NetConfig
from complexnn.config_io import from_dict
from complexnn.report.notes import NOT_RUN, with_data
from complexnn.report.ranking import (
    MEASURE,
    SMALL,
    Numbers,
    Row,
    Rows,
    best,
    blind,
    fair,
    of_family,
    own_images,
    queries,
    strongest,
)
from complexnn.report.rows import collect, of_attacked_run, of_run
from complexnn.report.verdicts import CLAIMS, marked
from complexnn.runs.checkpoint import replacing
from complexnn.runs.tables import Table, page

# What a family's attacks are shown with, beside the measure that they are ranked by.
ALSO_SHOWN = {
    "span": ("top1_jpeg",),
    "release": ("share",),
    "inversion": ("rmse", "ssim", "lpips", "top1"),
    "property": ("balanced_accuracy", "tpr_at_1_fpr"),
}
UNITS = {
    "angle": (1, "rad"),
    "span": (100, "%"),
    "release": (1, "rad"),
    "intersection": (1, "rad"),
    "inversion": (1, "dB"),
    "property": (100, "%"),
}


# ------------------------------------------------------------------------------- of one network


def write_report(folder: Path, victim: Path) -> str:
    """Write ``report.html`` into ``folder``, where the attacks on ``victim`` put their rows;
    return the same as text."""
    rows = of_attacked_run(victim, folder)
    title = f"Attacks on {_called(rows)}"
    table = attack_table(rows, title)
    lines = [
        f"claim '{claim} hidden': {verdict}: {why}"
        for claim in CLAIMS
        for verdict, why in [marked(claim, rows)]
    ]
    error = rows["task"]["metrics"]["error"]
    task = f"task error {100 * error['value']:.2f} % (chance {100 * error['chance']:.1f} %)"
    parts = ["<ul>", *(f"<li>{html.escape(line)}</li>" for line in lines), "</ul>"]
    parts += [f"<p>{html.escape(task)}</p>", table.as_html(), picture(folder, title)]
    with replacing(folder / "report.html") as temporary:
        temporary.write_text(page(title, parts), encoding="utf-8")
    return "\n".join([table.as_text(), task, *lines, f"report: {folder / 'report.html'}"])


def picture(folder: Path, title: str) -> str:
    """A run's grid of reconstructions for a page; empty if there is none."""
    grid = folder / "examples" / "inversion.png"
    if not grid.is_file():
        return ""
    image = base64.b64encode(grid.read_bytes()).decode()
    return (
        f'<figure><img alt="reconstructions" src="data:image/png;base64,{image}">'
        f"<figcaption>{html.escape(title)}</figcaption></figure>"
    )


def attack_table(rows: Rows, title: str) -> Table:
    """Every attack beside blind answers, blends and the control; what looks wrong about it."""
    head = ("attack", "measure", "value", "blind", "blend", "control", "judged on", "flags")
    lines = []
    sharing = queries(rows)
    for family, main in MEASURE.items():
        cheaper: list[Row] = []
        for row in of_family(rows, family, main):
            for measure in dict.fromkeys((main, *ALSO_SHOWN.get(family, ()))):
                if measure in row["metrics"]:
                    flags = []
                    if measure == main:
                        flags = [*row["flags"], *_weaker(row, cheaper, main, sharing)]
                    lines.append(_line(fair(row, measure, sharing), flags))
            if row["name"] != worst.NAME:
                cheaper.append(row)
    note = (
        "Value: mean over test images and draws of keys, 95 % interval over images, or over groups "
        "where images share a key. Blind: chance, or the mean image; of a property, the best guess "
        "of one who knows the network's label. Blend: the best constant blend of the images that "
        "share a group. Control: the same attack on a network without rotation."
    )
    return Table(title, head, lines, note)


def _weaker(row: Row, cheaper: Sequence[Row], measure: str, sharing: int) -> list[str]:
    """A flag for an attack that is weaker than a cheaper one by 5 % and by its interval, made with
    the same images of the attacker's own: with fewer it may be weaker."""
    ahead = best([r for r in cheaper if own_images(r) == own_images(row)], measure, sharing)
    if ahead is None or row["name"] == worst.NAME:
        return []
    own = fair(row, measure, sharing)
    mine, theirs = ({k: n[k] - blind(n) for k in ("value", "low", "high")} for n in (own, ahead))
    small = measure in SMALL
    apart = mine["low"] > theirs["high"] if small else mine["high"] < theirs["low"]
    if apart and abs(mine["value"] - theirs["value"]) > 0.05 * abs(ahead["value"]):
        return [f"weaker than the cheaper {ahead['row']['name']}"]
    return []


def _line(numbers: Numbers, flags: list[str]) -> tuple[str, ...]:
    def text(key: str) -> str:
        return "" if numbers.get(key) is None else f"{numbers[key]:.4g}"

    row = numbers["row"]
    interval = f" [{numbers['low']:.4g}, {numbers['high']:.4g}]" if "low" in numbers else ""
    known = any(numbers.get(k) is not None for k in ("chance", "floor"))
    beside = f"{blind(numbers):.4g}" if known else ""
    judged = f"{row['images']:,} images, {row['draws']} draws"
    return (
        row["name"], numbers["measure"], f"{numbers['value']:.4g}{interval}", beside,
        text("blend"), text("control"), judged, "; ".join(flags),
    )  # fmt: skip


# --------------------------------------------------------------------------------- side by side


def compare(folders: Sequence[Path]) -> Table:
    """Victims :func:`side_by_side`.

    Raises:
        InputError: one of them is no finished run, or was not attacked.
    """
    for folder in folders:
        of_attacked_run(folder)
    return side_by_side(folders)


def side_by_side(folders: Iterable[Path]) -> Table:
    """A line for each run: task error, and the strongest attack of each family.

    Raises:
        InputError: one of them is no finished run.
    """
    folders = list(folders)
    head = ("network", "task error", "angle error", "identified by span", "angle error, one batch",
            "angle error, sent again", "PSNR", "property error")  # fmt: skip
    lines = []
    for folder in folders:
        rows = of_run(folder)
        error = rows["task"]["metrics"]["error"]
        task = f"{100 * error['value']:.2f} % ({100 * error['chance']:.0f})"
        lines.append((_called(rows), task, *(_strongest(rows, family) for family in UNITS)))
    note = (
        "In brackets: what is reached without what was released, which is chance, of a property "
        "the best guess of one who knows the network's label, or the mean image. Smaller errors "
        "and a larger PSNR mean less privacy."
    )
    return Table("Networks side by side", head, lines, with_data(note, collect(folders)))


def _strongest(rows: Rows, family: str) -> str:
    attack = strongest(rows, family)
    if attack is None:
        net = from_dict(NetConfig, rows["task"]["config"]["net"])
        return "no key" if MEASURE[family] == "angle_error" and net.parts == 1 else NOT_RUN
    (name, numbers), (scale, unit) = attack, UNITS[family]
    return f"{scale * numbers['value']:.3g} {unit} ({scale * blind(numbers):.3g}) by {name}"


def _called(rows: Rows) -> str:
    net = from_dict(NetConfig, rows["task"]["config"]["net"])
    return f"{net.arch} {net.label}"
