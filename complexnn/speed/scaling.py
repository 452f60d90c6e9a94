"""How cost grows: ``python -m complexnn.scaling curves`` times training steps against batch, parts,
image size and depth, and draws them; ``… throughput`` prints what all processes of a ``torchrun``
train together.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from matplotlib import pyplot as plt
from tyro.conf import Positional

from complexnn.config import InputError, NetConfig, at_least
from complexnn.networks.registry import build
from complexnn.runs.checkpoint import replacing
from complexnn.runs.devices import make_accelerator
from complexnn.runs.progress import track
from complexnn.runs.tables import Table
from complexnn.speed.bench import step_of
from complexnn.speed.memory import peak_bytes

# What grows along each axis, from small to large; everything else stays as in the first network.
AXES: dict[str, tuple[int, ...]] = {
    "images per step": (8, 16, 32, 48, 64),
    "parts d of a decoy group": (2, 4, 6, 8, 10),
    "pixels": (16, 24, 32, 40, 48),  # side; drawn by its square
    "depth of the ResNet": (20, 32, 44, 56, 110),
}
BATCH = 32


@dataclass(frozen=True)
class ScalingConfig:
    """Cost of a training step of the rotated ResNet as batch, parts, pixels or depth grow."""

    what: Positional[Literal["curves", "throughput"]]
    """curves: time and memory along each axis. throughput: images per second of this process, or
    of all processes under torchrun."""
    rounds: int = 5
    """Timed steps of each network; for throughput, of all of them."""
    batch_size: int = 128
    """Images per step of all processes together, for throughput."""
    picture: Path | None = None
    """Also draw the curves here."""
    device: str = "auto"
    """auto, cpu, cuda."""

    def __post_init__(self) -> None:
        at_least(self, 1, "rounds")
        at_least(self, 4, "batch_size")
        idle = "batch_size" if self.what == "curves" else "picture"
        if getattr(self, idle) != getattr(ScalingConfig, idle):
            raise InputError(f"{idle.replace('_', '-')} does not apply to {self.what}")


@dataclass(frozen=True)
class Point:
    """One network of an axis."""

    axis: str
    size: float
    seconds: float
    megabytes: float


def networks(axis: str) -> Iterator[tuple[float, NetConfig, int]]:
    """Size along the axis, network and batch, from small to large."""
    for value in AXES[axis]:
        if axis == "images per step":
            yield value, NetConfig("resnet20"), value
        elif axis == "pixels":
            yield value**2, NetConfig("resnet20", image_size=(value, value)), BATCH
        elif axis == "depth of the ResNet":
            yield value, NetConfig(f"resnet{value}"), BATCH
        else:
            yield value, NetConfig("resnet20", dim=value), BATCH


def curves(config: ScalingConfig) -> list[Point]:
    """Time (the median, the networks of an axis in turns) and peak memory along each axis."""
    accelerator, points = make_accelerator(config.device), []
    for axis in AXES:
        steps = []
        for size, net, batch in networks(axis):
            images = torch.rand(batch, 3, *net.image_size, device=accelerator.device)
            labels = torch.arange(batch, device=accelerator.device) % 10
            net = build(net).to(accelerator.device)
            steps.append((size, step_of(net, "training step", images, labels, 0.0, accelerator)))
        times: list[list[float]] = [[] for _ in steps]
        for turn in track(range(config.rounds + 1), config.rounds + 1, axis):
            for taken, (_, step) in zip(times, steps, strict=True):
                seconds = timed(step, accelerator.device)
                if turn:  # the first warms up
                    taken.append(seconds)
        for taken, (size, step) in zip(times, steps, strict=True):
            peak = peak_bytes(step, accelerator.device) / 1e6
            points.append(Point(axis, size, statistics.median(taken), peak))
    return points


def timed(step: Any, device: torch.device) -> float:
    """Seconds of one step, the accelerator's queue included."""
    started = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def straight(x: list[float], y: list[float]) -> tuple[float, float, float]:
    """Slope and start of the least-squares line, and the share of the variance R² it explains."""
    slope, start = np.polyfit(x, y, 1)
    rest = np.asarray(y) - (slope * np.asarray(x) + start)
    return float(slope), float(start), float(1 - rest.var() / np.var(y))


def table(points: list[Point]) -> Table:
    """Each axis with the fit of a straight line."""
    lines = []
    for axis in AXES:
        own = [p for p in points if p.axis == axis]
        x = [p.size for p in own]
        fits = [straight(x, [getattr(p, n) for p in own])[2] for n in ("seconds", "megabytes")]
        first, last = own[0], own[-1]
        lines.append((
            axis, f"{first.size:,} to {last.size:,}",
            f"{1e3 * first.seconds:.0f} to {1e3 * last.seconds:.0f}", f"{fits[0]:.3f}",
            f"{first.megabytes:.0f} to {last.megabytes:.0f}", f"{fits[1]:.3f}",
        ))  # fmt: skip
    head = ("axis", "size", "ms", "R² of a line", "MB at the peak", "R² of a line")
    title = "Training step of complex ResNet-20-alpha, decoy groups, fp32"
    threads = torch.get_num_threads()
    note = f"Batch {BATCH}, d = 2, 32x32 where nothing else is said; {threads} threads."
    return Table(title, head, lines, note)


def draw(points: list[Point], path: Path) -> None:
    """Time and memory along each axis, with their straight lines."""
    figure, axes = plt.subplots(2, len(AXES), figsize=(11, 4.6), sharex="col")
    for column, axis in zip(axes.T, AXES, strict=True):
        own = [p for p in points if p.axis == axis]
        x = [p.size for p in own]
        for place, values, colour in (
            (column[0], [1e3 * p.seconds for p in own], "#0072B2"),
            (column[1], [p.megabytes for p in own], "#D55E00"),
        ):
            slope, start, share = straight(x, values)
            place.plot(x, [slope * v + start for v in x], color="#999999", linewidth=1)
            place.plot(x, values, "o", color=colour, markersize=4)
            place.text(0.05, 0.88, f"R² {share:.3f}", transform=place.transAxes, fontsize=8)
            place.set_ylim(bottom=0)
            place.set_xlim(left=0)
            place.spines[["top", "right"]].set_visible(False)
        column[1].set_xlabel(axis)
    axes[0, 0].set_ylabel("ms per training step")
    axes[1, 0].set_ylabel("MB at the peak")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=160, format="png")
    plt.close(figure)


def throughput(config: ScalingConfig) -> str:
    """Images per second of all processes together, one line from the first of them."""
    accelerator = make_accelerator(config.device)
    share, rest = divmod(config.batch_size, accelerator.num_processes)
    if rest or share < 2:
        raise InputError(
            f"batch_size {config.batch_size} cannot be shared by {accelerator.num_processes} "
            "processes; give a multiple, two images each or more"
        )
    images = torch.rand(share, 3, 32, 32, device=accelerator.device)
    labels = torch.arange(share, device=accelerator.device) % 10
    net = build("resnet20", kind="complex").to(accelerator.device)
    step = step_of(net, "training step", images, labels, 0.0, accelerator)
    for _ in range(2):
        step()
    accelerator.wait_for_everyone()
    times = [timed(step, accelerator.device) for _ in range(config.rounds)]
    accelerator.wait_for_everyone()
    rate = share * accelerator.num_processes / statistics.median(times)
    return (
        f"{accelerator.num_processes} processes of {torch.get_num_threads()} threads: "
        f"{rate:,.0f} images/s"
    )
