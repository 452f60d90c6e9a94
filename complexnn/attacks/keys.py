r"""Key recovery: unit vectors :math:`\hat u` with :math:`\hat a = \sum_j \hat u_j x_j`.

At d = 2 and decoys an attack returns one vector, :math:`(\cos\hat\theta, \sin\hat\theta)`. The
parts of larger or packed groups come in no order that the released tensor could show (swapping
two of them and the key's rows gives the same release), so an attack returns d vectors, and each
query is compared with the one that the best assignment gives it. Every attack takes what is
released, never a key.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from sklearn.decomposition import FastICA
from sklearn.exceptions import ConvergenceWarning
from torch import Generator, Tensor

from complexnn.attacks.fitting import FitLog, Knowledge, Observation, best_matching, fit, take
from complexnn.attacks.threat import Answer
from complexnn.config import NetConfig
from complexnn.config_attack import AttackConfig
from complexnn.metrics import angle_between, double
from complexnn.networks.attack_networks import AngleRegressor
from complexnn.networks.critic import Critic
from complexnn.rotation import functional as cF

Score = Callable[[Tensor], Tensor]  # (B, C, H, W) -> (B,): how much a map looks like a feature


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


def in_order(answer: Answer, truth: Observation) -> Tensor:
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
    samples = min(samples, max(8, 8 * samples // net.parts))  # large matrices vary less
    guess, truth = (cF.draw_rotations(samples, net.parts, generator) for _ in range(2))
    return errors(guess[:, :count], truth[:, : net.queries]).mean().item()


# --------------------------------------------------------------------------------- regression


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

    def loss(model: AngleRegressor, seen: Observation) -> Tensor:
        estimate = model(seen.released)
        truth = seen.key.rotation.mT[:, : model.vectors].to(estimate)
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
        found = model(cF.rotate(released, turn.expand(len(released), dim, dim))) @ turn
        total = found if total is None else total + take(found, match(found, total))
    return F.normalize(total, dim=-1) if total.shape[1] == 1 else nearest_orthogonal(total)


def _turns(dim: int, count: int) -> Tensor:
    """Rotations to average over, none first: evenly spaced at d = 2, in general random."""
    if dim == 2:
        angles = torch.arange(count, dtype=torch.float64) * (2 * math.pi / count)
        return _frames(angles.unsqueeze(1), 2)
    random = cF.draw_rotations(count - 1, dim, Generator().manual_seed(0))
    return torch.cat([torch.eye(dim, dtype=random.dtype).unsqueeze(0), random])


# ------------------------------------------------------------------------- the attacker's judge


def fit_judge(
    model: Critic, knowledge: Knowledge, config: AttackConfig, generator: Generator
) -> FitLog:
    """Train a classifier of true features against what wrong keys show, quarter and half turns
    included: what a search can climb, and what settles signs."""
    dim = knowledge.net.config.parts

    def loss(model: Critic, seen: Observation) -> Tensor:
        parts = seen.parts
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

    return fit(model, loss, knowledge, config, generator, "judge of features")


# --------------------------------------------------------------------- attacks without training


@dataclass(frozen=True)
class Statistics:
    """What the attacker measured on its own features: their mean, and what whitens channels."""

    mean: Tensor  # (C, H, W)
    whiten: Tensor  # (C, C)

    def apply(self, released: Tensor) -> Tensor:
        """Drop the mean feature's direction and whiten channels; commutes with any key."""
        mean = F.normalize(self.mean.flatten(), dim=0)
        flat = released.flatten(2)
        flat = flat - (flat @ mean).unsqueeze(-1) * mean
        maps = flat.view_as(released).flatten(3)
        return (self.whiten @ maps).flatten(2)


@torch.no_grad()
def measure_statistics(
    knowledge: Knowledge, generator: Generator, *, limit: int = 2048
) -> Statistics:
    """Mean feature and channel covariance of up to ``limit`` of the attacker's own features."""
    found: list[Tensor] = []
    for batch in knowledge.shuffled(256, generator):
        found.append(cF.first_parts(knowledge.observe(batch, generator).parts, 1))
        if sum(map(len, found)) >= limit:
            break
    features = torch.cat(found)
    mean = features.mean(dim=0)
    rest = (features - mean).movedim(1, 0).flatten(1)
    covariance = rest @ rest.T / rest.shape[1]
    values, vectors = torch.linalg.eigh(double(covariance))
    scale = values.clamp(min=1e-6 * values.max().clamp(min=1e-12)).rsqrt()
    return Statistics(mean, (vectors * scale @ vectors.T).to(mean))


