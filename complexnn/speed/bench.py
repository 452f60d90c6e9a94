"""Speed, side by side: ``python -m complexnn.bench``.

All networks live in one process and take turns, step by step, so that a slow minute of the machine
hits all of them; a ratio is the median over the rounds of the time in that round beside that of
``additional``, the same layers without rotation.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from complexnn.config import InputError, NetConfig, Precision, TrainConfig, at_least
from complexnn.data.images import Augmentation, Batch, ImageSet
from complexnn.networks.costs import dissect
from complexnn.networks.registry import build
from complexnn.runs.devices import make_accelerator
from complexnn.runs.progress import track
from complexnn.runs.seeds import random_for
from complexnn.runs.tables import Table
from complexnn.speed import competitors
from complexnn.speed.memory import peak_bytes
from complexnn.training.compiling import compile_parts
from complexnn.training.loop import Training, train_step

log = logging.getLogger("complexnn")
Phase = Literal["training step", "inference"]
REFERENCE = "additional"


QUICK: dict[str, Any] = {
    "batch_sizes": (32,), "dims": (2, 8), "precisions": ("fp32",), "compiled": False, "rounds": 3,
}  # fmt: skip


@dataclass(frozen=True)
class BenchConfig:
    """Time every kind of network against `additional`, the same layers without rotation."""

    arch: str = "resnet20"
    """Architecture."""
    variant: Literal["alpha", "beta"] = "alpha"
    """Where it is cut."""
    image_size: int = 32
    """Height and width of the images."""
    batch_sizes: tuple[int, ...] = (128, 1)
    """Images per step; inference only at 1."""
    dims: tuple[int, ...] = (2, 4, 8)
    """Parts d."""
    precisions: tuple[Precision, ...] = ("fp32", "bf16")
    """Arithmetic."""
    compiled: bool = True
    """Also time compiled networks."""
    rounds: int = 15
    """Turns of every network in each comparison."""
    threads: int | None = None
    """Threads of the CPU; None: torch's own choice."""
    quick: bool = False
    """Batch 32, fp32, eager, d = 2 and 8, few rounds, the networks only: under a minute."""
    device: str = "auto"
    """auto, cpu, cuda."""
    markdown: Path | None = None
    """Also write the tables as Markdown here."""
    json: Path | None = None
    """Also write all numbers as JSON here."""

    def __post_init__(self) -> None:
        at_least(self, 1, "image_size", "rounds")
        if self.threads is not None:
            at_least(self, 1, "threads")
        if not self.batch_sizes or min(self.batch_sizes) < 1:
            raise InputError("batch_sizes must be positive")
        if not self.dims or min(self.dims) < 2:
            raise InputError("dims must be at least 2")
        if self.quick:
            for name in QUICK:
                if getattr(self, name) != getattr(BenchConfig, name):
                    raise InputError(f"quick sets {name} itself; leave one of the two out")


class Comparison(NamedTuple):
    """What all networks do in turns."""

    phase: Phase
    batch: int
    precision: Precision
    compiled: bool

    @property
    def title(self) -> str:
        how = "compiled" if self.compiled else "eager"
        return f"{self.phase}, batch {self.batch}, {self.precision}, {how}"


def comparisons(config: BenchConfig) -> list[Comparison]:
    """The comparisons that ``config`` asks for."""
    asked = []
    for compiled in (False, True) if config.compiled else (False,):
        for precision in config.precisions:
            for batch in config.batch_sizes:
                if batch > 1:
                    asked.append(Comparison("training step", batch, precision, compiled))
                asked.append(Comparison("inference", batch, precision, compiled))
    return asked


@dataclass
class Case:
    """One network in one comparison."""

    name: str
    step: Callable[[], Any]
    flops: float  # of a forward pass, per query
    seconds: list[float] = field(default_factory=list)
    peak: int = 0  # bytes at the height of one step


def cases(config: BenchConfig) -> dict[str, tuple[NetConfig, float]]:
    """Networks by name, with the weight of the adversarial term."""
    size = (config.image_size,) * 2

    def net(**settings: Any) -> NetConfig:
        return NetConfig(config.arch, config.variant, image_size=size, **settings)

    networks = {
        "original": (net(kind="original"), 0.0),
        REFERENCE: (net(kind="additional"), 0.0),
        "noisy": (net(kind="noisy"), 0.0),
    }
    for group in ("decoy", "packed"):
        for dim in config.dims:
            networks[f"complex {group} d={dim}"] = (net(dim=dim, group=group), 0.0)
    networks["complex decoy d=2, complex weights"] = (net(weights="complex"), 0.0)
    networks["complex decoy d=2, with critic"] = (net(), TrainConfig().adversarial_weight)
    return networks


# ---------------------------------------------------------------------------------- measuring


def measure(built: list[Case], rounds: int, what: str, sync: Callable[[], None]) -> None:
    """Time the cases in turns, after two turns to warm up."""
    for case in built:
        for _ in range(2):
            case.step()
    for _ in track(range(rounds), rounds, what):
        for case in built:
            sync()
            started = time.perf_counter()
            case.step()
            sync()
            case.seconds.append(time.perf_counter() - started)


