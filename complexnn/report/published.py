"""What the paper and its 2021 reproduction published, and tables that put ours into one line with
it: ``paper / 2021 / ours``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from complexnn.config import InputError
from complexnn.report.cohorts import Cohort, Place
from complexnn.report.notes import NOT_ATTACKED, Abbreviations
from complexnn.report.rows import Runs
from complexnn.runs.tables import Table

PUBLISHED = Path(__file__).parent / "published_results.json"
NOT_PUBLISHED, NOBODY, DITTO = "n.p.", "–", '"'
NOT_TRAINED, NO_DATA = "not trained yet", "data: not available"
UNAVAILABLE = {"cub200"}  # data sets that this project could not get
LEGEND = (
    "In every table: n.p.: not published, or not recovered. –: neither published nor tried here. "
    "not trained yet, not attacked: no such row among the results given. data: not available: "
    "CUB-200-2011 could not be had. (α), (β): of the other cut of the same network; the cuts of "
    "original, additional and noisy differ in nothing but the server's share of the layers, and "
    "are trained once. ±: deviation over seeds; without it, one seed. Ours: the largest budget "
    'first, smaller ones in lines below (": as above); in brackets, the runs in the last table.'
)


def read_published(path: Path = PUBLISHED) -> dict[str, Any]:
    """The published numbers.

    Raises:
        InputError: the file is not there, as in an installation without the repository.
    """
    if not path.is_file():
        raise InputError(f"no {path}: run this from a clone of the repository")
    return json.loads(path.read_text(encoding="utf-8"))


def theirs(
    published: list[dict[str, Any]], key: str, digits: int
) -> tuple[dict[Place, str], dict[Place, str]]:
    """A column of the published tables: the paper's numbers and the reproduction's."""
    return tuple(
        {
            (row["arch"], row["dataset"]): f"{row[key]:.{digits}f}"
            for row in published
            if row["source"] == source and row.get(key) is not None
        }
        for source in ("paper", "reproduction")
    )


@dataclass(frozen=True)
class Column:
    """A column of a table: what was published for a place, and what a run of ours says."""

    head: str
    label: str  # of the network of ours
    value: Callable[[Runs], str | None]  # None: not attacked
    theirs: tuple[dict[Place, str], ...] = ()  # the paper's numbers, the reproduction's
    beside: bool = False  # a blind answer, which says nothing alone
    rare: bool = False  # neither published nor planned for every place

    def cell(self, place: Place, cohort: Cohort | None, *, first: bool) -> str:
        """``paper / 2021 / ours``, with ditto marks in the lines of further budgets."""
        runs = None if cohort is None else cohort.find(self.label)
        if runs is not None:
            value = self.value(runs)
            ours = NOT_ATTACKED if value is None else value + cohort.mark(runs)
        else:
            ours = NO_DATA if place[1] in UNAVAILABLE else NOT_TRAINED
        theirs = [numbers.get(place, NOT_PUBLISHED) for numbers in self.theirs]
        if runs is None and self.rare and set(theirs) == {NOT_PUBLISHED}:
            return NOBODY
        if self.beside and ours in (NOT_TRAINED, NOT_ATTACKED, NO_DATA):
            return ""
        return "".join(f"{number if first else DITTO:>5} / " for number in theirs) + ours


class Page:
    """The cohorts of ours, how their data and flags are called, and which runs stood in a table."""

    def __init__(self, ours: dict[Place, list[Cohort]], short: Abbreviations) -> None:
        self.ours, self.short = ours, short
        self.shown: set[int] = set()

    def table(self, title: str, places: Iterable[Place], columns: list[Column], note: str) -> Table:
        """A line for each place at its largest budget, and one below it for each further budget
        that says something."""
        lines = []
        for place in places:
            for number, cohort in enumerate(self._cohorts(place, columns) or [None]):
                cells = [column.cell(place, cohort, first=not number) for column in columns]
                lines.append((place[0], *self._named(place, cohort, columns), *cells))
        head = ("network", "data", "ours", *(column.head for column in columns))
        return Table(title, head, lines, "\n".join(filter(None, [note, *self.short.notes(lines)])))

    def _cohorts(self, place: Place, columns: list[Column]) -> list[Cohort]:
        """The cohorts that say something which those before do not; if none does, the first of a
        network that was trained."""
        trained = [
            cohort
            for cohort in self.ours.get(place, [])
            if any(cohort.find(column.label) for column in columns)
        ]
        telling, said = [], set()
        for cohort in trained:
            numbers = {runs.number for runs in self._runs(cohort, columns)}
            if numbers - said:
                telling.append(cohort)
            said |= numbers
        return telling or trained[:1]

    def _runs(self, cohort: Cohort, columns: list[Column]) -> list[Runs]:
        """The runs that these columns have something to say about."""
        every = ((cohort.find(column.label), column) for column in columns)
        return list({r.number: r for r, c in every if r is not None and c.value(r)}.values())

    def _named(self, place: Place, cohort: Cohort | None, columns: list[Column]) -> tuple[str, str]:
        if cohort is None:
            return place[1], ""
        runs = [runs.number for runs in self._runs(cohort, columns)]
        self.shown.update(runs)
        numbers = f" [{' '.join(map(str, sorted(runs)))}]" if runs else ""
        return self.short.data(cohort.first), self.short.budget(cohort) + numbers
