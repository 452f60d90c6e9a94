"""Any ordinary network to its rotation-equivariant form, layer by layer through torch.fx."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from complexnn import functional as cF
from complexnn import layers
from complexnn.config import InputError
from complexnn.networks.kit import Gate


class RevisionError(InputError):
    """A layer that has no rotation-equivariant form; names it, says why and what to use instead."""


class PerPart(nn.Module):
    """A linear layer of an ordinary network, applied to every part."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return cF.per_part(self.layer, x)


def revise(model: nn.Module, *, dim: int = 2, gate: Gate = "mean") -> fx.GraphModule:
    r"""The rotation-equivariant form of an ordinary network.

    The rules are those of Xiang et al. (ICLR 2020): linear layers lose their bias, ReLU becomes the
    gate, batch norm loses its centre and shift, max pooling goes by modulus, dropout has one mask
    for all parts. Sums, concatenations, average pools, interpolation and flattening stay. Weights
    are copied where the rule keeps them; a norm's mean square starts as the mean square that the
    plain norm had seen, :math:`\sigma^2 + \mu^2`. ``model`` is left as it is.

    Args:
        model: a module from features ``(B, C, *)`` to features, traceable by ``torch.fx``.
        dim: number of parts d, for the scale of fixed gates.
        gate: ``mean``, each channel's mean modulus, or ``fixed``, :math:`c = \sqrt d`, which
            belongs behind norms.

    Returns:
        A module from ``(B, d, C, *)`` to the same with the plain module's output shape.

    Raises:
        RevisionError: naming the layer that has no equivariant form, the reason, and a substitute.
    """
    if fx.Tracer().is_leaf_module(model, ""):
        model = nn.Sequential(model)  # a single layer, which tracing would open
    try:
        traced = fx.symbolic_trace(model)
    except Exception as error:  # the tracer passes on whatever the model's own code raised
        raise RevisionError(
            f"torch.fx cannot trace {type(model).__name__} ({error}): its forward must not branch "
            "on values or shapes"
        ) from error
    activation = _gate(dim, gate)
    graph = fx.Graph()
    modules: dict[str, nn.Module] = {}
    names: dict[str, str] = {}  # path in the plain network to name in the revised one
    values: dict[fx.Node, fx.Node] = {}
    features: set[fx.Node] = set()  # nodes that carry parts; the others are sizes and numbers
    for node in traced.graph.nodes:
        inputs = [n for n in node.all_input_nodes if n in features]
        carries = node.op == "placeholder" or bool(inputs)
        if node.op == "call_module":
            name = names.setdefault(node.target, f"{node.target.replace('.', '_')}_{len(names)}")
            if name not in modules:  # a layer that is called twice stays one layer
                layer = traced.get_submodule(node.target)
                modules[name] = _revise_layer(layer, node.target, activation)
            new = graph.call_module(name, fx.node.map_arg(node.args, values.__getitem__))
        elif node.op in ("call_function", "call_method"):
            new, carries = _revise_call(node, graph, values, features, activation, modules)
        elif node.op == "get_attr":
            raise RevisionError(
                f"{node.target}: a stored tensor enters the computation, which a rotation of the "
                "features would not rotate; leave it out or move it to the device's side"
            )
        else:
            new = graph.node_copy(node, values.__getitem__)
        values[node] = new
        if carries:
            features.add(node)
    revised = fx.GraphModule(nn.ModuleDict(modules), graph)
    return revised.train(model.training)


def _gate(dim: int, gate: Gate) -> Callable[[float | None], nn.Module]:
    """Constructor of the activation; its argument is the bound of a ReLU6, or None."""

    def make(bound: float | None = None) -> nn.Module:
        plain = layers.MeanGate() if gate == "mean" else layers.SoftGate(dim**0.5)
        # A bound of 6 for one part is one of 6 sqrt(d) for the modulus of d.
        return plain if bound is None else nn.Sequential(plain, layers.Bound(bound * dim**0.5))

    return make


