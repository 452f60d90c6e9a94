"""Fashion-MNIST: Debian's package if it is installed, else torchvision's files."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from complexnn.config import DataConfig, InputError
from complexnn.data.downloads import read_or_download
from complexnn.data.groupings import FASHION_KINDS
from complexnn.data.images import Augmentation
from complexnn.data.spec import Raw, Spec

DEBIAN = Path("/usr/share/datasets/fashion-mnist")


def read_idx(path: Path, dims: int) -> Tensor:
    """Read a gzipped IDX file of bytes (LeCun's format): big-endian sizes, then the data.

    torchvision's reader takes no compressed file, and no buffer.

    Raises:
        InputError: a file that is not there, or was cut anywhere.
    """
    start = 4 * (dims + 1)
    try:
        with gzip.open(path) as file:
            data = file.read()
        magic, *shape = np.frombuffer(data[:start], ">i4", dims + 1).tolist()
        # The magic number: 8 means bytes, and the last byte tells the axes.
        if magic != 0x0800 + dims or len(data) != start + math.prod(shape):
            raise ValueError("its length is not what its head says")
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise InputError(
            f"{path} is not a complete IDX file ({error}); delete it and install it again"
        ) from error
    return torch.from_numpy(np.frombuffer(data, np.uint8, offset=start).copy()).view(*shape)


def read_fashion_mnist(config: DataConfig) -> Raw:
    """The official split, from whichever of the two places holds it."""
    if DEBIAN.is_dir():
        train, train_classes, test, test_classes = (
            read_idx(DEBIAN / f"{part}-{what}-idx{dims}-ubyte.gz", dims)
            for part in ("train", "t10k")
            for what, dims in (("images", 3), ("labels", 1))
        )
    else:
        from torchvision.datasets import FashionMNIST

        sets = read_or_download(FashionMNIST, config.data_dir)
        (train, train_classes), (test, test_classes) = ((s.data, s.targets) for s in sets)
    return Raw(
        train.unsqueeze(1), train_classes.long(), test.unsqueeze(1), test_classes.long(),
        tuple(FASHION_KINDS),
    )  # fmt: skip


FASHION_MNIST = Spec(
    read_fashion_mnist, (0.2860,), (0.3530,), Augmentation(flip=True, padding=2),
    {"kinds": FASHION_KINDS},
    count=60_000, shape=(1, 28, 28), place="FashionMNIST/raw", installed=DEBIAN, download=31,
)  # fmt: skip
