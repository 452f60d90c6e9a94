"""Data sets by name: how each is read, grouped and split."""

from __future__ import annotations

import dataclasses
import gzip
import json
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

import numpy as np
import torch
from torch import Generator, Tensor

from complexnn.config import DataConfig, InputError, choose
from complexnn.data.celeba import (
    HIDDEN_ATTRIBUTES,
    read_celeba,
    training_images,
)
from complexnn.data.cub200 import read_cub200
from complexnn.data.folder import (
    FolderSource,
    list_images,
    read_folder,
    read_image,
)
from complexnn.data.images import (
    Augmentation,
    Dataset,
    ImageSet,
)

SPLIT_SEED = 0  # validation images, subsets and digits' test images are the same in every run
VALIDATION_SHARE = 0.1
MEMORY_LIMIT = 2 << 30  # bytes of pixels per split; larger sets are decoded on the fly
# What torchvision raises without a connection and, from OSError on, makes of files that were cut.
CANNOT_READ = (URLError, RuntimeError, OSError, ValueError, TypeError, EOFError, AssertionError)
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")


@dataclass(frozen=True)
class Raw:
    """What a reader returns: all pixels, not yet grouped, limited or split."""

    train: Tensor | FolderSource
    train_classes: Tensor
    test: Tensor | FolderSource
    test_classes: Tensor
    classes: tuple[str, ...]
    validation: Tensor | FolderSource | None = None  # None: carved from the training images
    validation_classes: Tensor | None = None
    hidden: tuple[int, ...] = ()  # where classes are attributes: those that the victim never learns
    source: str = ""  # what differs from the official files


@dataclass(frozen=True)
class Spec:
    """A data set: how to read it, its constants, and its built-in groupings."""

    read: Callable[[DataConfig], Raw]
    mean: tuple[float, ...] | None  # of the training pixels in [0, 1]; None: measured
    std: tuple[float, ...] | None
    augmentation: Augmentation
    groups: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)
    # For plans, before anything is read: training images and their shape, where they lie in
    # data_dir, and how many megabytes are downloaded if they do not (0: they cannot be).
    count: int = 0
    test_count: int = 0
    labels: int = 10
    shape: tuple[int, int, int] = (3, 224, 224)
    place: str = ""
    download: int = 0


def _digits(config: DataConfig) -> Raw:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = torch.from_numpy(np.rint(bunch.images * (255 / 16)).astype(np.uint8)).unsqueeze(1)
    classes = torch.from_numpy(bunch.target).long()
    order = torch.randperm(len(classes), generator=Generator().manual_seed(SPLIT_SEED))
    test, train = order[:360], order[360:]
    return Raw(pixels[train], classes[train], pixels[test], classes[test], tuple("0123456789"))


