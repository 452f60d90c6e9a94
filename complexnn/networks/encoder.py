"""What stands around an architecture's own encoder: normalisation and generator."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from complexnn.networks.kit import REAL
from complexnn.networks.resnet import BasicBlock


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
