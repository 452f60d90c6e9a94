r"""The key by regression: a network from what is released to unit vectors :math:`\hat u`."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from complexnn.attacks.fitting import FitLog, Knowledge, OwnRelease, fit, take
from complexnn.attacks.unmixing import candidates, frames_at, match, nearest_orthogonal
from complexnn.config import NetConfig
from complexnn.config_attack import AttackConfig
from complexnn.networks.attack_networks import AngleRegressor
from complexnn.rotation import functional as cF


def make_regressor(
    config: NetConfig, released: tuple[int, int, int], *, width: int = 64
) -> AngleRegressor:
    """A fresh regressor for the victim's released tensor."""
    channels, size = released[0], released[1:]
    return AngleRegressor(config.parts, channels, size, vectors=candidates(config), width=width)


def fit_regressor(
    model: AngleRegressor, knowledge: Knowledge, config: AttackConfig, generator: Generator
) -> FitLog:
    r"""Train a regressor of the key.

    Loss: :math:`\|\hat u - u\|^2` with :math:`u = (\cos\theta, \sin\theta)` at d = 2, in general
    the rows of :math:`R^T` that return the members, under the best assignment.
    """

    def loss(model: AngleRegressor, own: OwnRelease) -> Tensor:
        estimate = model(own.released)
        truth = own.key.rotation.mT[:, : model.vectors].to(estimate)
        chosen = take(estimate, match(estimate, truth))
        return (truth - chosen).square().sum(-1).mean()

    return fit(model, loss, knowledge, config, generator, "angle regressor")


@torch.no_grad()
def regress(model: AngleRegressor, released: Tensor, *, turns: int = 4) -> Tensor:
    """The regressor's answer, averaged over known further rotations of what was released.

    A vector for ``Q · x`` is one for ``x`` after ``Q`` is undone, and the regressor errs
    differently each time. Several vectors end as the frame nearest to them, since a key's rows are
    orthonormal.

    Shape: ``(G, d, C, H, W) -> (G, n, d)``.
    """
    dim, total = released.shape[1], None
    for turn in _turns(dim, turns).to(released):
        estimate = model(cF.rotate(released, turn.expand(len(released), dim, dim))) @ turn
        # Each answer has an order of its own: add up vectors that point the same way.
        total = estimate if total is None else total + take(estimate, match(estimate, total))
    return F.normalize(total, dim=-1) if total.shape[1] == 1 else nearest_orthogonal(total)


def _turns(dim: int, count: int) -> Tensor:
    """Rotations to average over, none first: evenly spaced at d = 2, in general random."""
    if dim == 2:
        angles = torch.arange(count, dtype=torch.float64) * (2 * math.pi / count)
        return frames_at(angles.unsqueeze(1), 2)
    random = cF.draw_rotations(count - 1, dim, Generator().manual_seed(0))
    return torch.cat([torch.eye(dim, dtype=random.dtype).unsqueeze(0), random])
