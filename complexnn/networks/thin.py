"""A thin device and a deep server: what is released is small, and the server is worth its work.

Not in the paper. A part has 64 to 1,024 numbers at 32x32 pixels, so that a group, or a group and
its Gaussian decoys, can have more parts than a part has numbers.
"""

from __future__ import annotations

from torch import nn

from complexnn.networks.kit import REAL, Kit
from complexnn.networks.resnet import BasicBlock
from complexnn.networks.topology import Topology


def thin(
    server: Kit, num_classes: int, in_channels: int, size: tuple[int, int], *, channels: int
) -> Topology:
    """Two strided convolutions on the device, a ResNet of three blocks on the server."""
    return _topology(
        channels,
        in_channels,
        size,
        num_classes,
        nn.Sequential(
            server.conv(channels, 64, 3, padding=1, bias=False),
            server.norm_act(64),
            BasicBlock(server, 64, 64),
            BasicBlock(server, 64, 128, stride=2),
            BasicBlock(server, 128, 128),
            server.global_pool(),
            server.flatten(),
        ),
    )


def mlp(
    server: Kit, num_classes: int, in_channels: int, size: tuple[int, int], *, channels: int
) -> Topology:
    """The same device, and a server of four fully connected layers: none of them sees more numbers
    than the first, which makes :mod:`complexnn.offload` affordable."""
    channels_, height, width = _released(channels, size)
    numbers = channels_ * height * width
    return _topology(
        channels,
        in_channels,
        size,
        num_classes,
        nn.Sequential(
            server.flatten(),
            *(layer for _ in range(3) for layer in (server.linear(numbers, numbers), server.act())),
            server.linear(numbers, 128),
        ),
    )


def _released(channels: int, size: tuple[int, int]) -> tuple[int, int, int]:
    height, width = (-(-side // 4) for side in size)  # two strides of 2 with padding 1 round up
    return channels, height, width


def _topology(
    channels: int,
    in_channels: int,
    size: tuple[int, int],
    num_classes: int,
    processing: nn.Module,
) -> Topology:
    device = REAL
    return Topology(
        encoder=nn.Sequential(
            device.conv(in_channels, 16, 3, stride=2, padding=1, bias=False),
            device.norm(16),
            device.act(),
            device.conv(16, channels, 3, stride=2, padding=1, bias=True),
        ),
        processing=processing,
        decoder=nn.Sequential(device.act(), device.linear(128, num_classes)),
        released=_released(channels, size),
        answer=(128,),
        dense=True,
    )
