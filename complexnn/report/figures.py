"""The figures of the notebook and the README: each from rows and grids that runs left behind.

Every function writes one file and returns its caption, which says how many images, which seeds and
which interval. Colours are those of Okabe and Ito, told apart by most colour-blind readers; shapes
repeat what colours say.
"""

from __future__ import annotations

import html
import math
import re
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from complexnn.config import InputError, NetConfig
from complexnn.config_io import from_dict
from complexnn.report import (
    paper,
    summary,
    verdicts,
)
from complexnn.report.paper import Runs
from complexnn.runs.checkpoint import replacing
from complexnn.runs.pictures import read_pixels, save_grid

BLUE, ORANGE, GREEN, RED, SKY, BLACK = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#000000",
)  # fmt: skip
# Colour and shape of each kind of network.
LOOKS = {
    "original": (BLACK, "s"),
    "additional": (GREEN, "D"),
    "local": (SKY, "v"),
    "noisy": (ORANGE, "^"),
    "complex": (BLUE, "o"),
}
INTERVALS = "bars: 95 % intervals over test images"


def _save(figure: Figure, path: Path) -> None:
    """SVG if the name ends so, else PNG; two runs give the same bytes."""
    kind = "svg" if path.suffix == ".svg" else "png"
    path.parent.mkdir(parents=True, exist_ok=True)
    undated = {"Date": None} if kind == "svg" else {}
    with plt.rc_context({"svg.hashsalt": "complexnn"}), replacing(path) as temporary:
        figure.savefig(temporary, dpi=160, format=kind, metadata=undated, bbox_inches="tight")
    plt.close(figure)


def show(draw: Callable[..., str], path: Path, *args: Any) -> None:
    """Draw to ``path`` and show the picture with its caption, in a notebook."""
    from IPython.display import HTML, SVG, Image, display

    caption = draw(*args, path)
    picture = SVG(filename=path) if path.suffix == ".svg" else Image(filename=path, width=760)
    display(picture, HTML(f"<p><em>{html.escape(caption)}</em></p>"))


def _bare(axis: Axes) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)


def _span(axis: Axes, x: float, y: float, numbers: dict[str, Any], look: tuple[str, str]) -> None:
    """A horizontal interval with its middle."""
    colour, shape = look
    axis.plot([numbers["low"], numbers["high"]], [y, y], color=colour, linewidth=1.5)
    axis.plot(x, y, marker=shape, color=colour, markersize=5)


# ---------------------------------------------------------------------------------- structure


def structure(path: Path) -> str:
    """Who computes what, who sees what: the split network."""
    figure, axis = plt.subplots(figsize=(8.4, 2.7))
    axis.set_axis_off()
    axis.set_xlim(0, 10.2)
    axis.set_ylim(0, 3)
    for left, width, title, colour in (
        (0.1, 4.0, "your device", GREEN), (4.4, 2.2, "server, not trusted", RED),
        (6.9, 3.2, "your device", GREEN),
    ):  # fmt: skip
        axis.add_patch(
            plt.Rectangle((left, 0.25), width, 2.3, facecolor=colour, alpha=0.10, linewidth=0)
        )
        axis.text(left + width / 2, 2.66, title, ha="center", fontsize=9, color=colour)
    boxes = (
        (0.9, "encoder\n$a = g(I)$"),
        (3.0, "rotate\n$x = R\\,(a, b, …)$"),
        (5.5, "processing module\n$h = \\Phi(x)$"),
        (7.75, "rotate back\n$R^T h$"),
        (9.35, "decoder\n$d(\\cdot)$"),
    )
    for x, words in boxes:
        axis.text(
            x, 1.45, words, ha="center", va="center", fontsize=9,
            bbox={"boxstyle": "round,pad=0.4", "facecolor": "white", "edgecolor": "#555555"},
        )  # fmt: skip
    arrow = {"arrowstyle": "->", "color": "#555555"}
    for a, b in ((1.5, 2.2), (3.85, 4.55), (6.45, 7.1), (8.4, 8.85)):
        axis.annotate("", (b, 1.45), (a, 1.45), arrowprops=arrow)
    axis.text(3.0, 0.55, "secret key $R$, decoys $b$", ha="center", fontsize=9, color=GREEN)
    axis.text(5.5, 0.55, "sees $x$ and $h$", ha="center", fontsize=9, color=RED)
    # Around the server, which never gets the key.
    axis.plot([3.0, 3.0, 7.75], [0.45, 0.1, 0.1], color=GREEN, linestyle="--", linewidth=1)
    axis.annotate("", (7.75, 1.0), (7.75, 0.1), arrowprops=arrow | {"color": GREEN, "ls": "--"})
    _save(figure, path)
    return (
        "The classifier cut in three. The processing module Φ commutes with every orthogonal "
        "matrix over the parts, Φ(R x) = R Φ(x), so rotating its answer back gives the answer to "
        "the unrotated features. What attacks are given: Φ, the encoder, and x."
    )


