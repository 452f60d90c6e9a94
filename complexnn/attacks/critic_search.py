r"""The paper's attack: search for the key whose views a critic takes for features.

The attacker trains the critic itself, on features of its own images. Other attacks, too, use it
to settle the signs that they cannot know (:func:`complexnn.attacks.unmixing.settled`).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from complexnn.attacks.fitting import FitLog, Knowledge, OwnRelease, fit, take
from complexnn.attacks.unmixing import QUARTER, Score, directions_at, frames_at, score_views
from complexnn.config_attack import AttackConfig
from complexnn.networks.critic import Critic
from complexnn.rotation import functional as cF


def fit_critic(
    model: Critic, knowledge: Knowledge, config: AttackConfig, generator: Generator
) -> FitLog:
    """Train a classifier of true features against what wrong keys show, quarter and half turns
    included: what a search can climb, and what settles signs.

    Loss: binary cross-entropy; each feature stands against two wrong views of half its weight.
    """
    dim = knowledge.net.config.parts

    def loss(model: Critic, own: OwnRelease) -> Tensor:
        parts = own.rotated_back
        true = cF.first_parts(parts, 1)
        count = len(true)
        mixed = cF.draw_directions(count, dim, generator).unsqueeze(1).to(parts)
        # The negative of any member is a wrong key's view, too, and the hardest to rule out.
        place = torch.randint(0, dim, (count,), generator=generator)
        signed = -F.one_hot(place, dim).unsqueeze(1).to(parts)
        wrong = torch.cat([cF.rotate(parts, mixed), cF.rotate(parts, signed)]).squeeze(1)
        scores = torch.cat([model(true), model(wrong)])
        labels = torch.cat([torch.ones(count), torch.zeros(len(wrong))]).to(scores)
        weight = torch.where(labels == 1, 1.0, 0.5)
        return F.binary_cross_entropy_with_logits(scores, labels, weight=weight)

    return fit(model, loss, knowledge, config, generator, "critic of features")


@torch.no_grad()
def critic_search(
    released: Tensor, score: Score, *, count: int, grid: int = 64, climbs: int = 15
) -> Tensor:
    r"""The :math:`\hat u` whose view scores as most real.

    d = 2: all of a grid of angles, then finer ones around the best, by the sum of both views'
    scores: b looks as real as a, and a search that looks at one view only would take the one for
    the other half of the time, a mean error of π/4 however sharp its critic. d > 2: the best of as
    many random directions, climbed by random steps of falling size, the next one in the orthogonal
    complement of those found. ``count`` vectors.

    The sizes of grid and steps are chosen by hand: at d = 2 the spacing falls from 0.1 rad to
    0.025 and 0.006 rad.

    Shape: ``(G, d, C, H, W) -> (G, count, d)``.
    """
    groups, dim = released.shape[:2]
    if dim == 2:
        theta = torch.linspace(0, 2 * math.pi, grid + 1, device=released.device)[:-1]
        theta = theta.expand(groups, grid)
        for spread in (2 * math.pi / grid, 0.5 * math.pi / grid):
            theta = _best_angle(theta, released, score)
            theta = theta + torch.linspace(-1, 1, 9, device=released.device) * spread
        return frames_at(_best_angle(theta, released, score), count)
    generator = Generator().manual_seed(0)
    directions = torch.zeros(groups, 0, dim, device=released.device)
    for _ in range(count):
        best = _climb(released, directions, score, grid, climbs, generator)
        directions = torch.cat([directions, best], dim=1)
    return directions


def _climb(
    released: Tensor, taken: Tensor, score: Score, grid: int, climbs: int, generator: Generator
) -> Tensor:
    """The best direction orthogonal to those ``taken``, ``(G, k, d) -> (G, 1, d)``."""
    groups, dim = released.shape[:2]

    def free(directions: Tensor) -> Tensor:
        return F.normalize(directions - directions @ taken.mT @ taken, dim=-1)

    def random(number: int) -> Tensor:
        return cF.normal((groups, number, dim), generator).to(released)

    best = _best(free(random(grid)), released, score)
    for climb in range(climbs):
        tried = torch.cat([best, free(best + random(8) * 0.7 * 0.8**climb)], dim=1)
        best = _best(tried, released, score)
    return best


def _best(directions: Tensor, released: Tensor, score: Score) -> Tensor:
    """The best-scored of the directions: ``(G, n, d) -> (G, 1, d)``."""
    scores = score_views(directions, released, score)
    return take(directions, scores.argmax(dim=1, keepdim=True))


def _best_angle(theta: Tensor, released: Tensor, score: Score) -> Tensor:
    """Of the angles ``(G, n)`` the one whose pair of views scores best: ``(G, 1)``."""
    pairs = torch.stack([theta, theta + QUARTER], dim=-1).flatten(1)
    scores = score_views(directions_at(pairs), released, score).unflatten(1, (-1, 2)).sum(dim=-1)
    return theta.gather(1, scores.argmax(dim=1, keepdim=True))
