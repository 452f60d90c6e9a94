"""Inversion by decoders: U-Nets from released tensors or from recovered features to images."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from complexnn.attacks import unmixing
from complexnn.attacks.fitting import FitLog, Knowledge, OwnRelease, View, best_matching, fit, take
from complexnn.attacks.threat import Answer
from complexnn.config import NetConfig
from complexnn.config_attack import AttackConfig
from complexnn.networks.attack_networks import UNet


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

    def loss(model: UNet, own: OwnRelease) -> Tensor:
        guess = model(own.released.flatten(1, 2))
        truth = own.images[:, : model.images]
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

    def loss(model: UNet, own: OwnRelease) -> Tensor:
        features = unmixing.order_by_direction(recover(own.released), own)
        guess = model(features).squeeze(1)
        return (guess - own.batch.images).square().mean()

    return fit(model, loss, knowledge, config, generator, "decoder dec_a")
