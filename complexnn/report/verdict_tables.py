"""Tables of verdicts on the paper's claims, by claim and by network, and one sentence over all.

The rules are those of :mod:`complexnn.report.verdicts`. A network on a data set is judged in every
cohort that it is in, and counted once.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from complexnn.data.datasets import hides
from complexnn.report.cohorts import Cohort, Place, cohorts
from complexnn.report.notes import NOT_ATTACKED, Abbreviations, with_data
from complexnn.report.ranking import blind, identified, strongest
from complexnn.report.rows import Runs
from complexnn.report.verdicts import (
    FAILS,
    FAMILIES,
    HOLDS,
    PARTLY,
    PREVIEW,
    UNDECIDED,
    WEAKENED,
    WITHSTOOD,
    Verdict,
    accuracy_verdict,
    kept,
    marked,
    one_batch,
)
from complexnn.runs.tables import Table

# The kinds of networks that a verdict on accuracy takes, and their labels.
KINDS = {
    "original": "original",
    "additional": "additional",
    "local": "local",
    "complex": "complex d=2 decoy",
}
ROTATED = KINDS["complex"]


@dataclass(frozen=True)
class NetworkVerdicts:
    """A rotated network with the verdict on each claim; None for a claim that was not attacked."""

    cohort: Cohort
    runs: Runs
    verdicts: dict[str, Verdict | None]


def network_verdicts(ours: Iterable[Runs]) -> list[NetworkVerdicts]:
    """Every rotated network of the paper's form, trained on all images, with its verdicts; those of
    one network and data set together, the largest budget first."""
    return [
        NetworkVerdicts(cohort, runs, {"accuracy": _accuracy(cohort)} | _privacy(runs))
        for several in cohorts(ours).values()
        for cohort in several
        if (runs := cohort.own.get(ROTATED)) and runs.config.data.limit_train is None
    ]


def _accuracy(cohort: Cohort) -> Verdict:
    errors = {
        kind: [] if runs is None else runs.errors
        for kind, runs in ((kind, cohort.find(label)) for kind, label in KINDS.items())
    }
    verdict, why = accuracy_verdict(errors)
    matrix = cohort.own[ROTATED].values("linearity", "error_of_the_mean_matrix")
    if matrix:
        error = 100 * statistics.mean(matrix)
        why += f"; {error:.1f} % error with one fixed matrix in the server's place"
    return verdict, why


def _privacy(runs: Runs) -> dict[str, Verdict | None]:
    rows = runs.attacked
    families = {row.get("family") for row in rows.values()}
    return {
        claim: marked(claim, rows) if families & set(of) else None for claim, of in FAMILIES.items()
    }


# ------------------------------------------------------------------------------------- by claim


def by_claim(ours: Iterable[Runs]) -> Table:
    """A verdict per claim of the paper and per network, with what it rests on.

    Accuracy where all four kinds were trained, each other claim where its attacks were run.
    """
    lines, networks = [], network_verdicts(ours)
    for network in networks:
        name = _called(network, networks)
        complete = all(network.cohort.find(label) for label in KINDS.values())
        for claim, verdict in network.verdicts.items():
            if verdict is not None and (claim != "accuracy" or complete):
                words = "accuracy is preserved" if claim == "accuracy" else f"the {claim} is hidden"
                lines.append((words, name, network.cohort.dataset, *verdict))
    lines.sort(key=lambda line: line[0])
    head = ("claim", "network", "data", "verdict", "why")
    note = with_data("", (network.runs for network in networks))
    return Table("Do the paper's claims hold?", head, lines, note)


def _called(network: NetworkVerdicts, networks: Sequence[NetworkVerdicts]) -> str:
    """A network, with what tells it from the others on the same data: the epochs where they
    differ, and what :func:`complexnn.report.rows.collect` tells apart."""
    cohort = network.cohort
    sizes = {other.cohort.size for other in networks if other.cohort.place == cohort.place}
    epochs = f"{cohort.size[1]} epochs" if len(sizes) > 1 else ""
    return ", ".join(filter(None, [cohort.network, epochs, network.runs.apart]))


# ----------------------------------------------------------------------------------- by network

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


def by_network(ours: Iterable[Runs], short: Abbreviations, paper: Sequence[Place]) -> Table:
    """A line per network, the paper's first in its order, and the sentence over all of them."""
    networks = network_verdicts(ours)
    order = [*paper, *(network.cohort.place for network in networks)]
    networks.sort(key=lambda network: order.index(network.cohort.place))
    head = ("network", "data", "ours", "complex / local / matrix", "accuracy kept",
            "angle hidden", "input hidden", "property hidden")  # fmt: skip
    cells = [
        (network.cohort.network, short.data(network.runs), short.budget(network.cohort),
         _errors(network), *(_cell(claim, network) for claim in network.verdicts))
        for network in networks
    ]  # fmt: skip
    note = [sentence(networks, paper), NOTE, *short.notes(cells)]
    return Table("Verdicts by row", head, cells, "\n".join(note))


