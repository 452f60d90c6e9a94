"""Which modules of an ordinary network have a rotation-equivariant form: one row a kind."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from complexnn.networks.revise import operations
from complexnn.networks.revise.call import Layer
from complexnn.networks.revise.operations import Attention, PerPart
from complexnn.rotation import layers

Rule = Callable[[Layer], nn.Module | Callable]  # a layer, or a function of a feature


def revised_layer(layer: Layer) -> nn.Module | Callable:
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
        "build it from convolutions, linear layers, activations, norms, pools and sums",
    )


def axes_of(module: nn.Module) -> int | None:
    """On how many of the last axes a layer works, whichever axis the samples are on; None: it needs
    them on the first."""
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        return len(module.normalized_shape)
    if isinstance(module, nn.Linear):
        return 1
    return 0 if isinstance(module, (*_ACTIVATIONS, nn.Dropout, nn.Identity)) else None


def of_invariant(layer: Layer) -> nn.Module | Callable:
    """What no rotation changes keeps the plain layer, with its bias."""
    module = layer.module
    if isinstance(module, nn.Softmax):
        return _softmax(layer)
    if not isinstance(module, (*_ACTIVATIONS, *_ENTRIES, nn.Linear, nn.Conv1d, nn.Conv2d)):
        raise layer.refuse(
            "no form is known for a function of moduli", "use linear layers and activations"
        )
    return PerPart(copy.deepcopy(module))


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


def _flatten(layer: Layer) -> nn.Module | Callable:
    first, last = layer.module.start_dim, layer.module.end_dim
    if (first, last) == (1, -1):
        return layers.Flatten()
    if first < 1 or 0 <= last <= first:
        raise layer.refuse("flattens the axis of samples with others, or may", "use (1, -1)")

    def flatten(x: Tensor) -> Tensor:
        return x.flatten(first, last)

    return operations.folded(flatten, 0, 0)


def _layer_norm(layer: Layer) -> nn.Module:
    plain = layer.module
    kind = layers.RMSNorm if isinstance(plain, nn.RMSNorm) else layers.LayerNorm
    norm = kind(plain.normalized_shape, eps=plain.eps, affine=plain.elementwise_affine)
    return _with_weight(norm, plain.weight)


def _group_norm(layer: Layer) -> nn.Module:
    plain = layer.module
    norm = layers.GroupNorm(
        plain.num_groups, plain.num_channels, eps=plain.eps, affine=plain.affine
    )
    return _with_weight(norm, plain.weight)


def _instance_norm(layer: Layer) -> nn.Module:
    plain = layer.module
    if plain.track_running_stats:
        raise layer.refuse(
            "subtracts a stored mean in eval mode, which a rotation would not rotate",
            "use track_running_stats=False, or BatchNorm",
        )
    channels = plain.num_features
    norm = layers.GroupNorm(channels, channels, eps=plain.eps, affine=plain.affine)
    return _with_weight(norm, plain.weight)


def _attention(layer: Layer) -> nn.Module:
    plain = layer.module
    if plain.in_proj_weight is None or plain.bias_k is not None or plain.add_zero_attn:
        raise layer.refuse(
            "has keys or values of another width, or adds some of its own", "use equal widths"
        )
    new = Attention(plain.embed_dim, plain.num_heads, plain.dropout)
    new.in_proj_weight = _copied(plain.in_proj_weight)
    new.out_proj.weight = _copied(plain.out_proj.weight)
    return new


def _softmax(layer: Layer) -> Callable:
    axis = layer.module.dim
    if not axis:
        raise layer.refuse("compares samples, or may", "use dim=-1")

    def softmax(x: Tensor) -> Tensor:
        return x.softmax(axis)

    return operations.folded(softmax, 0, 0, [axis])


def _smooth(slope: str) -> Rule:
    return lambda layer: layer.gates.smooth(slope)


def _elu(layer: Layer) -> nn.Module:
    if layer.module.alpha != 1:
        raise layer.refuse("has a slope that jumps at 0", "use alpha=1")
    return layer.gates.smooth("elu")


def _of_moduli(function: Callable) -> Rule:
    return lambda layer: layer.gates.of_moduli(function)


def _of_every_part(layer: Layer) -> nn.Module:
    """A layer that is linear as it is."""
    return PerPart(copy.deepcopy(layer.module))


def _refused(reason: str, instead: str) -> Rule:
    def rule(layer: Layer) -> NoReturn:
        raise layer.refuse(reason, instead)

    return rule


def _copied(weight: Tensor) -> nn.Parameter:
    return nn.Parameter(weight.detach().clone(), requires_grad=weight.requires_grad)


def _with_weight(layer: nn.Module, weight: Tensor | None) -> nn.Module:
    layer.weight = None if weight is None else _copied(weight)
    return layer


# -------------------------------------------------------------------------------------- table

_Table = tuple[tuple[tuple[type[nn.Module], ...], Rule], ...]

FORMS: _Table = (
    ((nn.Conv1d, nn.Conv2d, nn.Conv3d), _convolution),
    ((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), _convolution),
    ((nn.Linear,), _linear),
    ((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), _batch_norm),
    ((nn.LayerNorm, nn.RMSNorm), _layer_norm),
    ((nn.GroupNorm,), _group_norm),
    ((nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d), _instance_norm),
    ((nn.MultiheadAttention,), _attention),
    ((nn.ReLU,), lambda layer: layer.gates.relu()),
    ((nn.ReLU6,), lambda layer: layer.gates.relu(6.0)),
    ((nn.LeakyReLU,), lambda layer: layer.gates.leaky(layer.module.negative_slope)),
    ((nn.PReLU,), lambda layer: layer.gates.leaky(_copied(layer.module.weight))),
    ((nn.GELU,), _smooth("gelu")),
    ((nn.SiLU,), _smooth("silu")),
    ((nn.Hardswish,), _smooth("hardswish")),
    ((nn.Mish,), _smooth("mish")),
    ((nn.ELU,), _elu),
    ((nn.Sigmoid,), _of_moduli(torch.sigmoid)),
    ((nn.Hardsigmoid,), _of_moduli(F.hardsigmoid)),
    ((nn.MaxPool2d,), _max_pool),
    ((nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d), _of_every_part),
    ((nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d), _of_every_part),
    ((nn.Upsample, nn.PixelShuffle, nn.ChannelShuffle), _of_every_part),
    ((nn.ZeroPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d), _of_every_part),
    ((nn.Dropout,), lambda layer: layers.Dropout(layer.module.p)),
    ((nn.Dropout2d,), lambda layer: layers.Dropout(layer.module.p, whole_channels=True)),
    ((nn.Flatten,), _flatten),
    ((nn.Identity,), lambda layer: nn.Identity()),
)
_REFUSED: _Table = (
    (
        (nn.Softmax, nn.Softmax2d, nn.LogSoftmax),
        _refused("compares signed values", "do it in the decoder"),
    ),
    ((nn.Tanh, nn.SELU, nn.CELU), _refused("acts on each part alone", "use ReLU or GELU")),
    (
        (nn.TransformerEncoderLayer, nn.TransformerEncoder, nn.TransformerDecoderLayer),
        _refused("has no forward that can be traced", "use MultiheadAttention and LayerNorm"),
    ),
    ((nn.Embedding,), _refused("looks indices up", "move it to the encoder")),
)
_TABLE = (*FORMS, *_REFUSED)
RULES = {kind: rule for kinds, rule in _TABLE for kind in kinds}
# Layers that act on every entry alone, but for the mean of a gate.
_ACTIVATIONS = (
    nn.ReLU, nn.ReLU6, nn.GELU, nn.SiLU, nn.Hardswish, nn.Mish, nn.ELU, nn.LeakyReLU, nn.Sigmoid,
    nn.Hardsigmoid,
)  # fmt: skip
INVARIANT = (nn.Sigmoid, nn.Hardsigmoid)  # what becomes a function of moduli
_ENTRIES = (nn.Dropout, nn.Identity, nn.Tanh)  # beside them, of invariants
