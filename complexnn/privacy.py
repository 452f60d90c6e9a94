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
"""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import chi2

from complexnn.config import InputError


def _check(freedom: int, ratio: float) -> None:
    if freedom < 2:
        raise InputError(
            f"{freedom} degrees of freedom: at least N + 1 decoys are needed for N numbers a part"
        )
    if ratio <= 0:
        raise InputError(f"the ratio of squared norm to variance must be positive, got {ratio}")


def degrees_of_freedom(features: int, decoys: int) -> int:
    """m = k - N + 1: what ``decoys`` Gaussian parts leave for N = ``features`` numbers a part."""
    return decoys - features + 1


def delta(epsilon: float, freedom: int, ratio: float) -> float:
    r"""The smallest δ for which one query is (ε, δ)-private, exactly.

    .. math::
        \delta = \max\{F(c_-) - e^\varepsilon F(c_- - r),\;
                       \bar F(c_+ - r) - e^\varepsilon \bar F(c_+)\},\quad
        c_\mp = \frac{r}{1 - e^{-(r \pm 2\varepsilon) / (m - 2)}}

    with F the distribution function of :math:`\chi^2_m`; the second term is zero at 2ε ≥ r.
    Neighbours: the query is there, or zeros are in its place. The bound holds for every shorter
    query.

    Args:
        epsilon: ε, not negative.
        freedom: m = k - N + 1, at least 2.
        ratio: r, the squared norm that features are clipped to, over the decoys' variance.

    Raises:
        InputError: a negative ε, fewer than 2 degrees of freedom, a ratio that is not positive.
    """
    _check(freedom, ratio)
    if epsilon < 0:
        raise InputError(f"epsilon must not be negative, got {epsilon}")
    law = chi2(freedom)
    absent = _threshold(ratio + 2 * epsilon, freedom, ratio)
    found = law.cdf(absent) - math.exp(epsilon) * law.cdf(absent - ratio)
    if 2 * epsilon < ratio:
        present = _threshold(ratio - 2 * epsilon, freedom, ratio)
        found = max(found, law.sf(present - ratio) - math.exp(epsilon) * law.sf(present))
    return float(max(found, 0.0))


def _threshold(twice: float, freedom: int, ratio: float) -> float:
    """Where the privacy loss crosses ε: s = r / (1 - exp(-twice / (m - 2)))."""
    return ratio if freedom == 2 else -ratio / math.expm1(-twice / (freedom - 2))


def detection(false_alarms: float, freedom: int, ratio: float) -> float:
    """How often the best test of all finds a query that is there, at this rate of false alarms:
    the ROC curve of the attacker who knows everything else. Neyman and Pearson's threshold on s."""
    _check(freedom, ratio)
    law = chi2(freedom)
    return float(law.sf(law.isf(false_alarms) - ratio))


def freedom_for(
    epsilon: float, allowed: float, ratio: float, *, releases: int = 1, most: int = 1 << 20
) -> int:
    """The least m at which one query is (``epsilon``, ``allowed``)-private, over all ``releases``
    that hold it.

    Raises:
        InputError: none up to ``most``.
    """

    def enough(freedom: int) -> bool:
        if releases == 1:
            return delta(epsilon, freedom, ratio) <= allowed
        return composed_delta(epsilon, freedom, ratio, releases) <= allowed

    low, high = 1, 2
    while not enough(high):
        if high >= most:
            raise InputError(f"not ({epsilon}, {allowed})-private with {most} degrees of freedom")
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def epsilon_for(allowed: float, freedom: int, ratio: float) -> float:
    """The least ε at which one query is (ε, ``allowed``)-private; infinite if there is none."""
    low, high = 0.0, 1.0
    while delta(high, freedom, ratio) > allowed:
        if high > 500:  # below s = r only a present query is ruled out, whatever ε
            return math.inf
        low, high = high, 2 * high
    while high - low > 1e-6 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if delta(middle, freedom, ratio) <= allowed else (middle, high)
    return high


