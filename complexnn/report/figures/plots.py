"""Plots: every attack with its interval, and use against leakage."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from complexnn.config import InputError, NetConfig
from complexnn.config_io import from_dict
from complexnn.report.beyond import TradeOff, trade_offs
from complexnn.report.figures.drawing import LOOKS, ORANGE, RED, bare, plt, save
from complexnn.report.published import read_published
from complexnn.report.ranking import Rows, blind, fair, of_family, strongest
from complexnn.report.rows import Runs, of_attacked_run

INTERVALS = "bars: 95 % intervals over test images"


def _span(axis: Axes, x: float, y: float, numbers: dict[str, Any], look: tuple[str, str]) -> None:
    """A horizontal interval with its middle."""
    colour, shape = look
    axis.plot([numbers["low"], numbers["high"]], [y, y], color=colour, linewidth=1.5)
    axis.plot(x, y, marker=shape, color=colour, markersize=5)


def angles(ours: Sequence[Runs], path: Path) -> str:
    """Every attack on the key beside blind guessing, per network; the paper's numbers above."""
    shown = [runs for runs in ours if runs.strongest("angle")]
    if not shown:
        raise InputError("no rotated network was attacked: run attack.py angle on one")
    lines = [
        (runs, row) for runs in shown for row in of_family(runs.attacked, "angle", "angle_error")
    ]
    figure, axis = plt.subplots(figsize=(7.4, 0.21 * len(lines) + 1.4))
    reported = [r["paper"] for r in read_published()["angle_error_radian"]["rows"] if r["paper"]]
    labels, places, y, before = [], [], 0.0, None
    for runs, row in lines:
        y += 1.0 if runs is before else 1.6
        before = runs
        numbers = fair(row, "angle_error", runs.config.net.queries)
        _span(axis, numbers["value"], y, numbers, LOOKS["complex"])
        axis.plot(numbers["chance"], y, marker="|", color=RED, markersize=9)
        labels.append(f"{_short(runs)}: {row['name'].removeprefix('angle ')}")
        places.append(y)
    axis.axvspan(min(reported), max(reported), color=ORANGE, alpha=0.25, linewidth=0)
    axis.set_yticks(places, labels, fontsize=7)
    axis.invert_yaxis()
    axis.set_xscale("log")
    axis.set_xlabel("error of the recovered angle in rad (red: blind guessing; band: paper)")
    bare(axis)
    save(figure, path)
    images, draws = (max(row[what] for _, row in lines) for what in ("images", "draws"))
    return (
        "Error of the recovered key, by every attack on every rotated network that was attacked, "
        f"up to {images:,} test images, {draws} draws of keys, one network each (seed 0); "
        f"{INTERVALS}. Red ticks: blind guessing under the same measure. The orange band spans the "
        "numbers that the paper reports; π/4 = "
        f"{math.pi / 4:.3f} is blind guessing where an angle counts modulo π."
    )


def properties(ours: Sequence[Runs], path: Path) -> str:
    """Error of the inferred hidden property, per attack, beside blind guessing and control."""
    shown = [runs for runs in ours if runs.strongest("property")]
    if not shown:
        raise InputError("no run with a hidden property was attacked")
    panels = list(dict.fromkeys(r.dataset for r in shown))
    figure, axes = plt.subplots(
        1, len(panels), figsize=(4.6 * len(panels) + 2.6, 4.4), squeeze=False
    )
    for axis, data in zip(axes[0], panels, strict=True):
        _hidden(axis, [runs for runs in shown if runs.dataset == data])
        axis.set_title(data, fontsize=9)
    figure.tight_layout()
    save(figure, path)
    return (
        "Error of the hidden class, which the networks never learned, by each attack (one network "
        f"each, seed 0; {INTERVALS}). Dashed: the best blind answer, the network's own label "
        "known. The task errors stand in the legend, so that networks of equal use are compared."
    )


