"""Weights on disk: safetensors with their configuration, written atomically, never executed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from complexnn.config import InputError

log = logging.getLogger("complexnn")
FORMAT = 1
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
        usual_mode(temporary)
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"cannot write {path} ({error}); what was there is untouched: make room or mend the "
            "permissions, then start the command again (train.py with --resume)"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def usual_mode(path: Path) -> None:
    """Give a file the permissions that a new file gets here; libraries that write through temporary
    files leave it readable by its owner alone."""
    probe = path.with_name(f".{path.name}.{os.getpid()}.mode.tmp")
    probe.touch()
    path.chmod(stat.S_IMODE(probe.stat().st_mode))
    probe.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a report whole, in a folder that need not be there yet, and say where."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    log.info("written: %s", path)


def unwrapped(name: str) -> str:
    """A parameter's name without the marks of DataParallel, DDP or compile, in any nesting."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def save(path: Path, module: nn.Module, about: dict[str, Any]) -> None:
    """Save weights and buffers, with ``about`` as JSON in the metadata."""
    save_tensors(path, {unwrapped(k): v for k, v in module.state_dict().items()}, about)


def halve(module: nn.Module) -> dict[str, Tensor]:
    """Round the weights of ``module`` to half precision where they are, and return them in it, for
    :func:`save_tensors`. Vectors, such as the statistics of norms, are few and stay as they are; so
    does what half precision cannot hold."""
    kept = {unwrapped(k): halved(v) if v.dim() > 1 else v for k, v in module.state_dict().items()}
    restore(module, kept, "what was rounded")
    return kept


def halved(tensor: Tensor) -> Tensor:
    """``tensor`` in half precision, or itself where that would make infinities or is no gain."""
    half = tensor.half() if tensor.is_floating_point() else tensor
    return half if half.isfinite().all() else tensor


def save_tensors(path: Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Save named tensors, with ``about`` as JSON in the metadata; :func:`read` gives both back.

    Tied weights are written under each of their names.
    """
    kept: dict[str, Tensor] = {}
    memory: set[int] = set()  # which safetensors refuses to write twice
    for name, tensor in tensors.items():
        own = tensor.detach().cpu().contiguous()
        start = own.untyped_storage().data_ptr()
        kept[name] = own.clone() if start in memory else own
        memory.add(start)
    with replacing(path) as temporary:
        save_file(kept, temporary, _metadata(about))


def _metadata(about: Any) -> dict[str, str]:
    # One key: safetensors writes several in random order, and equal runs shall be equal files.
    return {"complexnn": json.dumps({"format": FORMAT, "about": about})}


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
    try:
        header = json.loads(metadata["complexnn"])
        version, about = header["format"], header["about"]
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(f"{path} was not written by complexnn: it has no configuration") from error
    if version != FORMAT:
        raise InputError(f"{path} has format version {version}, this version reads {FORMAT}")
    return state, about


def restore(module: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Load ``state`` into ``module``; every name and shape must fit, every number be finite.

    Raises:
        InputError: listing missing and unexpected names and wrong shapes; tensors with NaN or
            infinity; tied weights of the module that differ in ``state``.
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
    broken = [name for name, tensor in state.items() if not tensor.isfinite().all()]
    if broken:
        raise InputError(
            f"{source} holds NaN or infinity in {_some(broken)}: its training diverged or the file "
            "is damaged; train or fetch it again"
        )
    first: dict[tuple, str] = {}
    for name, tensor in own.items():
        # An empty tensor has no memory to share.
        place = (tensor.data_ptr() or name, tensor.shape, tensor.stride())
        if not torch.equal(state[first.setdefault(place, name)], state[name]):
            raise InputError(f"{source}: {first[place]} and {name} are tied here, but differ there")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(state[name])


def _some(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "none") + more


# ------------------------------------------------------------------------- state for resuming


def save_state(folder: Path, tree: Any) -> None:
    """Save a tree of dicts, lists, tensors and plain values as ``latest.safetensors``; the file
    that had this name stays as ``previous.safetensors``."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    skeleton = _strip(tree, tensors)
    latest = folder / "latest.safetensors"
    with replacing(latest) as temporary:
        save_file(tensors, temporary, _metadata(skeleton))
        if latest.exists():
            latest.replace(folder / "previous.safetensors")


def load_state(folder: Path) -> Any | None:
    """The newest whole state in ``folder``; None if there is none. A damaged newest one is passed
    over with a warning."""
    for leftover in folder.glob(".*.tmp"):  # of a save that was killed
        leftover.unlink(missing_ok=True)  # another process may have been quicker
    for name in ("latest", "previous"):
        path = folder / f"{name}.safetensors"
        if not path.exists():
            continue
        try:
            tensors, skeleton = read(path)
            return _fill(skeleton, tensors)
        except InputError as error:
            log.warning("%s; going back to the state before it", error)
    return None


def _strip(tree: Any, tensors: dict[str, Tensor]) -> Any:
    """The tree as JSON, its tensors moved to ``tensors`` and replaced by their names."""
    if isinstance(tree, Tensor):
        name = str(len(tensors))
        # A copy: tensors that share memory, or lie in it in another order, are not stored as such.
        tensors[name] = tree.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"tensor": name}
    if isinstance(tree, dict):  # as pairs: JSON would turn the optimisers' integer keys to strings
        return {"dict": [[key, _strip(value, tensors)] for key, value in tree.items()]}
    if isinstance(tree, (list, tuple)):
        return {"list": [_strip(value, tensors) for value in tree]}
    return {"value": tree}


def _fill(skeleton: Any, tensors: dict[str, Tensor]) -> Any:
    (kind, content), *_ = skeleton.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _fill(value, tensors) for key, value in content}
    if kind == "list":
        return [_fill(value, tensors) for value in content]
    return content


def sha256(path: Path) -> str:
    """The file's hash: which victim a result belongs to."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
