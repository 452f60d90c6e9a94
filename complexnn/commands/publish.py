"""Published networks: ``python -m complexnn.checkpoints list | verify | download [NAME ...]``.

``checkpoints/MANIFEST.json`` lists each file's path, bytes, sha256, configuration, metrics and
mirrors, and the command that makes each run of which only rows are here. Nothing is used before its
hash was checked. ``... publish RUN ...`` adds finished runs.

A mirror is the URL of one file. It is added by hand: copy the file to a web server and write its
URL into the ``mirrors`` of its entry. ``download`` tries mirrors from first to last and keeps the
first file whose sha256 is the entry's, so a mirror need not be trusted.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pooch
import requests
from tyro.conf import Positional

from complexnn.commands.app import parse
from complexnn.config import InputError, TrainConfig, choose
from complexnn.config_io import command, from_dict
from complexnn.runs import checkpoint, results

log = logging.getLogger("complexnn")
ATTACKED = Path("runs") / "published"  # where config_attack.results_of puts new results
MANIFEST = "MANIFEST.json"
FIELDS = {"path", "bytes", "sha256", "config", "metrics", "mirrors"}


@dataclass(frozen=True)
class CheckpointsConfig:
    """List, verify or download published networks, publish finished runs, or add rows to them."""

    what: Positional[Literal["list", "verify", "download", "publish", "add"]]
    """list: what there is. verify: check the files that are here. download: fetch the others.
    publish: copy finished runs here, with their rows, and list their files. add: take over the rows
    of new attacks on published networks, from runs/published."""
    names: Positional[tuple[str, ...]] = ()
    """Names from the list; none: all. To publish: run folders, or folders of such. To add: names of
    published runs; none: all that were attacked."""
    folder: Path = Path("checkpoints")
    """Where MANIFEST.json and the files lie."""
    root: Path = Path("runs")
    """publish: a run is named by its path below this folder."""
    weights: bool = True
    """publish: weights, too, not only rows."""
    attackers: bool = False
    """publish: the attackers' networks, too, in half precision."""

    def __post_init__(self) -> None:
        for name in ("root", "weights", "attackers"):
            if self.what != "publish" and getattr(self, name) != getattr(CheckpointsConfig, name):
                raise InputError(f"{name} applies to publish only, not to {self.what}")


def read_manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """Files by name.

    Raises:
        InputError: a missing or damaged manifest.
    """
    entries = _part(folder, "checkpoints")
    for name, entry in entries.items():
        missing = FIELDS - entry.keys()
        inside = (folder / str(entry.get("path"))).resolve().is_relative_to(folder.resolve())
        if missing or not inside:
            wrong = f"lacks {', '.join(sorted(missing))}" if missing else "leads out of the folder"
            raise InputError(f"{folder / MANIFEST}: entry {name} {wrong}")
    return entries


def read_commands(folder: Path) -> dict[str, str]:
    """The commands that make the runs of which only rows are here, by name.

    Raises:
        InputError: a missing or damaged manifest.
    """
    return _part(folder, "commands")


def _part(folder: Path, part: str) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        return dict(json.loads(path.read_text())[part])
    except OSError:
        raise InputError(f"no {path}; run from the repository or give --folder") from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}); restore it from the repository") from error


def problem(folder: Path, entry: dict[str, Any]) -> str | None:
    """What is wrong with a file that is here; None if nothing is."""
    path = folder / entry["path"]
    if not path.is_file():
        return "missing"
    if path.stat().st_size != entry["bytes"]:
        return f"has {path.stat().st_size} bytes instead of {entry['bytes']}"
    return None if checkpoint.sha256(path) == entry["sha256"] else "has another sha256"


def _fetch(url: str, file: str, caller: pooch.Pooch | None) -> None:
    pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=30)(url, file, caller)
    checkpoint.usual_mode(Path(file))


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
                url, f"sha256:{entry['sha256']}", path.name, path.parent, downloader=_fetch,
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