def _hidden(axis: Axes, members: list[Runs]) -> None:
    """One panel of :func:`properties`: an attack per line, the networks side by side in it."""
    ticks = list(
        dict.fromkeys(
            row["name"] for runs in members for row in of_family(runs.attacked, "property", "error")
        )
    )
    for place, runs in enumerate(members):
        look = LOOKS[runs.config.net.kind]
        for row in of_family(runs.attacked, "property", "error"):
            numbers = fair(row, "error", runs.config.net.queries)
            y = ticks.index(row["name"]) + 0.7 * ((place + 0.5) / len(members) - 0.5)
            _span(axis, numbers["value"], y, numbers, look)
            axis.axvline(blind(numbers), color=RED, linestyle="--", linewidth=1)
        task = 100 * statistics.mean(runs.values("task", "error"))
        label = f"{runs.released} (task error {task:.1f} %)"
        axis.plot([], [], marker=look[1], color=look[0], label=label)
    axis.set_yticks(range(len(ticks)), [t.removeprefix("property ") for t in ticks])
    axis.invert_yaxis()
    axis.set_xlim(0, 1)
    axis.set_xlabel("error of the hidden class", fontsize=8)
    axis.legend(fontsize=7, framealpha=1, edgecolor="white", loc="center")
    bare(axis)


def leakage(ours: Sequence[Runs], path: Path) -> str:
    """Task error against PSNR of the strongest inversion above the mean image, per data set."""
    shown = [runs for runs in ours if strongest(runs.attacked, "inversion")]
    if not shown:
        raise InputError("no network's inputs were attacked: run attack.py inversion on one")
    groups: dict[str, list[Runs]] = {}
    for runs in shown:
        groups.setdefault(runs.trained, []).append(runs)
    lines = math.ceil(len(groups) / 2)
    figure, axes = plt.subplots(
        lines, 4, figsize=(12.6, 2.7 * lines), squeeze=False, width_ratios=(3, 3.4, 3, 3.4)
    )
    places = {}
    for axis, names in axes.reshape(-1, 2)[len(groups) :]:
        axis.set_axis_off()
        names.set_axis_off()
    for (axis, names), (title, members) in zip(axes.reshape(-1, 2), groups.items(), strict=False):
        looks = [LOOKS[runs.config.net.kind] for runs in members]
        places[axis] = [
            _point(axis, runs.attacked, look) for runs, look in zip(members, looks, strict=True)
        ]
        axis.axhline(0, color="#999999", linewidth=1, linestyle="--")
        axis.set_title(title, fontsize=9, loc="left")
        axis.set_xlabel("task error in %", fontsize=8)
        axis.set_ylabel("PSNR above the\nmean image in dB", fontsize=8)
        axis.margins(x=0.15, y=0.2)
        bare(axis)
        _named(names, [runs.released for runs in members])
    figure.subplots_adjust(wspace=0.12, hspace=0.5)  # a tight layout would shrink the panels
    for axis, points in places.items():
        _numbered(axis, points)
    save(figure, path)
    rows = [r.attacked["inversion dec(x)"] for r in shown]
    images, draws = (max(row[what] for row in rows) for what in ("images", "draws"))
    return (
        "Task error against what the strongest inversion reaches above the mean image (dashed), "
        f"for every network that was attacked; up to {images:,} test images, {draws} draws of "
        f"keys, seed 0; {INTERVALS}. Low is private, left is useful."
    )


def frontier(ours: Sequence[Runs], path: Path) -> str:
    """What a defence keeps of the server's worth against what it lets through: inversion above the
    mean image, and identification among the candidates.

    Of the networks that were trained with an ``additional`` and a ``local`` beside them and whose
    server has a worth.

    Raises:
        InputError: there is none that was attacked.
    """
    shown = trade_offs(ours)
    if not shown:
        raise InputError("no network with an additional and a local beside it was attacked")
    height = max(4.0, 0.14 * len(shown))  # a line for each name
    figure, (*axes, names) = plt.subplots(1, 3, figsize=(11.6, height), width_ratios=(3, 3, 2.2))
    above = [_beyond(point.inversion, point.inversion["floor"]) for point in shown]
    top1 = [_beyond(point.identified, 0, 100) for point in shown]
    for axis, leaks, chance, label in zip(
        axes, (above, top1), (0, 0.1),
        ("strongest inversion:\nPSNR above the mean image in dB",
         "input found among the candidates in %"), strict=True,
    ):  # fmt: skip
        for point, leak in zip(shown, leaks, strict=True):
            _trade_off(axis, point, leak)
        axis.axhline(chance, color="#999999", linewidth=1, linestyle="--")
        axis.axvline(0, color="#999999", linewidth=1, linestyle=":")
        axis.set_ylabel(label, fontsize=8)
        axis.set_xlabel("kept of the server's worth in %", fontsize=8)
        axis.margins(x=0.15, y=0.15)
        bare(axis)
    axes[1].set_yscale("symlog", linthresh=0.1)
    _named(names, [f"{point.runs.trained}: {point.runs.released}" for point in shown])
    figure.tight_layout()
    for axis, leaks in zip(axes, (above, top1), strict=True):
        _numbered(axis, [(100 * p.kept[0], k["value"]) for p, k in zip(shown, leaks, strict=True)])
    save(figure, path)
    images = max(point.runs.attacked["task"]["images"] for point in shown)
    where = "; ".join(dict.fromkeys(point.runs.trained for point in shown))
    return (
        f"Defences ({where}): the share of the server's worth that is kept (0 %: no better than "
        "the control `local`; 100 %: as good as without a defence) against the strongest "
        f"inversion and the strongest identification among 1,000 candidates. {images:,} test "
        f"images for the task, attacks on networks of seed 0; {INTERVALS}. Dashed: the mean image, "
        "chance. Right and low is where a defence should be."
    )