def compare(config: BenchConfig, comparison: Comparison) -> list[dict[str, Any]]:
    """One comparison of every network that fits: rows of numbers."""
    phase, batch, precision, compiled = comparison
    accelerator = make_accelerator(config.device, precision)
    device = accelerator.device

    def sync() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    images = torch.rand(batch, 3, config.image_size, config.image_size, device=device)
    labels = torch.arange(batch, device=device) % 10
    built: list[Case] = []
    for name, (net_config, weight) in cases(config).items():
        over = batch % net_config.dim if phase == "inference" else 0
        if net_config.kind == "complex" and (batch < net_config.dim or over):
            continue  # its groups cannot be filled
        if phase == "inference" and weight:
            continue
        torch.manual_seed(0)
        net = build(net_config).to(device)
        flops = sum(dissect(net_config).flops.values())
        built.append(Case(name, step_of(net, phase, images, labels, weight, accelerator), flops))
        if compiled:
            compile_parts(net, training=phase == "training step")
    if not compiled and precision == "fp32" and batch > 1:
        built += _competitors(config, phase, images, labels, accelerator)
    log.info("%s", comparison.title)
    measure(built, config.rounds, comparison.title, sync)
    if not compiled and batch > 1:
        for case in built:
            case.peak = peak_bytes(case.step, device)
    return _rows(built, comparison)


def step_of(
    net: Any, phase: Phase, images: Tensor, labels: Tensor, weight: float, accelerator: Any
) -> Callable[[], Any]:
    """A training step as train.py takes it, or one query from image to answer."""
    if phase == "training step":
        critic = {"adversarial_weight": weight} if net.config.kind == "complex" else {}
        settings = TrainConfig(net=net.config, batch_size=len(images), **critic)
        training = Training(net.train(), settings, accelerator, steps=10**9)
        batch = Batch(images, labels, labels)
        return lambda: train_step(training, batch)
    net.eval()
    rng = random_for("evaluation", 0)

    def infer() -> Tensor:
        with torch.no_grad(), accelerator.autocast():
            return net(images, generator=rng)

    return infer


def _competitors(
    config: BenchConfig, phase: Phase, images: Tensor, labels: Tensor, accelerator: Any
) -> list[Case]:
    """Plain PyTorch, and the complex-valued libraries that are installed."""
    if not config.arch.startswith("resnet"):
        return []
    size = (config.image_size,) * 2
    complex_net = NetConfig(config.arch, config.variant, image_size=size)
    original = NetConfig(config.arch, config.variant, kind="original", image_size=size)
    flops = sum(dissect(original).flops.values())
    plain = competitors.PlainResNet(int(config.arch.removeprefix("resnet")), 10).to(images.device)
    built = [Case("plain PyTorch (original)", _plain_step(plain, phase, images, labels), flops)]
    double = NetConfig(config.arch, config.variant, weights="complex", image_size=size)
    for name in competitors.LIBRARIES:
        net = competitors.with_library(name, complex_net)
        if net is not None:
            step = step_of(net.to(images.device), phase, images, labels, 0.0, accelerator)
            built.append(Case(f"{name} (decoy d=2)", step, sum(dissect(double).flops.values())))
    return built


def _plain_step(
    net: torch.nn.Module, phase: Phase, images: Tensor, labels: Tensor
) -> Callable[[], Any]:
    if phase == "inference":
        net.eval()

        def infer() -> Tensor:
            with torch.no_grad():
                return net(images)

        return infer
    optimiser = torch.optim.AdamW(net.train().parameters(), lr=1e-3)

    def step() -> None:
        loss = torch.nn.functional.cross_entropy(net(images), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step


def _rows(built: list[Case], comparison: Comparison) -> list[dict[str, Any]]:
    reference = next(case for case in built if case.name == REFERENCE)
    rows = []
    for case in built:
        seconds = statistics.median(case.seconds)
        pairs = zip(case.seconds, reference.seconds, strict=True)
        ratio = statistics.median(own / other for own, other in pairs)
        rows.append({
            "network": case.name, **comparison._asdict(), "milliseconds": 1e3 * seconds,
            "images_per_second": comparison.batch / seconds, "ratio": ratio,
            "flop_ratio": case.flops / reference.flops,
            "memory_ratio": case.peak / reference.peak if reference.peak else None,
        })  # fmt: skip
    return rows


def table(comparison: Comparison, rows: list[dict[str, Any]]) -> Table:
    """One comparison."""
    lines = []
    for row in rows:
        memory = row["memory_ratio"]
        lines.append((
            row["network"], f"{row['milliseconds']:.1f}", f"{row['images_per_second']:,.0f}",
            f"{row['ratio']:.2f}", f"{row['flop_ratio']:.2f}",
            f"{row['ratio'] / row['flop_ratio']:.2f}",
            "" if memory is None else f"{memory:.2f}",
        ))  # fmt: skip
    head = ("network", "ms", "images/s", "ratio", "FLOP ratio", "gap", "peak memory")
    return Table(comparison.title, head, lines)


# ------------------------------------------------------------------------ beside the networks


def data_share(config: BenchConfig) -> float:
    """Share of an epoch of `original` that is not spent in the network: picking, augmenting and
    widening batches that are in memory."""
    accelerator = make_accelerator(config.device)
    device, size = accelerator.device, config.image_size
    pixels = torch.randint(0, 256, (1280, 3, size, size), dtype=torch.uint8, device=device)
    labels = torch.arange(1280) % 10
    images = ImageSet(pixels, labels, labels)
    net = build(config.arch, variant=config.variant, kind="original", image_size=size).to(device)
    augmentation = Augmentation(flip=True, padding=4)
    shares = []
    for turn in range(3):
        chunks = images.shuffled(128, random_for("order", turn))
        batches = images.fetch(
            chunks, device, lambda p, place: augmentation(p, random_for("augment", place))
        )
        inside, begun, step = 0.0, time.perf_counter(), None
        for batch in batches:
            if step is None:
                step = step_of(net, "training step", batch.images, batch.labels, 0.0, accelerator)
            started = time.perf_counter()
            step()
            inside += time.perf_counter() - started
        shares.append(1 - inside / (time.perf_counter() - begun))
    return statistics.median(shares)
