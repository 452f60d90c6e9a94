"""CUB-200-2011 in its official layout: 200 kinds of birds, image sizes all different."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from complexnn.config import InputError
from complexnn.data.folder import FolderSource

FOLDER = "CUB_200_2011"
LISTS = ("images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt")


def read_cub200(
    root: Path, *, channels: int | None, resize: int
) -> tuple[FolderSource, Tensor, FolderSource, Tensor, tuple[str, ...]]:
    """List the official split: images and classes for training and test, and the class names.

    Raises:
        InputError: a missing folder, list or image, or lists that do not fit each other.
    """
    folder = root / FOLDER if (root / FOLDER).is_dir() else root
    missing = [name for name in (*LISTS, "images") if not (folder / name).exists()]
    if missing:
        raise InputError(
            f"no CUB-200-2011 in {root} (missing {', '.join(missing)}): unpack the official "
            f"CUB_200_2011.tgz there, or give --data-dir"
        )
    images, labels, split, classes = (_read_list(folder / name) for name in LISTS)
    for name, content in zip(LISTS[1:3], (labels, split), strict=True):
        if content.keys() != images.keys():
            one = min(content.keys() ^ images.keys())
            raise InputError(f"{folder / name} and images.txt differ, first in image {one}")
    unknown = sorted(set(labels.values()) - classes.keys())
    if unknown:
        raise InputError(f"{folder / LISTS[1]} has classes that classes.txt lacks: {unknown[0]}")
    absent = [path for path in images.values() if not (folder / "images" / path).is_file()]
    if absent:
        raise InputError(
            f"{len(absent)} images are missing, first {folder / 'images' / absent[0]}: "
            "unpack CUB_200_2011.tgz again"
        )

    numbers = {name: i for i, name in enumerate(sorted(classes, key=int))}
    parts = []
    for training in ("1", "0"):
        chosen = [i for i in sorted(images, key=int) if split[i] == training]
        if not chosen:
            kind = "training" if training == "1" else "test"
            raise InputError(f"{folder / LISTS[2]} has no {kind} image")
        source = FolderSource(
            [folder / "images" / images[i] for i in chosen],
            channels=channels or 3, size=(resize, resize), resize=resize,
        )  # fmt: skip
        parts += [source, torch.tensor([numbers[labels[i]] for i in chosen])]
    names = tuple(classes[c].partition(".")[2] or classes[c] for c in numbers)
    return parts[0], parts[1], parts[2], parts[3], names


def _read_list(path: Path) -> dict[str, str]:
    """Lines of a number and a value."""
    content = {}
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        key, _, value = line.partition(" ")
        if not key.isdigit() or not value.strip():
            raise InputError(f"{path}, line {number}: expected a number and a value, got {line!r}")
        content[key] = value.strip()
    return content