# --------------------------------------------------------------------------------- modules

_PER_PART = (
    nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
    nn.Upsample, nn.ZeroPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d, nn.PixelShuffle,
)  # fmt: skip
_CONVOLUTIONS = (
    nn.Conv1d, nn.Conv2d, nn.Conv3d,
    nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
)  # fmt: skip
_REFUSED: tuple[tuple[tuple[type, ...], str, str], ...] = (
    ((nn.Softmax, nn.Softmax2d, nn.LogSoftmax), "compares signed values", "do it in the decoder"),
    ((nn.Sigmoid, nn.Tanh, nn.Hardsigmoid, nn.Hardswish), "acts on each part alone", "use ReLU"),
    ((nn.GELU, nn.SiLU, nn.ELU, nn.LeakyReLU, nn.PReLU), "acts on each part alone", "use ReLU"),
    ((nn.LayerNorm, nn.GroupNorm), "subtracts a mean and adds a shift", "use BatchNorm"),
    ((nn.InstanceNorm1d, nn.InstanceNorm2d), "subtracts a mean", "use BatchNorm"),
    (
        (nn.MultiheadAttention,),
        "weighs features by a softmax of their products",
        "use convolutions",
    ),
    ((nn.Embedding,), "looks indices up", "move it to the encoder"),
)


def _revise_layer(layer: nn.Module, path: str, activation: Callable) -> nn.Module:
    """The equivariant form of one leaf module, with its weights copied."""
    if isinstance(layer, _CONVOLUTIONS):
        return PerPart(_without_bias(layer))
    if isinstance(layer, nn.Linear):
        linear = layers.Linear(layer.in_features, layer.out_features)
        return _with_weight(linear, layer.weight)
    if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
        return _revise_norm(layer, path)
    if isinstance(layer, nn.ReLU6):
        return activation(6.0)
    if isinstance(layer, nn.ReLU):
        return activation()
    if isinstance(layer, nn.MaxPool2d):
        _refuse_if(layer.dilation not in (1, (1, 1)), path, layer, "is dilated", "use a plain pool")
        return layers.MaxPool2d(
            layer.kernel_size, layer.stride, layer.padding, ceil_mode=layer.ceil_mode
        )
    if isinstance(layer, (nn.Dropout, nn.Dropout2d)):
        return layers.Dropout(layer.p, whole_channels=isinstance(layer, nn.Dropout2d))
    if isinstance(layer, nn.Flatten):
        odd = (layer.start_dim, layer.end_dim) != (1, -1)
        _refuse_if(
            odd, path, layer, "flattens other axes than channels and positions", "use (1, -1)"
        )
        return layers.Flatten()
    if isinstance(layer, nn.Identity):
        return nn.Identity()
    if isinstance(layer, _PER_PART):
        return PerPart(layer)
    for types, reason, instead in _REFUSED:
        _refuse_if(isinstance(layer, types), path, layer, reason, instead)
    raise RevisionError(
        f"{path} ({type(layer).__name__}): no equivariant form is known; build it from "
        "convolutions, linear layers, ReLU, BatchNorm, pools and sums"
    )


def _refuse_if(wrong: bool, path: str, layer: object, reason: str, instead: str) -> None:
    if wrong:
        raise RevisionError(f"{path} ({type(layer).__name__}): {reason}; {instead}")


def _without_bias(layer: nn.Module) -> nn.Module:
    """A copy of a convolution with the same geometry and weights, and no bias."""
    transposed = {"output_padding": layer.output_padding} if layer.transposed else {}
    copy = type(layer)(
        layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding,
        dilation=layer.dilation, groups=layer.groups, bias=False, padding_mode=layer.padding_mode,
        **transposed,
    )  # fmt: skip
    return _with_weight(copy, layer.weight)


