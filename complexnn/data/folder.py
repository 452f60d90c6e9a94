"""A user's own images: ``train/<class>/*`` and ``test/<class>/*``, of any common kind."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from complexnn.config import InputError
from complexnn.runs.progress import track

log = logging.getLogger("complexnn")
T = TypeVar("T")
_WANTED = (
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".avif",
    ".jp2", ".tga", ".ppm", ".pgm", ".pbm", ".pnm",
)  # fmt: skip
Image.init()
# Those of them that the installed Pillow can open.
SUFFIXES = {s for s in _WANTED if Image.registered_extensions().get(s) in Image.OPEN}
LEAST = 2  # pixels of the shorter side: the attackers' networks halve it
ORIENTATION = 0x0112  # the EXIF tag
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# What stands near the end of a whole file, and nowhere before; a little more may follow.
_ENDS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND"}
_TAIL = 64  # bytes


def read_image(path: Path) -> Image.Image:
    """Open an image as 8-bit grey (``L``) or colour (``RGB``).

    16-bit grey is scaled to 8 bits, palettes are looked up, transparency is laid over white, the
    camera's orientation is applied; of an animation the first frame counts.

    Raises:
        InputError: naming the file, if it is truncated, no image or of a float or 32-bit kind.
    """
    image = _opened(path, _upright)
    mode = image.mode
    if mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image, np.float32) / 257).round().astype("u1"))
    if mode in ("1", "L"):
        return image.convert("L")
    if mode == "LA":
        white = Image.new("LA", image.size, (255, 255))
        return Image.alpha_composite(white.convert("RGBA"), image.convert("RGBA")).convert("L")
    if mode in ("RGBA", "PA", "RGBa") or "transparency" in image.info:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    if mode in ("RGB", "P", "CMYK", "YCbCr", "LAB", "HSV", "RGBX"):
        return image.convert("RGB")
    raise InputError(f"{path} has pixels of kind {mode}; save it with 8 or 16 bits per channel")


def _opened(path: Path, look: Callable[[Image.Image], T]) -> T:
    """What ``look`` finds in an open image file."""
    try:
        with Image.open(path) as image:
            return look(image)
    except Exception as error:  # of many types: Pillow's decoders raise what a broken file causes
        raise InputError(
            f"{path} cannot be read as an image ({error}); mend or remove it"
        ) from error


def _upright(image: Image.Image) -> Image.Image:
    """The decoded picture, turned as the camera was held.

    Only the orientation is read of the EXIF block. The rest of it may be broken in a good photo;
    where that hides the orientation, the picture stays as it was stored.
    """
    image.load()
    try:
        turn = image.getexif().get(ORIENTATION)
    except Exception:
        turn = None
    return image.transpose(_TURNS[turn]) if turn in _TURNS else image.copy()


def _check_whole(path: Path) -> None:
    """Refuse a file that is no image or was cut off, mostly without decoding it.

    The header is read, and the end looked at; a file with an unusual end is decoded.
    """
    kind = _opened(path, lambda image: image.format)
    end = _ENDS.get(kind)
    with path.open("rb") as file:
        head, size = file.read(12), os.fstat(file.fileno()).st_size
        file.seek(max(0, size - _TAIL))
        tail = file.read()
    if kind == "WEBP":
        whole = size >= 8 + int.from_bytes(head[4:8], "little")
    elif kind == "BMP":
        whole = size >= int.from_bytes(head[2:6], "little") > 0
    else:
        whole = end is not None and end in tail
    if not whole:
        read_image(path)


def _each(work: Callable[[T], object], items: list[T], what: str) -> list:
    """``work`` on every item, in threads, with progress.

    Raises:
        InputError: for how many items ``work`` raised one, and the first.
    """

    def attempt(item: T) -> object:
        try:
            return work(item)
        except InputError as error:
            return error

    with ThreadPoolExecutor() as threads:
        found = list(track(threads.map(attempt, items), len(items), what))
    broken = [result for result in found if isinstance(result, InputError)]
    if len(broken) == 1:
        raise broken[0]
    if broken:
        raise InputError(f"{len(broken)} of {len(items)} images cannot be used; first: {broken[0]}")
    return found


class FolderSource(torch.utils.data.Dataset):
    """Images on disk, all brought to one size and number of channels when they are read."""

    def __init__(
        self, paths: list[Path], *, channels: int, size: tuple[int, int], resize: int | None
    ) -> None:
        self.paths, self.channels, self.size, self.resize = paths, channels, size, resize

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self), self.channels, *self.size

    @property
    def decoded_bytes(self) -> int:
        return int(np.prod(self.shape))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        path = self.paths[index]
        image = read_image(path).convert("L" if self.channels == 1 else "RGB")
        if self.resize is not None:
            image = ImageOps.fit(image, self.size, Image.Resampling.BILINEAR)
        else:
            self._check_size(path, (image.height, image.width))
        pixels = torch.from_numpy(np.array(image))
        return pixels.unsqueeze(0) if self.channels == 1 else pixels.movedim(-1, 0)

    def subset(self, index: Tensor) -> FolderSource:
        paths = [self.paths[i] for i in index.tolist()]
        return FolderSource(paths, channels=self.channels, size=self.size, resize=self.resize)

    def decode(self) -> Tensor:
        """All images in memory: ``(N, C, H, W)`` bytes.

        Raises:
            InputError: how many images are broken, and the first.
        """
        return torch.stack(_each(self.__getitem__, list(range(len(self))), "decode images"))

    def check(self) -> None:
        """Look through images that will be decoded on the way, before any work is built on them.

        Raises:
            InputError: how many images are broken or of another size, and the first.
        """
        _each(self._check_one, self.paths, "look through images")

    def _check_one(self, path: Path) -> None:
        _check_whole(path)
        if self.resize is None:
            self._check_size(path, _opened(path, _stored_size))

    def _check_size(self, path: Path, size: tuple[int, int]) -> None:
        if size != self.size:
            raise InputError(
                f"{path} is {size[0]}x{size[1]} (height x width), the first image "
                f"{self.size[0]}x{self.size[1]}: give --resize to bring all to one size"
            )


def read_folder(
    root: Path, *, channels: int | None, resize: int | None
) -> tuple[FolderSource, Tensor, FolderSource, Tensor, tuple[str, ...]]:
    """List a folder's images: training and test images with their classes, and the class names.

    Without ``channels``, images are grey if every file is, else colour. Without ``resize``, all
    must have the size of the first.

    Raises:
        InputError: a missing folder, a class without images, or in test but not in train.
    """
    train_files, classes = list_images(root, "train")
    test_files, test_classes = list_images(root, "test")
    unknown = sorted(set(test_classes) - set(classes))
    if unknown:
        raise InputError(f"classes in {root / 'test'} but not in {root / 'train'}: {unknown}")
    if absent := sorted(set(classes) - set(test_classes)):
        raise InputError(
            f"classes in {root / 'train'} but not in {root / 'test'}, whose test error would leave "
            f"them out: {absent}"
        )
    if len(classes) < 2:
        raise InputError(f"{root / 'train'} has one class, {classes[0]}; at least 2 are needed")

    first = read_image(train_files[0][0])
    size = (resize, resize) if resize else (first.height, first.width)
    if min(size) < LEAST:
        raise InputError(
            f"{train_files[0][0]} is {size[0]}x{size[1]} (height x width) pixels; "
            f"networks need {LEAST} each way: give --resize"
        )
    if channels is None:
        every = [path for path, _ in train_files + test_files]
        channels = 1 if all(_each(_is_grey, every, "read headers")) else 3

    def source(files: list[tuple[Path, str]]) -> tuple[FolderSource, Tensor]:
        paths = [path for path, _ in files]
        index = torch.tensor([classes.index(name) for _, name in files])
        return FolderSource(paths, channels=channels, size=size, resize=resize), index

    return *source(train_files), *source(test_files), tuple(classes)


def _is_grey(path: Path) -> bool:
    """By the header only."""
    mode = _opened(path, lambda image: image.mode)
    return mode in ("1", "L", "LA") or mode.startswith("I;16")


def _stored_size(image: Image.Image) -> tuple[int, int]:
    """Height and width, as the camera was held; by the header only."""
    try:
        turned = image.getexif().get(ORIENTATION) in (5, 6, 7, 8)
    except Exception:  # as in _upright
        turned = False
    return (image.width, image.height) if turned else (image.height, image.width)


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
    found = [(path, name) for name in names for path in sorted(_files(folder / name))]
    files = [(path, name) for path, name in found if path.suffix.lower() in SUFFIXES]
    others = Counter(p.suffix.lower() or "no suffix" for p, _ in found) - Counter(
        p.suffix.lower() for p, _ in files
    )
    told = ", ".join(f"{count} of kind {kind}" for kind, count in sorted(others.items()))
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
            others.total(), folder, told,
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
