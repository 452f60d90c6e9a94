"""How every attacker is trained: on its own images, to the end of its schedule, best state kept."""

from __future__ import annotations

import copy
import itertools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Generator, Tensor, nn

from complexnn.config import AttackConfig
from complexnn.images import Batch, ImageSet
from complexnn.networks.split import Key, SplitNet
from complexnn.progress import track
from complexnn.training import weight_groups

log = logging.getLogger("complexnn")
CHECKS = 10  # how often the attacker looks at its own validation images


@dataclass(frozen=True)
class Observation:
    """A query of the attacker's own: it chose the images and so knows everything about it."""

    batch: Batch
    released: Tensor
    key: Key


@dataclass(frozen=True)
class Knowledge:
    """What the attacker has: the public network and images of its own."""

    net: SplitNet
    train: ImageSet
    validation: ImageSet
    device: torch.device

    @torch.no_grad()
    def observe(self, batch: Batch, generator: Generator) -> Observation:
        """Encode a batch of the attacker's own images under fresh keys."""
        return Observation(batch, *self.net.encode(batch.images, generator=generator))

    def endless(self, batch_size: int, generator: Generator) -> Iterator[Observation]:
        """Training observations, pass after pass, keys never twice the same."""
        for _ in itertools.count():
            chunks = self.train.shuffled(batch_size, generator)
            for batch in self.train.fetch(chunks, self.device):
                yield self.observe(batch, generator)

    def held_out(self, batch_size: int, *, limit: int = 1024) -> list[Observation]:
        """Observations of validation images, to choose among the attacker's states."""
        images = self.validation.subset(torch.arange(min(limit, len(self.validation))))
        generator = Generator().manual_seed(1)
        return [self.observe(b, generator) for b in images.batches(batch_size, self.device)]


Loss = Callable[[nn.Module, Observation], Tensor]
View = Callable[[Observation], Tensor]  # what an attacker makes of a query, in the batch's order


@torch.enable_grad()
def fit(
    model: nn.Module,
    loss: Loss,
    knowledge: Knowledge,
    config: AttackConfig,
    generator: Generator,
    what: str,
) -> None:
    """Train ``model`` in place: AdamW, one cycle, and in the end the state that was best on the
    attacker's validation images."""
    model.to(knowledge.device)
    optimiser = torch.optim.AdamW(weight_groups(model, 0.01), lr=config.lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, config.lr, total_steps=config.steps + 1, pct_start=0.1
    )
    held_out = knowledge.held_out(config.batch_size)
    every = max(1, config.steps // CHECKS)
    best, kept = float("inf"), copy.deepcopy(model.state_dict())
    observations = knowledge.endless(config.batch_size, generator)
    for step in track(range(1, config.steps + 1), config.steps, what):
        model.train()
        value = loss(model, next(observations))
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        schedule.step()
        if step % every == 0 or step == config.steps:
            model.eval()
            with torch.no_grad():
                checked = sum(loss(model, seen).item() for seen in held_out) / len(held_out)
            if checked < best:
                best, kept = checked, copy.deepcopy(model.state_dict())
    model.load_state_dict(kept)
    model.eval().requires_grad_(False)
    log.info("%s: validation loss %.5f", what, best)


def best_matching(cost: Tensor) -> Tensor:
    """For each sample the assignment of rows to columns of least total cost.

    Where a group's queries come in no order that could be known, estimates are compared with the
    truth under the best assignment. ``(B, m, m) -> (B, m)``: the column of each row.
    """
    if cost.shape[1] == 1:
        return torch.zeros(cost.shape[:2], dtype=torch.long, device=cost.device)
    solved = [linear_sum_assignment(c)[1] for c in cost.detach().cpu().double().numpy()]
    return torch.stack([torch.from_numpy(columns) for columns in solved]).to(cost.device)


def take(values: Tensor, columns: Tensor) -> Tensor:
    """Reorder axis 1 of ``(B, m, ...)`` by ``columns`` of :func:`best_matching`."""
    index = columns.view(*columns.shape, *[1] * (values.dim() - 2)).expand(
        -1, -1, *values.shape[2:]
    )
    return values.gather(1, index)
