"""Campaigns on a cluster: groups of commands as one array of Slurm, through ``submitit``."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from complexnn.config import InputError

RESTARTS = 100  # of an element that its time was too short for; it goes on each time


class Element:
    """One element of the array: a campaign (``argv``) of commands (``lines``) that belong together.

    ``submitit`` pickles it, calls it on a node, and calls :meth:`checkpoint`, from a signal's
    handler, before the node is taken away.
    """

    def __init__(self, argv: Sequence[str], lines: Sequence[str]) -> None:
        self.argv, self.lines = tuple(argv), tuple(lines)
        self.process: subprocess.Popen | None = None

    def __call__(self) -> None:
        self.process = subprocess.Popen(
            self.argv, stdin=subprocess.PIPE, text=True, start_new_session=True
        )
        self.process.communicate("\n".join(self.lines) + "\n")
        if self.process.returncode:
            raise RuntimeError(f"the campaign ended with status {self.process.returncode}")

    def checkpoint(self) -> Any:
        """Let the commands save their states; what is to be called to go on."""
        from submitit.helpers import DelayedSubmission

        if self.process is not None:
            # Not Popen's own wait: what this interrupts may be in it, and holds its lock.
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(self.process.pid, signal.SIGTERM)
                os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
        return DelayedSubmission(Element(self.argv, self.lines))


def submit(
    groups: Sequence[Sequence[str]],
    argv: Sequence[str],
    settings: Sequence[str],
    *,
    folder: Path,
    engine: str = "slurm",
) -> list[Any]:
    """Submit each group of lines as an element of one array; submitit's jobs.

    Args:
        argv: starts a campaign, which reads a group from standard input.
        settings: of sbatch, as ``name=value``; ``time`` in minutes.
        engine: ``local`` runs them in processes here.

    Raises:
        InputError: no submitit, no Slurm, a setting that is none, or that Slurm refuses.
    """
    try:
        import submitit
    except ImportError:
        raise InputError(
            "campaigns on Slurm need submitit: pip install submitit, or complexnn[cluster]"
        ) from None
    minutes, named = _settings(settings)
    try:
        executor = submitit.AutoExecutor(folder, cluster=engine, slurm_max_num_timeout=RESTARTS)
        executor.update_parameters(
            name="complexnn", timeout_min=minutes,
            slurm_additional_parameters=named | {"requeue": True},
        )  # fmt: skip
        with executor.batch():
            elements = [executor.submit(Element(argv, lines)) for lines in groups]
    except (RuntimeError, submitit.core.utils.FailedJobError) as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"nothing was submitted: {said[0]}") from error
    return elements


def _settings(words: Sequence[str]) -> tuple[int, dict[str, str]]:
    """Minutes, and the settings other than the time."""
    named = {}
    for word in words:
        name, _, value = word.partition("=")
        if not name or not value:
            raise InputError(f"settings of sbatch are name=value, got {word}")
        named[name.lstrip("-")] = value
    minutes = named.pop("time", "")
    if not minutes.isdigit() or int(minutes) < 1:
        raise InputError(
            f"say how many minutes a group of commands may take, such as time=240, got "
            f"{minutes or 'none'}; one that needs longer is started again and goes on"
        )
    return int(minutes), named
