"""Key recovery: regress the direction that picks the query out of the released parts."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from complexnn import functional as cF
from complexnn.attacks.fitting import Knowledge, Observation, best_matching, fit, take
from complexnn.config import AttackConfig
from complexnn.metrics import angle_between
from complexnn.networks.attackers import AngleRegressor


def fit_regressor(
    model: AngleRegressor, knowledge: Knowledge, config: AttackConfig, generator: Generator
) -> None:
    r"""Train a regressor of the key.

    Loss: :math:`\|\hat u - u\|^2` with :math:`u = (\cos\theta, \sin\theta)` at d = 2, in general
    the row of :math:`R^T` that returns the query. A packed group's queries have no order that the
    released tensor could show, so its d vectors are compared under the best assignment.
    """

    def loss(model: AngleRegressor, seen: Observation) -> Tensor:
        estimate, truth = model(seen.released), seen.key.directions
        return (take(truth, match(estimate, truth)) - estimate).square().sum(-1).mean()

    fit(model, loss, knowledge, config, generator, "angle regressor")


def make_regressor(knowledge: Knowledge, released: tuple[int, int, int]) -> AngleRegressor:
    """A fresh regressor for the victim's released tensor."""
    config = knowledge.net.config
    vectors = config.dim if config.group == "packed" else 1
    return AngleRegressor(config.dim, released[0], released[1:], vectors=vectors)


def match(estimate: Tensor, truth: Tensor) -> Tensor:
    """The truth that each estimated vector stands for: ``(G, m, d) x 2 -> (G, m)``."""
    return best_matching(-estimate @ truth.mT)


def recover(model: AngleRegressor, released: Tensor) -> tuple[Tensor, Tensor]:
    r"""The attack: estimated directions and features :math:`a^* = \sum_j \hat u_j x_j`.

    Shape: ``(G, d, C, H, W) -> (G, m, d), (G, m, C, H, W)``.
    """
    directions = model(released)
    return directions, cF.rotate(released, directions)


def errors(directions: Tensor, truth: Tensor) -> Tensor:
    """Angle in [0, π] between each estimate and its truth; π/2 is blind guessing at one query."""
    return angle_between(directions, take(truth, match(directions, truth)))


def chance(dim: int, vectors: int, *, samples: int = 4000) -> float:
    """Mean error of a blind guess; for packed groups under the best assignment, as scored.

    One vector: π/2 by symmetry. More: simulated with random keys, of which both are.
    """
    if vectors == 1:
        return torch.pi / 2
    generator = Generator().manual_seed(0)
    guess, truth = (cF.draw_rotations(samples, dim, generator) for _ in range(2))
    return errors(guess, truth).mean().item()
