"""Tables: ``python -m complexnn.report runs RUN ...``, ``... tables``, ``... summary``, ..."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from complexnn.commands.app import parse
from complexnn.config import InputError
from complexnn.report import architectures, attack_tables, beyond, budgets, paper, rows, summary
from complexnn.runs.checkpoint import write_text
from complexnn.runs.tables import Table, page


@dataclass(frozen=True)
class ReportConfig:
    """Compare runs, or networks, in one table."""

    what: Positional[Literal["runs", "tables", "summary", "frontier", "budgets", "networks"]]
    """runs: task error and strongest attacks of each run, beside what is reached blindly.
    tables: the paper's tables, its numbers, the 2021 reproduction's and these runs' in one line,
    and a verdict per claim and row.
    summary: a verdict on each claim of the paper, and the runs behind it.
    frontier: what defences keep of the server's worth, what they let through, and offloads.
    budgets: how strong each attack is as its training steps grow.
    networks: parameters, work and traffic of every architecture, variant and kind."""
    runs: Positional[tuple[Path, ...]] = ()
    """Run folders; for tables, summary and frontier also folders of run folders."""
    markdown: Path | None = None
    """Also write the tables as Markdown here."""
    html: Path | None = None
    """Also write a page with the tables, and the runs' pictures, here."""
    into: Path | None = None
    """tables, summary and frontier: also put them between the marks of this Markdown page."""
    picture: Path | None = None
    """Also copy the last run's grid of reconstructions here."""


# Made of all runs together.
OF_ALL = {
    "tables": paper.tables,
    "summary": summary.front_page,
    "frontier": beyond.beyond_page,
}


def main(argv: list[str]) -> None:
    """Print the tables; write page, Markdown and picture where asked."""
    config = parse(ReportConfig, argv, "python -m complexnn.report")
    _check(config)
    tables = _tables(config)
    print("\n\n".join(table.as_text() for table in tables))
    if config.markdown is not None:
        write_text(config.markdown, "\n".join(table.as_markdown() for table in tables) + "\n")
    if config.into is not None:
        write_text(config.into, summary.write_into(config.into, tables))
    if config.html is not None:
        parts = [table.as_html() for table in tables] + _pictures(config, tables)
        write_text(config.html, page("complexnn report", parts))
    if config.picture is not None:
        config.picture.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(_grid(config), config.picture)
        print(f"picture: {config.picture}")


def _check(config: ReportConfig) -> None:
    """Refuse flags that do not go together, and a picture that is not there.

    Raises:
        InputError: says which.
    """
    if config.into is not None and config.what not in OF_ALL:
        raise InputError(f"--into goes with report {', '.join(OF_ALL)}")
    if config.what == "networks" and (config.runs or config.picture):
        raise InputError("report networks takes no run folders and no --picture")
    if config.what != "networks" and not config.runs:
        raise InputError("name at least one run folder")
    if config.picture is not None and not _grid(config).is_file():
        raise InputError(f"{config.runs[-1]} has no picture; run attack.py inversion on it")


def _grid(config: ReportConfig) -> Path:
    return config.runs[-1] / "examples" / "inversion.png"


def _tables(config: ReportConfig) -> list[Table]:
    if config.what == "networks":
        return [architectures.network_table()]
    if config.what == "budgets":
        return [budgets.budget_table(config.runs)]
    if config.what == "runs":
        return [attack_tables.side_by_side(config.runs)]
    return OF_ALL[config.what](rows.collect(config.runs))


def _pictures(config: ReportConfig, tables: list[Table]) -> list[str]:
    """Below ``report runs``, each run's grid of reconstructions."""
    if config.what != "runs":
        return []
    named = zip(config.runs, tables[0].rows, strict=True)
    return [attack_tables.picture(folder, line[0]) for folder, line in named]
