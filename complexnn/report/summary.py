"""What the README says first: a verdict on each claim, and the runs behind it."""

from __future__ import annotations

import itertools
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import get_args

from complexnn.attacks import worst
from complexnn.config import InputError, Kind
from complexnn.config_io import command
from complexnn.report import verdict_tables
from complexnn.report.cohorts import cohorts
from complexnn.report.notes import NOT_ATTACKED, with_data
from complexnn.report.ranking import MEASURE, Rows, identified, strongest
from complexnn.report.rows import Runs
from complexnn.report.verdict_tables import KINDS
from complexnn.runs.progress import duration
from complexnn.runs.tables import Table, percent

MARKS = ("<!-- results -->", "<!-- end of results -->")


def front_page(ours: Sequence[Runs]) -> list[Table]:
    """The README's tables."""
    return [verdict_tables.by_claim(ours), main_table(ours)]


REACHED = ("kind", "task error in %", "angle error in rad", "PSNR in dB", "identified in %")
REACHED_NOTE = (
    "Task error: mean and deviation over seeds 0, 1, …, or one seed with its 95 % interval. "
    "Angle, PSNR: the strongest attack (beside blind guessing; beside the mean image). "
    "Identified: the attack that most often finds the input among 1,000 candidates, with its 95 % "
    "interval (beside chance)."
)


def main_table(ours: Iterable[Runs]) -> Table:
    """Every run of the cohorts with a verdict on accuracy, all four kinds trained: what it reaches,
    what the attacks reach, and the command."""
    lines, machines = [], Counter()
    shown: dict[int, Runs] = {}
    order = get_args(Kind)
    for cohort in itertools.chain(*cohorts(ours).values()):
        if not all(label in cohort.own for label in KINDS.values()):
            continue
        members = [runs for runs in cohort.own.values() if runs.number not in shown]
        shown |= {runs.number: runs for runs in members}
        for runs in sorted(members, key=lambda r: order.index(r.config.net.kind)):
            attacks = [row for row in runs.attacked.values() if "family" in row]
            attacks = [row for row in attacks if row["name"] != worst.NAME]
            machines.update(row["device"].partition(",")[0] for row in attacks)
            flags = command(runs.config, leave_out=("output_dir", "seed", "resume", "overwrite"))
            seconds = statistics.mean(rows["task"]["seconds"] for rows in runs.rows)
            lines.append((
                f"{cohort.network}, {cohort.dataset}", *_reached(runs), f"`{flags}`",
                f"{duration(seconds)}, {runs.attacked['task']['device']}",
            ))  # fmt: skip
    head = ("network, data", *REACHED, "command", "trained in, on")
    where = ", ".join(f"{count} on {machine}" for machine, count in machines.most_common())
    note = f"{REACHED_NOTE} Attacks, by what they ran on: {where}."
    return Table("Runs", head, lines, with_data(note, shown.values()))


def short_table(ours: Iterable[Runs]) -> Table:
    """Runs on part of the training images: what other cuts, weights, encoders and groups do."""
    short = [runs for runs in ours if runs.config.data.limit_train is not None]
    lines = [(f"{r.network}, {r.dataset}", r.budget, *_reached(r)) for r in short]
    head = ("network, data", "training", *REACHED)
    return Table("Variants at a short budget", head, lines, with_data(REACHED_NOTE, short))


def _reached(runs: Runs) -> tuple[str, ...]:
    """What a network reaches, and what the attacks on it do: the cells of :data:`REACHED`."""
    rows = runs.attacked
    share = identified(rows)
    return (
        runs.released, task_error(runs, digits=2),
        leak(rows, "angle", "chance") if runs.config.net.parts > 1 else "no key",
        leak(rows, "inversion", "floor"),
        NOT_ATTACKED if share is None else f"{percent(share)} ({100 * share['chance']:.1f})",
    )  # fmt: skip


def task_error(runs: Runs, digits: int) -> str:
    """Mean and deviation over seeds, or one seed with its interval."""
    error = runs.task_error(digits)
    if len(runs.seeds) == 1:
        numbers = runs.attacked["task"]["metrics"]["error"]
        error += " [{low:.1f}, {high:.1f}]".format(**{k: 100 * numbers[k] for k in ("low", "high")})
    return error


def leak(rows: Rows, family: str, beside: str) -> str:
    """What the strongest attack of a family reaches, and beside it chance or floor."""
    best = strongest(rows, family)
    if best is None:
        return NOT_ATTACKED
    _, numbers = best
    digits = 3 if MEASURE[family] == "angle_error" else 1
    return f"{numbers['value']:.{digits}f} ({numbers[beside]:.{digits}f})"


def write_into(page: Path, tables: Iterable[Table]) -> str:
    """The page with what stands between its marks replaced by these tables.

    Raises:
        InputError: no page, or one without the two marks.
    """
    if not page.is_file():
        raise InputError(f"there is no page {page} to put the tables into")
    before, begin, rest = page.read_text(encoding="utf-8").partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not (begin and end):
        raise InputError(f"{page} has no lines {' and '.join(MARKS)}")
    shown = "\n\n".join(table.as_markdown() for table in tables)
    return f"{before}{begin}\n\n{shown}\n\n{end}{after}"
