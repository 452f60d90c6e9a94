"""Cohorts: networks that were trained alike, and so may be compared in one line of a table.

All of one architecture, cut and data set, on the same images, as often and by the same recipe.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from complexnn.report.rows import Alike, Runs

# Kinds whose encoder, server and decoder compute the same wherever a ResNet is cut: trained once,
# they stand in the cohorts of both cuts. (A server of rotated features has other layers, and the
# control `local` replaces another share of the network.)
SHARED = ("original", "additional", "noisy")
_CUTS = {"alpha": ("beta", "β"), "beta": ("alpha", "α")}

Place = tuple[str, str]  # network, data set: a row of the paper's tables


@dataclass(frozen=True)
class Cohort:
    """The networks of ours that were trained alike, by label."""

    network: str
    dataset: str
    size: tuple[float, int]  # of the budget: images, epochs
    kinds: int  # of networks at this budget, in all its ways
    recipe: str  # flags of training
    way: str  # flags of the rotated network alone
    source: str  # what is unofficial about the data
    own: dict[str, Runs]
    twin: dict[str, Runs]  # of the other cut of the same ResNet: those kinds that it shares

    @property
    def place(self) -> Place:
        return self.network, self.dataset

    @property
    def first(self) -> Runs:
        return next(iter((self.own or self.twin).values()))

    def find(self, label: str) -> Runs | None:
        return self.own.get(label) or self.twin.get(label)

    def mark(self, runs: Runs) -> str:
        """`` (α)`` on what was trained and attacked with the other cut of the same network."""
        return "" if runs in self.own.values() else f" ({_other_cut(self.network)[1]})"


def trained_alike(ours: Iterable[Runs]) -> dict[Alike, list[Runs]]:
    """Runs of one network on the same images, as often and by the same recipe, whatever way the
    rotated ones among them draw decoys in and whatever trained them."""
    alike: dict[Alike, list[Runs]] = defaultdict(list)
    for runs in ours:
        alike[runs.alike].append(runs)
    return alike


def cohorts(ours: Iterable[Runs]) -> dict[Place, list[Cohort]]:
    """(network, data set) to its cohorts: the largest budget first; of one size, that with the most
    kinds of networks; of one budget, today's way to train the rotated network.

    Rotated networks without the adversarial term are in none: the paper has no such ones.
    """
    alike = trained_alike(runs for runs in ours if runs.critic)
    keys = dict.fromkeys(alike)
    keys |= {(_other_cut(key[0])[0], *key[1:]): None for key in alike if _shared(alike[key])}
    by_place: dict[Place, list[Cohort]] = defaultdict(list)
    for key in keys:
        network, dataset, _, source = key
        own = alike.get(key, [])
        twin = _shared(alike.get((_other_cut(network)[0], *key[1:]), []))
        first = (own or list(twin.values()))[0]
        kinds = len({runs.config.net.label for runs in own})
        for way, labels in _ways(own).items():
            cohort = Cohort(
                network, dataset, first.size, kinds, first.recipe, way, source, labels, twin
            )
            by_place[network, dataset].append(cohort)
    for place, several in by_place.items():
        # Another cut's networks beside its own, or alone where it has none.
        several = [cohort for cohort in several if cohort.own] or several
        by_place[place] = sorted(several, key=lambda c: (c.size, c.kinds), reverse=True)
    return by_place


def _other_cut(network: str) -> tuple[str, str]:
    """The other cut of the same ResNet, and its letter; no letter where there is none."""
    arch, _, variant = network.rpartition("-")
    other, letter = _CUTS.get(variant, ("", ""))
    return f"{arch}-{other}", letter


def _shared(members: list[Runs]) -> dict[str, Runs]:
    """Those of a ResNet's runs that both of its cuts share."""
    return {
        runs.config.net.label: runs
        for runs in members
        if runs.config.net.kind in SHARED and _other_cut(runs.network)[1]
    }


def _ways(members: list[Runs]) -> dict[str, dict[str, Runs]]:
    """Runs that were trained alike by label, for each way that rotated ones were trained in, such
    as with decoys from closed blocks and as early versions drew them; today's defaults first.
    Others that have flags of their own, such as a defence's weight, have these behind their
    label, and stand beside every way."""
    rotated = [r for r in members if r.config.net.kind == "complex"]
    others = {
        ", ".join(filter(None, (r.config.net.label, r.way))): r
        for r in members
        if r.config.net.kind != "complex"
    }
    return {
        way: others | {r.config.net.label: r for r in rotated if r.way == way}
        for way in sorted({r.way for r in rotated}) or [""]
    }