def phase(released: Tensor, known: Statistics) -> Tensor:
    r"""The support of the phase histogram, d = 2.

    Features of one sign put every phase into :math:`[\theta, \theta + \pi/2]`, so that the widest
    empty arc ends at θ. If all phases agree modulo π, b is a copy of a, and θ stands π/4 before
    them; which of the two it is, the attacker's own mean feature says. A histogram without an
    empty arc says nothing.

    Shape: ``(G, 2, C, H, W) -> (G, 1, 2)``.
    """
    x, y = released.flatten(2).unbind(dim=1)
    length = torch.hypot(x, y)
    angle = torch.atan2(y, x)
    kept = length > 1e-4 * length.amax(dim=1, keepdim=True)
    # Left-out entries repeat an angle that is there, which moves no gap.
    first = angle.gather(1, length.argmax(dim=1, keepdim=True))
    ordered = torch.where(kept, angle, first).sort(dim=1).values
    following = torch.cat([ordered[:, 1:], ordered[:, :1] + 2 * math.pi], dim=1)
    widest = (following - ordered).argmax(dim=1, keepdim=True)
    theta = following.gather(1, widest).squeeze(1)

    both = torch.stack([x, y], dim=1)
    values, vectors = torch.linalg.eigh(double(both @ both.mT))
    along = vectors[:, :, 1].to(both)
    along = along * (cF.rotate(released, along.unsqueeze(1)).squeeze(1) * known.mean).sum(
        dim=(1, 2, 3)
    ).sign().unsqueeze(1)
    copied = torch.atan2(along[:, 1], along[:, 0]) - math.pi / 4
    copies = (values[:, 0] < 1e-6 * values[:, 1]).to(theta.device)
    theta = torch.where(copies, copied, theta)
    return torch.stack([theta.cos(), theta.sin()], dim=-1).unsqueeze(1)


def ica(
    released: Tensor,
    known: Statistics,
    score: Score,
    *,
    count: int,
    iterations: int = 60,
) -> Tensor:
    """Independent components of each group's ``(d, C·H·W)`` matrix, for every d.

    Channels are whitened by what the attacker measured on its own features, the parts by the
    sample; then symmetric FastICA (Hyvärinen 1999) with the contrast log cosh, the best of several
    starts, and the nearest orthogonal matrix. ``score`` settles signs and, at d = 2, which
    component is the query's.

    Shape: ``(G, d, C, H, W) -> (G, n, d)``.
    """
    # In the plane one start finds the one optimum.
    starts = 1 if released.shape[1] == 2 else 2
    rows = unmix(known.apply(released), iterations=iterations, starts=starts)
    return _settled(rows, released, score, count)


