"""What stands behind the paper's tables: networks and data that the paper does not have, and the
command of every run."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from complexnn.config_io import command
from complexnn.report.lines import Keys
from complexnn.report.rows import Runs, mean_std
from complexnn.runs.progress import duration
from complexnn.runs.tables import Table


def networks(runs: Sequence[Runs], keys: Keys) -> Table:
    """Runs without a place in the tables before: what each reaches, and what attacks reach."""
    lines = [
        (
            each.network, keys.data(each), keys.budget(each), each.released,
            each.cell("task", "error", 100, 2),
            each.best_cell("angle", "angle_error") if each.config.net.parts > 1 else "no key",
            each.best_cell("inversion", "rmse"), each.best_cell("property", "error"),
        )
        for each in runs
    ]  # fmt: skip
    head = ("network", "data", "budget", "kind", "task error in %", "angle error", "best RMSE",
            "property error")  # fmt: skip
    return Table("Further networks and data of this project", head, lines,
                 "\n".join(keys.notes(lines)))  # fmt: skip


def commands(ours: Sequence[Runs]) -> Table:
    """How each run was made: its command, seeds, time and device."""
    lines = []
    for runs in ours:
        tasks = [rows["task"] for rows in runs.rows]
        seconds = [row["seconds"] for row in tasks]
        lines.append((
            f"[{runs.number}]",
            command(runs.config, leave_out=("output_dir", "seed", "resume", "overwrite")),
            ", ".join(map(str, sorted(runs.seeds))),
            mean_std([100 * v for v in runs.values("task", "error")], 2),
            duration(statistics.mean(seconds)),
            ", ".join(sorted({row["device"] for row in tasks})),
        ))  # fmt: skip
    head = ("", "command", "seeds", "error in %", "time", "device")
    return Table("Runs (add --seed and --output-dir)", head, lines)