def composed_delta(
    epsilon: float, freedom: int, ratio: float, queries: int, *, step: float = 1e-3
) -> float:
    """δ of ``queries`` releases that all hold, or all lack, the same query, decoys fresh each time.

    Privacy losses add up. Their distribution is put on a grid, every loss rounded up and what lies
    beyond the grid counted as a full loss, so that the result is an upper bound.
    """
    _check(freedom, ratio)
    if queries < 1:
        raise InputError(f"queries must be positive, got {queries}")
    bounds = (_sum_of_losses(freedom, ratio, queries, step, there=there) for there in (False, True))
    return max(_hockey_stick(losses, mass, infinite, epsilon) for losses, mass, infinite in bounds)


def composed_detection(
    false_alarms: float, freedom: int, ratio: float, releases: int, *, step: float = 1e-3
) -> float:
    r"""No test on ``releases`` that all hold, or all lack, the same query finds it more often:
    :math:`\min_\varepsilon e^\varepsilon \alpha + \delta(\varepsilon)` over a grid."""
    if releases == 1:
        return detection(false_alarms, freedom, ratio)
    _check(freedom, ratio)
    losses = _sum_of_losses(freedom, ratio, releases, step, there=True)
    grid = np.linspace(0, max(0.0, -math.log(false_alarms)), 65)
    return min(1.0, *(math.exp(e) * false_alarms + _hockey_stick(*losses, e) for e in grid))


def _sum_of_losses(
    freedom: int, ratio: float, queries: int, step: float, *, there: bool
) -> tuple[np.ndarray, np.ndarray, float]:
    """Values and probabilities of the summed privacy loss, and the mass at infinity."""
    law, half = chi2(freedom), max(freedom - 2, 1e-9) / 2

    def below(loss: np.ndarray) -> np.ndarray:
        """P(L ≤ loss)."""
        if there:  # rises with s, below r / 2
            exponent = np.minimum((loss - ratio / 2) / half, -1e-300)
            return np.where(loss >= ratio / 2, 1.0, law.cdf(-ratio / np.expm1(exponent) - ratio))
        exponent = np.minimum(-(loss + ratio / 2) / half, -1e-300)  # falls with s, above -r / 2
        return np.where(loss <= -ratio / 2, 0.0, law.sf(-ratio / np.expm1(exponent)))

    # A range that holds all but a negligible part of one loss, the same for each of the sum.
    negligible = 1e-15
    if there:
        u = law.ppf(negligible)
        least, most = ratio / 2 - half * math.log1p(ratio / max(u, 1e-300)), ratio / 2
    else:
        u = max(law.ppf(negligible), ratio * (1 + 1e-9))
        least, most = -ratio / 2, -half * math.log1p(-ratio / u) - ratio / 2
    first, last = math.floor(least / step), math.ceil(most / step)
    edges = step * np.arange(first, last + 1)
    cumulative = below(edges)
    mass = np.diff(cumulative, prepend=0.0)
    infinite = 1.0 - float(cumulative[-1])
    size = 1 << (queries * len(mass)).bit_length()
    summed = np.fft.irfft(np.fft.rfft(mass, size) ** queries, size)[: queries * len(mass)]
    summed = np.clip(summed, 0.0, None)
    values = step * (queries * first + np.arange(len(summed)))
    return values, summed, 1.0 - (1.0 - infinite) ** queries


def _hockey_stick(values: np.ndarray, mass: np.ndarray, infinite: float, epsilon: float) -> float:
    over = values > epsilon
    return float(infinite - (mass[over] * np.expm1(epsilon - values[over])).sum())


def replaced_delta(epsilon: float, freedom: int, ratio: float) -> float:
    """An upper bound on δ where a query is replaced by another one, by way of neither:
    (1 + e^{ε/2}) δ(ε/2)."""
    return min(1.0, (1 + math.exp(epsilon / 2)) * delta(epsilon / 2, freedom, ratio))


def work_factor(queries: int, decoys: int) -> float:
    """The server's work, and the traffic, per query, in units of the network without decoys."""
    return (queries + decoys) / queries
