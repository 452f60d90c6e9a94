r"""Differential privacy of a rotated group with Gaussian decoys.

A group's features are the columns of a matrix A, N numbers each, and the server gets X = Q Aᵀ with
Q uniform on the orthogonal group. X tells AAᵀ and nothing else. With k decoys of N(0, σ²I) beside
the queries, a server that knows every other query is left with S = W when one query a is absent,
and S = W + aaᵀ when it is there, where W ~ Wishart(k, σ²I).

The likelihood ratio depends on S through one number, the Schur complement of the direction of a,

.. math:: s = \frac{\|a\|^2}{\sigma^2} \Big/ a^T S^{-1} a,

which is :math:`\chi^2_m` without a and :math:`r + \chi^2_m` with it, for m = k - N + 1 and
:math:`r = \|a\|^2 / \sigma^2`. So the release is as private as adding :math:`\chi^2_m` noise to a
number that a query moves by r. (Absent: zeros stand in its place, so that the number of parts tells
nothing.) For m of 2 or more that noise has a log-concave density: thresholds on s are the best
tests, and a longer a is never harder to find, so a bound on its norm suffices. The derivation
stands in docs/beyond.md.

A query is rarely released once: :class:`Accountant` keeps the history that a number must be about,
and :func:`releases_per_query` says what one call of ``encode`` adds to it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from decimal import ROUND_CEILING, Context
from functools import lru_cache

import numpy as np
from scipy.stats import chi2

from complexnn.config import InputError, NetConfig
from complexnn.privacy.losses import LARGEST, UNDERFLOW, Losses, add, grid, times

SMALLEST = 1e-290  # the least δ that can be asked for: double precision ends soon below it
MOST = 300_000  # degrees of freedom: far above, scipy's distribution function is wrong by percents


def degrees_of_freedom(features: int, decoys: int) -> int:
    """m = k - N + 1: what ``decoys`` Gaussian parts leave for N = ``features`` numbers a part."""
    return decoys - features + 1


def releases_per_query(config: NetConfig, *, pool: bool = False, filled: bool = True) -> int:
    """How many groups of one call of ``encode`` hold a query, each under its own key.

    With a pool, one. Without, a packed query is in one group, or may be in two where the last group
    is filled up with queries of earlier ones (``filled`` is false). A decoy query is in d: it leads
    its own and is a decoy in d - 1 others, whether they are the groups of a closed block or of a
    whole batch, where decoys are cyclic shifts of one permutation.
    """
    if pool:
        return 1
    if config.group == "packed":
        return 1 if filled else 2
    return config.dim


def rounded_up(value: float) -> str:
    """An ε or δ in two digits that never say less than it is."""
    rounded = float(Context(prec=2, rounding=ROUND_CEILING).create_decimal(value))
    return f"{rounded:.2g}" if rounded > 1e-3 else f"{rounded:.1e}"


# ------------------------------------------------------------------------------------ one release


def delta(epsilon: float, freedom: int, ratio: float) -> float:
    r"""The smallest δ for which one release of one query is (ε, δ)-private, exactly.

    .. math::
        \delta = \max\{F(c_-) - e^\varepsilon F(c_- - r),\;
                       \bar F(c_+ - r) - e^\varepsilon \bar F(c_+)\},\quad
        c_\mp = \frac{r}{1 - e^{-(r \pm 2\varepsilon) / (m - 2)}}

    with F the distribution function of :math:`\chi^2_m`; the second term is zero at 2ε ≥ r.
    Neighbours: the query is there, or zeros are in its place. The bound holds for every shorter
    query. What is below 1e-300 is given as that.

    Args:
        epsilon: ε, not negative.
        freedom: m = k - N + 1, at least 2.
        ratio: r, the squared norm that features are clipped to, over the decoys' variance.

    Raises:
        InputError: a negative ε, fewer than 2 degrees of freedom or over 300,000, a ratio that is
            not positive.
    """
    _check(freedom, ratio)
    if not epsilon >= 0:
        raise InputError(f"epsilon must not be negative, got {epsilon}")
    law = chi2(freedom)
    near, far = _thresholds(ratio / 2 + epsilon, freedom, ratio)
    without = law.cdf(far) - _times_exp(epsilon, law.cdf(near))
    there = 0.0
    if 2 * epsilon < ratio:
        near, far = _thresholds(ratio / 2 - epsilon, freedom, ratio)
        there = law.sf(near) - _times_exp(epsilon, law.sf(far))
    return float(max(without, there, UNDERFLOW))


def _check(freedom: int, ratio: float) -> None:
    if freedom < 2:
        raise InputError(
            f"{freedom} degrees of freedom: at least N + 1 decoys are needed for N numbers a part"
        )
    if freedom > MOST:
        raise InputError(f"at most {MOST:,} degrees of freedom can be told apart, got {freedom:,}")
    if not 0 < ratio < math.inf:
        raise InputError(f"the ratio of squared norm to variance must be positive, got {ratio}")


def _thresholds(distance, freedom: int, ratio: float):  # numbers or arrays
    """c - r and c for c = r / (1 - exp(-2 ``distance`` / (m - 2))), where the loss is so far from
    its bound of -r/2 without the query, and from r/2 with it."""
    if freedom == 2:
        return 0.0 * distance, ratio + 0.0 * distance
    scaled = 2 * distance / (freedom - 2)
    with np.errstate(divide="ignore", over="ignore"):
        return ratio / np.expm1(scaled), -ratio / np.expm1(-scaled)


def _times_exp(epsilon: float, probability: float) -> float:
    """exp(ε) times a probability, without overflow."""
    return math.exp(min(epsilon + math.log(probability), 0.0)) if probability > 0 else 0.0


def detection(false_alarms: float, freedom: int, ratio: float) -> float:
    """How often the best test of all finds a query that is there, at this rate of false alarms:
    the ROC curve of the attacker who knows everything else. Neyman and Pearson's threshold on s."""
    _check(freedom, ratio)
    law = chi2(freedom)
    return float(law.sf(law.isf(false_alarms) - ratio))


