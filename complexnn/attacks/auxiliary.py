"""The attacker's own images: those that the victim was trained on, or fewer, or others."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from complexnn.config import DataConfig, InputError
from complexnn.config_attack import AttackConfig
from complexnn.data import datasets
from complexnn.data.images import Dataset, ImageSet
from complexnn.networks.pool import contents

# Of its images an attacker keeps these to choose among the states of its networks: the share that
# training keeps for validation, too.
SHARE = 0.1


def attacker_images(
    config: AttackConfig, victim: DataConfig, dataset: Dataset, judged: Tensor
) -> tuple[ImageSet, ImageSet]:
    """Training and validation images of the attacker that ``config`` describes.

    Args:
        config: ``auxiliary`` and ``auxiliary_limit`` say which images, and how many.
        victim: where the victim's data set lies; another one is looked for beside it.
        dataset: the victim's data set.
        judged: indices of the test images that attacks are judged on. An attacker with images that
            are held out has neither these nor copies of them.

    Raises:
        InputError: an unknown set, too few images, or none left.
    """
    if config.auxiliary is None and config.auxiliary_limit is None:
        return dataset.train, dataset.validation
    if config.auxiliary is None:
        images = dataset.train
    elif config.auxiliary == "held-out":
        rest = torch.ones(len(dataset.test), dtype=torch.bool)
        rest[judged] = False
        images = _joined(dataset.validation, dataset.test.subset(rest.nonzero().flatten()))
        copies = set(contents(dataset.test.subset(judged).decoded().pixels))
        images = images.subset(
            torch.tensor([i for i, c in enumerate(contents(images.pixels)) if c not in copies])
        )
    else:
        images = _another(config, victim, dataset)
    order = torch.randperm(len(images), generator=Generator().manual_seed(0))
    limit = config.auxiliary_limit
    if limit is not None and limit > len(images):
        raise InputError(
            f"auxiliary_limit is {limit:,}, but there are {len(images):,} images: lower it, or "
            "name another --auxiliary"
        )
    order = order[:limit]
    count = max(1, round(SHARE * len(order)))
    return images.subset(order[count:]), images.subset(order[:count])


def _joined(first: ImageSet, second: ImageSet) -> ImageSet:
    first, second = first.decoded(), second.decoded()
    return ImageSet(
        torch.cat([first.pixels, second.pixels.to(first.pixels.device)]),
        torch.cat([first.labels, second.labels]),
        torch.cat([first.classes, second.classes]),
    )


def _another(config: AttackConfig, victim: DataConfig, dataset: Dataset) -> ImageSet:
    """All training images of another set, in the form of the victim's; their labels mean nothing
    to it and are dropped."""
    channels, *size = dataset.shape
    name = config.auxiliary
    where = config.data_dir or victim.data_dir
    if name not in datasets.DATASETS:
        name, where = "folder", Path(config.auxiliary)
        if not where.is_dir():
            raise InputError(
                f"auxiliary {config.auxiliary!r} is neither held-out nor a folder nor a data set; "
                f"data sets: {', '.join(datasets.DATASETS)}"
            )
    shorter = min(size) if name in datasets.RESIZED else None
    other = DataConfig(dataset=name, data_dir=where, channels=channels, resize=shorter)
    if dataclasses.replace(other, resize=None) == dataclasses.replace(
        victim, channels=channels, resize=None, groups=None, limit_train=None
    ):
        raise InputError(
            f"auxiliary {config.auxiliary} is the victim's own data set: leave it out, or say "
            "held-out"
        )
    loaded = datasets.load(other)
    images = _joined(loaded.train, loaded.validation)
    pixels = images.pixels
    if list(pixels.shape[2:]) != size:
        scaled = [
            F.interpolate(
                p.float(), size=size, mode="bilinear", antialias=True, align_corners=False
            )
            for p in pixels.split(1024)
        ]
        pixels = torch.cat(scaled).round().clamp(0, 255).to(torch.uint8)

    def nothing(like: Tensor) -> Tensor:
        return like.new_zeros((len(pixels), *like.shape[1:]))

    return ImageSet(pixels, nothing(dataset.train.labels), nothing(dataset.train.classes))
