"""The control without a server: what a device could do by itself in the server's place."""

from __future__ import annotations

from torch import nn

from complexnn.networks.topology import Topology


class LocalServer(nn.Sequential):
    """Average pooling and one 1x1 convolution to the shape of the server's answer; in a topology
    that is ``dense``, any linear map.

    Shape: ``(B, *released) -> (B, *answer)``.
    """

    def __init__(self, whole: Topology) -> None:
        (channels, *size), answer = whole.released, whole.answer
        if whole.dense:
            numbers = channels * size[0] * size[1]
            super().__init__(nn.Flatten(), nn.Linear(numbers, answer[0]))
            return
        layers = [nn.AdaptiveAvgPool2d(answer[1:] or (1, 1)), nn.Conv2d(channels, answer[0], 1)]
        super().__init__(*layers, *([] if answer[1:] else [nn.Flatten()]))
