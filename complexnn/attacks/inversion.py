"""Inversion by decoders: U-Nets from released tensors or from recovered features to images."""

from __future__ import annotations

import dataclasses

import torch
from torch import Generator, Tensor

from complexnn import tasks
from complexnn.attacks import keys
from complexnn.attacks.fitting import (
    FitLog,
    Knowledge,
    Observation,
    View,
    best_matching,
    fit,
    take,
)
from complexnn.attacks.threat import Answer
from complexnn.config import AttackConfig, NetConfig
from complexnn.networks.attackers import UNet
from complexnn.networks.registry import build
from complexnn.networks.split import SplitNet


def match(guess: Tensor, truth: Tensor) -> Tensor:
    """The guess that each true image is compared with: ``(G, n, ...), (G, m, ...) -> (G, m)``."""
    return best_matching(torch.cdist(truth.flatten(2).float(), guess.flatten(2).float()).square())


def decoded(model: UNet, released: Tensor) -> Answer:
    """dec(x): the images of each group, in no order where they are several."""
    return Answer(model(released.flatten(1, 2)))


def make_released_decoder(
    config: NetConfig, released: tuple[int, int, int], *, images: int, width: int
) -> UNet:
    """A fresh dec(x) that returns ``images`` images of each group."""
    image = (config.in_channels, *config.image_size)
    return UNet(config.parts * released[0], image, images=images, width=width)


def fit_released_decoder(
    model: UNet, knowledge: Knowledge, config: AttackConfig, generator: Generator, what: str
) -> FitLog:
    """dec(x): all parts in, the group's first images out, without any estimate of the key.

    Loss: mean squared error; for several images, which come in no order, under the best
    assignment.
    """

    def loss(model: UNet, seen: Observation) -> Tensor:
        guess = model(seen.released.flatten(1, 2))
        truth = seen.images[:, : model.images]
        return (take(guess, match(guess, truth)) - truth).square().mean()

    return fit(model, loss, knowledge, config, generator, what)


def make_feature_decoder(config: NetConfig, released: tuple[int, int, int], *, width: int) -> UNet:
    """A fresh dec(a*)."""
    return UNet(released[0], (config.in_channels, *config.image_size), width=width)


def fit_feature_decoder(
    model: UNet,
    recover: View,
    knowledge: Knowledge,
    config: AttackConfig,
    generator: Generator,
) -> FitLog:
    """dec(a*): trained on the features that the attacker recovers, not on true ones."""

    def loss(model: UNet, seen: Observation) -> Tensor:
        features = keys.in_order(recover(seen.released), seen)
        guess = model(features).squeeze(1)
        return (guess - seen.batch.images).square().mean()

    return fit(model, loss, knowledge, config, generator, "decoder dec_a")


def make_substitute(knowledge: Knowledge) -> SplitNet:
    """A network for an attacker that does not know the encoder: the server's weights, which it
    has, between a fresh encoder and a fresh decoder."""
    substitute = build(knowledge.net.config)
    substitute.processing.load_state_dict(knowledge.net.processing.state_dict())
    substitute.processing.requires_grad_(False)
    return substitute


def fit_substitute(
    model: SplitNet, knowledge: Knowledge, config: AttackConfig, generator: Generator
) -> FitLog:
    """Train the substitute's encoder and decoder on the victim's task."""

    def loss(model: SplitNet, seen: Observation) -> Tensor:
        logits = model(seen.batch.images, generator=generator)
        return tasks.loss(logits, seen.batch.labels).mean()

    return fit(model, loss, knowledge, config, generator, "substitute network")


def pretend(knowledge: Knowledge, substitute: SplitNet) -> Knowledge:
    """What the attacker believes to know: its substitute in the victim's place."""
    return dataclasses.replace(knowledge, net=substitute.eval().requires_grad_(False))
