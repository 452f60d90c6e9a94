"""LeNet, cut behind the first pooling; the decoder is the softmax of the loss alone."""

from __future__ import annotations

from torch import nn

from complexnn.config import InputError
from complexnn.networks.kit import REAL, Kit
from complexnn.networks.topology import Topology


def _pooled(size: tuple[int, int], times: int) -> tuple[int, int]:
    height, width = size[0] >> times, size[1] >> times
    if min(height, width) < 1:
        raise InputError(
            f"images of {size[0]}x{size[1]} are too small for {times} poolings: "
            "take larger ones, or --resize them"
        )
    return height, width


def lenet(server: Kit, num_classes: int, in_channels: int, size: tuple[int, int]) -> Topology:
    """The authors' wide LeNet: 5x5 convolutions with 32, 64 and 128 channels, one linear layer.

    Deviation: plain 2x2 max pools and one linear layer over the last map, where the authors' code
    pads, averages over 3x3 windows and ends in 4x4 and 1x1 convolutions for 32x32 images only.
    """
    height, width = _pooled(size, 3)
    device = REAL
    return Topology(
        encoder=nn.Sequential(
            device.conv(in_channels, 32, 5, padding=2, bias=True), device.act(), device.max_pool(2)
        ),
        processing=nn.Sequential(
            server.conv(32, 64, 5, padding=2, bias=True),
            server.act(),
            server.max_pool(2),
            server.conv(64, 128, 5, padding=2, bias=True),
            server.act(),
            server.max_pool(2),
            server.flatten(),
            server.linear(128 * height * width, num_classes),
        ),
        decoder=nn.Identity(),
        released=(32, *_pooled(size, 1)),
        answer=(num_classes,),
    )