def publish(config: CheckpointsConfig) -> None:
    """Copy every finished run below ``config.names`` into the folder and list its weights.

    The victim's weights stay as they are, since its rows name their hash. Attackers are stored in
    half precision; loading widens them again.

    Raises:
        InputError: no run, an unfinished one, or one that names places of this machine.
    """
    runs = sorted({p.parent for name in config.names for p in Path(name).rglob("config.json")})
    if not runs:
        raise InputError("no run to publish (no config.json): name run folders")
    entries, commands = read_manifest(config.folder), read_commands(config.folder)
    names = [_check(run_folder, config.root) for run_folder in runs]  # all, before any is copied
    for name, run_folder in zip(names, runs, strict=True):
        before = {k: e for k, e in entries.items() if k == name or k.startswith(name + "/")}
        entries = {k: e for k, e in entries.items() if k not in before}
        commands.pop(name, None)
        entries |= _publish(config, run_folder, name, before)
        if not config.weights:
            trained = from_dict(TrainConfig, results.read_config(run_folder))
            commands[name] = command(trained, leave_out=("resume", "overwrite", "device"))
        print(f"{name}: published")
    manifest = {
        "checkpoints": dict(sorted(entries.items())),
        "commands": dict(sorted(commands.items())),
    }
    with checkpoint.replacing(config.folder / MANIFEST) as temporary:
        temporary.write_text(json.dumps(manifest, indent=1) + "\n")


def add(config: CheckpointsConfig) -> None:
    """Take the rows of attacks on published networks into the published ones, and their
    pictures; a row replaces the one of its name on the same weights.

    Raises:
        InputError: no such rows, rows of other weights, or rows that name places of this machine.
    """
    attacked = {p.parent.relative_to(ATTACKED).as_posix(): p.parent
                for p in sorted(ATTACKED.rglob("results.jsonl"))
                if (config.folder / p.parent.relative_to(ATTACKED)).is_dir()}  # fmt: skip
    for name in config.names or attacked:
        choose("attacked network", name, attacked)
    if not attacked:
        raise InputError(f"no published network was attacked: no rows below {ATTACKED}")
    merged = {}
    for name in config.names or attacked:
        path = config.folder / name / "results.jsonl"
        rows, new = results.read_rows(path), results.read_rows(attacked[name] / path.name)
        victim = [row["victim"] for row in rows if row["name"] == "task"][-1]
        if others := {row["name"] for row in new if row["victim"] != victim}:
            raise InputError(
                f"{attacked[name]} holds rows of other weights than {config.folder / name} "
                f"({', '.join(sorted(others))}): remove them"
            )
        _refuse_places(attacked[name], json.dumps(new))
        merged[path] = {(row["victim"], row["name"]): row for row in [*rows, *new]}, len(new)
    for path, (rows, count) in merged.items():
        with checkpoint.replacing(path) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in rows.values()))
        _take_pictures(attacked[path.parent.relative_to(config.folder).as_posix()], path.parent)
        print(f"{path}: {count} rows added")


def _refuse_places(source: Path, text: str) -> None:
    if place := re.search(r'"(/[^"]*)"', text):
        raise InputError(
            f"{source} names a place of this machine, {place[1]}: run it again with relative paths"
        )


def _rows(source: Path) -> dict[str, dict[str, Any]]:
    """The newest row of each name that belongs to a run's present weights."""
    weights = source / "model.safetensors"
    victim = checkpoint.sha256(weights) if weights.is_file() else None
    rows = results.read_rows(source / "results.jsonl")
    return {row["name"]: row for row in rows if row["victim"] == victim}


def _check(source: Path, root: Path) -> str:
    """The name that a run is published under.

    Raises:
        InputError: a run that cannot be published.
    """
    if not source.resolve().is_relative_to(root.resolve()):
        raise InputError(f"{source} does not lie below --root {root}")
    rows = _rows(source)
    if "task" not in rows:
        raise InputError(f"{source} is no finished run: go on with train.py --resume")
    _refuse_places(source, (source / "config.json").read_text() + json.dumps(rows))
    return source.resolve().relative_to(root.resolve()).as_posix()


