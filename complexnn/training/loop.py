"""Training a split network: the task, the terms beside it, and the loop around them."""

from __future__ import annotations

import itertools
import logging
import math
import os
import shutil
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import FunctionType
from typing import Any

import torch
from accelerate import Accelerator
from torch import Generator, Tensor, nn

from complexnn.config import InputError, NetConfig, TrainConfig
from complexnn.data import tasks
from complexnn.data.images import (
    Augmentation,
    Batch,
    Dataset,
    ImageSet,
)
from complexnn.metrics import share_interval_of
from complexnn.networks.costs import dissect
from complexnn.networks.splitnet import SplitNet
from complexnn.rotation import functional as cF
from complexnn.runs.progress import (
    Interrupted,
    Stop,
    deferred_signals,
    duration,
    track,
)
from complexnn.runs.seeds import random_for
from complexnn.training.terms import Step, make_terms

log = logging.getLogger("complexnn")
SAVE_SECONDS = 300.0  # at most this much work is lost to a crash


def eval_batch(dim: int) -> int:
    """Images per batch where nothing is trained: whole groups, and at least two."""
    return -(-max(256, 2 * dim) // dim) * dim


def whole_chunks(index: Tensor, size: int, dim: int) -> tuple[Tensor, ...]:
    """``index`` in order, cut into chunks of about equal size, near ``size``: each holds whole
    groups of ``dim``, and the last one what is over besides."""
    groups = max(1, len(index) // dim)
    chunks = torch.arange(groups).tensor_split(min(groups, -(-len(index) // size)))
    ends = [dim * end for end in itertools.accumulate(map(len, chunks))]
    return index.tensor_split(ends[:-1])


def check_sizes(config: NetConfig, sizes: Mapping[str, int]) -> None:
    """Refuse batches and sets, by name, that are smaller than a group.

    Raises:
        InputError: says which one, and how many images are needed.
    """
    dim = config.dim if config.kind == "complex" else 1
    for name, size in sizes.items():
        if size < dim:
            more = "images" if name.endswith("set") else "(--batch-size, training images)"
            raise InputError(
                f"groups of {dim} need at least {dim} images, the {name} has {size}: "
                f"lower --dim, or give more {more}"
            )


def check_groups(data: Dataset, config: TrainConfig) -> None:
    """Refuse, before the first step, groups that some batch could not fill, or some process's
    share of it."""
    count = cF.processes()
    share = "batch" if count == 1 else f"share of each of {count} processes in a batch"
    sizes = {
        share: min(config.batch_size, len(data.train)) // count,
        "validation set": len(data.validation),
        "test set": len(data.test),
    }
    check_sizes(config.net, sizes)


def check_memory(config: TrainConfig, device: torch.device) -> None:
    """Refuse, before images are read, a training that cannot fit into memory: its weights with
    gradient and moments, and what one batch leaves behind in convolutions and linear layers. A run
    takes more, so what passes may still fail.

    Raises:
        InputError: says how much is needed and how much there is.
    """
    free, images = memory_free(device), config.batch_size // cF.processes()
    needed = memory_needed(config, images)
    if free is not None and needed > free:
        height, width = config.net.image_size
        raise InputError(
            f"steps of {images} images of {height}x{width} need more than {needed / 1e9:,.0f} GB "
            f"of memory, and {free / 1e9:,.1f} GB are free: lower --batch-size or --resize"
        )


def memory_needed(config: TrainConfig, images: int) -> float:
    """Bytes that a step of ``images`` images takes at least; see :func:`check_memory`."""
    counted = dissect(config.net)
    number = 4 if config.precision == "fp32" else 2  # bytes under autocast
    moments = {"adamw": 2, "sgd": 1}[config.optimizer]
    weights = 4 * (2 + moments) * sum(counted.parameters.values())
    return weights + number * images * sum(counted.activations.values())


def memory_free(device: torch.device) -> float | None:
    """Bytes that a run can have on ``device``; None where that is not known."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu":
        return None
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        (available,) = (line.split()[1] for line in lines if line.startswith("MemAvailable:"))
        free = 1024.0 * int(available)
    except (OSError, ValueError):
        return None  # no Linux
    try:
        return min(free, float(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):
        return free  # no container, or one without a bound


# ------------------------------------------------------------------------------ evaluation


@torch.no_grad()
def evaluate(
    net: SplitNet,
    images: ImageSet,
    device: torch.device,
    *,
    draws: int,
    seed: int,
    what: str = "test",
) -> dict[str, Any]:
    """Error and loss of ``net`` on ``images``, in eval mode, for independent draws of the keys.

    Returns ``error`` (a share, mean over draws), its 95 % interval over images, the error of each
    draw, the loss, and the error of always giving the most common answer.
    """
    training = net.training
    net.eval()
    errors, losses = [], []
    for draw in range(draws):
        keys = random_for("evaluation", seed, draw)
        order, chunks = _test_batches(net.config, len(images), keys)
        batches = images.fetch(chunks, device)
        wrong = []
        for batch in track(batches, len(chunks), f"{what}, draw {draw + 1} of {draws}"):
            features = net.features(batch.images)
            released, key, _ = net.release(features, generator=keys, closed=False)
            logits = net.decode(net.process(released), key).float()
            wrong.append(tasks.errors(tasks.answers(logits, batch.labels), batch.labels).cpu())
            losses.append(tasks.loss(logits, batch.labels).cpu())
        errors.append(torch.cat(wrong)[order.argsort()])
    net.train(training)
    each = torch.cat(errors).view(draws, len(images))
    error = each.mean().item()
    return {
        "error": error,
        "interval": error_interval(each.mean(dim=0), images.labels),
        "draws": each.mean(dim=1).tolist(),
        "loss": torch.cat(losses).mean().item(),
        "chance": tasks.blind_error(images.labels),
    }


def _test_batches(
    config: NetConfig, count: int, generator: Generator
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The order in which images are tested, and its batches.

    Packed queries get other company in every draw. A last group that is not full is filled with
    images of its batch: this measures answers only, nothing is at stake.
    """
    order = torch.arange(count)
    if config.kind == "complex" and config.counterparts == "batch":  # as early versions cut them
        return order, order.tensor_split(-(-count // max(256, 2 * config.dim)))
    if config.queries > 1:
        order = torch.randperm(count, generator=generator)
    dim = config.dim if config.kind == "complex" else 1
    return order, whole_chunks(order, eval_batch(dim), dim)


def error_interval(errors: Tensor, labels: Tensor) -> tuple[float, float]:
    """The 95 % interval of a mean error, from each image's; attributes of an image are trials of
    their own as far as they err independently."""
    return share_interval_of(errors, trials=1 if labels.dim() == 1 else labels.shape[1])


# -------------------------------------------------------------------------------- training


def weight_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameters with and without decay: biases and norm scales are not decayed."""
    decayed = [p for p in module.parameters() if p.dim() > 1]
    others = [p for p in module.parameters() if p.dim() <= 1]
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


def one_cycle(done: float) -> float:
    """Share of the peak learning rate after ``done`` of all steps: cosine up from 1/25 over the
    first quarter, cosine down to 0 over the rest (Smith and Topin 2018, arXiv 1708.07120)."""
    start, peak_at = 0.04, 0.25
    if done < peak_at:
        return start + (1 - start) * (1 - math.cos(math.pi * done / peak_at)) / 2
    return (1 + math.cos(math.pi * (done - peak_at) / (1 - peak_at))) / 2


class NotFinite(InputError):
    """The loss left the numbers; names the step."""


class Training:
    """Everything that a run is made of between two steps: what is saved and what goes on."""

    def __init__(
        self, net: SplitNet, config: TrainConfig, accelerator: Accelerator, steps: int
    ) -> None:
        self.net, self.config, self.accelerator, self.steps = net, config, accelerator, steps
        self.terms = make_terms(config, accelerator.device)
        make = {
            "adamw": torch.optim.AdamW,
            "sgd": partial(torch.optim.SGD, momentum=0.9, nesterov=True),
        }[config.optimizer]
        groups = weight_groups(net, config.weight_decay)
        self.optimiser = accelerator.prepare(make(groups, lr=config.lr))
        self.epoch, self.step = 1, 0  # the epoch under way, and steps done in it
        self.begun = time.time()  # had it never been interrupted
        # Sums over the epoch: loss, errors, images, then each term.
        self.totals = torch.zeros(3 + len(self.terms), dtype=torch.float64)
        self.best_error = math.inf

    def whole_totals(self) -> Tensor:
        """The totals of all processes, each of which must ask for them at the same step."""
        if self.accelerator.num_processes == 1:
            return self.totals  # on the CPU: not every device has float64
        return self.accelerator.reduce(self.totals.to(self.accelerator.device)).cpu()

    def state(self) -> dict[str, Any]:
        """A tree of tensors and plain values, the same in every process, each of which must ask for
        it at the same step; see :func:`complexnn.runs.checkpoint.save_state`."""
        return {
            "net": self.net.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler else None,
            "epoch": self.epoch,
            "step": self.step,
            "seconds": time.time() - self.begun,
            "totals": self.whole_totals(),
            "best_error": self.best_error,
            "terms": {term.name: term.state() for term in self.terms},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a saved :meth:`state`."""
        self.net.load_state_dict(state["net"])
        self.optimiser.load_state_dict(state["optimiser"])
        if self.accelerator.scaler and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        for term in self.terms:
            term.restore(state["terms"][term.name])
        self.epoch, self.step = state["epoch"], state["step"]
        self.totals, self.best_error = state["totals"], state["best_error"]
        self.begun -= state.get("seconds", 0.0)  # which states of early versions lack
        if not self.accelerator.is_main_process:
            self.totals = torch.zeros_like(self.totals)  # the first process has those of all


def train_step(run: Training, batch: Batch) -> None:
    """Forward, adversary, backward and update for this process's share of one batch."""
    config, net, accelerator = run.config, run.net, run.accelerator
    place = (config.seed, run.epoch, run.step, accelerator.process_index)
    keys = random_for("keys", *place)
    for group in run.optimiser.param_groups:
        done = (run.epoch - 1 + run.step / run.steps) / config.epochs
        group["lr"] = config.lr * one_cycle(done)

    with accelerator.autocast():
        release = net.release(net.features(batch.images), generator=keys)
        logits = net.decode(net.process(release.released), release.key)
    task = tasks.loss(cF.at_least_float32(logits), batch.labels).mean()
    step = Step(run.step, batch.images, release)
    terms = [term.loss(step, random_for("critic", *place)) for term in run.terms]
    loss = task
    for term, value in zip(run.terms, terms, strict=True):
        loss = loss if value is None else loss + term.weight * value
    if not torch.isfinite(loss):
        raise NotFinite(
            f"the loss is {loss.item()} at step {run.step + 1} of epoch {run.epoch}: "
            "lower --lr or the weights of the terms beside the task, or use --precision fp32"
        )
    run.optimiser.zero_grad()
    accelerator.backward(loss)
    cF.average_gradients(net)
    run.optimiser.step()

    wrong = tasks.errors(tasks.answers(logits, batch.labels), batch.labels).sum()
    there = [0.0 if value is None else value.detach() for value in terms]
    sums = [task.detach() * len(logits), wrong, len(logits), *there]
    run.totals += torch.tensor([float(value) for value in sums], dtype=torch.float64)
    run.step += 1


def _agreed(asked: Sequence[bool], device: torch.device) -> list[bool]:
    """Which of several things any process asks for: all of them then stop, or save, at one step."""
    if cF.processes() == 1:
        return list(asked)
    counts = cF.all_reduced(torch.tensor([float(one) for one in asked], device=device))
    return [count > 0 for count in counts.tolist()]


def _augmented(
    augment: Augmentation, begun: tuple[int, ...], rank: int, pixels: Tensor, place: int
) -> Tensor:
    """The batch ``place`` steps behind ``begun`` = (seed, epoch, step), augmented."""
    *where, step = begun
    return augment(pixels, random_for("augment", *where, step + place, rank))


def check_compiler(device: torch.device, instead: str) -> None:
    """Refuse, before any work, to compile for a CPU where there is no C++ compiler."""
    compilers = (os.environ.get("CXX", "c++"), "g++", "clang++")
    if device.type == "cpu" and not any(map(shutil.which, compilers)):
        raise InputError(f"compiling needs a C++ compiler; install g++ or {instead}")


def compile_parts(net: SplitNet, *, training: bool = True) -> None:
    """Compile encoder, server and decoder for train mode, or else for eval mode.

    Each shape is compiled anew. Training has one, of full batches; evaluation, which ends with odd
    ones, stays eager beside it.
    """
    for module in (net.encoder, net.processing, net.decoder):
        module.forward = _compiled(module, training=training)


def _compiled(module: nn.Module, *, training: bool) -> Callable[..., Tensor]:
    eager = module.forward

    def call(*args: Tensor) -> Tensor:
        return eager(*args)

    # The compiler counts and finds what it has compiled by code object: a copy for each module, so
    # that no module's shapes, limits or empty graph touch another's.
    own = FunctionType(call.__code__.replace(), globals(), closure=call.__closure__)
    compiled = torch.compile(own, dynamic=False)

    def forward(*args: Tensor) -> Tensor:
        return (compiled if module.training is training else eager)(*args)

    return forward


def train_one_epoch(
    run: Training, images: ImageSet, augment: Augmentation | None, stop: Stop, save: Callable
) -> dict[str, float] | None:
    """The rest of the epoch under way; its means, or None if ``stop`` came first.

    Every process takes its share of each batch, draws its own keys, and sees the same order.
    """
    config, accelerator = run.config, run.accelerator
    place = (config.seed, run.epoch)
    chunks = images.shuffled(config.batch_size, random_for("order", *place))[: run.steps]
    rank, processes = accelerator.process_index, accelerator.num_processes
    shares = [chunk.tensor_split(processes)[rank] for chunk in chunks[run.step :]]
    draw = None
    if augment is not None:
        draw = partial(_augmented, augment, (*place, run.step), rank)
    batches = images.fetch(shares, accelerator.device, draw)
    saved = time.monotonic()
    run.net.train()
    for batch in track(batches, len(shares), f"epoch {run.epoch}"):
        here = (*place, run.step, rank)
        torch.manual_seed(random_for("layers", *here).initial_seed())  # dropout inside networks
        train_step(run, batch)
        asked = stop.number is not None, time.monotonic() - saved > SAVE_SECONDS
        stopping, saving = _agreed(asked, accelerator.device)
        if stopping:
            return None
        if saving:
            save()
            saved = time.monotonic()
    loss, wrong, seen, *terms = run.whole_totals().tolist()
    row = {"train_loss": loss / seen, "train_error": wrong / seen}
    for term, value in zip(run.terms, terms, strict=True):
        row[term.name] = value / processes / len(range(0, run.steps, term.every))
    return row


def _validated(run: Training, images: ImageSet) -> tuple[dict[str, Any], float]:
    """What :func:`evaluate` finds on validation images, and the seconds that one image takes."""
    started, device = time.monotonic(), run.accelerator.device
    found = evaluate(run.net, images, device, draws=1, seed=run.config.seed, what="validation")
    return found, (time.monotonic() - started) / len(images)


def fit(
    run: Training,
    data: Dataset,
    *,
    on_epoch: Callable[[dict[str, Any]], None],
    save: Callable[[], None],
) -> None:
    """Train to the last epoch, from wherever ``run`` stands.

    ``on_epoch`` gets a row of numbers after every epoch; the rows hold nothing that differs between
    two runs with one seed. ``save`` is called after every epoch, every few minutes, and before
    a signal ends the run, by all processes at the same step. The last epoch's weights stay; no
    epoch is picked.

    Raises:
        Interrupted: after Ctrl-C or SIGTERM, when all is saved.
        InputError: the loss is no longer finite.
    """
    config = run.config
    started, first = time.monotonic(), run.epoch - 1 + run.step / run.steps
    with deferred_signals() as stop:
        while run.epoch <= config.epochs:
            means = train_one_epoch(run, data.train, data.augmentation, stop, save)
            if means is None:
                save()
                where = f"stopped in epoch {run.epoch} at step {run.step}"
                raise Interrupted(where, stop.number or signal.SIGTERM)
            tested, per_image = _validated(run, data.validation)
            run.best_error = min(run.best_error, tested["error"])
            row = {"epoch": run.epoch, "lr": run.optimiser.param_groups[0]["lr"], **means}
            row |= {"val_loss": tested["loss"], "val_error": tested["error"]}
            on_epoch(row | {"best_val_error": run.best_error})
            # At least a step: a state may have been saved between an epoch's last step and its end.
            trained = max(run.epoch - first, 1 / run.steps)
            left = (time.monotonic() - started) / trained * (config.epochs - run.epoch)
            left += per_image * len(data.test) * config.draws  # the final test
            log.info(
                "epoch %d/%d  loss %.4f  error %.2f %%  validation error %.2f %%  %s left",
                run.epoch, config.epochs, row["train_loss"], 100 * row["train_error"],
                100 * row["val_error"], duration(left),
            )  # fmt: skip
            run.epoch, run.step, run.totals = run.epoch + 1, 0, torch.zeros_like(run.totals)
            save()
