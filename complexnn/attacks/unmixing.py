r"""Key recovery: unit vectors :math:`\hat u` with :math:`\hat a = \sum_j \hat u_j x_j`.

At d = 2 and decoys an attack returns one vector, :math:`(\cos\hat\theta, \sin\hat\theta)`. The
parts of larger or packed groups come in no order that the released tensor could show (swapping
two of them and the key's rows gives the same release), so an attack returns d vectors, and each
query is compared with the one that the best assignment gives it. Every attack takes what is
released, never a key.

This file holds what all of these attacks share: how directions are compared with the truth, what
they show, and how a score of features settles the signs and, at d = 2, the order that the algebra
leaves open. One file per attack holds the rest: ``mean_feature``, ``phase``, ``ica``,
``regression``, ``critic_search``, ``dss``, ``release``, ``intersection``.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from complexnn.attacks.fitting import OwnRelease, best_matching, take
from complexnn.attacks.threat import Answer
from complexnn.config import NetConfig
from complexnn.metrics import angle_between, double
from complexnn.rotation import functional as cF

Score = Callable[[Tensor], Tensor]  # (B, C, H, W) -> (B,): how much a map looks like a feature
QUARTER = math.pi / 2


def candidates(net: NetConfig) -> int:
    """Vectors that an attack returns."""
    return 1 if net.parts == 2 and net.group == "decoy" else net.parts


def match(estimate: Tensor, truth: Tensor) -> Tensor:
    """The estimate that each query is compared with: ``(G, n, d), (G, m, d) -> (G, m)``."""
    return best_matching(-truth.to(estimate) @ estimate.mT)


def errors(estimate: Tensor, truth: Tensor) -> Tensor:
    """Angle in [0, π] between each query's direction and its estimate: ``(G, m)``."""
    return angle_between(take(estimate, match(estimate, truth)), truth.to(estimate))


def views(released: Tensor, directions: Tensor) -> Answer:
    r"""Features :math:`a^*` that the directions ``(G, n, d)`` show: ``(G, n, C, H, W)``."""
    return Answer(cF.rotate(released, directions), directions)


def order_by_direction(answer: Answer, truth: OwnRelease) -> Tensor:
    """What was made of each query, in the batch's order: of several answers, that whose direction
    the best assignment gives to the query. ``(queries, ...)``."""
    chosen = answer.values
    if chosen.shape[1] > 1:
        chosen = take(chosen, match(answer.shown_by, truth.key.directions))
    return chosen.flatten(0, 1)[: truth.key.queries]


def chance(net: NetConfig, *, answers: int | None = None, samples: int = 4000) -> float:
    """Mean error of a blind guess of that many vectors, :func:`candidates` by default, scored like
    an attack.

    One vector for one query: π/2 by symmetry. More vectors: simulated with random frames.
    """
    count = answers or candidates(net)
    if count == 1:
        return torch.pi / 2
    generator = Generator().manual_seed(0)
    # Errors of large matrices vary less, and each costs more; 8 and 4000 are chosen by hand.
    samples = min(samples, max(8, 8 * samples // net.parts))
    guess, truth = (cF.draw_rotations(samples, net.parts, generator) for _ in range(2))
    return errors(guess[:, :count], truth[:, : net.queries]).mean().item()


def nearest_orthogonal(matrices: Tensor) -> Tensor:
    """The polar factor: the matrix of orthonormal rows nearest to each, ``(..., n, d)``."""
    left, _, right = torch.linalg.svd(double(matrices), full_matrices=False)
    return (left @ right).to(matrices)


# --------------------------------------------------------------------------- signs and order


def score_views(directions: Tensor, released: Tensor, score: Score) -> Tensor:
    """The score of what each direction shows: ``(G, n, d) -> (G, n)``."""
    shown = cF.rotate(released, directions)
    return score(shown.flatten(0, 1)).view(shown.shape[:2])


@torch.no_grad()
def upright(rows: Tensor, released: Tensor, score: Score) -> Tensor:
    """Each direction or its negative, whichever shows what scores better: ``(G, n, d)``.

    No algebra on the released tensor can settle this: -a with the key's row negated releases the
    same numbers. Only what features look like can.
    """
    better = score_views(rows, released, score) >= score_views(-rows, released, score)
    return torch.where(better.unsqueeze(-1), rows, -rows)


@torch.no_grad()
def settled(rows: Tensor, released: Tensor, score: Score, count: int) -> Tensor:
    """Signs of unmixing rows and, at d = 2, their order.

    Separation finds the members up to sign and order. At d > 2 the answer is a set, so only the
    signs are to be settled. At d = 2 the answer begins with the query, and there a key is a proper
    rotation: (u, its quarter turn) must show a and b, which leaves the four quarter turns of one
    row as candidates; the best-looking pair wins. The score of u alone could not tell a from b.
    """
    if rows.shape[1] > 2:
        return upright(rows, released, score)
    first = torch.atan2(rows[:, 0, 1], rows[:, 0, 0])
    turns = first.unsqueeze(1) + torch.arange(4, device=rows.device) * QUARTER
    scores = score_views(directions_at(turns), released, score)
    best = (scores + scores.roll(-1, dims=1)).argmax(dim=1, keepdim=True)
    return frames_at(turns.gather(1, best), count)


def directions_at(theta: Tensor) -> Tensor:
    """The unit vectors at angles of any shape: ``(...) -> (..., 2)``."""
    return torch.stack([theta.cos(), theta.sin()], dim=-1)


def frames_at(theta: Tensor, count: int) -> Tensor:
    """The first ``count`` rows of the rotation back by each angle: ``(G, 1) -> (G, count, 2)``."""
    return directions_at(torch.cat([theta, theta + QUARTER], dim=1)[:, :count])
