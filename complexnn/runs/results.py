"""Run folders: the resolved configuration, JSON lines, and where they come from."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from complexnn.config import InputError
from complexnn.config_attack import results_of
from complexnn.config_io import from_dict, to_dict
from complexnn.runs.checkpoint import replacing, sha256


def prepare_folder(folder: Path) -> None:
    """Create a run folder and prove that it can be written to, before any work.

    Raises:
        InputError: the folder cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe.{os.getpid()}"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"cannot write to {folder} ({error}); give another --output-dir"
        ) from error


def write_config(folder: Path, config: dict[str, Any]) -> None:
    """Save ``config.json``: the resolved configuration and how it was run."""
    about = {
        "config": config,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "git_commit": _git_commit(),
    }
    with replacing(folder / "config.json") as temporary:
        temporary.write_text(json.dumps(about, indent=2) + "\n")


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of a run.

    Raises:
        InputError: the folder is no run.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise InputError(
            f"{folder} is no run (no config.json): train one with train.py, or give another folder"
        )
    try:
        return json.loads(path.read_text())["config"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}); train the run again") from error


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Append one JSON line and force it to disk."""
    drop_half_line(path)
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")
        file.flush()
        os.fsync(file.fileno())


def drop_half_line(path: Path) -> None:
    """Remove a last line that a kill or a full disk cut off."""
    if path.is_file() and (text := path.read_bytes()) and not text.endswith(b"\n"):
        with replacing(path) as temporary:
            temporary.write_bytes(text[: text.rfind(b"\n") + 1])


def keep_epochs(path: Path, before: int) -> None:
    """Forget the log of epochs that will be run again, from ``before`` on."""
    kept = [row for row in read_rows(path) if row["epoch"] < before]
    if path.is_file():
        with replacing(path) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in kept))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """All rows of a JSON-lines file; none if there is no such file.

    Raises:
        InputError: naming a line that is no JSON object.
    """
    if not path.is_file():
        return []
    whole = path.read_text().rpartition("\n")[0]  # without a line that a kill cut off
    rows = []
    for number, line in enumerate(whole.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise InputError(f"{path}: line {number} is no row ({line[:40]!r}); mend or remove it")
        rows.append(row)
    return rows


def device_name(device: torch.device) -> str:
    """What a row says it was made on: a GPU's name, or the CPU and its threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        threads = torch.get_num_threads()
        return f"cpu, {threads} thread{'s' if threads > 1 else ''}"
    return str(device)


def stamp(device: torch.device, started: float) -> dict[str, Any]:
    """What every result row says about its making."""
    return {
        "seconds": round(time.time() - started, 1),
        "device": device_name(device),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def append_measurement(
    config: Any, name: str, metrics: dict[str, dict], images: int, stamped: dict[str, Any]
) -> None:
    """Append to the rows about ``config.victim`` what a command other than an attack measured."""
    row = {
        "name": name, "metrics": metrics, "images": images, "config": to_dict(config),
        "victim": sha256(config.victim / "model.safetensors"), **stamped,
    }  # fmt: skip
    folder = results_of(config.victim)
    prepare_folder(folder)
    append_row(folder / "results.jsonl", row)


def measured(config: Any, name: str) -> bool:
    """Whether the present weights of ``config.victim`` were measured so already.

    ``config.measured_as`` is what the numbers depend on.
    """
    weights = config.victim / "model.safetensors"
    return weights.is_file() and any(
        row["name"] == name
        and row["victim"] == sha256(weights)
        and from_dict(type(config), row["config"]).measured_as == config.measured_as
        for row in rows_about(config.victim, results_of(config.victim))
    )


def rows_about(victim: Path, folder: Path) -> list[dict[str, Any]]:
    """The rows in ``folder`` and, if it is where new ones about a published victim go, those that
    were published with it before."""
    known = victim != folder == results_of(victim)
    before = read_rows(victim / "results.jsonl") if known else []
    return before + read_rows(folder / "results.jsonl")


def _git_commit() -> str | None:
    """The commit of this project's own clone; None where there is none, as in an installation,
    which another project's repository may surround, or no git."""
    root = Path(__file__).resolve().parents[2]
    asked = ["git", "rev-parse", "--show-toplevel", "HEAD"]
    try:
        run = subprocess.run(asked, cwd=root, capture_output=True, text=True, check=False)
    except OSError:
        return None
    place, _, commit = run.stdout.strip().partition("\n")
    return commit if run.returncode == 0 and Path(place).resolve() == root else None