def replaced_delta(epsilon: float, freedom: int, ratio: float) -> float:
    """An upper bound on δ of one release where a query is replaced by another one, by way of
    neither: (1 + e^{ε/2}) δ(ε/2)."""
    half = delta(epsilon / 2, freedom, ratio)
    return min(1.0, half + _times_exp(epsilon / 2, half))


# ---------------------------------------------------------------------------------- many releases


class Accountant:
    """What all releases that hold, or all lack, one query prove together; decoys and keys are fresh
    in each.

    ::

        accountant = Accountant()
        accountant.step(freedom=19, ratio=1.0, releases=2)  # as query and as decoy
        accountant.get_epsilon(delta=1e-6)

    One release is accounted for exactly, several by upper bounds (:mod:`complexnn.privacy.losses`).
    """

    def __init__(self) -> None:
        self.history: Counter[tuple[int, float]] = Counter()  # releases at each (freedom, ratio)

    def step(self, *, freedom: int, ratio: float, releases: int = 1) -> None:
        """Note ``releases`` more that hold the query, with m = ``freedom`` and r = ``ratio``.

        Raises:
            InputError: no release, fewer than 2 degrees of freedom, a ratio that is not positive.
        """
        _check(freedom, ratio)
        if releases < 1:
            raise InputError(f"releases must be positive, got {releases}")
        self.history[freedom, ratio] += releases

    @property
    def releases(self) -> int:
        """How many releases held the query so far."""
        return self.history.total()

    def get_delta(self, epsilon: float) -> float:
        """The smallest δ at this ε, or a bound above it; 0 if nothing was released."""
        if not epsilon >= 0:
            raise InputError(f"epsilon must not be negative, got {epsilon}")
        if not self.history:
            return 0.0
        if self.releases == 1:
            return delta(epsilon, *next(iter(self.history)))
        return max(_total(*self._steps(), there=there).delta(epsilon) for there in (False, True))

    def get_epsilon(self, delta: float) -> float:
        """The smallest ε at this δ, or a bound above it; infinite where none up to 1000 does.

        Raises:
            InputError: a δ outside of [1e-290, 1).
        """
        _check_delta(delta)

        def enough(epsilon: float) -> bool:
            return self.get_delta(epsilon) <= delta

        if enough(0.0):
            return 0.0
        low, high = 0.0, LARGEST
        if not enough(high):  # below s = r only a present query is ruled out, whatever ε
            return math.inf
        while high - low > 1e-6 * high:
            middle = (low + high) / 2
            low, high = (low, middle) if enough(middle) else (middle, high)
        return high

    def get_detection(self, false_alarms: float) -> float:
        r"""No test finds the query more often at this rate of false alarms:
        :math:`\min_\varepsilon e^\varepsilon \alpha + \delta(\varepsilon)` over a grid."""
        if self.releases == 1:
            return detection(false_alarms, *next(iter(self.history)))
        if not self.history:
            return false_alarms
        law = _total(*self._steps(), there=True)
        # Every ε gives a bound, so a coarse grid costs sharpness only; beyond log(1 / α) it is 1.
        epsilons = np.linspace(0, max(0.0, -math.log(false_alarms)), 65)
        return min(1.0, *(math.exp(e) * false_alarms + law.delta(e) for e in epsilons))

    def _steps(self) -> list[tuple[int, float, int]]:
        return sorted((*kind, count) for kind, count in self.history.items())


