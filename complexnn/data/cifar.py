"""CIFAR-10 and CIFAR-100, as torchvision unpacks them."""

from __future__ import annotations

import torch

from complexnn.config import DataConfig
from complexnn.data.downloads import read_or_download
from complexnn.data.groupings import CIFAR10_KINDS, SUPERCLASSES
from complexnn.data.images import Augmentation
from complexnn.data.spec import Raw, Spec

AUGMENTATION = Augmentation(flip=True, padding=4)  # of He et al. 2016, section 4.2


def read_cifar(config: DataConfig) -> Raw:
    """The official split of the one that ``config`` names."""
    from torchvision import datasets

    cls = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[config.dataset]
    sets = read_or_download(cls, config.data_dir)
    (train, train_classes), (test, test_classes) = (
        (torch.from_numpy(s.data).movedim(-1, 1).contiguous(), torch.tensor(s.targets))
        for s in sets
    )
    return Raw(train, train_classes, test, test_classes, tuple(sets[0].classes))


CIFAR10 = Spec(
    read_cifar, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), AUGMENTATION,
    {"kinds": CIFAR10_KINDS},
    count=50_000, test_count=10_000, shape=(3, 32, 32), place="cifar-10-batches-py", download=163,
)  # fmt: skip
CIFAR100 = Spec(
    read_cifar, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762), AUGMENTATION,
    {"superclasses": SUPERCLASSES},
    count=50_000, test_count=10_000, labels=100, shape=(3, 32, 32),
    place="cifar-100-python", download=161,
)  # fmt: skip
