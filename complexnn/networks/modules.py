"""Small modules around the split: normalisation, generator, the local control, the critic."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from complexnn.networks.kit import REAL
from complexnn.networks.resnet import BasicBlock
from complexnn.networks.topology import Topology


class Normalise(nn.Module):
    """Pixels in [0, 1] to zero mean and unit deviation, per channel.

    Inside the encoder, so that victim and attackers agree on what a pixel is.
    """

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        return (pixels - self.mean) / self.std


def generator(channels: int, width: int, *, relu_end: bool) -> nn.Sequential:
    """The extra network at the encoder's end, after the authors' later code.

    A 3x3 convolution, a residual block and a 1x1 convolution, each with its norm. It ends without
    ReLU, so that features are signed; ``relu_end`` adds one, which gives the angle away.

    Deviation: its convolutions outside the block start near the identity, so that a short training
    does not first have to find out how to pass the encoder's features on.
    """
    layers = [
        REAL.conv(channels, width, 3, padding=1, bias=False),
        REAL.norm(width),
        REAL.act(),
        BasicBlock(REAL, width, width),
        REAL.conv(width, channels, 1, bias=False),
        REAL.norm(channels),
    ]
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            layer.weight.data.add_(nn.init.dirac_(torch.empty_like(layer.weight)))
    return nn.Sequential(*layers, *([nn.ReLU()] if relu_end else []))


class LocalServer(nn.Sequential):
    """The control without a server: average pooling and one 1x1 convolution to the same shape; or,
    of a topology that is ``dense``, any linear map."""

    def __init__(self, whole: Topology) -> None:
        (channels, *size), answer = whole.released, whole.answer
        if whole.dense:
            numbers = channels * size[0] * size[1]
            super().__init__(nn.Flatten(), nn.Linear(numbers, answer[0]))
            return
        layers = [nn.AdaptiveAvgPool2d(answer[1:] or (1, 1)), nn.Conv2d(channels, answer[0], 1)]
        super().__init__(*layers, *([] if answer[1:] else [nn.Flatten()]))


class Critic(nn.Module):
    """D(a): how much a feature map looks like one that was rotated back with the right key.

    Convolutions of stride 2 with leaky ReLUs down to about 4x4, a global mean, a linear score. No
    batch norm: the gradient penalty is a statement about single samples.

    Shape: ``(B, C, H, W) -> (B,)``.
    """

    def __init__(self, channels: int, size: tuple[int, int], width: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        side, previous = min(size), channels
        while side > 4 or not layers:
            layers += [nn.Conv2d(previous, width, 3, 2, 1), nn.LeakyReLU(0.2)]
            side, previous, width = -(-side // 2), width, min(2 * width, 128)
        layers += [nn.Conv2d(previous, previous, 3, 1, 1), nn.LeakyReLU(0.2)]
        self.features = nn.Sequential(*layers)
        self.score = nn.Linear(previous, 1)
        self.to(memory_format=torch.channels_last)

    def forward(self, feature: Tensor) -> Tensor:
        return self.score(self.features(feature).mean(dim=(2, 3))).squeeze(1)
