"""What an attacker knows, and how its networks are trained: on its own images only."""

from __future__ import annotations

import copy
import itertools
import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import torch
from accelerate.utils import convert_outputs_to_fp32
from scipy.optimize import linear_sum_assignment
from torch import Generator, Tensor, nn

from complexnn import functional as cF
from complexnn.config import AttackConfig
from complexnn.images import Batch, ImageSet
from complexnn.networks.split import Key, SplitNet
from complexnn.progress import track
from complexnn.training import weight_groups

log = logging.getLogger("complexnn")
CROWD = 64  # packed groups among which queries are sent again
CHECKS = 10  # how often the attacker looks at its own validation images


@dataclass(frozen=True)
class Observation:
    """A query with everything about it: the attacker's own, or the victim's while it is scored."""

    batch: Batch
    released: Tensor
    key: Key
    index: Tensor | None = None  # places of the batch's images in the set they come from

    @property
    def parts(self) -> Tensor:
        """The features behind the released tensor: ``(G, d, C, H, W)``."""
        return cF.rotate(self.released, self.key.rotation.mT)

    @property
    def images(self) -> Tensor:
        """The images behind them: ``(G, d, C, H, W)``."""
        return self.batch.images[self.key.members]


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

    @torch.no_grad()
    def repeat(
        self, batch: Batch, times: int, generator: Generator, *, same_group: bool
    ) -> list[Observation]:
        """Several queries of the same images under fresh keys, with the same or with fresh
        counterparts."""
        net, found, groups = self.net, [], None
        features = net.features(batch.images)
        for _ in range(times):
            if groups is None or not same_group:
                groups = net.group(features, generator=generator)
            found.append(Observation(batch, *net.rotate(groups, generator=generator)))
        return found

    @torch.no_grad()
    def elsewhere(self, batch: Batch, generator: Generator) -> tuple[Tensor, Tensor]:
        """Another release of the same images, under fresh keys and in other company, and which of
        its groups holds each of them: ``(G, d, C, H, W), (B,)``.

        Packed queries stand among others of the user's kind, in so many groups that hardly two
        queries share a group again.
        """
        net, images = self.net, batch.images
        order = torch.arange(len(images))
        if net.config.group == "packed":
            crowd = max(0, CROWD * net.config.dim - len(images))
            chosen = torch.randperm(len(self.train), generator=generator)[:crowd].split(256)
            others = self.train.fetch(chosen, self.device)
            images = torch.cat([images, *(b.images for b in others)])
            order = torch.randperm(len(images), generator=generator)
        features = torch.cat([net.features(chunk) for chunk in images.split(256)])
        groups = net.group(features[order], generator=generator)
        released, key = net.rotate(groups, generator=generator)
        place = order.argsort()[: len(batch.images)]
        return released, place // key.directions.shape[1]

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


@dataclass(frozen=True)
class FitLog:
    """How a training went: losses over its first and last tenth, and the best validation loss."""

    first: float
    last: float
    validation: float

    def flags(self) -> list[str]:
        """What looks wrong about it."""
        found = []
        if not self.last < 0.98 * self.first:
            found.append(f"training loss did not fall ({self.first:.4g} to {self.last:.4g})")
        if self.validation > 2 * self.last and self.last < 0.9 * self.first:
            found.append(f"overfit (training {self.last:.4g}, validation {self.validation:.4g})")
        return found

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


@torch.enable_grad()
def fit(
    model: nn.Module,
    loss: Loss,
    knowledge: Knowledge,
    config: AttackConfig,
    generator: Generator,
    what: str,
    *,
    steps: int | None = None,
) -> FitLog:
    """Train ``model`` in place: AdamW, one cycle over ``steps``, by default the
    budget's, and in the end the state that was best on the attacker's validation images (early
    stopping in hindsight)."""
    model.to(knowledge.device)
    if config.precision == "bf16":  # of the network only: what it is shown stays exact
        low = torch.autocast(knowledge.device.type, torch.bfloat16)
        model.forward = convert_outputs_to_fp32(low(model.forward))
    steps = steps or config.spend.steps
    optimiser = torch.optim.AdamW(weight_groups(model, 0.01), lr=config.lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, config.lr, total_steps=steps + 1, pct_start=0.1
    )
    held_out = knowledge.held_out(config.batch_size)
    every = max(1, steps // CHECKS)
    best, kept = float("inf"), copy.deepcopy(model.state_dict())
    losses: list[float] = []
    observations = knowledge.endless(config.batch_size, generator)
    for step in track(range(1, steps + 1), steps, what):
        model.train()
        value = loss(model, next(observations))
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        schedule.step()
        losses.append(value.item())
        if step % every == 0 or step == steps:
            model.eval()
            with torch.no_grad():
                checked = sum(loss(model, seen).item() for seen in held_out) / len(held_out)
            if checked < best:
                best, kept = checked, copy.deepcopy(model.state_dict())
    vars(model).pop("forward", None)  # judged in full precision
    model.load_state_dict(kept)
    model.eval().requires_grad_(False)
    log.info("%s: validation loss %.5f", what, best)
    tenth = max(1, steps // 10)
    return FitLog(sum(losses[:tenth]) / tenth, sum(losses[-tenth:]) / tenth, best)


def best_matching(cost: Tensor) -> Tensor:
    """For each sample the assignment of rows to distinct columns of least total cost.

    Where an attacker's answers come in no order that could be known, each truth is compared with
    the answer that the best assignment gives it. ``(B, m, n) -> (B, m)`` with m <= n: the column
    of each row.
    """
    if cost.shape[1] == 1:
        return cost.argmin(dim=2)
    solved = [linear_sum_assignment(c)[1] for c in cost.detach().cpu().double().numpy()]
    return torch.stack([torch.from_numpy(columns) for columns in solved]).to(cost.device)


def take(values: Tensor, columns: Tensor) -> Tensor:
    """The entries of axis 1 that ``columns`` of :func:`best_matching` names:
    ``(B, n, ...), (B, m) -> (B, m, ...)``."""
    index = columns.view(*columns.shape, *[1] * (values.dim() - 2)).expand(
        -1, -1, *values.shape[2:]
    )
    return values.gather(1, index)
