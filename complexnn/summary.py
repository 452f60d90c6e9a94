"""What the README says first: a verdict on each claim, and the runs behind it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import get_args

from complexnn import published, verdicts
from complexnn.config import InputError, Kind, command
from complexnn.progress import duration
from complexnn.published import Runs
from complexnn.tables import Table

KINDS = {
    "original": "original",
    "additional": "additional",
    "local": "local",
    "complex": "complex d=2 decoy",
}
# The attacks that decide a claim.
FAMILIES = {"angle": ("angle",), "input": ("inversion", "span"), "property": ("property",)}
MARKS = ("<!-- results -->", "<!-- end of results -->")


def lines(ours: list[Runs]) -> dict[tuple[str, str, str], dict[str, Runs]]:
    """The lines (network, data, budget) on which a verdict is possible: all four kinds trained."""
    return {
        line: labels
        for line, labels in published.by_network(ours).items()
        if all(label in labels for label in KINDS.values())
    }


def verdict_table(folders: Iterable[Path]) -> Table:
    """A verdict per claim of the paper and per network, with what it rests on.

    The rules are those of :mod:`complexnn.verdicts`; networks trained on all images with the
    adversarial term, each claim where its attacks were run.
    """
    ours = published.collect(folders)
    found = []
    for (network, data, _), labels in lines(ours).items():
        errors = {
            kind: [rows["task"]["metrics"]["error"] for rows in labels[label].rows]
            for kind, label in KINDS.items()
        }
        verdict, why = verdicts.accuracy_verdict(errors)
        found.append(("accuracy is preserved", network, data, verdict, why))
    for claim, rule in verdicts.CLAIMS.items():
        for runs in ours:
            rows = runs.attacked
            fully_trained = runs.config.data.limit_train is None and runs.config.adversarial_weight
            if runs.config.net.label != KINDS["complex"] or not fully_trained:
                continue
            if any(row.get("family") in FAMILIES[claim] for row in rows.values()):
                verdict, why = rule(rows)
                found.append((f"the {claim} is hidden", runs.network, runs.dataset, verdict, why))
    found.sort(key=lambda line: line[0])
    return Table(
        "Do the paper's claims hold?", ("claim", "network", "data", "verdict", "why"), found
    )


def main_table(folders: Iterable[Path]) -> Table:
    """Every run of the lines with a verdict: what it reaches, what the attacks reach, and the
    command."""
    head = ("network, data", "kind", "task error in %", "angle error in rad", "PSNR in dB",
            "identified in %", "command", "time, device")  # fmt: skip
    found, order = [], get_args(Kind)
    for (network, data, _), labels in lines(published.collect(folders)).items():
        for runs in sorted(labels.values(), key=lambda r: order.index(r.config.net.kind)):
            rows = runs.attacked
            error = runs.cell("task", "error", 100, 2).removesuffix(f" [{runs.number}]")
            if len(runs.seeds) == 1:
                numbers = rows["task"]["metrics"]["error"]
                error += " [{low:.1f}, {high:.1f}]".format(
                    **{k: 100 * numbers[k] for k in ("low", "high")}
                )
            seconds = [r["task"]["seconds"] for r in runs.rows]
            told = command(runs.config, leave_out=("output_dir", "seed", "resume", "overwrite"))
            found.append((
                f"{network}, {data}", runs.config.net.label, error,
                _leak(rows, "angle", "chance") if runs.config.net.parts > 1 else "no key",
                _leak(rows, "inversion", "floor"), _identified(rows),
                f"`{told}`",
                f"{duration(sum(seconds) / len(seconds))}, {rows['task']['device']}",
            ))  # fmt: skip
    note = (
        "Task error: mean and deviation over seeds 0, 1, …, or one seed with its 95 % interval. "
        "Angle, PSNR: the strongest attack (beside blind guessing; beside the mean image). "
        "Identified: the attack that most often finds the input among 1,000 candidates."
    )
    return Table("Runs", head, found, note)


def _leak(rows: verdicts.Rows, family: str, blind: str) -> str:
    best = verdicts.strongest(rows, family)
    if best is None:
        return "not attacked"
    digits = 3 if family == "angle" else 1
    return f"{best[1]['value']:.{digits}f} ({best[1][blind]:.{digits}f})"


def _identified(rows: verdicts.Rows) -> str:
    best = verdicts.identified(rows)
    if best is None:
        return "not attacked"
    return f"{100 * best['value']:.1f} ({100 * best['chance']:.1f})"


def as_markdown(folders: list[Path]) -> str:
    """Both tables, as they stand in the README."""
    return "\n\n".join(t(folders).as_markdown() for t in (verdict_table, main_table))


def write_into(page: Path, folders: list[Path]) -> str:
    """The page with what stands between its marks replaced by today's tables.

    Raises:
        InputError: a page without the two marks.
    """
    before, begin, rest = page.read_text().partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not (begin and end):
        raise InputError(f"{page} has no lines {' and '.join(MARKS)}")
    return f"{before}{begin}\n\n{as_markdown(folders)}\n\n{end}{after}"
