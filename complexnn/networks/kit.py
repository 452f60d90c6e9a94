"""Kits of layer constructors: each topology is written once and built real or equivariant.

A topology calls ``kit.conv``, ``kit.norm``, ... and never asks which kit it was given, so the
networks with and without rotation are the same by construction.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from complexnn.config import Weights
from complexnn.rotation import fused, layers
from complexnn.rotation.processes import processes

Gate = Literal["fixed", "mean", "mixing"]


@dataclass(frozen=True)
class Kit:
    """Layer constructors, in the argument order of ``torch.nn``.

    A topology asks for a ``bias`` where the plain network has one; the equivariant kit leaves it
    out, because no bias commutes with a rotation.
    """

    conv: Callable[..., nn.Module]  # (in, out, kernel, stride=1, padding=0, *, bias)
    linear: Callable[..., nn.Module]  # (in, out)
    norm: Callable[[int], nn.Module]  # (channels)
    act: Callable[[], nn.Module]
    norm_act: Callable[[int], nn.Module]  # (channels): the two in a row, in one module
    norm_add: Callable[[int], nn.Module]  # (channels): norm of the first argument, plus the second
    max_pool: Callable[..., nn.Module]  # (kernel, stride=kernel)
    global_pool: Callable[[], nn.Module]
    flatten: Callable[[], nn.Module]


class BatchNorm2d(nn.BatchNorm2d):
    """``torch.nn.BatchNorm2d``, with statistics over all processes in training.

    ``torch.nn.SyncBatchNorm`` does the same on GPUs only.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and processes() > 1):
            return super().forward(x)
        y, mean, variance = fused.CentredNorm.apply(x, self.weight, self.bias, self.eps)
        count = processes() * x.numel() // x.shape[1]
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
            self.num_batches_tracked.add_(1)
        return y


class BatchNormReLU(BatchNorm2d):
    """Batch normalisation and the ReLU behind it."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu_()


class BatchNormAdd(BatchNorm2d):
    """Batch normalisation and the sum with a shortcut behind it."""

    def forward(self, x: Tensor, shortcut: Tensor) -> Tensor:
        return super().forward(x).add_(shortcut)


REAL = Kit(
    conv=nn.Conv2d,
    linear=nn.Linear,
    norm=BatchNorm2d,
    act=partial(nn.ReLU, inplace=True),  # behind convolutions, norms and sums, which keep no output
    norm_act=BatchNormReLU,
    norm_add=BatchNormAdd,
    max_pool=nn.MaxPool2d,
    global_pool=lambda: nn.AdaptiveAvgPool2d(1),
    flatten=nn.Flatten,
)


def equivariant_kit(dim: int, weights: Weights, gate: Gate) -> Kit:
    r"""The server's layers for features of ``dim`` parts.

    ``gate="fixed"`` is the paper's c = 1 in ResNets. It stands behind norms that leave each *part*
    with unit mean square, :math:`\sqrt d` more modulus than the paper's, so c is
    :math:`\sqrt d` here: the same features pass. ``gate="mean"`` needs no scale.
    ``gate="mixing"``, not in the paper, lets the gates behind norms see all channels.
    """
    conv, linear = (
        (layers.Conv2d, layers.Linear)
        if weights == "real"
        else (layers.ComplexConv2d, layers.ComplexLinear)
    )

    c = None if gate == "mean" else math.sqrt(dim)
    norm_act = layers.NormMixingGate if gate == "mixing" else layers.NormGate

    def unbiased_conv(*args: int, bias: bool = False, **kwargs: int) -> nn.Module:
        return conv(*args, **kwargs)

    return Kit(
        conv=unbiased_conv,
        linear=linear,
        norm=layers.BatchNorm,
        act=layers.MeanGate if c is None else lambda: layers.SoftGate(c),
        norm_act=lambda channels: norm_act(channels, c),
        norm_add=layers.NormAdd,
        max_pool=layers.MaxPool2d,
        global_pool=lambda: layers.AdaptiveAvgPool2d(1),
        flatten=layers.Flatten,
    )