def _errors(network: NetworkVerdicts) -> str:
    local = network.cohort.find("local")
    shown = [
        network.runs.values("task", "error"),
        [] if local is None else local.values("task", "error"),
        network.runs.values("linearity", "error_of_the_mean_matrix"),
    ]
    return " / ".join(f"{100 * statistics.mean(v):5.2f}" if v else "  –  " for v in shown)


def _cell(claim: str, network: NetworkVerdicts) -> str:
    if network.verdicts[claim] is None:
        there = claim != "property" or hides(network.runs.config.data)
        return NOT_ATTACKED if there else "–"
    verdict, why = network.verdicts[claim]
    if verdict.startswith(UNDECIDED):
        return f"{UNDECIDED} ({_reason(why)})"
    return f"{verdict.replace(PREVIEW, ' (preview)')}: {_reached(claim, network)}"


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


def _reason(why: str) -> str:
    for words, short in _REASONS.items():
        if words in why:
            return short or why.partition(";")[0].replace(words, "without ")
    return why


def _reached(claim: str, network: NetworkVerdicts) -> str:
    """The number that a verdict rests on, in short."""
    rows, cohort = network.runs.attacked, network.cohort
    if claim == "accuracy":
        errors = [cohort.find(KINDS[kind]).errors for kind in ("additional", "local", "complex")]
        share, low, high = (100 * part for part in kept(*errors))
        return f"{share:.0f} % [{low:.0f}, {high:.0f}]"
    if claim == "property":
        _, error = strongest(rows, "property")
        return f"{100 * error['value']:.1f} %, blind {100 * blind(error):.1f}"
    reached = []
    if claim == "angle" and (best := strongest(rows, "angle")):
        reached.append(f"{best[1]['value']:.3f} rad")
    if claim == "input" and (best := strongest(rows, "inversion")):
        reached.append(f"+{best[1]['value'] - best[1]['floor']:.1f} dB")
    if claim == "input" and (share := identified(rows)):
        reached.append(f"{100 * share['value']:.0f} % found")
    if one_batch(rows):
        reached.append(f"one batch {strongest(rows, 'release')[1]['value']:.0e} rad")
    return ", ".join(reached)


# ------------------------------------------------------------------------------------- sentence

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


def sentence(networks: Sequence[NetworkVerdicts], paper: Sequence[Place] = ()) -> str:
    """In how many rows angle, input and property are found and the accuracy is kept: each network
    and data set counts once for a claim, at the largest budget at which it was judged."""
    places = dict.fromkeys(network.cohort.place for network in networks)
    known = sum(place in places for place in paper)
    of_the_paper = f" ({known} of the paper's {len(paper)})" if paper else ""
    counted = {claim: _first(claim, networks) for claim in _SAID}
    clauses = [_clause(claim, verdicts) for claim, verdicts in counted.items()]
    previews = sum(PREVIEW in verdict for verdicts in counted.values() for verdict in verdicts)
    preview = f" Previews (--budget quick) among these verdicts: {previews}." if previews else ""
    rows = f"{len(places)} row{'' if len(places) == 1 else 's'}{of_the_paper}"
    return (
        f"Over {rows}, each claim at the largest budget it was judged at: "
        f"{'; '.join(clauses)}.{preview}"
    )


def _first(claim: str, networks: Sequence[NetworkVerdicts]) -> list[str]:
    """Of each network and data set the first verdict, where there is one."""
    first: dict[Place, str] = {}
    for network in networks:
        verdict = network.verdicts[claim]
        if verdict is not None and not verdict[1].startswith("not trained: "):
            first.setdefault(network.cohort.place, verdict[0])
    return list(first.values())


def _clause(claim: str, verdicts: list[str]) -> str:
    """``the angle is found in 14 of 15 attacked (weakened in 1)``."""
    counts = Counter(verdict.replace(PREVIEW, "") for verdict in verdicts)
    form, counted = _SAID[claim]
    rest = [f"{words} {counts[v]}" for v, words in _ELSE.items() if counts[v] and v != counted]
    return form.format(counts[counted], len(verdicts)) + (f" ({', '.join(rest)})" if rest else "")
