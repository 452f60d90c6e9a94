"""Weights on disk: safetensors with their configuration, written atomically, never executed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from complexnn.config import InputError

FORMAT = "1"
# What DataParallel, DistributedDataParallel and compile put in front of, or into, a name.
_WRAPPERS = ("module", "_orig_mod")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write to the yielded temporary path; on success it takes the place of ``path`` at once."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def unwrapped(name: str) -> str:
    """A parameter's name without the marks of DataParallel, DDP or compile, in any nesting."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def save(path: Path, module: nn.Module, about: dict[str, Any]) -> None:
    """Save weights and buffers, with ``about`` as JSON in the metadata."""
    state = {unwrapped(k): v.detach().cpu().contiguous() for k, v in module.state_dict().items()}
    with replacing(path) as temporary:
        save_file(state, temporary, {"format": FORMAT, "about": json.dumps(about)})


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and ``about`` of a file that :func:`save` wrote.

    Raises:
        InputError: a missing, truncated or foreign file, or another format version.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {unwrapped(name): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise InputError(f"no weights at {path}") from None
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path} is not a whole safetensors file ({error}); fetch or train it again"
        ) from error
    if metadata.get("format") != FORMAT:
        raise InputError(
            f"{path} has format version {metadata.get('format')}, this version reads {FORMAT}"
        )
    return state, json.loads(metadata["about"])


def restore(module: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Load ``state`` into ``module``; every name and shape must fit.

    Raises:
        InputError: listing missing and unexpected names and wrong shapes.
    """
    own = {unwrapped(name): tensor for name, tensor in module.state_dict().items()}
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(own[name].shape)}"
        for name in sorted(own.keys() & state.keys())
        if own[name].shape != state[name].shape
    ]
    if missing or unexpected or shapes:
        raise InputError(
            f"{source} does not fit the network: missing {_some(missing)}; "
            f"unexpected {_some(unexpected)}; wrong shape {_some(shapes)}"
        )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(state[name])


def _some(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "none") + more


def sha256(path: Path) -> str:
    """The file's hash: which victim a result belongs to."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
