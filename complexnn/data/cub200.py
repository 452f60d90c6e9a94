"""CUB-200-2011 in its official layout: 200 kinds of birds, image sizes all different."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from complexnn.config import DataConfig, InputError
from complexnn.data.image_files import ImageFiles
from complexnn.data.images import Augmentation
from complexnn.data.spec import Raw, Spec

FOLDER = "CUB_200_2011"
LISTS = ("images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt")
SIZE = 224  # of the paper's VGG-16


def read_cub200(config: DataConfig) -> Raw:
    """List the official split.

    Raises:
        InputError: a missing folder, list or image, or lists that do not fit each other.
    """
    root = config.data_dir
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
    size = config.resize or SIZE

    def part(mark: str, what: str) -> tuple[ImageFiles, Tensor]:
        chosen = [i for i in sorted(images, key=int) if split[i] == mark]
        if not chosen:
            raise InputError(f"{folder / LISTS[2]} has no {what} image")
        files = ImageFiles(
            [folder / "images" / images[i] for i in chosen],
            channels=config.channels or 3, size=(size, size), resize=size,
        )  # fmt: skip
        return files, torch.tensor([numbers[labels[i]] for i in chosen])

    names = tuple(classes[c].partition(".")[2] or classes[c] for c in numbers)
    return Raw(*part("1", "training"), *part("0", "test"), names)


def _read_list(path: Path) -> dict[str, str]:
    """Lines of a number and a value."""
    content = {}
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        key, _, value = line.partition(" ")
        if not key.isdigit() or not value.strip():
            raise InputError(f"{path}, line {number}: expected a number and a value, got {line!r}")
        content[key] = value.strip()
    return content


CUB200 = Spec(
    read_cub200, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225),  # ImageNet's, as is usual
    Augmentation(flip=True, padding=16), count=5_994, place=FOLDER, resizes=True,
)  # fmt: skip