def _with_weight(layer: nn.Module, weight: Tensor) -> nn.Module:
    layer.weight = nn.Parameter(weight.detach().clone(), requires_grad=weight.requires_grad)
    return layer


def _revise_norm(layer: nn.modules.batchnorm._BatchNorm, path: str) -> layers.BatchNorm:
    _refuse_if(
        not layer.track_running_stats, path, layer,
        "uses the batch's statistics in eval mode, so answers depend on their neighbours",
        "use track_running_stats=True",
    )  # fmt: skip
    momentum = 0.1 if layer.momentum is None else layer.momentum
    norm = layers.BatchNorm(layer.num_features, eps=layer.eps, momentum=momentum)
    norm.to(layer.running_var)
    if layer.affine:
        _with_weight(norm, layer.weight)
    norm.running_mean_square.copy_(layer.running_var + layer.running_mean.square())
    return norm


# --------------------------------------------------------------------------- calls in forward


def _revise_call(
    node: fx.Node,
    graph: fx.Graph,
    values: dict[fx.Node, fx.Node],
    features: set[fx.Node],
    activation: Callable,
    modules: dict[str, nn.Module],
) -> tuple[fx.Node, bool]:
    """The equivariant form of a function or method call, and whether it yields a feature."""
    name = node.target if isinstance(node.target, str) else node.target.__name__
    args = fx.node.map_arg(node.args, values.__getitem__)
    kwargs = fx.node.map_arg(node.kwargs, values.__getitem__)
    inputs = [n for n in node.all_input_nodes if n in features]

    def refuse(reason: str, instead: str) -> RevisionError:
        return RevisionError(f"{_where(node)} ({name}): {reason}; {instead}")

    def module(layer: nn.Module) -> tuple[fx.Node, bool]:
        modules[node.name] = layer
        return graph.call_module(node.name, (args[0],)), True

    if name == "getitem" and _is_shape(node.args[0], features):
        return graph.call_function(operator.getitem, (args[0], _behind_parts(node, refuse))), False
    if name == "size" and inputs and len(node.args) > 1:
        return graph.call_method("size", (args[0], _behind_parts(node, refuse))), False
    if name in ("dim", "ndimension") and inputs:
        raise refuse("asks for the number of axes, of which there is one more", "leave it out")
    if not inputs or name == "size" or node.target is getattr:
        return graph.node_copy(node, values.__getitem__), False
    if name in ("add", "iadd", "sub", "isub", "add_", "sub_"):
        if len(inputs) < 2 and not all(n in features for n in node.all_input_nodes):
            raise refuse("adds something that is no feature", "leave it out")
        if any(isinstance(a, (int, float)) and a != 0 for a in (*node.args, *node.kwargs.values())):
            raise refuse("adds a constant, which a rotation would not rotate", "leave it out")
        plain = operator.sub if "sub" in name else operator.add
        return graph.call_function(plain, args[:2]), True
    if name in ("mul", "imul", "truediv", "div", "mul_", "div_", "neg"):
        if len(inputs) > 1:
            raise refuse(
                "multiplies two features, which turns their angles into a sum",
                "use a sum or a concatenation",
            )
        if not all(isinstance(a, (int, float, fx.Node)) for a in node.args):
            raise refuse("scales by something that is no number", "use a number")
        return graph.node_copy(node, values.__getitem__), True
    if name == "cat":
        axis = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
        if axis == 0:
            raise refuse("concatenates along the batch", "use dim=1")
        if axis not in (-3, -1) and axis < 0:
            raise refuse("may concatenate along the batch", "count the axis from the front")
        return graph.call_function(torch.cat, (args[0], axis + 1 if axis > 0 else axis)), True
    if name == "flatten":
        given = [*node.args[1:], *node.kwargs.values()]
        if given not in ([1], [1, -1]):
            raise refuse("flattens other axes than channels and positions", "use flatten(x, 1)")
        return graph.call_function(torch.flatten, (args[0], 2)), True
    if name in ("view", "reshape"):
        own_batch = len(node.args) == 3 and isinstance(node.args[1], fx.Node)
        if not own_batch or node.args[2] != -1:
            raise refuse("changes the shape in a way that may mix parts", "use flatten(x, 1)")
        return graph.call_function(torch.flatten, (args[0], 2)), True
    if name in ("relu", "relu_", "relu6"):
        return module(activation(6.0 if name == "relu6" else None))
    if name == "mean":
        axes = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else None)
        axes = axes if isinstance(axes, (list, tuple)) else [axes]
        if not all(isinstance(a, int) and (a >= 2 or a in (-1, -2)) for a in axes):
            raise refuse("averages over channels or samples", "average over positions")
        moved = [a + 1 if a > 0 else a for a in axes]
        keep = node.kwargs.get("keepdim", node.args[2] if len(node.args) > 2 else False)
        return graph.call_function(torch.mean, (args[0], moved, keep)), True
    if name in ("dropout", "feature_dropout", "dropout2d"):
        p = node.kwargs.get("p", node.args[1] if len(node.args) > 1 else 0.5)
        return module(layers.Dropout(p, whole_channels=name != "dropout"))
    if name in ("max_pool2d", "boolean_dispatch"):
        given = [a for a in node.args[1:] if not isinstance(a, fx.Node)]
        options = {k: v for k, v in node.kwargs.items() if k in ("stride", "padding", "ceil_mode")}
        kernel = given[0] if given else node.kwargs["kernel_size"]
        stride = given[1] if len(given) > 1 else options.pop("stride", None)
        return module(layers.MaxPool2d(kernel, stride, **options))
    if name in _PER_PART_CALLS:
        if name == "pad" and (node.kwargs.get("value", 0) or (len(node.args) > 3 and node.args[3])):
            raise refuse("pads with a constant that is not 0", "pad with 0")
        return graph.call_function(_PER_PART_CALLS[name], args, kwargs), True
    if name in ("contiguous", "clone", "detach"):
        return graph.node_copy(node, values.__getitem__), True
    raise refuse(
        "no equivariant form is known",
        "build it from sums, concatenations, ReLU, pools and linear layers",
    )


