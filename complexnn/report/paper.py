"""The paper, the 2021 reproduction and this project's rows: one line for each network and data set
of the paper, ``paper / 2021 / ours``."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from complexnn.config import InputError
from complexnn.report import (
    claims,
    further,
    verdicts,
)
from complexnn.report.lines import (
    Keys,
    Line,
    lines,
)
from complexnn.report.rows import (
    Runs,
    by_network,
    collect,
    mean_std,
)
from complexnn.runs.tables import Table

__all__ = ["Runs", "by_network", "collect", "mean_std", "read_published", "tables"]

PUBLISHED = Path(__file__).parent / "published_results.json"
NOT_PUBLISHED, NOBODY, DITTO = "n.p.", "–", '"'
NOT_TRAINED, NOT_ATTACKED, NO_DATA = "not trained yet", "not attacked", "data: not available"
UNAVAILABLE = {"cub200"}  # data sets that this project could not get
LEGEND = (
    "In every table: n.p.: not published, or not recovered. –: neither published nor tried here. "
    "not trained yet, not attacked: no such row among the results given. data: not available: "
    "CUB-200-2011 could not be had. (α), (β): of the other cut of the same network; the cuts of "
    "original, additional and noisy differ in nothing but the server's share of the layers, and "
    "are trained once. ±: deviation over seeds; without it, one seed. Ours: the largest budget "
    'first, smaller ones in lines below (": as above); in brackets, the runs in the last table.'
)
ROTATED = claims.ROTATED

# What the columns of the paper's tables hold, as labels of this project's networks.
PLAIN = {"original": "original", "additional": "additional_layers"}
NOISY = {"noisy γ=0.2": "noisy_0_2", "noisy γ=0.5": "noisy_0_5", "noisy γ=1": "noisy_1_0"}
KINDS = PLAIN | NOISY | {ROTATED: "complex"}
# The paper's attacks on a hidden property; this project's own behind them.
PROPERTIES = {
    "property images": "classifier trained on raw images, applied to reconstructions",
    "property features": "classifier trained on recovered features a*",
    "property reconstructions": "classifier trained on reconstructions",
    "property 1-nn": "1 nearest neighbour of a*",
    "property 3-nn": "3 nearest neighbours of a*",
    "property 5-nn": "5 nearest neighbours of a*",
}
OWN_PROPERTIES = {
    "property released": "ours: classifier trained on all released parts",
    "property dss": "ours: classifier trained on denoised views",
}
PROPERTY_ROWS = (("resnet56-alpha", "cifar100 by superclasses"), ("alexnet", "celeba"))

Place = tuple[str, str]  # network, data set


@dataclass(frozen=True)
class Column:
    """A column of a table: what was published for a place, and what a run of ours says."""

    head: str
    label: str  # of the network of ours
    value: Callable[[Runs], str | None]  # None: not attacked
    theirs: tuple[dict[Place, str], ...] = ()  # the paper's numbers, the reproduction's
    beside: bool = False  # a blind answer, which says nothing alone

    def cell(self, place: Place, line: Line | None, *, first: bool) -> str:
        """``paper / 2021 / ours``, with ditto marks in the lines of further budgets."""
        runs = None if line is None else line.find(self.label)
        if runs is not None:
            found = self.value(runs)
            ours = NOT_ATTACKED if found is None else found + line.mark(runs)
        else:
            ours = NO_DATA if place[1] in UNAVAILABLE else NOT_TRAINED
        theirs = [numbers.get(place, NOT_PUBLISHED) for numbers in self.theirs]
        if runs is None and self.label in NOISY and set(theirs) == {NOT_PUBLISHED}:
            return NOBODY
        if self.beside and ours in (NOT_TRAINED, NOT_ATTACKED, NO_DATA):
            return ""
        return "".join(f"{number if first else DITTO:>5} / " for number in theirs) + ours


def read_published(path: Path = PUBLISHED) -> dict[str, Any]:
    """The published numbers.

    Raises:
        InputError: the file is not there, as in an installation without the repository.
    """
    if not path.is_file():
        raise InputError(f"no {path}: run this from a clone of the repository")
    return json.loads(path.read_text(encoding="utf-8"))


def tables(folders: Iterable[Path]) -> list[Table]:
    """Errors, angles, reconstructions, properties, verdicts, further networks, and the runs."""
    given, ours = read_published(), collect(folders)
    errors = given["classification_error_percent"]
    page = _Page(lines(ours), Keys())
    places = list(dict.fromkeys((row["arch"], row["dataset"]) for row in errors))
    found = [
        *_errors(page, errors),
        _angles(page, given["angle_error_radian"]["rows"]),
        *_reconstructions(page, places, given["reconstruction_error"]["rows"]),
        _properties(page, given["property_inference_error_cifar100_of_100_classes"]["rows"]),
        claims.by_row_table(ours, page.keys, [*places, PROPERTY_ROWS[0]]),
    ]
    rest = [runs for runs in ours if runs.number not in page.shown]
    return [*found, further.networks(rest, page.keys), further.commands(ours)]


class _Page:
    """The lines of ours, how they are called, and which runs stood in a table."""

    def __init__(self, ours: dict[Place, list[Line]], keys: Keys) -> None:
        self.ours, self.keys, self.shown = ours, keys, set()

    def table(self, title: str, places: Iterable[Place], columns: list[Column], note: str) -> Table:
        """A line for each place at its largest budget, and one below it for each further budget
        that says something."""
        rows = []
        for place in places:
            every = self._lines(place, columns)
            for number, line in enumerate(every or [None]):
                cells = [column.cell(place, line, first=not number) for column in columns]
                rows.append((place[0], *self._named(place, line, columns), *cells))
        head = ("network", "data", "ours", *(column.head for column in columns))
        return Table(title, head, rows, "\n".join(filter(None, [note, *self.keys.notes(rows)])))

    def _lines(self, place: Place, columns: list[Column]) -> list[Line]:
        """The lines that say something which those before do not; if none does, the first of a
        network that was trained."""
        found, said = [], set()
        every = [
            line
            for line in self.ours.get(place, [])
            if any(line.find(column.label) for column in columns)
        ]
        for line in every:
            numbers = {runs.number for runs in self._runs(line, columns)}
            if numbers - said:
                found.append(line)
            said |= numbers
        return found or every[:1]

    def _runs(self, line: Line, columns: list[Column]) -> list[Runs]:
        """The runs that these columns have something to say about."""
        found = (line.find(column.label) for column in columns)
        said = [r for r, c in zip(found, columns, strict=True) if r is not None and c.value(r)]
        return list({runs.number: runs for runs in said}.values())

    def _named(self, place: Place, line: Line | None, columns: list[Column]) -> tuple[str, str]:
        if line is None:
            return place[1], ""
        runs = [r.number for r in self._runs(line, columns)]
        self.shown.update(runs)
        numbers = f" [{' '.join(map(str, sorted(runs)))}]" if runs else ""
        return self.keys.data(line.first), self.keys.budget(line) + numbers


def _theirs(
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


def _errors(page: _Page, published: list[dict[str, Any]]) -> list[Table]:
    def column(label: str, key: str | None) -> Column:
        head = f"{label.partition(' d=')[0]}: " + ("paper / 2021 / ours" if key else "ours")
        numbers = _theirs(published, key, 2) if key else ()
        return Column(head, label, _task_error, numbers)

    places = list(dict.fromkeys((row["arch"], row["dataset"]) for row in published))
    noisy = [column(*kind) for kind in NOISY.items()]
    with_noise = [p for p in places if any(p in t for c in noisy for t in c.theirs)]
    plain = [column(*kind) for kind in PLAIN.items()]
    plain += [column(ROTATED, "complex"), column("local", None)]
    return [
        page.table("Classification error in %", places, plain, LEGEND),
        page.table("Classification error in %, noisy features", with_noise, noisy, ""),
    ]


def _task_error(runs: Runs) -> str:
    return mean_std([100 * v for v in runs.values("task", "error")], 2)


def _angles(page: _Page, published: list[dict[str, Any]]) -> Table:
    theirs = [
        {(r["arch"], r["dataset"]): f"{r[s]:.4f}" for r in published if r[s] is not None}
        for s in ("paper", "reproduction")
    ]
    columns = [
        Column("paper / 2021 / ours, strongest attack", ROTATED, _angle, tuple(theirs)),
        Column("ours, whole release", ROTATED, _release),
        Column("blind guess", ROTATED, _blind_angle, beside=True),
    ]
    places = [(row["arch"], row["dataset"]) for row in published]
    note = (
        "Paper: its convention is unknown; nearly all values sit at π/4, blind guessing modulo π. "
        "2021: mean absolute error of a regressor without wrap-around. Ours: on the circle, by the "
        "strongest attack on single groups. Whole release: `release`, which sees all groups of a "
        "batch at once, and the share of the groups that it finds; decoys from closed blocks "
        "(the default) give it nothing. (quick): of --budget quick."
    )
    title = "Error of the recovered angle in rad (smaller: less private)"
    return page.table(title, places, columns, note)


def _angle(runs: Runs) -> str | None:
    best = runs.strongest("angle")
    if not best:
        return None
    name = Counter(name for name, _ in best).most_common(1)[0][0]
    values = mean_std([numbers["value"] for _, numbers in best], 4)
    return f"{values} by {name}{_quick(best)}"


def _quick(best: list[tuple[str, dict[str, Any]]]) -> str:
    quick = any(numbers["row"]["config"].get("budget") == "quick" for _, numbers in best)
    return " (quick)" if quick else ""


def _release(runs: Runs) -> str | None:
    best = runs.strongest("release")
    if not best:
        return None
    shares = [n["row"]["metrics"].get("share", {}).get("value", math.nan) for _, n in best]
    share = statistics.mean(shares)
    if share == 0:
        return "finds nothing"
    value = statistics.mean(numbers["value"] for _, numbers in best)
    return f"{value:.1e} ({100 * share:.1f} % found){_quick(best)}"


def _blind_angle(runs: Runs) -> str | None:
    best = runs.strongest("angle") or runs.strongest("release")
    return f"{best[0][1]['chance']:.4f}" if best else None


def _reconstructions(
    page: _Page, order: list[Place], published: list[dict[str, Any]]
) -> list[Table]:
    def column(head: str, label: str, key: str | None, name: str) -> Column:
        numbers = _theirs(published, key, 4) if key else ()
        if numbers and not numbers[0]:  # the paper has none
            numbers = numbers[1:]
        source = {0: "ours", 1: "2021 / ours", 2: "paper / 2021 / ours"}[len(numbers)]
        return Column(f"{head}: {source}", label, _rmse(f"inversion {name}"), numbers)

    known = {(row["arch"], row["dataset"]) for row in published}
    places = [place for place in order if place in known]
    rotated = [
        column("dec(a*)", ROTATED, "complex_dec_a", "dec(a*)"),
        column("dec(x)", ROTATED, "complex_dec_x", "dec(x)"),
        column("optimised with key", ROTATED, None, "optimised with key"),
        Column("mean image", ROTATED, _mean_image, beside=True),
    ]
    plain = [column(label, label, key, "dec(x)") for label, key in (PLAIN | NOISY).items()]
    note = (
        "Ours: RMSE per image, pixels in [0, 1], and in brackets the PSNR in dB; so, it is "
        "thought, is the paper's RMSE. 2021: mean absolute error of normalised pixels, another "
        "unit. optimised with key: this project's attack, on fewer images, since it searches for "
        "each. (quick): of --budget quick."
    )
    title = "Reconstruction error, {} (smaller: less private)"
    return [
        page.table(title.format("rotated features"), places, rotated, note),
        page.table(title.format("features without rotation, dec(x)"), places, plain, note),
    ]


def _rmse(name: str) -> Callable[[Runs], str | None]:
    def value(runs: Runs) -> str | None:
        rmse, psnr = (runs.values(name, measure) for measure in ("rmse", "psnr"))
        if not rmse:
            return None
        rows = [rows[name] for rows in runs.rows if name in rows]
        shown = f"{mean_std(rmse, 3)}" + (f" ({statistics.mean(psnr):.1f})" if psnr else "")
        quick = any(row["config"].get("budget") == "quick" for row in rows)
        return shown + (" (quick)" if quick else "")

    return value


def _mean_image(runs: Runs) -> str | None:
    rmse, psnr = (runs.values("inversion dec(x)", m, "floor") for m in ("rmse", "psnr"))
    if not rmse:
        return None
    return f"{rmse[0]:.3f}" + (f" ({psnr[0]:.1f})" if psnr else "")


def _properties(page: _Page, published: list[dict[str, Any]]) -> Table:
    note = (
        "The paper's numbers were not recovered. Features a*: of additional, the released ones. "
        "CelebA: the mean error over the 10 hidden attributes. Blind guess: the best answer of one "
        "who knows the network's label."
    )
    rows: list[tuple[str, ...]] = []
    for place in PROPERTY_ROWS:
        for name, attack in (PROPERTIES | OWN_PROPERTIES).items():
            columns = _property_columns(place, name, attack, published)
            table = page.table("", [place], columns, "")
            said = [row for row in table.rows if name in PROPERTIES or "[" in row[2]]
            rows += [(*row[:3], attack, *row[3:]) for row in said]
    head = (*table.head[:3], "attack", *table.head[3:])
    title = "Error of the inferred hidden property (smaller: less private)"
    return Table(title, head, rows, "\n".join([note, *page.keys.notes(rows)]))


def _property_columns(
    place: Place, name: str, attack: str, published: list[dict[str, Any]]
) -> list[Column]:
    def value(runs: Runs) -> str | None:
        values = runs.values(name, "error")
        return mean_std(values, 3) if values else None

    def blind(runs: Runs) -> str | None:
        found = [rows[name]["metrics"]["error"] for rows in runs.rows if name in rows]
        return f"{verdicts.blind(found[0]):.3f}" if found else None

    def theirs(key: str) -> tuple[dict[Place, str]]:
        here = [row[key] for row in published if row["attack"] == attack]
        return ({place: f"{here[0]:.3f}"} if here and place == PROPERTY_ROWS[0] else {},)

    return [
        Column("additional: 2021 / ours", "additional", value, theirs("additional_layers")),
        Column("complex: 2021 / ours", ROTATED, value, theirs("complex")),
        Column("blind guess", ROTATED, blind, beside=True),
    ]
