"""CelebA in its official layout, as torchvision unpacks it: aligned faces with 40 attributes."""

from __future__ import annotations

import logging
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from complexnn.config import DataConfig, InputError
from complexnn.data.image_files import ImageFiles
from complexnn.data.images import Augmentation
from complexnn.data.spec import Raw, Spec

log = logging.getLogger("complexnn")
FOLDER, IMAGES = "celeba", "img_align_celeba"
ATTRIBUTES, PARTITION = "list_attr_celeba.txt", "list_eval_partition.txt"
ATTRIBUTE_COUNT = 40
SIZE = 224  # of the paper's AlexNet

# What the victim never learns in the paper: Attractive, Bags_Under_Eyes, Big_Lips, Eyeglasses,
# High_Cheekbones, Narrow_Eyes, Oval_Face, Wearing_Lipstick, Wearing_Necklace, Wearing_Necktie.
HIDDEN_ATTRIBUTES = (2, 3, 6, 15, 19, 23, 25, 36, 37, 38)


def read_celeba(config: DataConfig) -> Raw:
    """List the official split; classes are attributes, ``(N, 40)`` bool. A part of the images is
    taken as it is.

    Raises:
        InputError: a missing folder or list, no image at all, or lists that do not fit each other.
    """
    root = config.data_dir
    folder = _folder(root)
    _check_there(folder, root)
    names, attributes = _read_attributes(folder / ATTRIBUTES)
    partition = _read_partition(folder / PARTITION)
    if attributes.keys() != partition.keys():
        one = min(attributes.keys() ^ partition.keys())
        raise InputError(f"{folder / PARTITION} and {ATTRIBUTES} differ, first in image {one}")
    images = _images(folder)
    there = {path.name for path in images.iterdir()}
    absent = sorted(attributes.keys() - there)
    if len(absent) == len(attributes):
        raise InputError(f"{images} holds none of the listed images: unpack {IMAGES}.zip again")
    if absent:
        log.warning(
            "%d of the %d listed images are not in %s, first %s: the others are used",
            len(absent), len(attributes), images, absent[0],
        )  # fmt: skip

    size = config.resize or SIZE

    def part(number: str, what: str) -> tuple[ImageFiles, Tensor]:
        chosen = sorted(n for n, value in partition.items() if value == number and n in there)
        if not chosen:
            raise InputError(f"{folder / PARTITION} has no {what} image (split {number})")
        files = ImageFiles(
            [images / name for name in chosen],
            channels=config.channels or 3, size=(size, size), resize=size,
        )  # fmt: skip
        return files, torch.tensor([attributes[name] for name in chosen])

    train, validation, test = part("0", "training"), part("1", "validation"), part("2", "test")
    source = f"subset: {len(absent)} of the listed images are not there" if absent else ""
    return Raw(*train, *test, names, *validation, HIDDEN_ATTRIBUTES, source)


def look_into_celeba(config: DataConfig) -> tuple[int, tuple[int, int, int], int]:
    """How many of the listed training images are there, their shape, and the attributes that the
    victim learns; the lists are not checked.

    Raises:
        InputError: a missing folder or list.
    """
    folder = _folder(config.data_dir)
    _check_there(folder, config.data_dir)
    partition = _read_partition(folder / PARTITION)
    count = sum(partition.get(path.name) == "0" for path in _images(folder).iterdir())
    return count, (3, SIZE, SIZE), ATTRIBUTE_COUNT - len(HIDDEN_ATTRIBUTES)


def _folder(root: Path) -> Path:
    return root / FOLDER if (root / FOLDER).is_dir() else root


def _images(folder: Path) -> Path:
    images = folder / IMAGES
    # Some tools unpack an archive into a folder of its name.
    return images / IMAGES if (images / IMAGES).is_dir() else images


def _check_there(folder: Path, root: Path) -> None:
    """Refuse a folder that lacks a list or the images, with what to do about it."""
    missing = [n for n in (ATTRIBUTES, PARTITION, IMAGES) if not (folder / n).exists()]
    archive = folder / f"{IMAGES}.zip"
    if missing == [IMAGES] and archive.is_file():
        if not zipfile.is_zipfile(archive):
            raise InputError(
                f"{archive} is no zip archive: it was cut, or is a web page saved under that name; "
                "delete it and download it again"
            )
        raise InputError(f"unpack {archive} beside itself")
    if missing:
        raise InputError(
            f"no CelebA in {root} (missing {', '.join(missing)}): put the official files into "
            f"{root / FOLDER}, as torchvision.datasets.CelebA(download=True) does, or give "
            "--data-dir"
        )


def _read_attributes(path: Path) -> tuple[tuple[str, ...], dict[str, list[bool]]]:
    """The number of images, the 40 names, then a line per image with -1 or 1 for each name."""
    first, second, *lines = [*path.read_text().splitlines(), "", ""]
    names = tuple(second.split())
    if not first.strip().isdigit() or len(names) != ATTRIBUTE_COUNT:
        raise InputError(
            f"{path} must start with the number of images and {ATTRIBUTE_COUNT} attribute names, "
            f"got {first[:40]!r} and {len(names)} names"
        )
    content = {}
    for number, line in enumerate(lines, start=3):
        if not line.strip():
            continue
        name, *values = line.split()
        if len(values) != ATTRIBUTE_COUNT or not set(values) <= {"-1", "1"}:
            raise InputError(
                f"{path}, line {number}: expected an image and {ATTRIBUTE_COUNT} numbers, each -1 "
                f"or 1, got {line[:60]!r}"
            )
        content[name] = [value == "1" for value in values]
    if len(content) != int(first):
        raise InputError(
            f"{path} announces {int(first)} images and lists {len(content)}: download it again"
        )
    return names, content


def _read_partition(path: Path) -> dict[str, str]:
    """Lines of an image and 0 (training), 1 (validation) or 2 (test)."""
    content = {}
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        name, _, value = line.strip().partition(" ")
        if name and value.strip() not in ("0", "1", "2"):
            raise InputError(
                f"{path}, line {number}: expected an image and 0, 1 or 2, got {line!r}"
            )
        if name:
            content[name] = value.strip()
    return content


CELEBA = Spec(
    read_celeba, None, None, Augmentation(flip=True, padding=8), look=look_into_celeba,
    place=FOLDER, resizes=True, attributes=True,
)  # fmt: skip
