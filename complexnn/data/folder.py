"""A user's own images: ``train/<class>/*`` and ``test/<class>/*``."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from complexnn.config import DataConfig, InputError
from complexnn.data.image_files import SUFFIXES, ImageFiles, each, is_grey, read_image
from complexnn.data.images import Augmentation
from complexnn.data.spec import Raw, Spec

log = logging.getLogger("complexnn")
LEAST = 2  # pixels of the shorter side: the attackers' networks halve it


def read_folder(root: Path, *, channels: int | None, resize: int | None) -> Raw:
    """List a folder's images and their classes.

    Without ``channels``, images are grey if every file is, else colour. Without ``resize``, all
    must have the size of the first.

    Raises:
        InputError: a missing folder, a class without images, or one that is not in both parts.
    """
    train_files, classes = list_images(root, "train")
    test_files, test_classes = list_images(root, "test")
    _check_classes(root, classes, test_classes)

    first = read_image(train_files[0][0])
    size = (resize, resize) if resize else (first.height, first.width)
    if min(size) < LEAST:
        raise InputError(
            f"{train_files[0][0]} is {size[0]}x{size[1]} (height x width) pixels; "
            f"networks need {LEAST} each way: give --resize"
        )
    if channels is None:
        every = [path for path, _ in train_files + test_files]
        channels = 1 if all(each(is_grey, every, "read headers")) else 3

    def images(files: list[tuple[Path, str]]) -> tuple[ImageFiles, Tensor]:
        paths = [path for path, _ in files]
        index = torch.tensor([classes.index(name) for _, name in files])
        return ImageFiles(paths, channels=channels, size=size, resize=resize), index

    return Raw(*images(train_files), *images(test_files), tuple(classes))


def _check_classes(root: Path, train: list[str], test: list[str]) -> None:
    """Refuse classes of one part only, which the other cannot teach or test, or a single one."""
    if unknown := sorted(set(test) - set(train)):
        raise InputError(f"classes in {root / 'test'} but not in {root / 'train'}: {unknown}")
    if absent := sorted(set(train) - set(test)):
        raise InputError(
            f"classes in {root / 'train'} but not in {root / 'test'}, whose test error would leave "
            f"them out: {absent}"
        )
    if len(train) < 2:
        raise InputError(f"{root / 'train'} has one class, {train[0]}; at least 2 are needed")


def list_images(root: Path, part: str) -> tuple[list[tuple[Path, str]], list[str]]:
    """The images of ``root/part`` with their classes, and the classes: folders by name, at any
    depth below each of them its images, links to folders followed. Hidden files are left out, and
    so are files of other kinds; of those a warning says how many.

    Raises:
        InputError: a missing folder, or a class without images.
    """
    folder = root / part
    if not folder.is_dir():
        raise InputError(
            f"no folder {folder}: lay your images out as {root}/train/<class>/* and "
            f"{root}/test/<class>/*, or give --data-dir"
        )
    names = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    every = [(path, name) for name in names for path in sorted(_files(folder / name))]
    files = [(path, name) for path, name in every if path.suffix.lower() in SUFFIXES]
    kinds = Counter(path.suffix.lower() or "no suffix" for path, _ in every)
    others = {kind: count for kind, count in sorted(kinds.items()) if kind not in SUFFIXES}
    told = ", ".join(f"{count} of kind {kind}" for kind, count in others.items())
    empty = sorted(set(names) - {name for _, name in files})
    if empty:
        raise InputError(
            f"class folders without images in {folder}: {', '.join(empty)}"
            + (f" (files that cannot be read as images: {told})" if told else "")
        )
    if not names:
        raise InputError(f"no class folders in {folder}: expected {folder}/<class>/<image>")
    if told:
        log.warning(
            "%d files in %s are left out, since they are no images that can be read here: %s",
            sum(others.values()), folder, told,
        )  # fmt: skip
    return files, names


def _files(folder: Path) -> Iterator[Path]:
    """Files at any depth below, hidden ones left out; links to folders are followed, each folder
    once on a way down, so that a circle of links ends."""
    pending = [(folder, {folder.resolve()})]
    while pending:
        here, above = pending.pop()
        for path in here.iterdir():
            if path.name.startswith("."):
                continue
            if path.is_file():
                yield path
            elif path.is_dir() and (real := path.resolve()) not in above:
                pending.append((path, above | {real}))


def look_into_folder(config: DataConfig) -> tuple[int, tuple[int, int, int], int]:
    """Training images, shape of the first, and classes, by the file names."""
    files, classes = list_images(config.data_dir, "train")
    first = read_image(files[0][0])
    return len(files), (len(first.getbands()), first.height, first.width), len(classes)


FOLDER = Spec(
    lambda config: read_folder(config.data_dir, channels=config.channels, resize=config.resize),
    None, None, Augmentation(flip=True, padding=4), look=look_into_folder, place="train",
    resizes=True,
)  # fmt: skip
