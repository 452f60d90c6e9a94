"""A verdict per claim of the paper and per row, and one sentence over all rows.

The rules are those of :mod:`complexnn.report.verdicts`. A row is a network and a data set; it is
judged at every budget, and counted once.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from complexnn.report import verdicts
from complexnn.report.lines import (
    Keys,
    Line,
    lines,
)
from complexnn.report.rows import Runs
from complexnn.report.verdicts import (
    FAILS,
    HOLDS,
    PARTLY,
    UNDECIDED,
    WEAKENED,
    WITHSTOOD,
)
from complexnn.runs.tables import Table

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
    "not trained: ": None,  # what is missing
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
        error = 100 * statistics.mean(matrix)
        why += f"; {error:.1f} % error with one fixed matrix in the server's place"
    return verdict, why


def _attacked(runs: Runs) -> dict[str, tuple[str, str] | None]:
    rows = runs.attacked
    families = {row.get("family") for row in rows.values()}
    return {
        claim: verdicts.marked(claim, rows) if families & set(of) else None
        for claim, of in verdicts.FAMILIES.items()
    }


def called(row: Row, rows: Sequence[Row]) -> str:
    """A row's network, with what tells it from the others on the same data: the epochs where they
    differ, and what :func:`complexnn.report.rows.collect` tells apart."""
    place = row.line.network, row.line.dataset
    same = [r.line.size for r in rows if (r.line.network, r.line.dataset) == place]
    epochs = f"{row.line.size[1]} epochs" if len(set(same)) > 1 else ""
    return ", ".join(filter(None, [row.line.network, epochs, row.runs.apart]))


# --------------------------------------------------------------------------------------- table


NOTE = (
    "complex / local / matrix: error in % of the rotated network; of the control `local`, whose "
    "server is the cheapest linear map; of the rotated network with one fixed matrix in its "
    "server's place; means over seeds, of the matrix over those where it was measured. Accuracy "
    "kept: of what the server is worth beside `local`. Angle: the strongest attack. Input: PSNR "
    "of the strongest attack above the mean image, and how often an attack identifies it among "
    "1,000 candidates. Property: error of the strongest attack, beside the best guess from the "
    "network's answer. FAILS: the attack succeeds, by the rules of docs/attacks.md. (preview): "
    "rests on attacks of --budget quick. –: no error of that network, or no hidden property."
)


def by_row_table(ours: Sequence[Runs], keys: Keys, paper: Sequence[tuple[str, str]]) -> Table:
    """Verdicts by row, the paper's rows first in its order, and the sentence over all of them."""
    rows = judged(ours)
    order = [*paper, *((row.line.network, row.line.dataset) for row in rows)]
    rows.sort(key=lambda row: order.index((row.line.network, row.line.dataset)))
    head = ("network", "data", "ours", "complex / local / matrix", "accuracy kept",
            "angle hidden", "input hidden", "property hidden")  # fmt: skip
    cells = [
        (row.line.network, keys.data(row.runs), keys.budget(row.line), _errors(row),
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
        return f"{UNDECIDED} ({_reason(why)})"
    return f"{verdict.replace(PREVIEW, ' (preview)')}: {_reached(claim, row)}"


def _reason(why: str) -> str:
    for words, told in _REASONS.items():
        if words in why:
            return told or why.partition(";")[0].replace(words, "without ")
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
    told = []
    if claim == "angle" and (found := verdicts.strongest(rows, "angle")):
        told.append(f"{found[1]['value']:.3f} rad")
    if claim == "input" and (found := verdicts.strongest(rows, "inversion")):
        told.append(f"+{found[1]['value'] - found[1]['floor']:.1f} dB")
    if claim == "input" and (seen := verdicts.identified(rows)):
        told.append(f"{100 * seen['value']:.0f} % found")
    if verdicts.one_batch(rows):
        told.append(f"one batch {verdicts.strongest(rows, 'release')[1]['value']:.0e} rad")
    return ", ".join(told)


# ------------------------------------------------------------------------------------- sentence


def sentence(rows: Sequence[Row], paper: Sequence[tuple[str, str]] = ()) -> str:
    """In how many rows angle, input and property are found and the accuracy is kept: each network
    and data set counts once for a claim, at the largest budget at which it was judged."""
    places = dict.fromkeys((row.line.network, row.line.dataset) for row in rows)
    known = sum(place in places for place in paper)
    of_the_paper = f" ({known} of the paper's {len(paper)})" if paper else ""
    told = {claim: _first(claim, rows) for claim in ("angle", "input", "property", "accuracy")}
    said = [_said(claim, found) for claim, found in told.items()]
    previews = sum(PREVIEW in verdict for found in told.values() for verdict in found)
    preview = f" Previews (--budget quick) among these verdicts: {previews}." if previews else ""
    rows_said = f"{len(places)} row{'' if len(places) == 1 else 's'}{of_the_paper}"
    return (
        f"Over {rows_said}, each claim at the largest budget it was judged at: "
        f"{'; '.join(said)}.{preview}"
    )


def _first(claim: str, rows: Sequence[Row]) -> list[str]:
    """Of each network and data set the first verdict, where there is one."""
    found: dict[tuple[str, str], str] = {}
    for row in rows:
        verdict = row.found[claim]
        if verdict is not None and not verdict[1].startswith("not trained: "):
            found.setdefault((row.line.network, row.line.dataset), verdict[0])
    return list(found.values())


_SAID = {
    "angle": ("the angle is found in {} of {} attacked", FAILS),
    "input": ("the input is recovered in {} of {} attacked", FAILS),
    "property": ("the hidden property is inferred in {} of {} attacked", FAILS),
    "accuracy": ("accuracy is kept in {} of {} that have a `local` beside them", HOLDS),
}
_ELSE = {
    WEAKENED: "weakened in",
    WITHSTOOD: "withstood the attacks in",
    PARTLY: "in part in",
    FAILS: "not in",
    UNDECIDED: "undecided in",
}


def _said(claim: str, found: list[str]) -> str:
    """``the angle is found in 14 of 15 attacked (weakened in 1)``."""
    told = Counter(verdict.replace(PREVIEW, "") for verdict in found)
    form, counted = _SAID[claim]
    rest = [f"{name} {told[v]}" for v, name in _ELSE.items() if told[v] and v != counted]
    return form.format(told[counted], len(found)) + (f" ({', '.join(rest)})" if rest else "")
