"""The critic that tells features rotated back by the right key from others."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Critic(nn.Module):
    """D(a): how much a feature map looks like one that was rotated back with the right key.

    Convolutions of stride 2 with leaky ReLUs of slope 0.2 (DCGAN, Radford et al. 2016), down to
    about 4x4; a global mean; a linear score. No batch norm: the gradient penalty is a statement
    about single samples (Gulrajani et al. 2017).

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