def _beyond(numbers: dict[str, float], start: float, scale: float = 1) -> dict[str, float]:
    return {k: scale * (numbers[k] - start) for k in ("value", "low", "high")}


def _trade_off(axis: Axes, point: TradeOff, leak: dict[str, float]) -> None:
    """One network on one panel of :func:`frontier`."""
    (x, low, high), y = (100 * s for s in point.kept), leak["value"]
    colour, shape = LOOKS[point.runs.config.net.kind]
    axis.errorbar(
        x, y, marker=shape, color=colour, markersize=5, capsize=2, linewidth=1,
        xerr=[[x - low], [high - x]], yerr=[[y - leak["low"]], [leak["high"] - y]],
    )  # fmt: skip


def _named(axis: Axes, names: Sequence[str]) -> None:
    """What the numbers of :func:`_numbered` stand for, in the place of a panel."""
    for number, name in enumerate(names, start=1):
        height = 1 - number / (max(len(names), 12) + 1)
        axis.text(0, height, f"{number}  {name}", fontsize=6.5, transform=axis.transAxes)
    axis.set_axis_off()


def _numbered(axis: Axes, points: Sequence[tuple[float, float]]) -> None:
    """A number at each point, on no other point or number; a line leads where it had to move."""
    centres = axis.transData.transform(points) * 72 / axis.figure.dpi
    taken = list(centres)
    for number, (point, centre) in enumerate(zip(points, centres, strict=True), start=1):
        # Above or below, beside the bars of intervals.
        spots = ((r, angle) for r in (9, 16, 24, 32) for angle in (90, 60, 120, -90, -60, -120))
        for radius, angle in spots:
            turn = math.radians(angle)
            spot = centre + radius * np.array((math.cos(turn), math.sin(turn)))
            if all(abs(spot - other).max() > 8 for other in taken):
                break
        taken.append(spot)
        axis.annotate(
            number, point, spot - centre, textcoords="offset points", fontsize=7,
            ha="center", va="center", annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": "#999999", "linewidth": 0.5},
        )  # fmt: skip


def _point(axis: Axes, rows: Rows, look: tuple[str, str]) -> tuple[float, float]:
    """One network's task error and leakage, with both intervals, and where that is."""
    error, (_, leak) = rows["task"]["metrics"]["error"], strongest(rows, "inversion")
    x, y = 100 * error["value"], leak["value"] - leak["floor"]
    axis.errorbar(
        x, y, marker=look[1], color=look[0], capsize=2, linewidth=1,
        xerr=[[x - 100 * error["low"]], [100 * error["high"] - x]],
        yerr=[[leak["value"] - leak["low"]], [leak["high"] - leak["value"]]],
    )  # fmt: skip
    return x, y


def comparison(folders: Sequence[Path], path: Path) -> None:
    """The same for a few run folders, whatever their data: ``attack.py compare``.

    Raises:
        InputError: the inputs of one of them were not attacked.
    """
    figure, axis = plt.subplots(figsize=(6.4, 4.2))
    for folder in folders:
        rows = of_attacked_run(folder)
        net = from_dict(NetConfig, rows["task"]["config"]["net"])
        if strongest(rows, "inversion") is None:
            raise InputError(f"{net.label}: run attack.py inversion first")
        spot = _point(axis, rows, LOOKS[net.kind])
        axis.annotate(net.label, spot, textcoords="offset points", xytext=(5, 5), fontsize=7)
    axis.axhline(0, color="#999999", linewidth=1, linestyle="--")
    axis.set_xlabel("task error in %")
    axis.set_ylabel("strongest inversion: PSNR above the mean image in dB")
    bare(axis)
    save(figure, path)


def _short(runs: Runs) -> str:
    return f"{runs.network}, {runs.dataset}, {runs.released}"
