"""Training a split network: the task, the adversarial term, and the loop around them."""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Generator, Tensor, nn

from complexnn import functional as cF
from complexnn.config import InputError, TrainConfig
from complexnn.data import Dataset, ImageSet
from complexnn.metrics import share_interval
from complexnn.networks.modules import Critic
from complexnn.networks.registry import topology
from complexnn.networks.split import SplitNet
from complexnn.progress import duration, track

log = logging.getLogger("complexnn")


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


def generators(seed: int, *purposes: str) -> dict[str, Generator]:
    """One independent CPU generator per purpose, all from one seed."""
    states = np.random.SeedSequence(seed).generate_state(len(purposes), np.uint64)
    return {
        name: Generator().manual_seed(int(state >> 1))
        for name, state in zip(purposes, states, strict=True)
    }


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
    wrong = cF.rotate(parts, directions.to(parts.device))
    return parts[:, :queries].flatten(0, 1), wrong.flatten(0, 1)


def wasserstein_gap(critic: Critic, true: Tensor, wrong: Tensor) -> Tensor:
    r""":math:`E[D(a)] - E[D(a')]`: the critic maximises it, the encoder minimises it."""
    scores = critic(torch.cat([true, wrong]))
    return scores[: len(true)].mean() - scores[len(true) :].mean()


