"""Images with labels, in memory on the compute device or read from disk batch by batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from complexnn.config import InputError
from complexnn.data.image_files import ImageFiles


@dataclass(frozen=True)
class Batch:
    """Images in [0, 1] with what the victim learns and what is hidden from it."""

    images: Tensor  # (B, C, H, W) float32
    labels: Tensor  # (B,) int64, or (B, A) bool: A binary attributes
    classes: Tensor  # the same forms; the labels themselves where nothing is hidden


@dataclass(frozen=True)
class Augmentation:
    """Random flip and padded crop, drawn per image for a whole batch at once."""

    flip: bool
    padding: int

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        count, _, height, width = images.shape
        device = images.device
        if self.flip:
            flipped = torch.rand(count, generator=generator) < 0.5
            images = torch.where(flipped.to(device).view(-1, 1, 1, 1), images.flip(-1), images)
        if self.padding:
            padded = F.pad(images, [self.padding] * 4)
            top, left = torch.randint(0, 2 * self.padding + 1, (2, count, 1), generator=generator)
            rows = (top + torch.arange(height)).to(device)
            columns = (left + torch.arange(width)).to(device)
            sample = torch.arange(count, device=device).view(-1, 1, 1)
            # Indexing by sample, row and column moves the channels last; move them back.
            images = padded[sample, :, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)
        return images


# Applied to the pixels of a batch, bytes as stored; told the batch's place in the pass.
Augment = Callable[[Tensor, int], Tensor]


class ImageSet:
    """Images with labels, in memory or read on the fly by a DataLoader.

    ``pixels`` are ``(N, C, H, W)`` bytes. ``labels`` are what the victim learns, ``classes`` what
    is hidden, either of them in one of the forms of :mod:`complexnn.data.tasks`.
    """

    def __init__(
        self, pixels: Tensor | ImageFiles, labels: Tensor, classes: Tensor, *, workers: int = 0
    ) -> None:
        self.pixels, self.labels, self.classes, self.workers = pixels, labels, classes, workers

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, index: Tensor) -> ImageSet:
        """The images at ``index``, in that order."""
        pixels = self.pixels
        chosen = pixels[index] if isinstance(pixels, Tensor) else pixels.subset(index)
        return ImageSet(chosen, self.labels[index], self.classes[index], workers=self.workers)

    def to(self, device: torch.device) -> ImageSet:
        """Move pixels in memory to ``device``; images on disk stay there."""
        if not isinstance(self.pixels, Tensor):
            return self
        return ImageSet(self.pixels.to(device), self.labels, self.classes)

    def decoded(self) -> ImageSet:
        """The same with all pixels in memory."""
        if isinstance(self.pixels, Tensor):
            return self
        return ImageSet(self.pixels.decode(), self.labels, self.classes)

    def batches(self, size: int, device: torch.device) -> Iterator[Batch]:
        """Every image once, in order, in batches of about equal size: none is much smaller than
        the others, because a batch of one has no counterpart."""
        return self.fetch(torch.arange(len(self)).tensor_split(-(-len(self) // size)), device)

    def shuffled(self, size: int, generator: Generator) -> tuple[Tensor, ...]:
        """Indices of one shuffled pass in full batches; what is over is left out, unless it is
        the only batch."""
        count = len(self)
        order = torch.randperm(count, generator=generator)
        return order[: max(size, count - count % size)].split(size)

    def fetch(
        self, chunks: Sequence[Tensor], device: torch.device, augment: Augment | None = None
    ) -> Iterator[Batch]:
        """The batches with these indices, augmented: on the device where the pixels are in
        memory, by the DataLoader's workers where they are read from disk."""
        for index, pixels in zip(chunks, self._pixels(chunks, augment), strict=True):
            images = pixels.to(device, non_blocking=True).float().div_(255)
            yield Batch(images, self.labels[index].to(device), self.classes[index].to(device))

    def steps(self, size: int) -> int:
        """Batches in a shuffled pass."""
        return max(1, len(self) // size)

    def _pixels(self, chunks: Sequence[Tensor], augment: Augment | None) -> Iterator[Tensor]:
        whole = _Chunks(self.pixels, chunks, augment)
        if isinstance(self.pixels, Tensor):
            yield from map(whole.__getitem__, range(len(chunks)))
            return
        try:
            yield from torch.utils.data.DataLoader(whole, batch_size=None, num_workers=self.workers)
        except InputError as error:  # a worker wraps its traceback around the message
            raise InputError(
                str(error).strip().splitlines()[-1].split("InputError: ")[-1]
            ) from None


class _Chunks(torch.utils.data.Dataset):
    """Whole batches as items, so that one worker reads and augments each."""

    def __init__(
        self, pixels: Tensor | ImageFiles, chunks: Sequence[Tensor], augment: Augment | None
    ) -> None:
        self.pixels, self.chunks, self.augment = pixels, chunks, augment

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, place: int) -> Tensor:
        index = self.chunks[place]
        if isinstance(self.pixels, Tensor):
            pixels = self.pixels[index.to(self.pixels.device)]
        else:
            pixels = torch.stack([self.pixels[i] for i in index.tolist()])
        return pixels if self.augment is None else self.augment(pixels, place)


@dataclass(frozen=True)
class Dataset:
    """Three disjoint sets of images and what is known about them."""

    name: str
    train: ImageSet
    validation: ImageSet
    test: ImageSet
    labels: tuple[str, ...]  # names of the classes or attributes that the victim learns
    classes: tuple[str, ...]  # names of the hidden classes or attributes
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: Augmentation
    source: str = ""  # what differs from the official files; rows say it

    @property
    def hidden(self) -> bool:
        """Whether the victim learns less than the classes, so that there is something to infer."""
        return self.labels != self.classes

    def to(self, device: torch.device) -> Dataset:
        """The same with all pixels that are in memory on ``device``."""
        parts = {p: getattr(self, p).to(device) for p in ("train", "validation", "test")}
        return dataclasses.replace(self, **parts)

    @property
    def about(self) -> dict[str, Any]:
        """What a row says of its data: how many images, and what is unofficial about them."""
        counts = {p: len(getattr(self, p)) for p in ("train", "validation", "test")}
        return counts | ({"source": self.source} if self.source else {})

    @property
    def shape(self) -> tuple[int, int, int]:
        return tuple(self.test.pixels.shape[1:])