def composed_delta(epsilon: float, freedom: int, ratio: float, releases: int) -> float:
    """δ of ``releases`` that all hold, or all lack, the same query: an upper bound."""
    accountant = Accountant()
    accountant.step(freedom=freedom, ratio=ratio, releases=releases)
    return accountant.get_delta(epsilon)


def freedom_for(
    epsilon: float, allowed: float, ratio: float, *, releases: int = 1, most: int = MOST
) -> int:
    """The least m at which one query is (``epsilon``, ``allowed``)-private, over all ``releases``
    that hold it.

    Raises:
        InputError: none up to ``most``; ``allowed`` outside of [1e-290, 1).
    """
    _check_delta(allowed)

    def enough(freedom: int) -> bool:
        if delta(epsilon, freedom, ratio) > allowed:  # one release alone, which takes no time
            return False
        return composed_delta(epsilon, freedom, ratio, releases) <= allowed

    low, high = 1, 2
    while not enough(high):
        if high >= most:
            raise InputError(f"not ({epsilon}, {allowed})-private with {most:,} degrees of freedom")
        low, high = high, min(2 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _check_delta(delta: float) -> None:
    if not SMALLEST <= delta < 1:
        raise InputError(f"delta must be at least {SMALLEST:g} and below 1, got {delta}")


@lru_cache(maxsize=64)
def _total(*steps: tuple[int, float, int], there: bool) -> Losses:
    """The law of the loss over a whole history, with the query in all of it or in none."""
    laws = [times(_one(freedom, ratio, there=there), n) for freedom, ratio, n in steps]
    total = laws[0]
    for law in laws[1:]:
        total = add(total, law)
    return total


def _one(freedom: int, ratio: float, *, there: bool) -> Losses:
    """The law of one release's loss, on a grid.

    The loss with the query is minus the loss without it, both are monotone in s, and the law of s
    with the query is the law without it, moved by r. So each cell's two masses are differences of
    one distribution function.
    """
    law, sign = chi2(freedom), 1 if there else -1
    if freedom == 2:  # one finite loss
        certain = 0.0 if there else float(law.cdf(ratio))
        return Losses(np.array([sign * ratio / 2]), np.array([1 - certain]), certain, 0.0)
    loss = _loss(freedom, ratio, there=there)
    quartiles = loss(np.maximum(law.ppf([0.25, 0.75]), 0.0 if there else ratio * (1 + 1e-9)))
    spread = float(abs(quartiles[1] - quartiles[0])) / 1.35  # of a Gaussian, its deviation
    # All losses but the largest finite ones, which together have less than 1e-4 of the mass at
    # infinity; or all but the smallest.
    ends = (law.ppf(1e-15), math.inf) if there else (math.inf, ratio * 1.0001 ** (2 / freedom))
    points = grid(*loss(np.array(ends)), spread)
    points = points[sign * points < ratio / 2]
    points = np.append(points, ratio / 2) if there else points
    near, far = _thresholds(ratio / 2 - sign * points, freedom, ratio)
    own, other = (near, far) if there else (far, near)
    mass, others = _cells(law, own), _cells(law, other)
    low, high = points[:-1], points[1:]
    with np.errstate(divide="ignore"):
        kept = np.exp(low + np.log(others))
    # So much of each cell at its upper end that both masses are kept: with a share u at the end h
    # and the rest at l, others = u e^-h + (mass - u) e^-l. The 1e-11 outweighs rounding.
    up = ((1 + 1e-11) * mass - kept) / -np.expm1(low - high)
    up = np.where(kept > mass, mass, up.clip(0, mass))
    mass = np.append(mass - up, 0.0) + np.append(0.0, up)
    mass[0] += law.cdf(own[0]) if there else law.sf(own[0])
    certain = UNDERFLOW if there else UNDERFLOW + float(law.cdf(own[-1]))
    return Losses(points, mass, certain, spread).trimmed()


def _loss(freedom: int, ratio: float, *, there: bool) -> Callable[[np.ndarray], np.ndarray]:
    """The privacy loss as a function of the noise u ~ χ²_m, infinite where the query is absent and
    u < r."""
    power = (freedom - 2) / 2

    def loss(u: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore"):
            if there:
                return ratio / 2 - power * np.log1p(ratio / u)
            return -power * np.log1p(-np.minimum(ratio / u, 1.0)) - ratio / 2

    return loss


def _cells(law: chi2, edges: np.ndarray) -> np.ndarray:
    """Masses between edges that rise or fall, each from the tail that it is nearer to."""
    below, above = law.cdf(edges), law.sf(edges)
    return np.where(below[1:] < 0.5, abs(np.diff(below)), abs(np.diff(above)))
