"""Data sets by name: where each lies, how it is read, grouped and split."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from complexnn.config import DataConfig, InputError, choose
from complexnn.data.celeba import CELEBA
from complexnn.data.cifar import CIFAR10, CIFAR100
from complexnn.data.cub200 import CUB200
from complexnn.data.digits import DIGITS
from complexnn.data.fashion_mnist import FASHION_MNIST
from complexnn.data.folder import FOLDER
from complexnn.data.groupings import labelling
from complexnn.data.image_files import ImageFiles
from complexnn.data.images import Dataset, ImageSet
from complexnn.data.named_folder import named_folder, read_named_folder
from complexnn.data.spec import Spec

SPLIT_SEED = 0  # validation images, subsets and the order of tests are the same in every run
VALIDATION_SHARE = 0.1
MEASURED = 2000  # training images that give mean and deviation where none are published
MEMORY_LIMIT = 2 << 30  # bytes of pixels per split; larger sets are decoded on the fly
DATASETS = {
    "digits": DIGITS,
    "fashion-mnist": FASHION_MNIST,
    "cifar10": CIFAR10,
    "cifar100": CIFAR100,
    "celeba": CELEBA,
    "cub200": CUB200,
    "folder": FOLDER,
}
RESIZED = tuple(name for name, spec in DATASETS.items() if spec.resizes)


def _spec(config: DataConfig) -> Spec:
    return DATASETS[choose("data set", config.dataset, DATASETS)]


def hides(config: DataConfig) -> bool:
    """Whether images have classes or attributes that a network is not trained on; reads nothing."""
    spec = DATASETS.get(config.dataset)  # rows may name a set that is here no more
    return config.groups is not None or (spec is not None and spec.attributes)


def whereabouts(config: DataConfig) -> tuple[str, int]:
    """Where a data set would be read from, and megabytes to download first; reads nothing.

    Raises:
        InputError: an unknown name, or files that are not there and cannot be downloaded.
    """
    spec = _spec(config)
    if not spec.place:
        return "part of an installed library", 0
    if spec.installed is not None and spec.installed.is_dir():
        return str(spec.installed), 0
    if (config.data_dir / spec.place).exists():
        return str(config.data_dir / spec.place), 0
    if images := named_folder(config, spec):
        return str(images), 0
    if not spec.download:
        raise InputError(
            f"{config.dataset} needs {config.data_dir / spec.place}, which is not there and cannot "
            "be downloaded: put its files there, or give --data-dir"
        )
    return f"will be downloaded to {config.data_dir}", spec.download


def plan(config: DataConfig) -> tuple[int, tuple[int, int, int], int]:
    """Training images, their shape and the number of labels, as far as is known without reading
    the data; for a folder, its file names and its first image are looked at, for CelebA, of which
    there may be a part, its file names."""
    spec = _spec(config)
    count, shape, labels = spec.count, spec.shape, spec.labels
    if spec.look is not None:
        count, shape, labels = spec.look(config)
    if config.resize is not None:
        shape = (shape[0], config.resize, config.resize)
    return (
        min(count, config.limit_train or count),
        (config.channels or shape[0], *shape[1:]),
        labels,
    )


def load(config: DataConfig, *, workers: int = 0) -> Dataset:
    """Read, group, limit and split a data set.

    Validation images are a tenth of the training images, drawn with a fixed seed, where the data
    set has none of its own.

    Raises:
        InputError: an unknown name, missing or broken files, a grouping that does not fit.
    """
    spec = _spec(config)
    if config.resize is not None and config.dataset not in RESIZED:
        raise InputError(f"resize applies to {', '.join(RESIZED)} only, not to {config.dataset}")
    folder = named_folder(config, spec)
    raw = read_named_folder(config.dataset, spec, folder) if folder else spec.read(config)
    assert bool(raw.hidden) == spec.attributes, "the reader and its Spec differ"
    task = labelling(config, spec, raw)

    def images(pixels: Tensor | ImageFiles, classes: Tensor) -> ImageSet:
        pixels = _with_channels(pixels, config.channels)
        return ImageSet(pixels, *task.split(classes), workers=workers)

    generator = Generator().manual_seed(SPLIT_SEED)
    every = images(raw.train, raw.train_classes)
    held_out = None if raw.validation is None else images(raw.validation, raw.validation_classes)
    train, validation = _held_out(every, held_out, config.limit_train, generator)
    # Folders list test images class by class; queries that share a key must not be so alike.
    shuffled = torch.randperm(len(raw.test_classes), generator=generator)
    test = images(raw.test, raw.test_classes).subset(shuffled)
    train, validation, test = (_in_memory(part) for part in (train, validation, test))
    mean, std = (spec.mean, spec.std) if spec.mean else _measure(train)
    channels = test.pixels.shape[1]
    mean, std = (_per_channel(values, channels) for values in (mean, std))
    return Dataset(
        config.dataset, train, validation, test, task.labels, task.classes, mean, std,
        spec.augmentation, raw.source,
    )  # fmt: skip


def _held_out(
    every: ImageSet, official: ImageSet | None, limit: int | None, generator: Generator
) -> tuple[ImageSet, ImageSet]:
    """Training and validation images, together ``limit``: a tenth of them validate, or the
    official validation images if there are any."""
    if limit is not None and limit > len(every):
        raise InputError(f"limit_train is {limit}, and there are {len(every)} training images")
    order = torch.randperm(len(every), generator=generator)[:limit]
    if official is not None and limit is None:
        return every.subset(order), official
    count = max(1, round(VALIDATION_SHARE * len(order)))
    if len(order) - count < 2:
        raise InputError(f"{len(order)} training images are too few; at least 3 are needed")
    train = every.subset(order[count:])
    if official is None:
        return train, every.subset(order[:count])
    return train, official.subset(torch.randperm(len(official), generator=generator)[:count])


def _in_memory(images: ImageSet) -> ImageSet:
    """Decode images on disk now if they fit in memory; else look through them, since a broken
    one would end the run only when its turn comes."""
    pixels = images.pixels
    if isinstance(pixels, Tensor) or pixels.decoded_bytes <= MEMORY_LIMIT:
        return images.decoded()
    pixels.check()
    return images


def _with_channels(pixels: Tensor | ImageFiles, channels: int | None) -> Tensor | ImageFiles:
    """Pixels in memory in another number of channels; files bring theirs to it as they are read."""
    if channels is None or not isinstance(pixels, Tensor) or pixels.shape[1] == channels:
        return pixels
    if channels == 3:
        return pixels.expand(-1, 3, -1, -1)
    luma = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)  # ITU-R BT.601, as PIL's "L"
    return (pixels * luma).sum(1, keepdim=True).round().to(torch.uint8)


def _per_channel(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """Constants for a data set that is shown in another number of channels."""
    return values if len(values) == channels else (sum(values) / len(values),) * channels


def _measure(train: ImageSet) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation per channel of up to :data:`MEASURED` training images."""
    chosen = train.subset(torch.arange(min(MEASURED, len(train))))
    size = max(1, min(100, (1 << 24) // math.prod(chosen.pixels.shape[1:])))  # 64 MB at a time
    count, total, squares = 0, 0.0, 0.0
    for batch in chosen.batches(size, torch.device("cpu")):
        pixels = batch.images.double().movedim(1, 0).flatten(1)
        count += pixels.shape[1]
        total, squares = total + pixels.sum(1), squares + pixels.square().sum(1)
    mean = total / count
    variance = (squares - count * mean.square()) / (count - 1)
    std = variance.clamp(min=0).sqrt().clamp(min=0.01)  # not 0 where all images are one colour
    return tuple(round(v, 4) for v in mean.tolist()), tuple(round(v, 4) for v in std.tolist())
