"""Training a split network: the task, the adversarial term, and the loop around them."""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Generator, Tensor, nn

from complexnn import functional as cF
from complexnn import tasks
from complexnn.config import InputError, TrainConfig
from complexnn.images import Augmentation, Batch, Dataset, ImageSet
from complexnn.metrics import mean_interval, share_interval
from complexnn.networks.modules import Critic
from complexnn.networks.registry import topology
from complexnn.networks.split import SplitNet
from complexnn.progress import Interrupted, Stop, deferred_signals, duration, track

log = logging.getLogger("complexnn")
SAVE_SECONDS = 300.0  # at most this much work is lost to a crash


def eval_batch(dim: int) -> int:
    """Images per batch where nothing is trained: even batches of this size hold whole groups."""
    return max(256, 2 * dim)


def check_groups(data: Dataset, config: TrainConfig) -> None:
    """Refuse, before the first step, groups that some batch could not fill."""
    dim = config.net.dim if config.net.kind == "complex" else 1
    sizes = {
        "batch": min(config.batch_size, len(data.train)),
        "validation set": len(data.validation),
        "test set": len(data.test),
    }
    for name, size in sizes.items():
        if size < dim:
            raise InputError(f"groups of {dim} need at least {dim} images, the {name} has {size}")


_PURPOSES = ("order", "augment", "keys", "critic", "layers", "evaluation", "attack")


def random_for(purpose: str, *where: int) -> Generator:
    """The generator of one purpose at one place, such as (seed, epoch, step, rank).

    Randomness is a function of where a run stands, never of how it came there: a run that goes on
    after an interruption draws what the unbroken run would have drawn.
    """
    entropy = [_PURPOSES.index(purpose), *where]
    (state,) = np.random.SeedSequence(entropy).generate_state(1, np.uint64)
    return Generator().manual_seed(int(state >> 1))


# ------------------------------------------------------------------------- adversarial term


def true_and_wrong(
    parts: Tensor, queries: int, wrong_keys: int, generator: Generator
) -> tuple[Tensor, Tensor]:
    r"""Features as the right key shows them, and as wrong keys would.

    A wrong key shows :math:`a' = \sum_j u_j f_j` with a random unit vector u; at d = 2,
    :math:`a' = a\cos\Delta\theta - b\sin\Delta\theta`. ``queries`` real features per group.

    Shape: ``(G, d, C, H, W) -> (G * queries, C, H, W), (G * queries * wrong_keys, C, H, W)``.
    """
    groups, dim = parts.shape[:2]
    count = queries * wrong_keys
    directions = cF.draw_directions(groups * count, dim, generator).view(groups, count, dim)
    wrong = cF.rotate(parts, directions.to(parts))
    return cF.first_parts(parts, queries), wrong.flatten(0, 1)


def wasserstein_gap(critic: Critic, true: Tensor, wrong: Tensor) -> Tensor:
    r""":math:`E[D(a)] - E[D(a')]`: the critic maximises it, the encoder minimises it."""
    scores = critic(torch.cat([true, wrong]))
    return scores[: len(true)].mean() - scores[len(true) :].mean()


