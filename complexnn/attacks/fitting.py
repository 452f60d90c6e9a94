"""What an attacker knows, and how its networks are trained: on its own images only."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import torch
from accelerate.utils import convert_outputs_to_fp32
from scipy.optimize import linear_sum_assignment
from torch import Generator, Tensor, nn

from complexnn.attacks.threat import Answer
from complexnn.config import NetConfig
from complexnn.config_attack import AttackConfig
from complexnn.data.images import Batch, ImageSet
from complexnn.networks.key import Key, Release
from complexnn.networks.splitnet import SplitNet
from complexnn.rotation import functional as cF
from complexnn.runs.progress import track
from complexnn.training.optimiser import weight_groups

log = logging.getLogger("complexnn")
CHECKS = 10  # how often the attacker looks at its own validation images; chosen by hand


@dataclass(frozen=True)
class OwnRelease:
    """A release in the hands of who made it, beside its images: what an attacker knows of its own
    queries."""

    batch: Batch
    release: Release  # without its parts, which nobody reads again

    @property
    def released(self) -> Tensor:
        return self.release.released

    @property
    def key(self) -> Key:
        return self.release.key

    @property
    def rotated_back(self) -> Tensor:
        """The released tensor under the key's inverse, which is its parts but for rounding:
        ``(G, d, C, H, W)``."""
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
    def observe(self, batch: Batch, generator: Generator) -> OwnRelease:
        """Encode a batch of the attacker's own images under fresh keys; copies among them matter
        to nobody."""
        release = self.net.release(batch.images, generator=generator, closed=False)
        return OwnRelease(batch, release.without_parts())

    def batches(self, images: ImageSet, size: int) -> Iterator[Batch]:
        """The images in order, in batches of whole groups; a rest that fills none is left out."""
        dim = together(self.net.config)
        return images.fetch(whole_groups(len(images) // dim * dim, size, dim), self.device)

    def shuffled(self, size: int, generator: Generator) -> Iterator[Batch]:
        """One shuffled pass over the training images, in batches of whole groups."""
        dim = together(self.net.config)
        chunks = self.train.shuffled(-(-size // dim) * dim, generator)
        whole = [chunk[: len(chunk) // dim * dim] for chunk in chunks]
        return self.train.fetch(whole, self.device)

    def endless(self, batch_size: int, generator: Generator) -> Iterator[OwnRelease]:
        """Releases of training images, pass after pass, keys never twice the same."""
        while True:
            for batch in self.shuffled(batch_size, generator):
                yield self.observe(batch, generator)

    def held_out(
        self, batch_size: int, *, limit: int = 1024, generator: Generator | None = None
    ) -> list[OwnRelease]:
        """Releases of validation images, to choose among the attacker's states: of the first
        ``limit``, or as many more as fill a group."""
        dim = together(self.net.config)
        count = min(-(-limit // dim) * dim, len(self.validation))
        images = self.validation.subset(torch.arange(count))
        generator = generator or Generator().manual_seed(1)
        return [self.observe(b, generator) for b in self.batches(images, batch_size)]


def together(net: NetConfig) -> int:
    """Images that share keys: batches hold multiples of so many."""
    return net.dim if net.parts > 1 else 1


def whole_groups(count: int, size: int, dim: int) -> tuple[Tensor, ...]:
    """The numbers below ``count`` in chunks of about ``size``, each a multiple of ``dim``, and of
    two groups at least where there are two; a rest that fills no group joins the last chunk."""
    groups = count // dim
    chunks = max(1, min(-(-count // size), groups // 2))
    sizes = [dim * len(part) for part in torch.arange(groups).tensor_split(chunks)]
    return torch.arange(count).split([*sizes[:-1], count - sum(sizes[:-1])])


Loss = Callable[[nn.Module, OwnRelease], Tensor]
View = Callable[[Tensor], Answer]  # what an attacker makes of released groups: views of them


@dataclass(frozen=True)
class FitLog:
    """How a training went: losses over its first and last tenth, and the best validation loss."""

    first: float
    last: float
    validation: float

    def flags(self) -> list[str]:
        """What looks wrong about it, by thresholds that were chosen by hand."""
        wrong = []
        if not self.last < 0.98 * self.first:
            wrong.append(f"training loss did not fall ({self.first:.4g} to {self.last:.4g})")
        if self.validation > 2 * self.last and self.last < 0.9 * self.first:
            wrong.append(f"overfit (training {self.last:.4g}, validation {self.validation:.4g})")
        return wrong

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
    """Train ``model`` in place on the attacker's own releases, for ``steps``, by default the
    budget's.

    AdamW with a one-cycle schedule; its weight decay and a tenth of rise were chosen by hand. In
    the end the model has the state that was best on the attacker's validation images (early
    stopping in hindsight).
    """
    model.to(knowledge.device)
    if config.precision == "bf16":  # of the network only: what it is shown stays exact
        low = torch.autocast(knowledge.device.type, torch.bfloat16)
        model.forward = convert_outputs_to_fp32(low(model.forward))
    steps = steps or config.resources.steps
    optimiser = torch.optim.AdamW(weight_groups(model, 0.01), lr=config.lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, config.lr, total_steps=steps + 1, pct_start=0.1
    )
    held_out = knowledge.held_out(config.batch_size)
    every = max(1, steps // CHECKS)
    best, kept = float("inf"), copy.deepcopy(model.state_dict())
    losses: list[float] = []
    releases = knowledge.endless(config.batch_size, generator)
    for step in track(range(1, steps + 1), steps, what):
        model.train()
        value = loss(model, next(releases))
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        schedule.step()
        losses.append(value.item())
        if step % every == 0 or step == steps:
            checked = _mean_loss(model, loss, held_out)
            if checked < best:
                best, kept = checked, copy.deepcopy(model.state_dict())
    vars(model).pop("forward", None)  # judged in full precision
    model.load_state_dict(kept)
    model.eval().requires_grad_(False)
    log.info("%s: validation loss %.5f", what, best)
    tenth = max(1, steps // 10)
    return FitLog(sum(losses[:tenth]) / tenth, sum(losses[-tenth:]) / tenth, best)


@torch.no_grad()
def _mean_loss(model: nn.Module, loss: Loss, releases: list[OwnRelease]) -> float:
    """Mean over releases, in eval mode."""
    model.eval()
    return sum(loss(model, own).item() for own in releases) / len(releases)


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
