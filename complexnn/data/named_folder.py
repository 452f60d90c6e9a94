"""A data set that is known by name, as a folder of images instead of its official files."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from complexnn.config import DataConfig, InputError
from complexnn.data.folder import read_folder
from complexnn.data.spec import Raw, Spec

TOLERANCE = 5e-4  # of a mean or deviation of pixels in [0, 1]: re-encoded images are off by more


def named_folder(config: DataConfig, spec: Spec) -> Path | None:
    """Where a data set that may lie as ``train/<class>/*``, ``test/<class>/*`` does so; its
    official files count first."""
    if spec.test_count and not (config.data_dir / spec.place).exists():
        for folder in (config.data_dir / config.dataset, config.data_dir):
            if (folder / "train").is_dir() and (folder / "test").is_dir():
                return folder
    return None


def read_named_folder(name: str, spec: Spec, root: Path) -> Raw:
    """Images of a folder, if they can be those that the data set's name promises: by their
    classes, counts and size, and by mean and deviation of the training pixels.

    Raises:
        InputError: saying what differs.
    """
    images = read_folder(root, channels=spec.shape[0], resize=None)
    counts = [
        classes.bincount(minlength=len(images.classes)).tolist()
        for classes in (images.train_classes, images.test_classes)
    ]
    wanted = [[n // spec.labels] * spec.labels for n in (spec.count, spec.test_count)]
    if counts != wanted or images.train.shape[1:] != spec.shape:
        raise InputError(
            f"{root} is not {name}: expected {spec.labels} classes of {wanted[0][0]} training and "
            f"{wanted[1][0]} test images of {spec.shape[1]}x{spec.shape[2]}, found "
            f"{len(images.classes)} classes, {len(images.train)} and {len(images.test)} images of "
            f"{images.train.size[0]}x{images.train.size[1]}: complete it, or give --dataset folder"
        )
    train, test = images.train.decode(), images.test.decode()
    mean, std = moments(train)
    apart = max(abs(a - b) for a, b in zip(mean + std, spec.mean + spec.std, strict=True))
    if apart > TOLERANCE:
        raise InputError(
            f"{root} is not {name}: mean and deviation of its training pixels differ from the "
            f"published ones by up to {apart:.4f} (re-encoded images?): give --dataset folder"
        )
    source = f"image folder {root.name}, in its own split into training and test images"
    return Raw(
        train, images.train_classes, test, images.test_classes, images.classes, source=source
    )


def moments(pixels: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, pixels in [0, 1]: ``(N, C, H, W)`` bytes."""
    # One channel at a time: all of CIFAR-10 as floats is 0.6 GB.
    channels = [pixels[:, c].float() / 255 for c in range(pixels.shape[1])]
    return tuple(c.mean().item() for c in channels), tuple(c.std().item() for c in channels)
