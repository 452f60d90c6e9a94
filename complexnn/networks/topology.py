"""What an architecture is: three stretches of one network and the shapes between them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Topology:
    """A classifier cut in three, without generator and rotation."""

    encoder: nn.Module  # (B, in_channels, H, W) -> (B, *released)
    processing: nn.Module  # features of the server's kit
    decoder: nn.Module  # (B, *answer) -> (B, num_classes)
    released: tuple[int, int, int]  # (C, H, W) of the encoder's output
    answer: tuple[int, ...]  # of the processing module's output: (C, H, W) or (C,)
    dense: bool = False  # small enough for a local control that is any linear map
