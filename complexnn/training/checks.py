"""What a training needs, checked before its first step: images that fill groups, and memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from complexnn.config import InputError, NetConfig, TrainConfig
from complexnn.data.images import Dataset
from complexnn.networks.costs import dissect
from complexnn.rotation import functional as cF


def check_groups(data: Dataset, config: TrainConfig) -> None:
    """Refuse groups that some batch could not fill, or some process's share of it.

    Raises:
        InputError: as :func:`check_sizes`.
    """
    count = cF.processes()
    share = "batch" if count == 1 else f"share of each of {count} processes in a batch"
    sizes = {
        share: min(config.batch_size, len(data.train)) // count,
        "validation set": len(data.validation),
        "test set": len(data.test),
    }
    check_sizes(config.net, sizes)


def check_sizes(config: NetConfig, sizes: Mapping[str, int]) -> None:
    """Refuse batches and sets, by name, that are smaller than a group.

    Raises:
        InputError: says which one, and how many images are needed.
    """
    dim = config.dim if config.kind == "complex" else 1
    for name, size in sizes.items():
        if size < dim:
            more = "images" if name.endswith("set") else "(--batch-size, training images)"
            raise InputError(
                f"groups of {dim} need at least {dim} images, the {name} has {size}: "
                f"lower --dim, or give more {more}"
            )


def check_memory(config: TrainConfig, device: torch.device) -> None:
    """Refuse a training that cannot fit into memory. A run takes more than :func:`memory_needed`,
    so what passes may still fail.

    Raises:
        InputError: says how much is needed and how much there is.
    """
    free, images = memory_free(device), config.batch_size // cF.processes()
    needed = memory_needed(config, images)
    if free is not None and needed > free:
        height, width = config.net.image_size
        raise InputError(
            f"steps of {images} images of {height}x{width} need more than {needed / 1e9:,.0f} GB "
            f"of memory, and {free / 1e9:,.1f} GB are free: lower --batch-size or --resize"
        )


def memory_needed(config: TrainConfig, images: int) -> float:
    """Bytes that a step of ``images`` images takes at least: weights with gradient and moments, and
    what the batch leaves behind in convolutions and linear layers."""
    counted = dissect(config.net)
    number = 4 if config.precision == "fp32" else 2  # bytes under autocast
    moments = {"adamw": 2, "sgd": 1}[config.optimizer]
    weights = 4 * (2 + moments) * sum(counted.parameters.values())
    return weights + number * images * sum(counted.activations.values())


def memory_free(device: torch.device) -> float | None:
    """Bytes that a run can have on ``device``; None where that is not known."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu":
        return None
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        (available,) = (line.split()[1] for line in lines if line.startswith("MemAvailable:"))
        free = 1024.0 * int(available)
    except (OSError, ValueError):
        return None  # no Linux
    try:
        return min(free, float(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):
        return free  # no container, or one without a bound
