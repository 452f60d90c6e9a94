"""Speed, side by side: ``python -m complexnn.bench``.

All networks live in one process and take turns, step by step, so that a slow minute of the machine
hits all of them; a ratio is the median over the rounds of the time in that round beside that of
``additional``, the same layers without rotation.
"""

from __future__ import annotations

import gc
import logging
import statistics
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from complexnn.config import InputError, NetConfig, Precision, TrainConfig, at_least
from complexnn.data.images import (
    Augmentation,
    Batch,
    ImageSet,
)
from complexnn.networks.costs import dissect
from complexnn.networks.registry import build
from complexnn.runs.devices import make_accelerator
from complexnn.runs.progress import track
from complexnn.runs.seeds import random_for
from complexnn.runs.tables import Table
from complexnn.speed import competitors
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

    found = {
        "original": (net(kind="original"), 0.0),
        REFERENCE: (net(kind="additional"), 0.0),
        "noisy": (net(kind="noisy"), 0.0),
    }
    for group in ("decoy", "packed"):
        for dim in config.dims:
            found[f"complex {group} d={dim}"] = (net(dim=dim, group=group), 0.0)
    found["complex decoy d=2, complex weights"] = (net(weights="complex"), 0.0)
    found["complex decoy d=2, with critic"] = (net(), TrainConfig().adversarial_weight)
    return found


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


class PeakMemory(TorchDispatchMode):
    """Bytes of the tensors that are alive at once, at most, among those made inside the block."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        place = storage._cdata
        if place in self._seen:
            return
        size = storage.nbytes()
        self._seen.add(place)
        self.alive += size
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._free, place, size)

    def _free(self, place: int, size: int) -> None:
        self._seen.discard(place)
        self.alive -= size


def peak_bytes(step: Callable[[], Any], device: torch.device) -> int:
    """The height of memory during one step, parameters and optimiser not counted."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with PeakMemory() as counted:
        step()
    return counted.peak


def compare(
    config: BenchConfig, phase: Phase, batch: int, precision: Precision, *, compiled: bool
) -> list[dict[str, Any]]:
    """One comparison of every network that fits: rows of numbers."""
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
        built += _rivals(config, phase, images, labels, accelerator)
    what = f"{phase}, batch {batch}, {precision}, {'compiled' if compiled else 'eager'}"
    log.info("%s", what)
    measure(built, config.rounds, what, sync)
    if not compiled and batch > 1:
        for case in built:
            case.peak = peak_bytes(case.step, device)
    return _rows(built, phase, batch, precision, compiled)


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


def _rivals(
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
    found = [Case("plain PyTorch (original)", _plain_step(plain, phase, images, labels), flops)]
    double = NetConfig(config.arch, config.variant, weights="complex", image_size=size)
    for name in competitors.LIBRARIES:
        net = competitors.with_library(name, complex_net)
        if net is not None:
            step = step_of(net.to(images.device), phase, images, labels, 0.0, accelerator)
            found.append(Case(f"{name} (decoy d=2)", step, sum(dissect(double).flops.values())))
    return found


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


def _rows(
    built: list[Case], phase: Phase, batch: int, precision: str, compiled: bool
) -> list[dict[str, Any]]:
    reference = next(case for case in built if case.name == REFERENCE)
    rows = []
    for case in built:
        seconds = statistics.median(case.seconds)
        pairs = zip(case.seconds, reference.seconds, strict=True)
        ratio = statistics.median(own / other for own, other in pairs)
        rows.append({
            "network": case.name, "phase": phase, "batch": batch, "precision": precision,
            "compiled": compiled, "milliseconds": 1e3 * seconds,
            "images_per_second": batch / seconds, "ratio": ratio,
            "flop_ratio": case.flops / reference.flops,
            "memory_ratio": case.peak / reference.peak if reference.peak else None,
        })  # fmt: skip
    return rows


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


def ckks_seconds() -> float | None:
    """Seconds of one encrypted 3x3 convolution of 16 to 32 channels on one 32x32 map with stride
    2, the first of ResNet-20's server, by CKKS through TenSEAL.

    Measured: one of its 16 · 32 products of a channel's patches with a kernel; times their number.
    None where TenSEAL is not installed.
    """
    try:
        import tenseal
    except ImportError:
        return None
    context = tenseal.context(
        tenseal.SCHEME_TYPE.CKKS, poly_modulus_degree=8192, coeff_mod_bit_sizes=[31, 26, 26, 31]
    )
    context.global_scale = 2**26
    context.generate_galois_keys()
    channel, kernel = torch.rand(32, 32).tolist(), torch.rand(3, 3).tolist()
    encrypted, windows = tenseal.im2col_encoding(context, channel, 3, 3, 2)
    times = []
    for _ in range(5):
        started = time.perf_counter()
        encrypted.conv2d_im2col(kernel, windows)
        times.append(time.perf_counter() - started)
    return 16 * 32 * statistics.median(times)


# --------------------------------------------------------------------------------------- main


def table(rows: list[dict[str, Any]]) -> Table:
    """One comparison."""
    first = rows[0]
    how = "compiled" if first["compiled"] else "eager"
    title = f"{first['phase']}, batch {first['batch']}, {first['precision']}, {how}"
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
    return Table(title, head, lines)


def settings(config: BenchConfig) -> list[tuple[Phase, int, Precision, bool]]:
    """The comparisons: phase, batch, precision, compiled."""
    found: list[tuple[Phase, int, Precision, bool]] = []
    for compiled in (False, True) if config.compiled else (False,):
        for precision in config.precisions:
            for batch in config.batch_sizes:
                if batch > 1:
                    found.append(("training step", batch, precision, compiled))
                found.append(("inference", batch, precision, compiled))
    return found
