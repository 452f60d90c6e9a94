"""VGG-16 and AlexNet, cut among their convolutions; for 224x224 and any size the pools allow."""

from __future__ import annotations

from torch import nn

from complexnn.config import InputError
from complexnn.networks.kit import REAL, Kit
from complexnn.networks.topology import Topology


def _classifier(channels: int, grid: int, num_classes: int, *, dropout_first: bool) -> list:
    """Two hidden layers of 4,096 units behind an average pool to a fixed grid."""
    first = nn.Linear(channels * grid * grid, 4096), nn.ReLU()
    second = nn.Linear(4096, 4096), nn.ReLU()
    hidden = (
        [nn.Dropout(), *first, nn.Dropout(), *second]
        if dropout_first
        else [*first, nn.Dropout(), *second, nn.Dropout()]
    )
    return [nn.AdaptiveAvgPool2d(grid), nn.Flatten(), *hidden, nn.Linear(4096, num_classes)]


def vgg16(server: Kit, num_classes: int, in_channels: int, size: tuple[int, int]) -> Topology:
    """VGG-16 (Simonyan and Zisserman 2015, configuration D, without norms).

    The encoder holds everything before the last map of a quarter of the image's size (56x56 of
    224x224), that is, up to the second convolution of the third stage; the server the remaining
    convolutions; the decoder the fully connected layers.
    """
    if min(size) < 32:
        raise InputError(f"vgg16 pools five times and needs images of 32x32, got {size}")
    widths = [64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool"]
    widths += [512, 512, 512, "pool", 512, 512, 512, "pool"]
    cut = 8  # before the third 256-channel convolution

    def stretch(kit: Kit, previous: int, part: list) -> list[nn.Module]:
        layers: list[nn.Module] = []
        for width in part:
            if width == "pool":
                layers.append(kit.max_pool(2))
            else:
                layers += [kit.conv(previous, width, 3, padding=1, bias=True), kit.act()]
                previous = width
        return layers

    return Topology(
        encoder=nn.Sequential(*stretch(REAL, in_channels, widths[:cut])),
        processing=nn.Sequential(*stretch(server, 256, widths[cut:])),
        decoder=nn.Sequential(*_classifier(512, 7, num_classes, dropout_first=False)),
        released=(256, size[0] // 4, size[1] // 4),
        answer=(512, size[0] // 32, size[1] // 32),
    )


def alexnet(server: Kit, num_classes: int, in_channels: int, size: tuple[int, int]) -> Topology:
    """AlexNet in the one-tower form of Krizhevsky (2014, arXiv 1404.5997).

    The encoder holds the first three convolutions, the server the other two and the last pooling,
    the decoder the fully connected layers.
    """
    if min(size) < 63:
        raise InputError(f"alexnet needs images of 63x63, got {size}")
    device = REAL
    # A convolution of 11 with stride 4 and padding 2, then two pools of 3 with stride 2.
    height, width = (((((s - 7) // 4 + 1) - 3) // 2 + 1 - 3) // 2 + 1 for s in size)
    return Topology(
        encoder=nn.Sequential(
            device.conv(in_channels, 64, 11, stride=4, padding=2, bias=True),
            device.act(),
            device.max_pool(3, 2),
            device.conv(64, 192, 5, padding=2, bias=True),
            device.act(),
            device.max_pool(3, 2),
            device.conv(192, 384, 3, padding=1, bias=True),
            device.act(),
        ),
        processing=nn.Sequential(
            server.conv(384, 256, 3, padding=1, bias=True),
            server.act(),
            server.conv(256, 256, 3, padding=1, bias=True),
            server.act(),
            server.max_pool(3, 2),
        ),
        decoder=nn.Sequential(*_classifier(256, 6, num_classes, dropout_first=True)),
        released=(384, height, width),
        answer=(256, (height - 3) // 2 + 1, (width - 3) // 2 + 1),
    )
