"""What runs in the revised network beside the layers of :mod:`complexnn.rotation`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from complexnn.networks.revise.call import RevisionError
from complexnn.rotation import functional as cF


class PerPart(nn.Module):
    """A linear layer of an ordinary network, applied to every part."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        name = type(layer).__name__
        digits = [int(d) for d in "123" if f"{d}d" in name]  # axes of positions of Conv2d, ...
        self.positions = 2 if isinstance(layer, nn.PixelShuffle) else next(iter(digits), None)

    def forward(self, x: Tensor) -> Tensor:
        # With an axis less, torch takes a batch for the channels of one sample.
        if self.positions is not None and x.dim() != 3 + self.positions:
            raise RevisionError(
                f"{type(self.layer).__name__} needs features (B, d, C, ...) with {self.positions} "
                f"axes of positions, got {tuple(x.shape)}"
            )
        return cF.per_part(self.layer, x)


def size_of(x: Tensor, place: int) -> int:
    return x.shape[place]


def sum_of(x: Tensor, y: Tensor) -> Tensor:
    """x + y, of features with the same number of axes: others would be lined up by their last."""
    return x + _like(x, y)


def difference_of(x: Tensor, y: Tensor) -> Tensor:
    return x - _like(x, y)


def _like(x: Tensor, y: Tensor) -> Tensor:
    if x.dim() != y.dim():
        raise RevisionError(
            f"a sum of features with {x.dim() - 1} and {y.dim() - 1} axes lines parts up with "
            "channels; use keepdim=True"
        )
    return y


def concatenated(features: list[Tensor], axis: int) -> Tensor:
    place = axis + features[0].dim() if axis < 0 else axis
    if place < 2:
        raise RevisionError("concatenates along the batch; use dim=1")
    return torch.cat(features, place)


def mean_over(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    """The mean over positions, which stand behind samples, parts and channels."""
    if any((a + x.dim() if a < 0 else a) < 3 for a in axes):
        raise RevisionError("averages over channels or samples; average over positions")
    return torch.mean(x, axes, keep)


def padded(x: Tensor, pad: list[int], mode: str) -> Tensor:
    if len(pad) > 2 * (x.dim() - 2):
        raise RevisionError("pads the batch; pad channels and positions")
    return cF.per_part(lambda part: F.pad(part, list(pad), mode), x)
