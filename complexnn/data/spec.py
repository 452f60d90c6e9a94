"""What is known of a data set before it is read, and what its reader returns."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from complexnn.config import DataConfig
from complexnn.data.image_files import ImageFiles
from complexnn.data.images import Augmentation


@dataclass(frozen=True)
class Raw:
    """What a reader returns: all pixels, not yet grouped, limited or split."""

    train: Tensor | ImageFiles
    train_classes: Tensor
    test: Tensor | ImageFiles
    test_classes: Tensor
    classes: tuple[str, ...]
    validation: Tensor | ImageFiles | None = None  # None: carved from the training images
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
    # For plans, before anything is read:
    count: int = 0  # training images
    test_count: int = 0  # above 0: the set may also lie as a folder of images
    shape: tuple[int, int, int] = (3, 224, 224)
    labels: int = 10
    resizes: bool = False  # images of any size, brought to one on request
    attributes: bool = False  # the classes are attributes, some never learned (``Raw.hidden``)
    look: Callable[[DataConfig], tuple[int, tuple[int, int, int], int]] | None = None
    """Training images, shape and labels where they depend on the files; None: as above."""
    place: str = ""  # of the files in data_dir; empty: part of an installed library
    installed: Path | None = None  # where a system's package puts them instead
    download: int = 0  # megabytes, if the files are not there; 0: they cannot be downloaded
