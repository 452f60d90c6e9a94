"""Data sets as pixels on the compute device: specs, splits and whole-batch augmentation."""

from __future__ import annotations

import dataclasses
import gzip
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from complexnn.config import DataConfig, InputError, choose
from complexnn.cub200 import read_cub200
from complexnn.folder import FolderSource, read_folder

SPLIT_SEED = 0  # validation images, subsets and digits' test images are the same in every run
VALIDATION_SHARE = 0.1
MEMORY_LIMIT = 2 << 30  # bytes of pixels per split; larger sets are decoded on the fly
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")


@dataclass(frozen=True)
class Batch:
    """Images in [0, 1] with the label that the victim learns and the class that is hidden."""

    images: Tensor  # (B, C, H, W) float32
    labels: Tensor  # (B,) int64
    classes: Tensor  # (B,) int64; the labels themselves where nothing is hidden


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


class ImageSet:
    """Images with labels, in memory or decoded on the fly by a DataLoader."""

    def __init__(
        self,
        pixels: Tensor | FolderSource,
        classes: Tensor,
        label_of: Tensor | None,
        *,
        workers: int = 0,
    ) -> None:
        self.pixels, self.classes, self.label_of, self.workers = pixels, classes, label_of, workers

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def labels(self) -> Tensor:
        """What the victim learns: the class, or the group that it belongs to."""
        return self.classes if self.label_of is None else self.label_of[self.classes]

    def subset(self, index: Tensor) -> ImageSet:
        """The images at ``index``, in that order."""
        pixels = self.pixels
        chosen = pixels[index] if isinstance(pixels, Tensor) else pixels.subset(index)
        return ImageSet(chosen, self.classes[index], self.label_of, workers=self.workers)

    def to(self, device: torch.device) -> ImageSet:
        """Move pixels in memory to ``device``; images on disk stay there."""
        pixels = self.pixels.to(device) if isinstance(self.pixels, Tensor) else self.pixels
        return ImageSet(pixels, self.classes, self.label_of, workers=self.workers)

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

    def fetch(self, chunks: Sequence[Tensor], device: torch.device) -> Iterator[Batch]:
        """The batches with these indices."""
        labels = self.labels
        for index, pixels in self._chunks(chunks):
            images = pixels.to(device, non_blocking=True).float().div_(255)
            yield Batch(images, labels[index].to(device), self.classes[index].to(device))

    def steps(self, size: int) -> int:
        """Batches in a shuffled pass."""
        return max(1, len(self) // size)

    def _chunks(self, chunks: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        if isinstance(self.pixels, Tensor):
            for index in chunks:
                yield index, self.pixels[index.to(self.pixels.device)]
            return
        loader = torch.utils.data.DataLoader(
            self.pixels,
            batch_sampler=[index.tolist() for index in chunks],
            num_workers=self.workers,
        )
        try:
            yield from zip(chunks, loader, strict=True)
        except InputError as error:  # a worker wraps its traceback around the message
            raise InputError(
                str(error).strip().splitlines()[-1].split("InputError: ")[-1]
            ) from None


@dataclass(frozen=True)
class Dataset:
    """Three disjoint sets of images and what is known about them."""

    name: str
    train: ImageSet
    validation: ImageSet
    test: ImageSet
    labels: tuple[str, ...]  # names of what the victim learns
    classes: tuple[str, ...]  # names of the hidden classes
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: Augmentation

    @property
    def hidden(self) -> bool:
        """Whether the victim learns less than the classes, so that there is something to infer."""
        return self.labels != self.classes

    def to(self, device: torch.device) -> Dataset:
        """The same with all pixels that are in memory on ``device``."""
        parts = {p: getattr(self, p).to(device) for p in ("train", "validation", "test")}
        return dataclasses.replace(self, **parts)

    @property
    def shape(self) -> tuple[int, int, int]:
        return tuple(self.test.pixels.shape[1:])


@dataclass(frozen=True)
class Raw:
    """What a reader returns: all pixels, not yet grouped, limited or split."""

    train: Tensor | FolderSource
    train_classes: Tensor
    test: Tensor | FolderSource
    test_classes: Tensor
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Spec:
    """A data set: how to read it, its constants, and its built-in groupings."""

    read: Callable[[DataConfig], Raw]
    mean: tuple[float, ...] | None  # of the training pixels in [0, 1]; None: measured
    std: tuple[float, ...] | None
    augmentation: Augmentation
    groups: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)


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
    """Read a gzipped IDX file of bytes (LeCun's format): big-endian sizes, then the data."""
    with gzip.open(path) as file:
        data = file.read()
    magic, *shape = np.frombuffer(data, ">i4", dims + 1)
    if magic != 0x0800 + dims or len(data) != 4 * (dims + 1) + np.prod(shape):
        raise InputError(f"{path} is not a complete IDX file; delete it and install it again")
    return torch.from_numpy(np.frombuffer(data, np.uint8, offset=4 * (dims + 1)).copy()).view(
        *map(int, shape)
    )


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


def _cifar10(config: DataConfig) -> Raw:
    from torchvision.datasets import CIFAR10

    return _cifar(CIFAR10, config.data_dir)


def _cifar100(config: DataConfig) -> Raw:
    from torchvision.datasets import CIFAR100

    return _cifar(CIFAR100, config.data_dir)


def _cifar(cls: type, root: Path) -> Raw:
    sets = _download(cls, root)
    (train, train_classes), (test, test_classes) = (
        (torch.from_numpy(s.data).movedim(-1, 1).contiguous(), torch.tensor(s.targets))
        for s in sets
    )
    return Raw(train, train_classes, test, test_classes, tuple(sets[0].classes))


def _download(cls: type, root: Path) -> list:
    """Training and test set of a torchvision class, downloaded if they are not there."""
    try:
        return [cls(root, train=train, download=True) for train in (True, False)]
    except (URLError, OSError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"{cls.__name__} is not in {root} and could not be downloaded ({reason}): put its "
            f"official files into {root}, delete any incomplete one, or give --data-dir"
        ) from error


def _folder(config: DataConfig) -> Raw:
    return Raw(*read_folder(config.data_dir, channels=config.channels, resize=config.resize))


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
    ),
    "cifar10": Spec(
        _cifar10, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), _PHOTO,
        {"kinds": dict.fromkeys(_ANIMALS, "animal") | dict.fromkeys(_VEHICLES, "vehicle")},
    ),
    "cifar100": Spec(
        _cifar100, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762), _PHOTO,
        {"superclasses": {c: name for name, row in _SUPERCLASSES.items() for c in row.split()}},
    ),
    "cub200": Spec(_cub200, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), _LARGE_PHOTO),
    "folder": Spec(_folder, None, None, _PHOTO),
}  # fmt: skip