def gradient_penalty(critic: Critic, true: Tensor, wrong: Tensor, generator: Generator) -> Tensor:
    r""":math:`E[(\sqrt N\|\nabla D(z)\| - 1)^2]` at random points z between true and wrong features
    (Gulrajani et al. 2017, arXiv 1704.00028); one z per true feature.

    Deviation: the gradient's norm belongs to distances in root mean square per entry, so that the
    critic's scores, and with them the weight of the adversarial term, mean the same at any size of
    the feature map.
    """
    mix = cF.uniform((len(true), 1, 1, 1), generator).to(true)
    z = (mix * true + (1 - mix) * wrong[:: len(wrong) // len(true)]).requires_grad_()
    (gradient,) = torch.autograd.grad(critic(z).sum(), z, create_graph=True)
    length = gradient.flatten(1).norm(dim=1) * gradient[0].numel() ** 0.5
    return (length - 1).square().mean()


@dataclass
class Adversary:
    """The critic with its own optimiser."""

    critic: Critic
    optimiser: torch.optim.Optimizer
    config: TrainConfig

    def loss(self, parts: Tensor, step: int, rng: Generator) -> Tensor | None:
        """Train the critic on the detached features, then return the encoder's term, with
        gradient to the encoder; None on steps without one."""
        config = self.config
        if step % config.critic_every:
            return None
        queries = parts.shape[1] if config.net.group == "packed" else 1
        true, wrong = true_and_wrong(cF.at_least_float32(parts), queries, config.wrong_keys, rng)
        self.critic.requires_grad_(True)
        for _ in range(config.critic_steps):
            self._critic_step(true.detach(), wrong.detach(), rng)
        self.critic.requires_grad_(False)
        return wasserstein_gap(self.critic, true, wrong)

    def _critic_step(self, true: Tensor, wrong: Tensor, rng: Generator) -> None:
        config = self.config
        loss = -wasserstein_gap(self.critic, true, wrong)
        if config.critic_constraint == "gradient-penalty":
            penalty = gradient_penalty(self.critic, true, wrong, rng)
            loss = loss + config.gradient_penalty * penalty
        self.optimiser.zero_grad()
        loss.backward()
        average_gradients(self.critic)
        self.optimiser.step()
        if config.critic_constraint == "weight-clipping":
            with torch.no_grad():
                for parameter in self.critic.parameters():
                    parameter.clamp_(-config.clip_value, config.clip_value)


def make_adversary(config: TrainConfig, device: torch.device) -> Adversary | None:
    """The adversary of a ``complex`` network, or None where the term is switched off."""
    if config.net.kind != "complex" or config.adversarial_weight == 0:
        return None
    channels, *size = topology(config.net).released
    critic = Critic(channels, tuple(size)).to(device)
    optimiser = torch.optim.Adam(critic.parameters(), lr=config.critic_lr, betas=(0.0, 0.9))
    return Adversary(critic, optimiser, config)


# ------------------------------------------------------------------------------ evaluation


@torch.no_grad()
def evaluate(
    net: SplitNet, images: ImageSet, device: torch.device, *, draws: int, seed: int
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
        for batch in images.batches(eval_batch(net.config.parts), device):
            logits = net(batch.images, generator=keys).float()
            errors.append(tasks.errors(tasks.answers(logits, batch.labels), batch.labels).cpu())
            losses.append(tasks.loss(logits, batch.labels).cpu())
    net.train(training)
    each = torch.cat(errors).view(draws, len(images))
    error = each.mean().item()
    return {
        "error": error,
        "interval": share_interval(error, len(images))
        if images.labels.dim() == 1
        else mean_interval(each.mean(dim=0)),
        "draws": each.mean(dim=1).tolist(),
        "loss": torch.cat(losses).mean().item(),
        "chance": tasks.blind_error(images.labels),
    }


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


def average_gradients(module: nn.Module) -> None:
    """Replace the gradients by their means over all processes, in one exchange."""
    if cF.processes() == 1:
        return
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    mean = cF.average_over_processes(torch.cat([g.flatten() for g in gradients]))
    for gradient, part in zip(gradients, mean.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


class NotFinite(InputError):
    """The loss left the numbers; names the step."""


class Training:
    """Everything that a run is made of between two steps: what is saved and what goes on."""

    def __init__(
        self, net: SplitNet, config: TrainConfig, accelerator: Accelerator, steps: int
    ) -> None:
        self.net, self.config, self.accelerator, self.steps = net, config, accelerator, steps
        self.adversary = make_adversary(config, accelerator.device)
        groups = weight_groups(net, config.weight_decay)
        self.optimiser = accelerator.prepare(torch.optim.AdamW(groups, lr=config.lr))
        self.epoch, self.step = 1, 0  # the epoch under way, and steps done in it
        self.totals = torch.zeros(4, dtype=torch.float64)  # loss, errors, images, critic's gap
        self.best_error = math.inf

    def state(self) -> dict[str, Any]:
        """A tree of tensors and plain values; see :func:`complexnn.checkpoint.save_state`."""
        state = {
            "net": self.net.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler else None,
            "epoch": self.epoch,
            "step": self.step,
            "totals": self.totals,
            "best_error": self.best_error,
        }
        if self.adversary is not None:
            state["critic"] = self.adversary.critic.state_dict()
            state["critic_optimiser"] = self.adversary.optimiser.state_dict()
        return state

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a saved :meth:`state`."""
        self.net.load_state_dict(state["net"])
        self.optimiser.load_state_dict(state["optimiser"])
        if self.accelerator.scaler and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        if self.adversary is not None:
            self.adversary.critic.load_state_dict(state["critic"])
            self.adversary.optimiser.load_state_dict(state["critic_optimiser"])
        self.epoch, self.step = state["epoch"], state["step"]
        self.totals, self.best_error = state["totals"], state["best_error"]


def train_step(run: Training, batch: Batch) -> None:
    """Forward, adversary, backward and update for this process's share of one batch."""
    config, net, accelerator = run.config, run.net, run.accelerator
    place = (config.seed, run.epoch, run.step, accelerator.process_index)
    keys = random_for("keys", *place)
    for group in run.optimiser.param_groups:
        done = (run.epoch - 1 + run.step / run.steps) / config.epochs
        group["lr"] = config.lr * one_cycle(done)

    with accelerator.autocast():
        groups = net.group(net.features(batch.images), generator=keys)
        released, key = net.rotate(groups, generator=keys)
        logits = net.decode(net.process(released), key)
    task = tasks.loss(cF.at_least_float32(logits), batch.labels).mean()
    gap = None
    if run.adversary is not None:
        gap = run.adversary.loss(groups.parts, run.step, random_for("critic", *place))
    loss = task if gap is None else task + config.adversarial_weight * gap
    if not torch.isfinite(loss):
        raise NotFinite(
            f"the loss is {loss.item()} at step {run.step + 1} of epoch {run.epoch}: "
            "lower --lr or --adversarial-weight, or use --precision fp32"
        )
    run.optimiser.zero_grad()
    accelerator.backward(loss)
    average_gradients(net)
    run.optimiser.step()

    wrong = tasks.errors(tasks.answers(logits, batch.labels), batch.labels).sum()
    sums = [task.detach() * len(logits), wrong, len(logits), 0 if gap is None else gap.detach()]
    run.totals += torch.tensor([float(value) for value in sums], dtype=torch.float64)
    run.step += 1


def _stopping(stop: Stop, device: torch.device) -> bool:
    """Whether any process was asked to stop: all leave at the same step, or some would wait."""
    asked = stop.number is not None
    if cF.processes() == 1:
        return asked
    return cF.average_over_processes(torch.tensor([float(asked)], device=device)).item() > 0


def _augmented(
    augment: Augmentation, begun: tuple[int, ...], rank: int, pixels: Tensor, place: int
) -> Tensor:
    """The batch ``place`` steps behind ``begun`` = (seed, epoch, step), augmented."""
    *where, step = begun
    return augment(pixels, random_for("augment", *where, step + place, rank))


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
        if _stopping(stop, accelerator.device):
            return None
        here = (*place, run.step, rank)
        torch.manual_seed(random_for("layers", *here).initial_seed())  # dropout inside networks
        train_step(run, batch)
        if time.monotonic() - saved > SAVE_SECONDS:
            save()
            saved = time.monotonic()
    totals = run.totals  # stays on the CPU where it can: not every device has float64
    if processes > 1:
        totals = accelerator.reduce(totals.to(accelerator.device))
    loss, wrong, seen, gap = totals.tolist()
    row = {"train_loss": loss / seen, "train_error": wrong / seen}
    if run.adversary is not None:
        row["critic_gap"] = gap / processes / len(range(0, run.steps, config.critic_every))
    return row


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
    a signal ends the run. The last epoch's weights stay; no epoch is picked.

    Raises:
        Interrupted: after Ctrl-C or SIGTERM, when all is saved.
        InputError: the loss is no longer finite.
    """
    config, device = run.config, run.accelerator.device
    started, first = time.monotonic(), run.epoch - 1 + run.step / run.steps
    with deferred_signals() as stop:
        while run.epoch <= config.epochs:
            means = train_one_epoch(run, data.train, data.augmentation, stop, save)
            if means is None:
                save()
                where = f"stopped in epoch {run.epoch} at step {run.step}"
                raise Interrupted(where, stop.number or signal.SIGTERM)
            tested = evaluate(run.net, data.validation, device, draws=1, seed=config.seed)
            run.best_error = min(run.best_error, tested["error"])
            row = {"epoch": run.epoch, "lr": run.optimiser.param_groups[0]["lr"], **means}
            row |= {"val_loss": tested["loss"], "val_error": tested["error"]}
            on_epoch(row | {"best_val_error": run.best_error})
            left = (time.monotonic() - started) / (run.epoch - first) * (config.epochs - run.epoch)
            log.info(
                "epoch %d/%d  loss %.4f  error %.2f %%  validation error %.2f %%  %s left",
                run.epoch, config.epochs, row["train_loss"], 100 * row["train_error"],
                100 * row["val_error"], duration(left),
            )  # fmt: skip
            run.epoch, run.step, run.totals = run.epoch + 1, 0, torch.zeros_like(run.totals)
            save()
