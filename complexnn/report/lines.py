"""Lines of tables: what there is for a network and a data set at each budget, the largest first."""

from __future__ import annotations

import math
import string
from collections.abc import Iterable
from dataclasses import dataclass

from complexnn.report.rows import (
    Runs,
    trained_alike,
    ways,
)

# Kinds whose encoder, server and decoder compute the same wherever a ResNet is cut: trained once,
# they stand in the lines of both cuts. (A server of rotated features has other layers, and the
# control `local` replaces another share of the network.)
SHARED = ("original", "additional", "noisy")
_CUTS = {"alpha": ("beta", "β"), "beta": ("alpha", "α")}

# What is known about the image folders behind the published rows, by the data set, where a row says
# that its data were read from one.
_FOLDERS = {
    "cifar10": "CIFAR-10 from an image folder: the official images and split. In the folder that "
    "this repository's rows were made from, 173 of the 10,000 test images are re-encoded as JPEG; "
    "all others are lossless.",
    "cifar100": "CIFAR-100 from an image folder: the official images, but NOT the official split "
    "into training and test images, which could not be recovered (100 test images of each class "
    "by the hash of their pixels). Errors compare with published ones up to the draw of the split.",
}


@dataclass(frozen=True)
class Line:
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

    def find(self, label: str) -> Runs | None:
        return self.own.get(label) or self.twin.get(label)

    @property
    def first(self) -> Runs:
        return next(iter((self.own or self.twin).values()))

    def mark(self, runs: Runs) -> str:
        """`` (α)`` on what was trained and attacked with the other cut of the same network."""
        return "" if runs in self.own.values() else f" ({_other_cut(self.network)[1]})"


def _other_cut(network: str) -> tuple[str, str]:
    arch, _, variant = network.rpartition("-")
    other, letter = _CUTS.get(variant, ("", ""))
    return f"{arch}-{other}", letter


def lines(ours: Iterable[Runs]) -> dict[tuple[str, str], list[Line]]:
    """(network, data set) to its lines: the largest budget first; of one size, that with the most
    kinds of networks; of one budget, today's way to train the rotated network."""
    alike = trained_alike(runs for runs in ours if runs.critic)
    keys = dict.fromkeys(alike)
    keys |= {(_other_cut(key[0])[0], *key[1:]): None for key in alike if _shared(alike[key])}
    found: dict[tuple[str, str], list[Line]] = {}
    for key in keys:
        network, dataset, _, source = key
        own = alike.get(key, [])
        twin = _shared(alike.get((_other_cut(network)[0], *key[1:]), []))
        first = (own or list(twin.values()))[0]
        kinds = len({runs.config.net.label for runs in own})
        for way, labels in ways(own).items():
            rotated = [r for r in labels.values() if r.config.net.kind == "complex"]
            told = way or (rotated[0].way if rotated else "")
            line = Line(
                network, dataset, first.size, kinds, first.recipe, told, source, labels, twin
            )
            found.setdefault((network, dataset), []).append(line)
    for place, several in found.items():
        # Another cut's networks beside its own, or alone where it has none.
        several = [line for line in several if line.own] or several
        found[place] = sorted(several, key=lambda line: (line.size, line.kinds), reverse=True)
    return found


def _shared(members: list[Runs]) -> dict[str, Runs]:
    """Those of a ResNet's runs that both of its cuts share."""
    return {
        runs.config.net.label: runs
        for runs in members
        if runs.config.net.kind in SHARED and _other_cut(runs.network)[1]
    }


class Keys:
    """Short names for what would be repeated in every line: capitals for flags, small letters for
    what is unofficial about data; and a note that says what they mean."""

    def __init__(self) -> None:
        self.flags: dict[str, str] = {}
        self.sources: dict[str, str] = {}

    def budget(self, of: Line | Runs) -> str:
        """``20 epochs, A``: what was spent, and the flags of training."""
        images, epochs = of.size
        words = [f"{epochs} epochs"] + ([] if images == math.inf else [f"{images:,} images"])
        for flags in filter(None, (of.recipe, of.way)):
            words.append(self.flags.setdefault(flags, _letter(len(self.flags)).upper()))
        return ", ".join(words)

    def data(self, runs: Runs) -> str:
        """``cifar100 (b)``: a run's data set, marked if its data are not the official ones."""
        told = unofficial(runs)
        if not told:
            return runs.dataset
        mark = self.sources.setdefault(told, _letter(len(self.sources)))
        return f"{runs.dataset} ({mark})"

    def notes(self, rows: Iterable[tuple[str, ...]]) -> list[str]:
        """What the short names in these cells mean."""
        cells = [cell for row in rows for cell in row]
        data = [f"({m}) {told}" for told, m in self.sources.items()
                if any(cell.endswith(f" ({m})") for cell in cells)]  # fmt: skip
        used = {word.rstrip(",") for cell in cells if " epochs" in cell for word in cell.split()}
        flags = [f"{m}: `{flags}`" for flags, m in self.flags.items() if m in used]
        return [*data, *(["Flags of train.py: " + "; ".join(flags) + "."] if flags else [])]


def _letter(number: int) -> str:
    """a, …, z, aa, …"""
    before, place = divmod(number, 26)
    return (_letter(before - 1) if before else "") + string.ascii_lowercase[place]


def unofficial(runs: Runs) -> str:
    """What a reader must know about a run's data; empty if nothing is known to be unofficial."""
    if not runs.source:
        return ""
    name = runs.dataset.partition(" by ")[0]
    if runs.source.startswith("image folder") and name in _FOLDERS:
        return _FOLDERS[name]
    counts = "trained on {train:,}, validated on {validation:,}, tested on {test:,} images"
    return f"{name}: {runs.source}; {counts.format(**runs.rows[0]['task']['data'])}."


def with_data(note: str, shown: Iterable[Runs]) -> str:
    """A table's note, and below it what is unofficial about the data of the runs that it shows."""
    return "\n".join(filter(None, dict.fromkeys([note, *map(unofficial, shown)])))