_FASHION_CLASSES = (
    "T-shirt", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


def _idx(path: Path, dims: int) -> Tensor:
    """Read a gzipped IDX file of bytes (LeCun's format): big-endian sizes, then the data.

    Raises:
        InputError: a file that is not there, or was cut anywhere.
    """
    start = 4 * (dims + 1)
    try:
        with gzip.open(path) as file:
            data = file.read()
        magic, *shape = np.frombuffer(data[:start], ">i4", dims + 1).tolist()
        if magic != 0x0800 + dims or len(data) != start + math.prod(shape):
            raise ValueError("its length is not what its head says")
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise InputError(
            f"{path} is not a complete IDX file ({error}); delete it and install it again"
        ) from error
    return torch.from_numpy(np.frombuffer(data, np.uint8, offset=start).copy()).view(*shape)


def _fashion_mnist(config: DataConfig) -> Raw:
    if DEBIAN_FASHION_MNIST.is_dir():
        read = [
            _idx(DEBIAN_FASHION_MNIST / f"{part}-{what}-idx{dims}-ubyte.gz", dims)
            for part in ("train", "t10k")
            for what, dims in (("images", 3), ("labels", 1))
        ]
        train, train_classes, test, test_classes = read
    else:
        from torchvision.datasets import FashionMNIST

        sets = _download(FashionMNIST, config.data_dir)
        (train, train_classes), (test, test_classes) = ((s.data, s.targets) for s in sets)
    return Raw(
        train.unsqueeze(1), train_classes.long(), test.unsqueeze(1), test_classes.long(),
        _FASHION_CLASSES,
    )  # fmt: skip


def _cifar(config: DataConfig) -> Raw:
    """CIFAR-10 or CIFAR-100: torchvision's archive or, where there is none, a folder of images."""
    from torchvision import datasets

    spec, root = DATASETS[config.dataset], config.data_dir
    if (images := _image_folder(config)) and not (root / spec.place).exists():
        return _checked(config, read_folder(images, channels=3, resize=None))
    cls = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[config.dataset]
    sets = _download(cls, root)
    (train, train_classes), (test, test_classes) = (
        (torch.from_numpy(s.data).movedim(-1, 1).contiguous(), torch.tensor(s.targets))
        for s in sets
    )
    return Raw(train, train_classes, test, test_classes, tuple(sets[0].classes))


def _image_folder(config: DataConfig) -> Path | None:
    """Where a data set that is known by name lies as ``train/<class>/*``, ``test/<class>/*``."""
    for folder in (config.data_dir / config.dataset, config.data_dir):
        if (folder / "train").is_dir() and (folder / "test").is_dir():
            return folder
    return None


TOLERANCE = 5e-4  # of a mean or deviation of pixels in [0, 1]: re-encoded images are off by more


def _checked(config: DataConfig, found: tuple) -> Raw:
    """Images of a folder, if they can be those that the data set's name promises: by their
    classes, counts and size, and by mean and deviation of the training pixels.

    Raises:
        InputError: saying what differs.
    """
    spec, root = DATASETS[config.dataset], _image_folder(config)
    train, train_classes, test, test_classes, classes = found
    counts = [c.bincount(minlength=len(classes)).tolist() for c in (train_classes, test_classes)]
    wanted = [[n // spec.labels] * spec.labels for n in (spec.count, spec.test_count)]
    told = f"{root} is not {config.dataset}"
    if counts != wanted or tuple(train.shape[1:]) != spec.shape:
        raise InputError(
            f"{told}: expected {spec.labels} classes of {wanted[0][0]} training and "
            f"{wanted[1][0]} test images of {spec.shape[1]}x{spec.shape[2]}, found {len(classes)} "
            f"classes, {len(train)} and {len(test)} images of {train.size[0]}x{train.size[1]}: "
            "complete it, or give --dataset folder"
        )
    train, test = train.decode(), test.decode()
    mean, std = _moments(train)
    apart = max(abs(a - b) for a, b in zip(mean + std, spec.mean + spec.std, strict=True))
    if apart > TOLERANCE:
        raise InputError(
            f"{told}: mean and deviation of its training pixels differ from the published ones by "
            f"up to {apart:.4f} (re-encoded images?): give --dataset folder"
        )
    source = f"image folder {root.name}, in its own split into training and test images"
    return Raw(train, train_classes, test, test_classes, classes, source=source)


def _moments(pixels: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, pixels in [0, 1]: ``(N, C, H, W)`` bytes."""
    channels = [pixels[:, c].float() / 255 for c in range(pixels.shape[1])]
    return tuple(c.mean().item() for c in channels), tuple(c.std().item() for c in channels)


def _download(cls: type, root: Path) -> list:
    """Training and test set of a torchvision class, downloaded if they are not there."""
    try:
        return [cls(root, train=train, download=True) for train in (True, False)]
    except CANNOT_READ as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"{cls.__name__} is not in {root} and could not be downloaded ({reason}): put its "
            f"official files into {root}, delete any incomplete one, or give --data-dir"
        ) from error


def _folder(config: DataConfig) -> Raw:
    return Raw(*read_folder(config.data_dir, channels=config.channels, resize=config.resize))


def _celeba(config: DataConfig) -> Raw:
    resize = config.resize or 224  # the paper's AlexNet
    parts, names, absent = read_celeba(config.data_dir, channels=config.channels, resize=resize)
    train, validation, test = parts
    source = f"subset: {absent} of the listed images are not there" if absent else ""
    return Raw(*train, *test, names, *validation, HIDDEN_ATTRIBUTES, source)


def _cub200(config: DataConfig) -> Raw:
    resize = config.resize or 224  # the paper's VGG-16
    return Raw(*read_cub200(config.data_dir, channels=config.channels, resize=resize))


# The superclasses of CIFAR-100 (Krizhevsky 2009), by torchvision's names.
_SUPERCLASSES = {
    "aquatic mammals": "beaver dolphin otter seal whale",
    "fish": "aquarium_fish flatfish ray shark trout",
    "flowers": "orchid poppy rose sunflower tulip",
    "food containers": "bottle bowl can cup plate",
    "fruit and vegetables": "apple mushroom orange pear sweet_pepper",
    "household electrical devices": "clock keyboard lamp telephone television",
    "household furniture": "bed chair couch table wardrobe",
    "insects": "bee beetle butterfly caterpillar cockroach",
    "large carnivores": "bear leopard lion tiger wolf",
    "large man-made outdoor things": "bridge castle house road skyscraper",
    "large natural outdoor scenes": "cloud forest mountain plain sea",
    "large omnivores and herbivores": "camel cattle chimpanzee elephant kangaroo",
    "medium-sized mammals": "fox porcupine possum raccoon skunk",
    "non-insect invertebrates": "crab lobster snail spider worm",
    "people": "baby boy girl man woman",
    "reptiles": "crocodile dinosaur lizard snake turtle",
    "small mammals": "hamster mouse rabbit shrew squirrel",
    "trees": "maple_tree oak_tree palm_tree pine_tree willow_tree",
    "vehicles 1": "bicycle bus motorcycle pickup_truck train",
    "vehicles 2": "lawn_mower rocket streetcar tank tractor",
}


_STILL = Augmentation(flip=False, padding=1)
_PHOTO = Augmentation(flip=True, padding=4)
_LARGE_PHOTO = Augmentation(flip=True, padding=16)
_ANIMALS = ("bird", "cat", "deer", "dog", "frog", "horse")
_VEHICLES = ("airplane", "automobile", "ship", "truck")

DATASETS = {
    "digits": Spec(
        _digits, (0.3053,), (0.3760,), _STILL,
        {"parity": {str(d): ("even", "odd")[d % 2] for d in range(10)}},
        count=1437, shape=(1, 8, 8),
    ),
    "fashion-mnist": Spec(
        _fashion_mnist, (0.2860,), (0.3530,), Augmentation(flip=True, padding=2),
        {
            "kinds": {
                name: {"Bag": "bag"}.get(
                    name, "shoes" if name in ("Sandal", "Sneaker", "Ankle boot") else "clothes"
                )
                for name in _FASHION_CLASSES
            }
        },
        count=60_000, shape=(1, 28, 28), place="FashionMNIST/raw", download=31,
    ),
    "cifar10": Spec(
        _cifar, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), _PHOTO,
        {"kinds": dict.fromkeys(_ANIMALS, "animal") | dict.fromkeys(_VEHICLES, "vehicle")},
        count=50_000, test_count=10_000, shape=(3, 32, 32),
        place="cifar-10-batches-py", download=163,
    ),
    "cifar100": Spec(
        _cifar, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762), _PHOTO,
        {"superclasses": {c: name for name, row in _SUPERCLASSES.items() for c in row.split()}},
        count=50_000, test_count=10_000, labels=100, shape=(3, 32, 32),
        place="cifar-100-python", download=161,
    ),
    "celeba": Spec(_celeba, None, None, Augmentation(flip=True, padding=8), count=162_770,
                   labels=30, place="celeba"),
    "cub200": Spec(_cub200, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), _LARGE_PHOTO,
                   count=5_994, place="CUB_200_2011"),
    "folder": Spec(_folder, None, None, _PHOTO, place="train"),
}  # fmt: skip


def whereabouts(config: DataConfig) -> tuple[str, int]:
    """Where a data set would be read from, and megabytes to download first; reads nothing.

    Raises:
        InputError: an unknown name, or files that are not there and cannot be downloaded.
    """
    spec = DATASETS[choose("data set", config.dataset, DATASETS)]
    if not spec.place:
        return "part of an installed library", 0
    if config.dataset == "fashion-mnist" and DEBIAN_FASHION_MNIST.is_dir():
        return str(DEBIAN_FASHION_MNIST), 0
    if (config.data_dir / spec.place).exists():
        return str(config.data_dir / spec.place), 0
    if spec.test_count and (images := _image_folder(config)):
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
    spec = DATASETS[choose("data set", config.dataset, DATASETS)]
    count, shape, labels = spec.count, spec.shape, spec.labels
    if config.dataset == "folder":
        files, classes = list_images(config.data_dir, "train")
        count, labels = len(files), len(classes)
        first = read_image(files[0][0])
        shape = (len(first.getbands()), first.height, first.width)
    if config.dataset == "celeba":
        count = training_images(config.data_dir)
    if config.resize is not None:
        shape = (shape[0], config.resize, config.resize)
    return (
        min(count, config.limit_train or count),
        (config.channels or shape[0], *shape[1:]),
        labels,
    )


RESIZED = ("folder", "celeba", "cub200")  # images of any size, brought to one on request


def load(config: DataConfig, *, workers: int = 0) -> Dataset:
    """Read, group, limit and split a data set.

    Validation images are a tenth of the training images, drawn with a fixed seed, where the data
    set has none of its own.

    Raises:
        InputError: an unknown name, missing or broken files, a grouping that does not fit.
    """
    spec = DATASETS[choose("data set", config.dataset, DATASETS)]
    if config.resize is not None and config.dataset not in RESIZED:
        raise InputError(f"resize applies to {', '.join(RESIZED)} only, not to {config.dataset}")
    raw = spec.read(config)
    task = _task(config, spec, raw)

    def images(pixels: Tensor | FolderSource, classes: Tensor) -> ImageSet:
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


def _with_channels(pixels: Tensor | FolderSource, channels: int | None) -> Tensor | FolderSource:
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
    """Mean and deviation per channel of up to 2,000 training images."""
    chosen = train.subset(torch.arange(min(2000, len(train))))
    size = max(1, min(100, (1 << 24) // math.prod(chosen.pixels.shape[1:])))  # 64 MB at a time
    count, total, squares = 0, 0.0, 0.0
    for batch in chosen.batches(size, torch.device("cpu")):
        pixels = batch.images.double().movedim(1, 0).flatten(1)
        count += pixels.shape[1]
        total, squares = total + pixels.sum(1), squares + pixels.square().sum(1)
    mean = total / count
    std = ((squares - count * mean.square()) / (count - 1)).clamp(min=0).sqrt().clamp(min=0.01)
    return tuple(round(v, 4) for v in mean.tolist()), tuple(round(v, 4) for v in std.tolist())


@dataclass(frozen=True)
class _Task:
    """What of the classes or attributes the victim learns, and what stays hidden."""

    labels: tuple[str, ...]
    classes: tuple[str, ...]
    split: Callable[[Tensor], tuple[Tensor, Tensor]]  # what a reader gives -> labels, classes


def _task(config: DataConfig, spec: Spec, raw: Raw) -> _Task:
    if raw.hidden:
        if config.groups is not None:
            raise InputError(f"groups do not apply to the attributes of {config.dataset}")
        shown = [i for i in range(len(raw.classes)) if i not in raw.hidden]
        hidden = list(raw.hidden)
        return _Task(
            tuple(raw.classes[i] for i in shown), tuple(raw.classes[i] for i in hidden),
            lambda attributes: (attributes[:, shown], attributes[:, hidden]),
        )  # fmt: skip
    if config.groups is None:
        return _Task(raw.classes, raw.classes, lambda classes: (classes, classes))
    label_of, labels = _grouping(config, spec, raw.classes)
    return _Task(labels, raw.classes, lambda classes: (label_of[classes], classes))


def _grouping(
    config: DataConfig, spec: Spec, classes: tuple[str, ...]
) -> tuple[Tensor, tuple[str, ...]]:
    """The label of each class, and the labels' names."""
    if config.groups in spec.groups:
        mapping = spec.groups[config.groups]
    else:
        path = Path(config.groups)
        if not path.is_file():
            known = ", ".join(spec.groups) or "none"
            raise InputError(
                f"no groups file {path}; built-in groupings of {config.dataset}: {known}"
            )
        try:
            mapping = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{path} is not valid JSON: {error}") from error
        if not isinstance(mapping, dict) or not all(isinstance(v, str) for v in mapping.values()):
            raise InputError(
                f'{path} must map class names to group names: {{"cat": "animal", ...}}'
            )
    missing = [name for name in classes if name not in mapping]
    extra = [name for name in mapping if name not in classes]
    if missing or extra:
        raise InputError(
            f"groups {config.groups} do not fit the classes: without a group: "
            f"{', '.join(missing) or 'none'}; unknown: {', '.join(extra) or 'none'}"
        )
    labels = tuple(sorted(set(mapping.values())))
    if len(labels) < 2:
        raise InputError(f"groups {config.groups} put every class into one group; 2 are needed")
    return torch.tensor([labels.index(mapping[name]) for name in classes]), labels