def load(config: DataConfig, *, workers: int = 0) -> Dataset:
    """Read, group, limit and split a data set.

    Validation images are a tenth of the training images, drawn with a fixed seed.

    Raises:
        InputError: an unknown name, missing or broken files, a grouping that does not fit.
    """
    spec = DATASETS[choose("data set", config.dataset, DATASETS)]
    if config.resize is not None and config.dataset not in ("folder", "cub200"):
        raise InputError(f"resize applies to folder and cub200 only, not to {config.dataset}")
    raw = spec.read(config)
    label_of, labels = _grouping(config, spec, raw.classes)

    generator = Generator().manual_seed(SPLIT_SEED)
    order = torch.randperm(len(raw.train_classes), generator=generator)[: config.limit_train]
    held_out = max(1, round(VALIDATION_SHARE * len(order)))
    if len(order) - held_out < 2:
        raise InputError(f"{len(order)} training images are too few; at least 3 are needed")

    def images(pixels: Tensor | FolderSource, classes: Tensor) -> ImageSet:
        pixels = _with_channels(pixels, config.channels)
        return ImageSet(pixels, classes, label_of, workers=workers)

    every = images(raw.train, raw.train_classes)
    validation, train = every.subset(order[:held_out]), every.subset(order[held_out:])
    # Folders list test images class by class; queries that share a key must not be so alike.
    shuffled = torch.randperm(len(raw.test_classes), generator=generator)
    test = images(raw.test, raw.test_classes).subset(shuffled)
    train, validation, test = (_in_memory(part) for part in (train, validation, test))
    mean, std = (spec.mean, spec.std) if spec.mean else _measure(train)
    channels = test.pixels.shape[1]
    mean, std = (_per_channel(values, channels) for values in (mean, std))
    return Dataset(
        config.dataset, train, validation, test, labels, raw.classes, mean, std, spec.augmentation
    )


def _in_memory(images: ImageSet) -> ImageSet:
    """Decode images on disk now if they fit in memory."""
    if isinstance(images.pixels, Tensor) or images.pixels.decoded_bytes > MEMORY_LIMIT:
        return images
    return ImageSet(images.pixels.decode(), images.classes, images.label_of)


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
    stack = torch.cat([batch.images for batch in chosen.batches(100, torch.device("cpu"))])
    mean, std = stack.mean(dim=(0, 2, 3)), stack.std(dim=(0, 2, 3)).clamp(min=0.01)
    return tuple(round(v, 4) for v in mean.tolist()), tuple(round(v, 4) for v in std.tolist())


def _grouping(
    config: DataConfig, spec: Spec, classes: tuple[str, ...]
) -> tuple[Tensor | None, tuple[str, ...]]:
    """The label of each class, and the labels' names."""
    if config.groups is None:
        return None, classes
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
            mapping = json.loads(path.read_text())
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
