"""The folder of a training run: who may have it, and what the run writes into it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from complexnn.config import InputError
from complexnn.config_io import to_dict
from complexnn.runs import checkpoint, progress, results
from complexnn.training.loop import NotFinite, Training

# What a run writes; a folder with any of it is not written over without being told to.
OWN_FILES = ("config.json", "model.safetensors", "log.jsonl", "results.jsonl", "state")
# What attacks put beside it, which goes with the run that they attacked.
MADE_OF_IT = ("attackers", "control", "examples", "report.html")


def check_free(folder: Path, *, overwrite: bool) -> None:
    """Refuse an output folder with a run in it, which is lost only on request."""
    there = [name for name in OWN_FILES if (folder / name).exists()]
    if there and not overwrite:
        raise InputError(
            f"{folder} already holds a run ({', '.join(there)}): give another --output-dir, "
            "or --overwrite to replace it"
        )


def claim(folder: Path) -> None:
    """Take an output folder; the run that is there goes, with all that attacks made of it."""
    results.prepare_folder(folder)
    there = [folder / name for name in OWN_FILES if (folder / name).exists()]
    if there:
        there += [folder / name for name in MADE_OF_IT if (folder / name).exists()]
    for path in there:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


class Record:
    """Writes settings, epochs and states of a training into its folder, in the first process."""

    def __init__(self, training: Training, folder: Path) -> None:
        self.training, self.folder = training, folder
        self.writes = training.accelerator.is_main_process
        if self.writes:
            results.write_config(folder, to_dict(training.config))
            results.keep_epochs(folder / "log.jsonl", training.epoch)

    def epoch(self, row: dict[str, Any]) -> None:
        if self.writes:
            results.append_row(self.folder / "log.jsonl", row)

    def state(self) -> None:
        state = self.training.state()  # asks all processes
        if self.writes:
            checkpoint.save_state(self.folder / "state", state)


def save_weights(training: Training, folder: Path) -> str:
    """Write ``model.safetensors``; its SHA-256, by which rows name the network."""
    config, weights = training.config, folder / "model.safetensors"
    if config.save_as == "fp16":  # in place: what is tested is what was saved
        checkpoint.save_tensors(weights, checkpoint.halve(training.net), to_dict(config.net))
    else:
        checkpoint.save(weights, training.net, to_dict(config.net))
    return checkpoint.sha256(weights)


@contextlib.contextmanager
def what_to_do_next(folder: Path) -> Iterator[None]:
    """Add to a training's early end how the user goes on."""
    try:
        yield
    except progress.Interrupted as end:
        where = f"{end}; saved in {folder / 'state'}: go on with --resume --output-dir {folder}"
        raise progress.Interrupted(where, end.number) from None
    except NotFinite as error:
        raise InputError(f"{error}; {_how_to_retry(folder)}") from error


def _how_to_retry(folder: Path) -> str:
    """What to type for another try where a run diverged. If it saved nothing, its folder is free
    again."""
    if (folder / "state").is_dir():
        return (
            f"the last good state is in {folder / 'state'}; to start again with other settings, "
            "give --overwrite or another --output-dir"
        )
    (folder / "config.json").unlink(missing_ok=True)
    return "nothing was saved, so the same folder can be used again"