def _publish(
    config: CheckpointsConfig, source: Path, name: str, before: dict[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Copy one run; its manifest entries. A file that is as it was ``before`` keeps its mirrors."""
    rows, weights, target = _rows(source), source / "model.safetensors", config.folder / name
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    shutil.copyfile(source / "config.json", target / "config.json")
    lines = "".join(json.dumps(row) + "\n" for row in rows.values())
    (target / "results.jsonl").write_text(lines)
    _take_pictures(source, target)
    entries = {}
    if config.weights:
        shutil.copyfile(weights, target / weights.name)
        measured = {"task error": round(rows["task"]["metrics"]["error"]["value"], 6)}
        entries[name] = _entry(config.folder, target / weights.name, measured)
    if config.attackers:
        place = Path("attackers") / rows["task"]["victim"][:12]
        for file in sorted((source / place).glob("*.safetensors")):
            (target / place).mkdir(parents=True, exist_ok=True)
            copy, (state, about) = target / place / file.name, checkpoint.read(file)
            half = {name: checkpoint.halved(tensor) for name, tensor in state.items()}
            checkpoint.save_tensors(copy, half, about)
            fitted = {"validation loss": round(about["fit"]["validation"], 6)}
            entries[f"{name}/{file.stem}"] = _entry(config.folder, copy, fitted)
    for key in entries.keys() & before.keys():
        if entries[key]["sha256"] == before[key]["sha256"]:
            entries[key]["mirrors"] = before[key]["mirrors"]
    return entries


def _take_pictures(source: Path, target: Path) -> None:
    """Copy the grid of reconstructions, if ``source`` has one of the network in ``target`` with
    every row that is there already."""
    grid = Path("examples") / "inversion.safetensors"
    if not (source / grid).is_file():
        return
    about = checkpoint.read(source / grid)[1]
    rows = results.read_rows(target / "results.jsonl")
    if about.get("victim") not in {row["victim"] for row in rows}:
        log.warning("%s: pictures of other weights are left out; attack it again", source)
        return
    there = checkpoint.read(target / grid)[1]["rows"] if (target / grid).is_file() else []
    if set(there) <= set(about["rows"]):
        (target / "examples").mkdir(exist_ok=True)
        shutil.copyfile(source / grid, target / grid)


def _entry(folder: Path, path: Path, measured: dict[str, float]) -> dict[str, Any]:
    return {
        "path": path.relative_to(folder).as_posix(),
        "bytes": path.stat().st_size,
        "sha256": checkpoint.sha256(path),
        "config": checkpoint.read(path)[1],
        "metrics": measured,
        "mirrors": [],
    }


def main(argv: list[str]) -> None:
    """Do what was asked for each name."""
    config = parse(CheckpointsConfig, argv, "python -m complexnn.checkpoints")
    if config.what in ("publish", "add"):
        {"publish": publish, "add": add}[config.what](config)
        return
    entries, commands = read_manifest(config.folder), read_commands(config.folder)
    for name in config.names:
        if config.what != "list" and name in commands:
            raise InputError(f"only rows of {name} are published; make it: {commands[name]}")
        choose("checkpoint", name, [*entries, *commands] or ("none yet",))
    chosen = {name: entries[name] for name in config.names or entries if name in entries}
    if not entries:
        print("no checkpoints are published yet")
    {"list": _list, "verify": _verify, "download": _download}[config.what](config.folder, chosen)
    for name in config.names or commands:
        if config.what == "list" and name in commands:
            print(f"{name}: rows only; make it: {commands[name]}")


def _list(folder: Path, chosen: dict[str, dict[str, Any]]) -> None:
    for name, entry in chosen.items():
        metrics = ", ".join(f"{k} {v}" for k, v in entry["metrics"].items())
        state = problem(folder, entry) or "here"
        print(f"{name}: {entry['bytes'] / 1e6:.1f} MB, {metrics}; {state}")


def _verify(folder: Path, chosen: dict[str, dict[str, Any]]) -> None:
    bad = []
    for name, entry in chosen.items():
        trouble = problem(folder, entry)
        print(f"{name}: {trouble or 'good'}")
        bad += [name] if trouble else []
    if bad:
        raise InputError(f"not as published: {', '.join(bad)}; delete and download them again")


def _download(folder: Path, chosen: dict[str, dict[str, Any]]) -> None:
    """Fetch what is not here as published; one that fails does not keep back the others."""
    failed = []
    for name, entry in chosen.items():
        if problem(folder, entry) is None:
            print(f"{name}: {folder / entry['path']} is here")
            continue
        try:
            print(f"{name}: {download(folder, name, entry)}")
        except InputError as error:
            failed.append(str(error))
    if failed:
        raise InputError("; ".join(failed))
