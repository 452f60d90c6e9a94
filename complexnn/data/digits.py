"""Digits of 8x8 pixels, part of scikit-learn: the default, since it needs no download."""

from __future__ import annotations

import numpy as np
import torch
from torch import Generator

from complexnn.config import DataConfig
from complexnn.data.groupings import PARITY
from complexnn.data.images import Augmentation
from complexnn.data.spec import Raw, Spec

SPLIT_SEED = 0  # scikit-learn has no official split: the test images are the same in every run
TEST_IMAGES = 360  # a fifth


def read_digits(config: DataConfig) -> Raw:
    """The images, their 17 levels of grey spread over bytes."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = torch.from_numpy(np.rint(bunch.images * (255 / 16)).astype(np.uint8)).unsqueeze(1)
    classes = torch.from_numpy(bunch.target).long()
    order = torch.randperm(len(classes), generator=Generator().manual_seed(SPLIT_SEED))
    test, train = order[:TEST_IMAGES], order[TEST_IMAGES:]
    return Raw(pixels[train], classes[train], pixels[test], classes[test], tuple("0123456789"))


DIGITS = Spec(
    read_digits, (0.3053,), (0.3760,), Augmentation(flip=False, padding=1), {"parity": PARITY},
    count=1437, shape=(1, 8, 8),
)  # fmt: skip