def unmix(mixed: Tensor, *, iterations: int = 60, starts: int = 2, coarse: int = 4096) -> Tensor:
    """Orthogonal unmixing matrices ``(G, d, d)`` of ``mixed`` ``(G, d, N)``, rows up to sign and
    order. Searches on ``coarse`` evenly spaced entries, then settles on all of them."""
    groups, dim, count = mixed.shape
    covariance = mixed @ mixed.mT / count
    values, vectors = torch.linalg.eigh(double(covariance))
    floor = 1e-9 * values.amax(dim=1, keepdim=True).clamp(min=1e-30)
    sphere = (vectors * values.clamp(min=floor).rsqrt().unsqueeze(1) @ vectors.mT).to(mixed)
    white = sphere @ mixed
    some = white[:, :, :: max(1, count // coarse)]
    best = torch.full((groups,), -math.inf, device=mixed.device)
    found = sphere
    for start in range(starts):
        generator = Generator().manual_seed(start)
        turn = cF.draw_rotations(groups, dim, generator).to(mixed)
        turn = _fixed_point(some, turn, iterations)
        # Negentropy by log cosh, against its mean under a standard normal, 0.3746.
        contrast = (_log_cosh(turn @ some).mean(dim=2) - 0.37457).square().sum(dim=1)
        better = contrast > best
        best = torch.where(better, contrast, best)
        found = torch.where(better.view(-1, 1, 1), turn, found)
    found = _fixed_point(white, found, 8)
    return nearest_orthogonal(F.normalize(found @ sphere, dim=2))


def _fixed_point(white: Tensor, turn: Tensor, iterations: int) -> Tensor:
    """Symmetric FastICA from ``turn`` until the groups' matrices hardly move any more."""
    for _ in range(iterations):
        slope = (turn @ white).tanh()
        step = slope @ white.mT / white.shape[2]
        step = step - (1 - slope.square()).mean(dim=2, keepdim=True) * turn
        after = nearest_orthogonal(step)
        moved = 1 - (after * turn).sum(dim=2).abs()
        turn = after
        if moved.mean() < 1e-5:
            break
    return turn


def _log_cosh(x: Tensor) -> Tensor:
    return x.abs() + torch.log1p(torch.exp(-2 * x.abs())) - math.log(2)


def nearest_orthogonal(matrices: Tensor) -> Tensor:
    """The polar factor: the matrix of orthonormal rows nearest to each, ``(..., n, d)``."""
    left, _, right = torch.linalg.svd(double(matrices), full_matrices=False)
    return (left @ right).to(matrices)


def fast_ica(released: Tensor, score: Score, *, count: int) -> Tensor:
    """The same with scikit-learn's FastICA on the features as they are, group by group. It cannot
    whiten a group whose parts are no d independent directions, such as one of zeros;
    :func:`unmix` can."""
    found = []
    for group in released:
        flat = double(group.flatten(1)).cpu()
        if torch.linalg.matrix_rank(flat - flat.mean(dim=1, keepdim=True)) < len(flat):
            found.append(unmix(flat.unsqueeze(0)).squeeze(0))
            continue
        model = FastICA(len(flat), whiten="unit-variance", random_state=0, max_iter=300)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(flat.mT.numpy())
        found.append(torch.from_numpy(model.components_))
    unmixing = F.normalize(torch.stack(found), dim=2).to(released)
    return _settled(nearest_orthogonal(unmixing), released, score, count)


@torch.no_grad()
def _settled(rows: Tensor, released: Tensor, score: Score, count: int) -> Tensor:
    """Signs of unmixing rows and, at d = 2, their order.

    There a key is a proper rotation: (u, its quarter turn) must show a and b, which leaves four
    candidates; the best-looking pair wins. The score of u alone could not tell a from b.
    """
    if rows.shape[1] > 2:
        return upright(rows, released, score)
    first = torch.atan2(rows[:, 0, 1], rows[:, 0, 0])
    turns = first.unsqueeze(1) + torch.arange(4, device=rows.device) * (math.pi / 2)
    scores = _scores(_directions(turns), released, score)
    best = (scores + scores.roll(-1, dims=1)).argmax(dim=1, keepdim=True)
    return _frames(turns.gather(1, best), count)


@torch.no_grad()
def upright(rows: Tensor, released: Tensor, score: Score) -> Tensor:
    """Each direction or its negative, whichever shows what scores better: ``(G, n, d)``."""
    better = _scores(rows, released, score) >= _scores(-rows, released, score)
    return torch.where(better.unsqueeze(-1), rows, -rows)


def _best_angle(theta: Tensor, released: Tensor, score: Score) -> Tensor:
    """Of the angles ``(G, n)`` the one whose pair of views scores best: ``(G, 1)``."""
    pairs = torch.stack([theta, theta + math.pi / 2], dim=-1).flatten(1)
    scores = _scores(_directions(pairs), released, score).unflatten(1, (-1, 2)).sum(dim=-1)
    return theta.gather(1, scores.argmax(dim=1, keepdim=True))


def _frames(theta: Tensor, count: int) -> Tensor:
    """The first ``count`` rows of the rotation back by each angle: ``(G, 1) -> (G, count, 2)``."""
    return _directions(torch.cat([theta, theta + math.pi / 2], dim=1)[:, :count])


def _scores(directions: Tensor, released: Tensor, score: Score) -> Tensor:
    """The score of what each direction shows: ``(G, n, d) -> (G, n)``."""
    shown = cF.rotate(released, directions)
    return score(shown.flatten(0, 1)).view(shown.shape[:2])


# --------------------------------------------------------------------------- the paper's search


@torch.no_grad()
def critic_search(
    released: Tensor, score: Score, *, count: int, grid: int = 64, climbs: int = 15
) -> Tensor:
    r"""The paper's attack: the :math:`\hat u` whose view a critic scores as most real.

    d = 2: all of a grid of angles, then finer ones around the best, by the sum of both views'
    scores: b looks as real as a, and a search that looks at one view only would take the one for
    the other half of the time, a mean error of π/4 however sharp its critic. d > 2: the best of as
    many random directions, climbed by random steps of falling size, the next one in the orthogonal
    complement of those found. ``count`` vectors.

    Shape: ``(G, d, C, H, W) -> (G, count, d)``.
    """
    groups, dim = released.shape[:2]
    if dim == 2:
        theta = torch.linspace(0, 2 * math.pi, grid + 1, device=released.device)[:-1]
        theta = theta.expand(groups, grid)
        for spread in (2 * math.pi / grid, 0.5 * math.pi / grid):
            theta = _best_angle(theta, released, score)
            theta = theta + torch.linspace(-1, 1, 9, device=released.device) * spread
        return _frames(_best_angle(theta, released, score), count)
    generator = Generator().manual_seed(0)
    found = torch.zeros(groups, 0, dim, device=released.device)
    for _ in range(count):

        def free(directions: Tensor, found: Tensor = found) -> Tensor:
            return F.normalize(directions - directions @ found.mT @ found, dim=-1)

        def random(number: int) -> Tensor:
            return cF.normal((groups, number, dim), generator).to(released)

        best = _best(free(random(grid)), released, score)
        for climb in range(climbs):
            tried = torch.cat([best, free(best + random(8) * 0.7 * 0.8**climb)], dim=1)
            best = _best(tried, released, score)
        found = torch.cat([found, best], dim=1)
    return found


def _directions(theta: Tensor) -> Tensor:
    return torch.stack([theta.cos(), theta.sin()], dim=-1)


def _best(directions: Tensor, released: Tensor, score: Score) -> Tensor:
    """The best-scored of the directions: ``(G, n, d) -> (G, 1, d)``."""
    return take(directions, _scores(directions, released, score).argmax(dim=1, keepdim=True))
