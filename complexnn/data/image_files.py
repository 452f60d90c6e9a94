"""Image files of any common kind, read as bytes of one size; broken ones are named."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from complexnn.config import InputError
from complexnn.runs.progress import track

T = TypeVar("T")
Image.init()  # without it Pillow knows a few common formats only
_WANTED = (
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".avif",
    ".jp2", ".tga", ".ppm", ".pgm", ".pbm", ".pnm",
)  # fmt: skip
# Those of them that the installed Pillow can open.
SUFFIXES = {s for s in _WANTED if Image.registered_extensions().get(s) in Image.OPEN}
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
    # The heads of WebP and BMP tell the file's length, that of WebP without its first 8 bytes.
    if kind == "WEBP":
        whole = size >= 8 + int.from_bytes(head[4:8], "little")
    elif kind == "BMP":
        whole = size >= int.from_bytes(head[2:6], "little") > 0
    else:
        whole = end is not None and end in tail
    if not whole:
        read_image(path)


def each(work: Callable[[T], object], items: list[T], what: str) -> list:
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
        results = list(track(threads.map(attempt, items), len(items), what))
    broken = [result for result in results if isinstance(result, InputError)]
    if len(broken) == 1:
        raise broken[0]
    if broken:
        raise InputError(f"{len(broken)} of {len(items)} images cannot be used; first: {broken[0]}")
    return results


class ImageFiles(torch.utils.data.Dataset):
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

    def subset(self, index: Tensor) -> ImageFiles:
        paths = [self.paths[i] for i in index.tolist()]
        return ImageFiles(paths, channels=self.channels, size=self.size, resize=self.resize)

    def decode(self) -> Tensor:
        """All images in memory: ``(N, C, H, W)`` bytes.

        Raises:
            InputError: how many images are broken, and the first.
        """
        return torch.stack(each(self.__getitem__, list(range(len(self))), "decode images"))

    def check(self) -> None:
        """Look through images that will be decoded on the way, before any work is built on them.

        Raises:
            InputError: how many images are broken or of another size, and the first.
        """
        each(self._check_one, self.paths, "look through images")

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


def is_grey(path: Path) -> bool:
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