def _is_shape(node: Any, features: set[fx.Node]) -> bool:
    """Whether a node is the shape of a feature: ``x.shape`` or ``x.size()``."""
    if not isinstance(node, fx.Node) or node.args[:1] == () or node.args[0] not in features:
        return False
    attribute = node.target is getattr and node.args[1] == "shape"
    return attribute or (node.target == "size" and len(node.args) == 1)


def _behind_parts(node: fx.Node, refuse: Callable) -> int | slice:
    """The index of ``node`` into a shape, moved by the axis of parts that stands before it."""

    def moved(index: int | None) -> int | None:
        return index + 1 if index is not None and index > 0 else index

    index = node.args[1]
    if isinstance(index, int):
        return moved(index)
    if isinstance(index, slice) and (index.start in (-2, -1) or (index.start or 0) > 0):
        return slice(moved(index.start), moved(index.stop), index.step)
    raise refuse("takes more of a shape than sizes behind the batch", "use x.shape[2:]")


def _per_part_call(function: Callable) -> Callable:
    def call(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return cF.per_part(lambda part: function(part, *args, **kwargs), x)

    call.__name__ = call.__qualname__ = f"{function.__name__}_of_every_part"
    return call


_PER_PART_CALLS = {
    name: _per_part_call(getattr(F, name))
    for name in ("avg_pool2d", "adaptive_avg_pool2d", "interpolate", "pad", "pixel_shuffle")
}


def _where(node: fx.Node) -> str:
    """The module whose forward makes a call."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [str(entry[0]) for entry in stack.values() if entry[0]]
    return f"{paths[-1]}, {node.name}" if paths else node.name