def gradient_penalty(critic: Critic, true: Tensor, wrong: Tensor, generator: Generator) -> Tensor:
    r""":math:`E[(\|\nabla D(z)\| - 1)^2]` at random points z between true and wrong features
    (Gulrajani et al. 2017, arXiv 1704.00028); one z per true feature."""
    mix = cF.uniform((len(true), 1, 1, 1), generator).to(true)
    z = (mix * true + (1 - mix) * wrong[:: len(wrong) // len(true)]).requires_grad_()
    (gradient,) = torch.autograd.grad(critic(z).sum(), z, create_graph=True)
    return (gradient.flatten(1).norm(dim=1) - 1).square().mean()


@dataclass
class Adversary:
    """The critic with its own optimiser and randomness."""

    critic: Critic
    optimiser: torch.optim.Optimizer
    config: TrainConfig
    generator: Generator

    def loss(self, parts: Tensor, step: int) -> Tensor | None:
        """Train the critic on the detached features, then return the encoder's term, with
        gradient to the encoder; None on steps without one."""
        config = self.config
        if step % config.critic_every:
            return None
        queries = parts.shape[1] if config.net.group == "packed" else 1
        true, wrong = true_and_wrong(parts.float(), queries, config.wrong_keys, self.generator)
        self.critic.requires_grad_(True)
        for _ in range(config.critic_steps):
            self._critic_step(true.detach(), wrong.detach())
        self.critic.requires_grad_(False)
        return wasserstein_gap(self.critic, true, wrong)

    def _critic_step(self, true: Tensor, wrong: Tensor) -> None:
        config = self.config
        loss = -wasserstein_gap(self.critic, true, wrong)
        if config.critic_constraint == "gradient-penalty":
            penalty = gradient_penalty(self.critic, true, wrong, self.generator)
            loss = loss + config.gradient_penalty * penalty
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        if config.critic_constraint == "weight-clipping":
            with torch.no_grad():
                for parameter in self.critic.parameters():
                    parameter.clamp_(-config.clip_value, config.clip_value)


def make_adversary(config: TrainConfig, generator: Generator, device: torch.device):
    """The adversary of a ``complex`` network, or None where the term is switched off."""
    if config.net.kind != "complex" or config.adversarial_weight == 0:
        return None
    channels, *size = topology(config.net).released
    critic = Critic(channels, tuple(size)).to(device)
    optimiser = torch.optim.Adam(critic.parameters(), lr=config.critic_lr, betas=(0.0, 0.9))
    return Adversary(critic, optimiser, config, generator)


# ------------------------------------------------------------------------------ evaluation


@torch.no_grad()
def evaluate(
    net: SplitNet, images: ImageSet, device: torch.device, *, draws: int, seed: int
) -> dict[str, Any]:
    """Error and loss of ``net`` on ``images``, in eval mode, for independent draws of the keys.

    Returns ``error`` (a share, mean over draws), its 95 % interval over images, the error of each
    draw, the loss, and the error of always answering the most common label.
    """
    training = net.training
    net.eval()
    wrong, losses = torch.zeros(draws), torch.zeros(draws)
    for draw in range(draws):
        keys = generators(seed + draw, "keys")["keys"]
        for batch in images.batches(eval_batch(net.config.parts), device):
            logits = net(batch.images, generator=keys).float()
            wrong[draw] += (logits.argmax(1) != batch.labels).sum().cpu()
            losses[draw] += F.cross_entropy(logits, batch.labels, reduction="sum").cpu()
    net.train(training)
    errors = wrong / len(images)
    error = errors.mean().item()
    shares = images.labels.bincount().double() / len(images)
    return {
        "error": error,
        "interval": share_interval(error, len(images)),
        "draws": errors.tolist(),
        "loss": (losses / len(images)).mean().item(),
        "chance": 1 - shares.max().item(),
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


def train_one_epoch(
    net: SplitNet,
    adversary: Adversary | None,
    images: ImageSet,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    accelerator: Accelerator,
    rng: dict[str, Generator],
    config: TrainConfig,
    *,
    augment: Callable | None,
    epoch: int,
    max_steps: int | None = None,
) -> dict[str, float]:
    """One pass over the training images; returns the means of loss, error and critic's gap."""
    net.train()
    device = accelerator.device
    steps = min(images.steps(config.batch_size), max_steps or math.inf)
    totals = torch.zeros(3, device=device)  # task loss, errors, critic's gap
    seen, adversarial_steps = 0, 0
    batches = images.batches(config.batch_size, device, shuffle=rng["data"], augment=augment)
    batches = itertools.islice(batches, steps)
    for step, batch in enumerate(track(batches, steps, f"epoch {epoch}")):
        with accelerator.autocast():
            features = net.features(batch.images)
            groups = net.group(features, generator=rng["keys"])
            released, key = net.rotate(groups, generator=rng["keys"])
            logits = net.decode(net.process(released), key)
        task = F.cross_entropy(logits.float(), batch.labels)
        loss = task
        gap = None if adversary is None else adversary.loss(groups.parts, step)
        if gap is not None:
            loss = task + config.adversarial_weight * gap
            totals[2] += gap.detach()
            adversarial_steps += 1
        if not torch.isfinite(loss):
            raise InputError(
                f"the loss is {loss.item()} at step {step + 1} of epoch {epoch}: "
                "lower --lr or --adversarial-weight, or use --precision fp32"
            )
        optimiser.zero_grad()
        accelerator.backward(loss)
        optimiser.step()
        schedule.step()
        totals[0] += task.detach() * len(logits)
        totals[1] += (logits.argmax(1) != batch.labels).sum()
        seen += len(logits)
    row = {"train_loss": totals[0].item() / seen, "train_error": totals[1].item() / seen}
    if adversarial_steps:
        row["critic_gap"] = totals[2].item() / adversarial_steps
    return row


def fit(
    net: SplitNet,
    data: Dataset,
    config: TrainConfig,
    accelerator: Accelerator,
    on_epoch: Callable[[dict[str, Any]], None],
    *,
    max_steps: int | None = None,
) -> None:
    """Train ``net`` in place and call ``on_epoch`` with a row of numbers after every epoch.

    The last epoch's weights stay; no epoch is picked. The rows hold nothing that differs between
    two runs with one seed.
    """
    device = accelerator.device
    rng = generators(config.seed, "data", "keys", "critic", "validation")
    adversary = make_adversary(config, rng["critic"], device)
    steps = min(data.train.steps(config.batch_size), max_steps or math.inf)
    optimiser = torch.optim.AdamW(weight_groups(net, config.weight_decay), lr=config.lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, config.lr, total_steps=config.epochs * steps + 1, pct_start=0.25
    )
    optimiser = accelerator.prepare(optimiser)
    started = time.monotonic()
    for epoch in range(1, config.epochs + 1):
        row = {"epoch": epoch, "lr": schedule.get_last_lr()[0]}
        row |= train_one_epoch(
            net, adversary, data.train, optimiser, schedule, accelerator, rng, config,
            augment=data.augmentation, epoch=epoch, max_steps=max_steps,
        )  # fmt: skip
        tested = evaluate(net, data.validation, device, draws=1, seed=config.seed)
        row |= {"val_loss": tested["loss"], "val_error": tested["error"]}
        on_epoch(row)
        spent = time.monotonic() - started
        log.info(
            "epoch %d/%d  loss %.4f  error %.2f %%  validation error %.2f %%  %s left",
            epoch, config.epochs, row["train_loss"], 100 * row["train_error"],
            100 * row["val_error"], duration(spent / epoch * (config.epochs - epoch)),
        )  # fmt: skip