# ------------------------------------------------------------------------------------- grids


GRID = ("original", "additional", "noisy γ=0.2", "noisy γ=0.5", "noisy γ=1", "complex d=2 decoy")


def grids(ours: Sequence[Runs]) -> dict[str, list[Runs]]:
    """The networks of the paper's grid, as far as their inputs were attacked, by network and data;
    only where the rotated one is among them; of several budgets, the largest."""
    found: dict[str, list[Runs]] = {}
    for (network, data, _), labels in paper.by_network(list(ours)).items():
        shown = [labels[x] for x in GRID if x in labels and _pixels(labels[x]).is_file()]
        if shown and shown[-1].config.net.label == GRID[-1]:
            name = re.sub(r"[^a-z0-9]+", "-", f"{network} {data}".lower()).strip("-")
            if name not in found or shown[-1].size > found[name][-1].size:
                found[name] = shown
    return found


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


# ------------------------------------------------------------------------------------ intervals


def angles(ours: Sequence[Runs], path: Path) -> str:
    """Every attack on the key beside blind guessing, per network; the paper's numbers above."""
    shown = [runs for runs in ours if runs.best("angle", "angle_error")]
    if not shown:
        raise InputError("no rotated network was attacked: run attack.py angle on one")
    lines = [(runs, row) for runs in shown for row in _attacks(runs, "angle", "angle_error")]
    figure, axis = plt.subplots(figsize=(7.4, 0.21 * len(lines) + 1.4))
    reported = [
        r["paper"] for r in paper.read_published()["angle_error_radian"]["rows"] if r["paper"]
    ]
    labels, y, before = [], 0.0, None
    places = []
    for runs, row in lines:
        y += 1.0 if runs is before else 1.6
        before = runs
        numbers = verdicts.fair(row, "angle_error", runs.config.net.queries)
        _span(axis, numbers["value"], y, numbers, LOOKS["complex"])
        axis.plot(numbers["chance"], y, marker="|", color=RED, markersize=9)
        labels.append(f"{_short(runs)}: {row['name'].removeprefix('angle ')}")
        places.append(y)
    axis.axvspan(min(reported), max(reported), color=ORANGE, alpha=0.25, linewidth=0)
    axis.set_yticks(places, labels, fontsize=7)
    axis.invert_yaxis()
    axis.set_xscale("log")
    axis.set_xlabel("error of the recovered angle in rad (red: blind guessing; band: paper)")
    _bare(axis)
    _save(figure, path)
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
    shown = [r for r in ours if r.best("property", "error")]
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
    _save(figure, path)
    return (
        "Error of the hidden class, which the networks never learned, by each attack (one network "
        f"each, seed 0; {INTERVALS}). Dashed: the best blind answer, the network's own label "
        "known. The task errors stand in the legend, so that networks of equal use are compared."
    )


def _hidden(axis: Axes, members: list[Runs]) -> None:
    """One panel of :func:`properties`: an attack per line, the networks side by side in it."""
    ticks = list(
        dict.fromkeys(
            row["name"] for runs in members for row in _attacks(runs, "property", "error")
        )
    )
    for place, runs in enumerate(members):
        look = LOOKS[runs.config.net.kind]
        for row in _attacks(runs, "property", "error"):
            numbers = verdicts.fair(row, "error", runs.config.net.queries)
            y = ticks.index(row["name"]) + 0.7 * ((place + 0.5) / len(members) - 0.5)
            _span(axis, numbers["value"], y, numbers, look)
            axis.axvline(verdicts.blind(numbers), color=RED, linestyle="--", linewidth=1)
        task = 100 * statistics.mean(runs.values("task", "error"))
        label = f"{runs.released} (task error {task:.1f} %)"
        axis.plot([], [], marker=look[1], color=look[0], label=label)
    axis.set_yticks(range(len(ticks)), [t.removeprefix("property ") for t in ticks])
    axis.invert_yaxis()
    axis.set_xlim(0, 1)
    axis.set_xlabel("error of the hidden class", fontsize=8)
    axis.legend(fontsize=7, framealpha=1, edgecolor="white", loc="center")
    _bare(axis)


