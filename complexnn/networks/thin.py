"""A thin device and a deep server: what is released is small, and the server is worth its work."""

from __future__ import annotations

from torch import Tensor, nn

from complexnn.networks.kit import REAL, Kit
from complexnn.networks.resnet import BasicBlock
from complexnn.networks.topology import Topology


class Beside(nn.Module):
    """The sum of what two modules make of the same features."""

    def __init__(self, one: nn.Module, other: nn.Module) -> None:
        super().__init__()
        self.one, self.other = one, other

    def forward(self, x: Tensor) -> Tensor:
        return self.one(x) + self.other(x)


def thin(
    server: Kit,
    num_classes: int,
    in_channels: int,
    size: tuple[int, int],
    *,
    channels: int,
    linear_path: bool = False,
) -> Topology:
    """Two strided convolutions on the device, a ResNet of three blocks on the server.

    Not in the paper. A part is ``channels`` maps of a quarter of the image's sides: 64 to 1,024
    numbers at 32x32, so that a group, or a group and its Gaussian decoys, can have more parts than
    a part has numbers.

    ``linear_path`` puts a fully connected layer beside the ResNet: any linear map of the released
    features, which a ResNet that averages over its last map does not contain.
    """
    device = REAL
    height, width = (-(-side // 4) for side in size)  # two strides of 2 with padding 1 round up
    encoder = nn.Sequential(
        device.conv(in_channels, 16, 3, stride=2, padding=1, bias=False),
        device.norm(16),
        device.act(),
        device.conv(16, channels, 3, stride=2, padding=1, bias=True),
    )
    processing = nn.Sequential(
        server.conv(channels, 64, 3, padding=1, bias=False),
        server.norm_act(64),
        BasicBlock(server, 64, 64),
        BasicBlock(server, 64, 128, stride=2),
        BasicBlock(server, 128, 128),
        server.global_pool(),
        server.flatten(),
    )
    if linear_path:
        path = nn.Sequential(server.flatten(), server.linear(channels * height * width, 128))
        processing = Beside(processing, path)
    return Topology(
        encoder=encoder,
        processing=processing,
        decoder=nn.Sequential(device.act(), device.linear(128, num_classes)),
        released=(channels, height, width),
        answer=(128,),
        dense=True,
    )
