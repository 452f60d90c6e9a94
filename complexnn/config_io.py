"""Configurations read, compared and printed: as JSON, and as the command that gives them."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Collection
from pathlib import Path
from typing import Any

from complexnn.config import NetConfig, TrainConfig, choose
from complexnn.config_idle import why_idle

# Settings that may differ when a run goes on: they do not change what it computes, except that
# more epochs stretch the schedule. The last four only say what to do with a folder.
MAY_CHANGE = (
    "epochs", "device", "workers", "data_dir", "draws", "save_as",
    "output_dir", "resume", "overwrite", "dry_run",
)  # fmt: skip

# What a setting that a saved configuration lacks meant then, where today's default means another.
_BEFORE: dict[str, dict[str, Any]] = {"NetConfig": {"counterparts": "batch"}}


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as plain JSON values."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(v) for v in value]
        return str(value) if isinstance(value, Path) else value

    return plain(dataclasses.asdict(config))


def from_dict(cls: type, values: dict[str, Any]) -> Any:
    """The inverse of :func:`to_dict`, also for what earlier versions saved.

    Raises:
        InputError: a key that is no setting, or a value that its setting cannot have.
    """
    fields = {spec.name: spec for spec in dataclasses.fields(cls)}
    settings = dict(_BEFORE.get(cls.__name__, {}))
    for name, value in values.items():
        choose(f"setting of {cls.__name__}", name, sorted(fields))
        nested = fields[name].default_factory
        if dataclasses.is_dataclass(nested):
            value = from_dict(nested, value)
        elif isinstance(value, list):
            value = tuple(value)
        elif value is not None and "Path" in str(fields[name].type):
            value = Path(value)
        settings[name] = value

    def value_of(name: str) -> Any:
        if name in fields:
            return settings.get(name, fields[name].default)
        return getattr(settings.get("net", NetConfig), name)

    # An early run could be given settings that were idle, or saved them at another default.
    if cls in (NetConfig, TrainConfig):
        settings = {n: value for n, value in settings.items() if why_idle(n, value_of) is None}
    return cls(**settings)


def changed(saved: TrainConfig, now: TrainConfig) -> list[str]:
    """Settings that differ and would alter the run, as ``name (saved -> now)``."""

    def flat(tree: dict[str, Any]) -> dict[str, Any]:
        inner = [flat(v) if isinstance(v, dict) else {k: v} for k, v in tree.items()]
        return {k: v for part in inner for k, v in part.items()}

    before, after = flat(to_dict(saved)), flat(to_dict(now))
    return [
        f"{name} ({before[name]} -> {after[name]})"
        for name in before
        if name not in MAY_CHANGE and before[name] != after[name]
    ]


def command(config: Any, *, leave_out: Collection[str] = ()) -> str:
    """The shell command that gives ``config``: only flags that differ from their defaults."""
    script = {"TrainConfig": "train.py", "AttackConfig": "attack.py"}[type(config).__name__]
    return shlex.join(["python", script, *_flags(config, set(leave_out))])


def _flags(config: Any, leave_out: set[str]) -> list[str]:
    words: list[str] = []
    for spec in dataclasses.fields(config):
        value, kind = getattr(config, spec.name), str(spec.type)  # as text: tyro's marks are in it
        flag = spec.name.replace("_", "-")
        if dataclasses.is_dataclass(value):
            words += _flags(value, leave_out)
        elif "Positional" in kind:
            words.append(str(value))
        elif value == spec.default or spec.name in leave_out or "Suppress" in kind:
            continue
        elif isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [f"--{flag}", str(value)]
    return words
