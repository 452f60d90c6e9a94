r"""Sums of independent privacy losses, never underestimated.

The privacy loss of a release is :math:`L = \log p(s) / q(s)`, with s drawn from p. Its law tells
all that a release is worth to an attacker, as :math:`\delta(\varepsilon) = E[(1 - e^{\varepsilon -
L})_+]` does. Losses of independent releases add.

A law is kept as atoms. An atom of p-mass w at a loss l has q-mass :math:`w e^{-l}`; it is put on a
grid by splitting it between its two neighbours so that both masses stay as they were. Whoever sees
the neighbours can merge them, so the law on the grid is at least as informative as the true one,
and the error is of second order in the grid's spacing ("connect the dots": Doroshenko, Ghazi,
Kamath, Kumar and Manurangsi, PoPETs 2022). The grid is wide and not even, and all sums are of
positive numbers, so that a small δ keeps its digits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Every rounding below is upwards, so these trade time for slack, never for safety: with them, a δ
# of about 1e-6 comes out one or two per cent above the truth (docs/beyond.md).
LARGEST = 1000.0  # a loss above it counts as certain
FINEST = 0.02  # spacing of the grid near 0, in spreads of the loss
GROWTH = 0.01  # spacing far from 0, in the loss itself
DROPPED = 1e-15  # mass of the smallest losses that is rounded up
SHAVED = 1e-4  # mass of the largest finite losses that counts as certain, in units of what is
UNDERFLOW = 1e-300  # more than what products of small masses can lose
BLOCK = 1 << 17  # atoms at a time


@dataclass(frozen=True)
class Losses:
    """A law of privacy losses: atoms with ``mass`` at rising ``values``, the rest at infinity."""

    values: np.ndarray
    mass: np.ndarray
    infinite: float
    spread: float  # about the standard deviation of its bulk: what the grid must resolve

    def delta(self, epsilon: float) -> float:
        r""":math:`E[(1 - e^{\varepsilon - L})_+]`."""
        first = np.searchsorted(self.values, epsilon, side="right")
        weights = -np.expm1(epsilon - self.values[first:])
        return min(1.0, self.infinite + float(self.mass[first:] @ weights))

    def trimmed(self) -> Losses:
        """Without ends that hardly count: the lowest losses rounded up, the highest certain."""
        low = np.searchsorted(self.mass.cumsum(), DROPPED, side="right")
        low = min(int(low), len(self.mass) - 1)
        dropped = np.searchsorted(self.mass[::-1].cumsum(), SHAVED * self.infinite, side="right")
        high = max(len(self.mass) - int(dropped), low + 1)
        mass = self.mass[low:high].copy()
        mass[0] += self.mass[:low].sum()
        certain = self.infinite + float(self.mass[high:].sum())
        return Losses(self.values[low:high], mass, certain, self.spread)


def grid(low: float, high: float, spread: float) -> np.ndarray:
    """Points from below ``low`` to above ``high``, or to above LARGEST: even near 0, in proportion
    to the loss further out."""
    unit = FINEST * max(spread, 1e-12) / GROWTH
    first = np.floor(np.arcsinh(min(low, LARGEST) / unit) / GROWTH) - 1
    last = np.ceil(np.arcsinh(min(high, LARGEST) / unit) / GROWTH) + 1
    return unit * np.sinh(GROWTH * np.arange(first, last + 1))


def add(a: Losses, b: Losses) -> Losses:
    """The law of the sum of two independent losses."""
    spread = float(np.hypot(a.spread, b.spread))
    points = grid(a.values[0] + b.values[0], a.values[-1] + b.values[-1], spread)
    widths = np.append(np.expm1(points[:-1] - points[1:]), -np.inf)  # the last cell is all certain
    mass = np.zeros(len(points) + 1)
    rows = max(1, BLOCK // len(b.values))
    for start in range(0, len(a.values), rows):
        some = slice(start, start + rows)
        sums = (a.values[some, None] + b.values).ravel()
        weight = np.outer(a.mass[some], b.mass).ravel()
        cell = np.searchsorted(points, sums, side="right") - 1
        last = cell == len(points) - 1
        share = np.where(last, 1.0, np.expm1(points[cell] - sums) / widths[cell])
        mass[:-1] += np.bincount(cell, weight * (1 - share), len(points))
        mass[1:] += np.bincount(cell, weight * share, len(points))
    infinite = a.infinite + b.infinite * (1 - a.infinite) + float(mass[-1]) + UNDERFLOW
    return Losses(points, mass[:-1], infinite, spread).trimmed()


def times(law: Losses, count: int) -> Losses:
    """The law of the sum of ``count`` independent losses of one law, by doubling."""
    if count == 1:
        return law
    half = times(law, count // 2)
    return add(add(half, half), law) if count % 2 else add(half, half)
