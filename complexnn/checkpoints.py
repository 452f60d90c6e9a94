"""Published networks: ``python -m complexnn.checkpoints list | verify | download [NAME ...]``.

``checkpoints/MANIFEST.json`` lists each file's path, bytes, sha256, configuration, metrics and
mirrors. Nothing is used before its hash was checked.
"""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pooch
import requests
from tyro.conf import Positional

from complexnn import checkpoint
from complexnn.cli import parse, run
from complexnn.config import InputError, choose

log = logging.getLogger("complexnn")
FIELDS = {"path", "bytes", "sha256", "config", "metrics", "mirrors"}


@dataclass(frozen=True)
class CheckpointsConfig:
    """List, verify or download published networks."""

    what: Positional[Literal["list", "verify", "download"]]
    """list: what there is. verify: check the files that are here. download: fetch the others."""
    names: Positional[tuple[str, ...]] = ()
    """Names from the list; none: all."""
    folder: Path = Path("checkpoints")
    """Where MANIFEST.json and the files lie."""


def read_manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """Entries by name.

    Raises:
        InputError: a missing or damaged manifest.
    """
    path = folder / "MANIFEST.json"
    try:
        entries = json.loads(path.read_text())["checkpoints"]
    except OSError:
        raise InputError(f"no {path}; run from the repository or give --folder") from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}); restore it from the repository") from error
    for name, entry in entries.items():
        missing = FIELDS - entry.keys()
        inside = (folder / str(entry.get("path"))).resolve().is_relative_to(folder.resolve())
        if missing or not inside:
            wrong = f"lacks {', '.join(sorted(missing))}" if missing else "leads out of the folder"
            raise InputError(f"{path}: entry {name} {wrong}")
    return entries


def problem(folder: Path, entry: dict[str, Any]) -> str | None:
    """What is wrong with a file that is here; None if nothing is."""
    path = folder / entry["path"]
    if not path.is_file():
        return "missing"
    if path.stat().st_size != entry["bytes"]:
        return f"has {path.stat().st_size} bytes instead of {entry['bytes']}"
    return None if checkpoint.sha256(path) == entry["sha256"] else "has another sha256"


def download(folder: Path, name: str, entry: dict[str, Any]) -> Path:
    """Fetch a file from the first mirror that has it whole; a good file is not fetched again.

    Raises:
        InputError: no mirror had it; says where to put the file by hand.
    """
    path = folder / entry["path"]
    reasons = []
    for url in entry["mirrors"]:
        try:
            fetched = pooch.retrieve(
                url, f"sha256:{entry['sha256']}", path.name, path.parent,
                downloader=pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=30),
            )  # fmt: skip
            return Path(fetched)
        except (requests.RequestException, ValueError, OSError) as error:
            reason = "wrong sha256" if isinstance(error, ValueError) else type(error).__name__
            log.warning("%s: %s failed (%s)", name, url, reason)
            reasons.append(f"{url} ({reason})")
    raise InputError(
        f"{name} could not be downloaded from {', '.join(reasons) or 'any mirror: it has none'}: "
        f"get it by another way, put it at {path}, and check it with "
        "python -m complexnn.checkpoints verify"
    )


def main(argv: list[str]) -> None:
    """Do what was asked for each name."""
    config = parse(CheckpointsConfig, argv, "python -m complexnn.checkpoints")
    entries = read_manifest(config.folder)
    for name in config.names:
        choose("checkpoint", name, entries or ("none yet",))
    chosen = {name: entries[name] for name in config.names or entries}
    if not chosen:
        print("no checkpoints are published yet")
    bad = []
    for name, entry in chosen.items():
        if config.what == "download":
            print(f"{name}: {download(config.folder, name, entry)}")
            continue
        trouble = problem(config.folder, entry)
        if config.what == "list":
            metrics = ", ".join(f"{k} {v}" for k, v in entry["metrics"].items())
            state = "here" if trouble is None else trouble
            print(f"{name}: {entry['bytes'] / 1e6:.1f} MB, {metrics}; {state}")
        else:
            print(f"{name}: {trouble or 'good'}")
            bad += [name] if trouble else []
    if bad:
        raise InputError(f"not as published: {', '.join(bad)}; delete and download them again")


if __name__ == "__main__":
    sys.exit(run(main))
