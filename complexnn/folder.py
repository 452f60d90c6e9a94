"""A user's own images: ``train/<class>/*`` and ``test/<class>/*``, of any common kind."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from complexnn.config import InputError

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
UNREADABLE = (UnidentifiedImageError, OSError, Image.DecompressionBombError)


def read_image(path: Path) -> Image.Image:
    """Open an image as 8-bit grey (``L``) or colour (``RGB``).

    16-bit grey is scaled to 8 bits, palettes are looked up, transparency is laid over white, the
    camera's orientation is applied; of an animation the first frame counts.

    Raises:
        InputError: naming the file, if it is truncated, no image or of a float or 32-bit kind.
    """
    try:
        with Image.open(path) as image:
            image.load()
            image = ImageOps.exif_transpose(image)
            mode = image.mode
            if mode.startswith("I;16"):
                return Image.fromarray((np.asarray(image, np.float32) / 257).round().astype("u1"))
            if mode in ("1", "L"):
                return image.convert("L")
            if mode == "LA":
                white = Image.new("LA", image.size, (255, 255))
                return Image.alpha_composite(white.convert("RGBA"), image.convert("RGBA")).convert(
                    "L"
                )
            if mode in ("RGBA", "PA", "RGBa") or "transparency" in image.info:
                white = Image.new("RGBA", image.size, "white")
                return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
            if mode in ("RGB", "P", "CMYK", "YCbCr", "LAB", "HSV", "RGBX"):
                return image.convert("RGB")
    except (*UNREADABLE, SyntaxError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read as an image ({error}); mend or remove it"
        ) from error
    raise InputError(f"{path} has pixels of kind {mode}; save it with 8 or 16 bits per channel")


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
        elif (image.height, image.width) != self.size:
            raise InputError(
                f"{path} is {image.height}x{image.width} (height x width), the first image "
                f"{self.size[0]}x{self.size[1]}: give --resize to bring all to one size"
            )
        pixels = torch.from_numpy(np.array(image))
        return pixels.unsqueeze(0) if self.channels == 1 else pixels.movedim(-1, 0)

    def subset(self, index: Tensor) -> FolderSource:
        paths = [self.paths[i] for i in index.tolist()]
        return FolderSource(paths, channels=self.channels, size=self.size, resize=self.resize)

    def decode(self) -> Tensor:
        """All images in memory: ``(N, C, H, W)`` bytes."""
        with ThreadPoolExecutor() as threads:
            return torch.stack(list(threads.map(self.__getitem__, range(len(self)))))


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
    if channels is None:
        every = [path for path, _ in train_files + test_files]
        with ThreadPoolExecutor() as threads:
            channels = 1 if all(threads.map(_is_grey, every)) else 3

    def source(files: list[tuple[Path, str]]) -> tuple[FolderSource, Tensor]:
        paths = [path for path, _ in files]
        index = torch.tensor([classes.index(name) for _, name in files])
        return FolderSource(paths, channels=channels, size=size, resize=resize), index

    return *source(train_files), *source(test_files), tuple(classes)


def _is_grey(path: Path) -> bool:
    try:
        with Image.open(path) as image:  # reads the header only
            return image.mode in ("1", "L", "LA") or image.mode.startswith("I;16")
    except UNREADABLE as error:
        raise InputError(
            f"{path} cannot be read as an image ({error}); mend or remove it"
        ) from error


def list_images(root: Path, part: str) -> tuple[list[tuple[Path, str]], list[str]]:
    """The images of ``root/part`` with their classes, and the classes: folders by name, at any
    depth below each of them its images; what is hidden or no image is left out.

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
    files = [
        (path, name)
        for name in names
        for path in sorted((folder / name).rglob("*"))
        if path.suffix.lower() in SUFFIXES and not _hidden(path.relative_to(folder))
    ]
    empty = sorted(set(names) - {name for _, name in files})
    if empty:
        raise InputError(f"class folders without images in {folder}: {', '.join(empty)}")
    if not names:
        raise InputError(f"no class folders in {folder}: expected {folder}/<class>/<image>")
    return files, names


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
