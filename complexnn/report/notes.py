"""Words in tables: for what is missing, for flags and for origins of data; the notes below say what
they mean."""

from __future__ import annotations

import math
import string
from collections.abc import Iterable

from complexnn.report.cohorts import Cohort
from complexnn.report.rows import Runs

NOT_RUN, NOT_ATTACKED = "not run", "not attacked"  # in place of a number

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


class Abbreviations:
    """Short names for what would be repeated in every line: capitals for flags, small letters for
    what is unofficial about data; and a note that says what they mean."""

    def __init__(self) -> None:
        self.flags: dict[str, str] = {}
        self.sources: dict[str, str] = {}

    def budget(self, of: Cohort | Runs) -> str:
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
