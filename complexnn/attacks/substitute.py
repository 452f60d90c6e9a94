r"""Inversion without the encoder: the attacker knows the server's weights and trains substitutes.

He, Zhang and Lee (ACSAC 2019) train a network around the server's part on the victim's task, and
invert its encoder instead of the victim's. Three things decide whether this shows anything:

- The server stays as it is, its running statistics included. In training mode these would drift,
  and the substitutes would be made for a server that does not exist.
- Many encoders solve the task, and features of one say little to a decoder of another. But the
  second moments of what is released are known whatever the keys, since
  :math:`X^T X = \sum_i a_i a_i^T` over the members of a group. So substitutes are also trained to
  release features of the same second moments.
- What is left unknown is a distribution of encoders. So there are several substitutes, from
  different starts, and the decoder is trained on all but one. Its state is chosen by its error on
  the last one, whose encoder it never saw, as it never saw the victim's.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from complexnn.attacks.fitting import FitLog, Knowledge, OwnRelease, fit
from complexnn.config_attack import AttackConfig
from complexnn.data import tasks
from complexnn.networks.registry import build
from complexnn.networks.splitnet import SplitNet

SUBSTITUTES = 3
ALIGN = 1.0  # weight of the moments' relative squared error beside the task's loss
OFFSETS = ((0, 0), (0, 1), (1, 0), (1, 1))  # between the positions whose products are averaged


@dataclass(frozen=True)
class Moments:
    """Second moments of released parts: of channels at neighbouring positions, averaged over the
    map, ``(4, C, C)``, and the power of each entry, ``(C, H, W)``."""

    channels: Tensor
    power: Tensor

    def distance(self, other: Moments) -> Tensor:
        """Squared differences relative to ``other``'s squares, summed over both kinds."""
        pairs = ((self.channels, other.channels), (self.power, other.power))
        return sum((a - b).square().sum() / b.square().sum().clamp(min=1e-30) for a, b in pairs)


def moments(released: Tensor) -> Moments:
    """Mean over groups and parts; a rotation of the parts changes nothing:
    ``(G, d, C, H, W) -> Moments``; vectors ``(G, d, C)`` are maps of one position."""
    maps = released.flatten(0, 1)
    maps = maps.reshape(*maps.shape[:2], *(maps.shape[2:] or (1, 1)))
    height, width = maps.shape[-2:]
    products = []
    for down, right in OFFSETS:
        if down >= height or right >= width:
            continue
        here = maps[:, :, : height - down, : width - right].flatten(2)
        there = maps[:, :, down:, right:].flatten(2)
        products.append((here @ there.mT).mean(dim=0) / here.shape[2])
    return Moments(torch.stack(products), maps.square().mean(dim=0))


def make_substitute(knowledge: Knowledge) -> SplitNet:
    """The server's weights between a fresh encoder and a fresh decoder."""
    substitute = build(knowledge.net.config)
    substitute.processing.load_state_dict(knowledge.net.processing.state_dict())
    substitute.processing.requires_grad_(False)
    return substitute


def fit_substitute(
    model: SplitNet,
    released: Moments,
    knowledge: Knowledge,
    config: AttackConfig,
    generator: Generator,
) -> FitLog:
    """Train the substitute's encoder and decoder on the victim's task, and to release features
    with the moments of what the victim's user ``released``."""

    def loss(model: SplitNet, own: OwnRelease) -> Tensor:
        model.processing.eval()  # its statistics are the server's
        sent, key, _ = model.release(own.batch.images, generator=generator, closed=False)
        logits = model.decode(model.process(sent), key)
        task = tasks.loss(logits, own.batch.labels).mean()
        return task + ALIGN * moments(sent).distance(released)

    return fit(model, loss, knowledge, config, generator, "substitute network")


@dataclass(frozen=True)
class Pretended(Knowledge):
    """What an attacker with substitutes goes by: releases of each of them in turn, and of
    ``net``, which is none of them, to choose among its states."""

    substitutes: tuple[SplitNet, ...] = ()

    def endless(self, batch_size: int, generator: Generator) -> Iterator[OwnRelease]:
        each = [
            Knowledge(net, self.train, self.validation, self.device).endless(batch_size, generator)
            for net in self.substitutes
        ]
        for releases in itertools.cycle(each):
            yield next(releases)


def pretended(knowledge: Knowledge, substitutes: list[SplitNet]) -> Pretended:
    """Train on all but the last of the substitutes, choose by the last."""
    *others, last = (s.eval().requires_grad_(False) for s in substitutes)
    return Pretended(
        last, knowledge.train, knowledge.validation, knowledge.device, tuple(others) or (last,)
    )