def leakage(ours: Sequence[Runs], path: Path) -> str:
    """Task error against PSNR of the strongest inversion above the mean image, per data set."""
    shown = [runs for runs in ours if verdicts.strongest(runs.attacked, "inversion")]
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
        _bare(axis)
        _named(names, [runs.released for runs in members])
    figure.subplots_adjust(wspace=0.12, hspace=0.5)  # a tight layout would shrink the panels
    for axis, points in places.items():
        _numbered(axis, points)
    _save(figure, path)
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
    shown = summary.frontier(ours)
    if not shown:
        raise InputError("no network with an additional and a local beside it was attacked")
    height = max(4.0, 0.14 * len(shown))  # a line for each name
    figure, (*axes, names) = plt.subplots(1, 3, figsize=(11.6, height), width_ratios=(3, 3, 2.2))
    above = [_beyond(place.inversion, place.inversion["floor"]) for place in shown]
    found = [_beyond(place.identified, 0, 100) for place in shown]
    for axis, leaks, blind, label in zip(
        axes, (above, found), (0, 0.1),
        ("strongest inversion:\nPSNR above the mean image in dB",
         "input found among the candidates in %"), strict=True,
    ):  # fmt: skip
        for place, leak in zip(shown, leaks, strict=True):
            _placed(axis, place, leak)
        axis.axhline(blind, color="#999999", linewidth=1, linestyle="--")
        axis.axvline(0, color="#999999", linewidth=1, linestyle=":")
        axis.set_ylabel(label, fontsize=8)
        axis.set_xlabel("kept of the server's worth in %", fontsize=8)
        axis.margins(x=0.15, y=0.15)
        _bare(axis)
    axes[1].set_yscale("symlog", linthresh=0.1)
    _named(names, [f"{place.runs.trained}: {place.runs.released}" for place in shown])
    figure.tight_layout()
    for axis, leaks in zip(axes, (above, found), strict=True):
        _numbered(axis, [(100 * p.kept[0], k["value"]) for p, k in zip(shown, leaks, strict=True)])
    _save(figure, path)
    images = max(place.runs.attacked["task"]["images"] for place in shown)
    where = "; ".join(dict.fromkeys(place.runs.trained for place in shown))
    return (
        f"Defences ({where}): the share of the server's worth that is kept (0 %: no better than "
        "the control `local`; 100 %: as good as without a defence) against the strongest "
        f"inversion and the strongest identification among 1,000 candidates. {images:,} test "
        f"images for the task, attacks on networks of seed 0; {INTERVALS}. Dashed: the mean image, "
        "chance. Right and low is where a defence should be."
    )


def _beyond(numbers: dict[str, float], start: float, scale: float = 1) -> dict[str, float]:
    return {k: scale * (numbers[k] - start) for k in ("value", "low", "high")}


def _placed(axis: Axes, place: summary.Place, leak: dict[str, float]) -> None:
    """One network on one panel of :func:`frontier`."""
    (x, low, high), y = (100 * s for s in place.kept), leak["value"]
    colour, shape = LOOKS[place.runs.config.net.kind]
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


def _point(axis: Axes, rows: verdicts.Rows, look: tuple[str, str]) -> tuple[float, float]:
    """One network's task error and leakage, with both intervals, and where that is."""
    error, (_, leak) = rows["task"]["metrics"]["error"], verdicts.strongest(rows, "inversion")
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
        rows = verdicts.newest(folder)
        net = from_dict(NetConfig, rows["task"]["config"]["net"])
        if verdicts.strongest(rows, "inversion") is None:
            raise InputError(f"{net.label}: run attack.py inversion first")
        spot = _point(axis, rows, LOOKS[net.kind])
        axis.annotate(net.label, spot, textcoords="offset points", xytext=(5, 5), fontsize=7)
    axis.axhline(0, color="#999999", linewidth=1, linestyle="--")
    axis.set_xlabel("task error in %")
    axis.set_ylabel("strongest inversion: PSNR above the mean image in dB")
    _bare(axis)
    _save(figure, path)


def _attacks(runs: Runs, family: str, metric: str) -> list[dict[str, Any]]:
    """The rows of one family on the seed that was attacked."""
    rows = runs.attacked.values()
    return [r for r in rows if r.get("family") == family and metric in r["metrics"]]


def _short(runs: Runs) -> str:
    return f"{runs.network}, {runs.dataset}, {runs.released}"
