"""Inversion: U-Nets that decode images from released tensors or from recovered features."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from complexnn.attacks.fitting import Knowledge, Observation, View, best_matching, fit, take
from complexnn.config import AttackConfig
from complexnn.networks.attackers import UNet


def true_images(seen: Observation, queries: int) -> Tensor:
    """The images of the first ``queries`` members of each group: ``(G, queries, C, H, W)``."""
    return seen.batch.images[seen.key.members[:, :queries]]


def fit_released_decoder(
    model: UNet, knowledge: Knowledge, config: AttackConfig, generator: Generator
) -> None:
    """dec(x): all parts in, the group's images out, without any estimate of the key.

    Loss: mean squared error; for packed groups, whose images come in no order, under the best
    assignment.
    """

    def loss(model: UNet, seen: Observation) -> Tensor:
        guess = model(seen.released.flatten(1, 2))
        truth = true_images(seen, model.images)
        return (guess - take(truth, match(guess, truth))).square().mean()

    fit(model, loss, knowledge, config, generator, "decoder of x")


def make_released_decoder(knowledge: Knowledge, released: tuple[int, int, int]) -> UNet:
    """A fresh dec(x)."""
    config = knowledge.net.config
    queries = config.dim if config.parts > 1 and config.group == "packed" else 1
    image = (config.in_channels, *config.image_size)
    return UNet(config.parts * released[0], image, images=queries)


def fit_feature_decoder(
    model: UNet, recover: View, knowledge: Knowledge, config: AttackConfig, generator: Generator
) -> None:
    """dec(a*): trained on the features that the attacker recovers, not on true ones."""

    def loss(model: UNet, seen: Observation) -> Tensor:
        guess = model(recover(seen)).squeeze(1)
        return (guess - seen.batch.images).square().mean()

    fit(model, loss, knowledge, config, generator, "decoder of a*")


def make_feature_decoder(knowledge: Knowledge, released: tuple[int, int, int]) -> UNet:
    """A fresh dec(a*)."""
    config = knowledge.net.config
    return UNet(released[0], (config.in_channels, *config.image_size))


def match(guess: Tensor, truth: Tensor) -> Tensor:
    """The true image that each reconstruction stands for: ``(G, m, C, H, W) x 2 -> (G, m)``."""
    return best_matching(torch.cdist(guess.flatten(2).float(), truth.flatten(2).float()).square())
