"""Which modules of an ordinary network have a rotation-equivariant form: one row a kind."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from torch import Tensor, nn

from complexnn.networks.revise.call import Activation, RevisionError
from complexnn.networks.revise.operations import PerPart
from complexnn.rotation import layers


@dataclass(frozen=True)
class Layer:
    """A module of the plain network that is not opened."""

    module: nn.Module
    path: str
    activation: Activation

    def refuse(self, reason: str, instead: str) -> RevisionError:
        return RevisionError(f"{self.path} ({type(self.module).__name__}): {reason}; {instead}")


Rule = Callable[[Layer], nn.Module]


def revised_layer(layer: Layer) -> nn.Module:
    """The equivariant form of a layer, with its weights copied.

    Raises:
        RevisionError: saying which layer has none, why, and what to use instead.
        ValueError: of the new layer's constructor.
    """
    for kind in type(layer.module).__mro__:  # a subclass without a row of its own has its parent's
        if kind in RULES:
            return RULES[kind](layer)
    raise layer.refuse(
        "no equivariant form is known",
        "build it from convolutions, linear layers, ReLU, BatchNorm, pools and sums",
    )


# -------------------------------------------------------------------------------------- rules


def _convolution(layer: Layer) -> nn.Module:
    """The same geometry and weights, without bias."""
    plain = layer.module
    transposed = {"output_padding": plain.output_padding} if plain.transposed else {}
    bare = type(plain)(
        plain.in_channels, plain.out_channels, plain.kernel_size, plain.stride, plain.padding,
        dilation=plain.dilation, groups=plain.groups, bias=False, padding_mode=plain.padding_mode,
        **transposed,
    )  # fmt: skip
    return PerPart(_with_weight(bare, plain.weight))


def _linear(layer: Layer) -> nn.Module:
    bare = layers.Linear(layer.module.in_features, layer.module.out_features)
    return _with_weight(bare, layer.module.weight)


def _batch_norm(layer: Layer) -> nn.Module:
    plain = layer.module
    if not plain.track_running_stats:
        raise layer.refuse(
            "uses the batch's statistics in eval mode, so answers depend on their neighbours",
            "use track_running_stats=True",
        )
    # None is a cumulative average in torch, which the equivariant norm does not keep.
    momentum = 0.1 if plain.momentum is None else plain.momentum
    norm = layers.BatchNorm(plain.num_features, eps=plain.eps, momentum=momentum)
    norm.to(plain.running_var)
    if plain.affine:
        _with_weight(norm, plain.weight)
    # E[x²] = σ² + μ²: what the plain norm has seen, before its mean was taken off.
    norm.running_mean_square.copy_(plain.running_var + plain.running_mean.square())
    return norm


def _max_pool(layer: Layer) -> nn.Module:
    plain = layer.module
    if plain.dilation not in (1, (1, 1)):
        raise layer.refuse("is dilated", "use a plain pool")
    if plain.return_indices:
        raise layer.refuse("returns indices, one per part", "leave them out")
    return layers.MaxPool2d(
        plain.kernel_size, plain.stride, plain.padding, ceil_mode=plain.ceil_mode
    )


def _flatten(layer: Layer) -> nn.Module:
    if (layer.module.start_dim, layer.module.end_dim) != (1, -1):
        raise layer.refuse("flattens other axes than channels and positions", "use (1, -1)")
    return layers.Flatten()


def _of_every_part(layer: Layer) -> nn.Module:
    """A layer that is linear as it is."""
    return PerPart(copy.deepcopy(layer.module))


def _refused(reason: str, instead: str) -> Rule:
    def rule(layer: Layer) -> NoReturn:
        raise layer.refuse(reason, instead)

    return rule


def _with_weight(layer: nn.Module, weight: Tensor) -> nn.Module:
    layer.weight = nn.Parameter(weight.detach().clone(), requires_grad=weight.requires_grad)
    return layer


# -------------------------------------------------------------------------------------- table

_TABLE: tuple[tuple[tuple[type[nn.Module], ...], Rule], ...] = (
    ((nn.Conv1d, nn.Conv2d, nn.Conv3d), _convolution),
    ((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), _convolution),
    ((nn.Linear,), _linear),
    ((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), _batch_norm),
    ((nn.ReLU,), lambda layer: layer.activation(None)),
    ((nn.ReLU6,), lambda layer: layer.activation(6.0)),
    ((nn.MaxPool2d,), _max_pool),
    ((nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d), _of_every_part),
    ((nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d), _of_every_part),
    ((nn.Upsample, nn.PixelShuffle), _of_every_part),
    ((nn.ZeroPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d), _of_every_part),
    ((nn.Dropout,), lambda layer: layers.Dropout(layer.module.p)),
    ((nn.Dropout2d,), lambda layer: layers.Dropout(layer.module.p, whole_channels=True)),
    ((nn.Flatten,), _flatten),
    ((nn.Identity,), lambda layer: nn.Identity()),
    (
        (nn.Softmax, nn.Softmax2d, nn.LogSoftmax),
        _refused("compares signed values", "do it in the decoder"),
    ),
    (
        (nn.Sigmoid, nn.Tanh, nn.Hardsigmoid, nn.Hardswish),
        _refused("acts on each part alone", "use ReLU"),
    ),
    (
        (nn.GELU, nn.SiLU, nn.ELU, nn.LeakyReLU, nn.PReLU),
        _refused("acts on each part alone", "use ReLU"),
    ),
    (
        (nn.LayerNorm, nn.GroupNorm),
        _refused("subtracts a mean and adds a shift", "use BatchNorm"),
    ),
    ((nn.InstanceNorm1d, nn.InstanceNorm2d), _refused("subtracts a mean", "use BatchNorm")),
    (
        (nn.MultiheadAttention,),
        _refused("weighs features by a softmax of their products", "use convolutions"),
    ),
    ((nn.Embedding,), _refused("looks indices up", "move it to the encoder")),
)
RULES = {kind: rule for kinds, rule in _TABLE for kind in kinds}
