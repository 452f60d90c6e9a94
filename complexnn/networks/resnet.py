"""ResNets for small images (He et al. 2016, section 4.2) of depth 6n + 2, without projections."""

from __future__ import annotations

from torch import Tensor, nn

from complexnn.config import Variant
from complexnn.networks.kit import REAL, Kit
from complexnn.networks.topology import Topology
from complexnn.rotation import functional as cF


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut without parameters, with the layers of a kit."""

    def __init__(self, kit: Kit, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.channels, self.stride = channels, stride
        self.conv1 = kit.conv(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.norm1 = kit.norm_act(channels)
        self.conv2 = kit.conv(channels, channels, 3, padding=1, bias=False)
        self.norm2 = kit.norm_add(channels)
        self.act2 = kit.act()

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(self.conv1(x))
        same = self.stride == 1 and x.shape[-3] == self.channels
        shortcut = x if same else cF.pad_shortcut(x, self.channels, self.stride)
        return self.act2(self.norm2(self.conv2(y), shortcut))


def resnet(
    server: Kit,
    num_classes: int,
    in_channels: int,
    size: tuple[int, int],
    *,
    depth: int,
    variant: Variant,
) -> Topology:
    """ResNet of ``depth`` 6n + 2, cut as in the paper.

    The encoder holds the stem and the n 16-channel blocks; the server the n 32-channel blocks and
    the first 64-channel block (alpha) or all 64-channel blocks but the last (beta); the decoder
    the remaining blocks, the pooling and the classifier.
    """
    n, rest = divmod(depth - 2, 6)
    if rest or n < 2:
        raise ValueError(f"depth must be 6n + 2 with n of 2 or more, got {depth}")
    device, split = REAL, {"alpha": 1, "beta": n - 1}[variant]

    stem = [
        device.conv(in_channels, 16, 3, padding=1, bias=False),
        device.norm(16),
        device.act(),
    ]
    narrow = [BasicBlock(device, 16, 16) for _ in range(n)]
    middle = [BasicBlock(server, 16 if i == 0 else 32, 32, 2 if i == 0 else 1) for i in range(n)]
    wide = [
        BasicBlock(server if i < split else device, 32 if i == 0 else 64, 64, 2 if i == 0 else 1)
        for i in range(n)
    ]
    height, width = (-(-side // 4) for side in size)  # two strides of 2 with padding 1 round up
    return Topology(
        encoder=nn.Sequential(*stem, *narrow),
        processing=nn.Sequential(*middle, *wide[:split]),
        decoder=nn.Sequential(
            *wide[split:], device.global_pool(), device.flatten(), device.linear(64, num_classes)
        ),
        released=(16, *size),
        answer=(64, height, width),
    )
