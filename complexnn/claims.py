"""A verdict per claim of the paper and per row, and one sentence over all rows.

The rules are those of :mod:`complexnn.verdicts`. A row is a network and a data set; it is judged at
every budget, and counted once, at the largest.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from complexnn import verdicts
from complexnn.lines import Keys, Line, lines
from complexnn.rows import Runs
from complexnn.tables import Table, percent
from complexnn.verdicts import FAILS, HOLDS, PARTLY, UNDECIDED, WEAKENED, WITHSTOOD

KINDS = {
    "original": "original",
    "additional": "additional",
    "local": "local",
    "complex": "complex d=2 decoy",
}
ROTATED = KINDS["complex"]
PREVIEW = " (budget quick: a preview)"
# The words by which a reason for no verdict is known, and what a cell says.
_REASONS = {
    "not trained": None,  # as it stands
    "not run: ": "attacks not run",
    "no positive control": "no control",
    "attack invalid": "attack fails without rotation, too",
    "too few images": "too few images",
    " needed": "too few groups",
    "too little to tell": "server worth too little",
}


@dataclass(frozen=True)
class Row:
    """The verdicts on a rotated network: claim to verdict and what it rests on; None for a claim
    that was not attacked."""

    line: Line
    runs: Runs
    found: dict[str, tuple[str, str] | None]


def judged(ours: Iterable[Runs]) -> list[Row]:
    """Every rotated network of the paper's form, trained on all images, with its verdicts; those of
    one network and data set together, the largest budget first."""
    return [
        Row(line, runs, {"accuracy": _accuracy(line)} | _attacked(runs))
        for several in lines(ours).values()
        for line in several
        if (runs := line.own.get(ROTATED)) and runs.config.data.limit_train is None
    ]


def _accuracy(line: Line) -> tuple[str, str]:
    errors = {
        kind: [] if runs is None else runs.errors
        for kind, runs in ((kind, line.find(label)) for kind, label in KINDS.items())
    }
    verdict, why = verdicts.accuracy_verdict(errors)
    matrix = line.own[ROTATED].values("linearity", "error_of_the_mean_matrix")
    if matrix:
        why += f"; {100 * matrix[0]:.1f} % error with one fixed matrix in the server's place"
    return verdict, why


def _attacked(runs: Runs) -> dict[str, tuple[str, str] | None]:
    rows = runs.attacked
    families = {row.get("family") for row in rows.values()}
    return {
        claim: verdicts.marked(claim, rows) if families & set(of) else None
        for claim, of in verdicts.FAMILIES.items()
    }


# --------------------------------------------------------------------------------------- table


NOTE = (
    "Error: of the rotated network; of the control `local`, whose server is the cheapest linear "
    "map; of the rotated network with one fixed matrix in its server's place. Accuracy kept: of "
    "what the server is worth beside `local`. Angle: the strongest attack. Input: PSNR of the "
    "strongest attack above the mean image, and how often an attack identifies it among 1,000 "
    "candidates. Property: error of the strongest attack, beside the best guess from the "
    "network's answer. FAILS: the attack succeeds, by the rules of docs/attacks.md. (preview): "
    "rests on attacks of --budget quick. –: no error of that network, or no hidden property."
)


def by_row_table(ours: Sequence[Runs], keys: Keys, paper: Sequence[tuple[str, str]]) -> Table:
    """Verdicts by row, the paper's rows first in its order, and the sentence over all of them."""
    rows = judged(ours)
    order = [*paper, *((row.line.network, row.line.dataset) for row in rows)]
    rows.sort(key=lambda row: order.index((row.line.network, row.line.dataset)))
    head = ("network", "data", "ours", "error in %: complex / local / matrix", "accuracy kept",
            "angle hidden", "input hidden", "property hidden")  # fmt: skip
    cells = [
        (row.line.network, keys.data(row.line), keys.budget(row.line), _errors(row),
         *(_cell(claim, row) for claim in row.found))
        for row in rows
    ]  # fmt: skip
    note = [sentence(rows, paper), NOTE, *keys.notes(cells)]
    return Table("Verdicts by row", head, cells, "\n".join(note))


