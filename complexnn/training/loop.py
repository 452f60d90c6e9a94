"""Training a split network: the task, the terms beside it, and the loop around them."""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from complexnn.config import InputError, TrainConfig
from complexnn.data import tasks
from complexnn.data.images import Augmentation, Batch, Dataset, ImageSet
from complexnn.networks.splitnet import SplitNet
from complexnn.rotation import functional as cF
from complexnn.runs.progress import Interrupted, Stop, deferred_signals, duration, track
from complexnn.runs.seeds import random_for
from complexnn.training.evaluation import evaluate
from complexnn.training.optimiser import make_optimiser, one_cycle
from complexnn.training.terms import Step, make_terms

log = logging.getLogger("complexnn")
SAVE_SECONDS = 300.0  # at most this much work is lost to a crash; chosen by hand


class NotFinite(InputError):
    """The loss left the numbers; names the step."""


class Training:
    """A run between two of its steps: what is saved, and what it takes to go on."""

    def __init__(
        self, net: SplitNet, config: TrainConfig, accelerator: Accelerator, steps: int
    ) -> None:
        self.net, self.config, self.accelerator, self.steps = net, config, accelerator, steps
        self.terms = make_terms(config, accelerator.device)
        self.optimiser = accelerator.prepare(make_optimiser(net, config))
        self.epoch, self.step = 1, 0  # the epoch under way, and steps done in it
        self.begun = time.time()  # had it never been interrupted
        # Sums over the epoch: loss, errors, images, then each term.
        self.totals = torch.zeros(3 + len(self.terms), dtype=torch.float64)
        self.best_error = math.inf

    @property
    def done(self) -> float:
        """Epochs done so far, the one under way in part."""
        return self.epoch - 1 + self.step / self.steps

    def set_rate(self) -> None:
        """Give the optimiser the learning rate of the step to come."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.config.lr * one_cycle(self.done / self.config.epochs)

    def count(self, task: Tensor, terms: Sequence[Tensor | None], wrong: Tensor) -> None:
        """Add to the totals: the mean loss of a batch, its terms, and the error of each image."""
        values = [0.0 if term is None else term.detach() for term in terms]
        sums = [task.detach() * len(wrong), wrong.sum(), len(wrong), *values]
        self.totals += torch.tensor([float(value) for value in sums], dtype=torch.float64)
        self.step += 1

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
    started, before = time.monotonic(), run.done
    with deferred_signals() as stop:
        while run.epoch <= config.epochs:
            means = train_one_epoch(run, data.train, data.augmentation, stop, save)
            if means is None:
                save()
                where = f"stopped in epoch {run.epoch} at step {run.step}"
                raise Interrupted(where, stop.number or signal.SIGTERM)
            validated, per_image = _validated(run, data.validation)
            run.best_error = min(run.best_error, validated["error"])
            row = {"epoch": run.epoch, "lr": run.optimiser.param_groups[0]["lr"], **means}
            row |= {"val_loss": validated["loss"], "val_error": validated["error"]}
            row["best_val_error"] = run.best_error
            on_epoch(row)
            # At least a step: a state may have been saved between an epoch's last step and its end.
            trained = max(run.epoch - before, 1 / run.steps)
            left = (time.monotonic() - started) / trained * (config.epochs - run.epoch)
            left += per_image * len(data.test) * config.draws  # the final test
            log.info(
                "epoch %d/%d  loss %.4f  error %.2f %%  validation error %.2f %%  %s left",
                run.epoch, config.epochs, row["train_loss"], 100 * row["train_error"],
                100 * row["val_error"], duration(left),
            )  # fmt: skip
            run.epoch, run.step, run.totals = run.epoch + 1, 0, torch.zeros_like(run.totals)
            save()


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
    loss, wrong, count, *terms = run.whole_totals().tolist()
    means = {"train_loss": loss / count, "train_error": wrong / count}
    for term, value in zip(run.terms, terms, strict=True):
        means[term.name] = value / processes / len(range(0, run.steps, term.every))
    return means


def train_step(run: Training, batch: Batch) -> None:
    """Forward, adversary, backward and update for this process's share of one batch."""
    config, net, accelerator = run.config, run.net, run.accelerator
    place = (config.seed, run.epoch, run.step, accelerator.process_index)
    keys = random_for("keys", *place)
    run.set_rate()

    with accelerator.autocast():
        release = net.release(batch.images, generator=keys)
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
    run.count(task, terms, tasks.errors(tasks.answers(logits, batch.labels), batch.labels))


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


def _validated(run: Training, images: ImageSet) -> tuple[dict[str, Any], float]:
    """What :func:`evaluate` finds on validation images, and the seconds that one image takes."""
    started, device = time.monotonic(), run.accelerator.device
    row = evaluate(run.net, images, device, draws=1, seed=run.config.seed, what="validation")
    return row, (time.monotonic() - started) / len(images)