def _errors(row: Row) -> str:
    local = row.line.find("local")
    shown = [
        row.runs.values("task", "error"),
        [] if local is None else local.values("task", "error"),
        row.runs.values("linearity", "error_of_the_mean_matrix"),
    ]
    return " / ".join(f"{100 * statistics.mean(v):5.2f}" if v else "  –  " for v in shown)


def _cell(claim: str, row: Row) -> str:
    if row.found[claim] is None:
        data = row.runs.config.data
        hidden = claim != "property" or data.groups is not None or data.dataset == "celeba"
        return "not attacked" if hidden else "–"
    verdict, why = row.found[claim]
    if verdict.startswith(UNDECIDED):
        return f"{UNDECIDED}: {_reason(why)}"
    return f"{verdict.replace(PREVIEW, ' (preview)')}: {_reached(claim, row)}"


def _reason(why: str) -> str:
    for words, told in _REASONS.items():
        if words in why:
            return told or why
    return why


def _reached(claim: str, row: Row) -> str:
    """The number that a verdict rests on, in short."""
    rows = row.runs.attacked
    if claim == "accuracy":
        errors = [row.line.find(KINDS[kind]).errors for kind in ("additional", "local", "complex")]
        share, low, high = (100 * part for part in verdicts.kept(*errors))
        return f"{share:.0f} % [{low:.0f}, {high:.0f}]"
    if claim == "property":
        _, error = verdicts.strongest(rows, "property")
        return f"{100 * error['value']:.1f} %, blind {100 * verdicts.blind(error):.1f}"
    if verdicts.one_batch(rows):
        return f"one batch, {verdicts.strongest(rows, 'release')[1]['value']:.0e} rad"
    if claim == "angle":
        return f"{verdicts.strongest(rows, 'angle')[1]['value']:.3f} rad"
    found, seen = verdicts.strongest(rows, "inversion"), verdicts.identified(rows)
    told = [] if found is None else [f"+{found[1]['value'] - found[1]['floor']:.1f} dB"]
    return ", ".join([*told, *([] if seen is None else [f"{percent(seen).split()[0]} % found"])])


# ------------------------------------------------------------------------------------- sentence


_SAID = {
    "angle": "the angle is found in",
    "input": "the input is recovered in",
    "property": "the hidden property is inferred in",
}
_ELSE = {WEAKENED: "weakened", WITHSTOOD: "withstood the attacks", UNDECIDED: "undecided"}


def sentence(rows: Sequence[Row], paper: Sequence[tuple[str, str]] = ()) -> str:
    """In how many rows, each counted once, angle, input and property are found and the accuracy is
    kept."""
    first = {(row.line.network, row.line.dataset): row for row in reversed(rows)}
    count, known = len(first), sum(place in first for place in paper)
    of_the_paper = f" ({known} of the paper's {len(paper)})" if paper else ""
    told = [_said(claim, [row.found[claim] for row in first.values()]) for claim in _SAID]
    told.append(_kept([row.found["accuracy"][0] for row in first.values()]))
    previews = sum(PREVIEW in f[0] for row in first.values() for f in row.found.values() if f)
    preview = f" {previews} of these verdicts are previews." if previews else ""
    return (
        f"Over {count} rows{of_the_paper}, each at its largest budget: {'; '.join(told)}.{preview}"
    )


def _said(claim: str, found: list[tuple[str, str] | None]) -> str:
    """``the angle is found in 14 of 15 (weakened in 1)``: of the rows whose claim was attacked."""
    told = Counter(verdict.replace(PREVIEW, "") for verdict, _ in filter(None, found))
    rest = [f"{name} in {told[verdict]}" for verdict, name in _ELSE.items() if told[verdict]]
    others = f" ({', '.join(rest)})" if rest else ""
    return f"{_SAID[claim]} {told[FAILS]} of {told.total()} attacked{others}"


def _kept(found: list[str]) -> str:
    told = Counter(found)
    names = {PARTLY: "in part in", FAILS: "not in", UNDECIDED: "undecided in"}
    rest = [f"{name} {told[verdict]}" for verdict, name in names.items() if told[verdict]]
    return f"accuracy is kept in {told[HOLDS]} of {len(found)}" + (
        f" ({', '.join(rest)})" if rest else ""
    )
