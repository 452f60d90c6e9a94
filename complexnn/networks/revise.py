"""Any ordinary network to its rotation-equivariant form, layer by layer through torch.fx."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Literal, get_args

from torch import Tensor, fx, nn

from complexnn.config import InputError, choose
from complexnn.networks.calls import (
    Activation,
    Known,
    New,
    RevisionError,
    refuse_in_place,
    revised_call,
    revised_size,
)
from complexnn.networks.trace import path_of, trace
from complexnn.rotation import functional as cF
from complexnn.rotation import layers

Gate = Literal["mean", "fixed"]


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


def revise(model: nn.Module, *, dim: int = 2, gate: Gate = "mean") -> fx.GraphModule:
    r"""The rotation-equivariant form of an ordinary network.

    The rules are those of Xiang et al. (ICLR 2020): linear layers lose their bias, ReLU becomes the
    gate, batch norm loses its centre and shift, max pooling goes by modulus, dropout has one mask
    for all parts. Sums, concatenations, average pools, interpolation and flattening stay. Weights
    are copied where the rule keeps them; a norm's mean square starts as the mean square that the
    plain norm had seen, :math:`\sigma^2 + \mu^2`. ``model`` is left as it is. Layers keep their
    paths.

    Args:
        model: a module from features ``(B, C, *)`` to features, traceable by ``torch.fx``.
        dim: number of parts d, for the scale of fixed gates.
        gate: ``mean``, each channel's mean modulus, or ``fixed``, :math:`c = \sqrt d`, which
            belongs behind norms.

    Returns:
        A module from ``(B, d, C, *)`` to the same with the plain module's output shape.

    Raises:
        RevisionError: naming every layer and call that has no equivariant form, the reason, and a
            substitute.
        InputError: an unknown gate, or no parts.
    """
    choose("gate", gate, get_args(Gate))
    if dim < 1:
        raise InputError(f"dim must be 1 or more, got {dim}")
    if fx.Tracer().is_leaf_module(model, ""):
        model = nn.Sequential(model)  # a single layer, which tracing would open
    try:
        plain = model.graph if _is_traced(model) else trace(model)[0]
    except InputError as error:
        raise RevisionError(str(error)) from error
    return _Revision(model, plain, _gate(dim, gate)).run().train(model.training)


def _is_traced(model: nn.Module) -> bool:
    """Whether ``model`` has a graph of leaf layers: its calls still know their modules, which
    tracing it again would forget."""
    tracer = fx.Tracer()
    return isinstance(model, fx.GraphModule) and all(
        tracer.is_leaf_module(model.get_submodule(n.target), n.target)
        for n in model.graph.nodes
        if n.op == "call_module"
    )


class _Revision:
    """The plain graph, and what has been made of it so far."""

    def __init__(self, model: nn.Module, plain: fx.Graph, activation: Activation) -> None:
        self.model, self.plain, self.activation = model, plain, activation
        self.graph, self.known = fx.Graph(), Known()
        self.values: dict[fx.Node, fx.Node] = {}  # plain to revised
        self.modules: dict[str, nn.Module] = {}  # by their paths
        self.obstacles: list[str] = []
        calls = [n.target for n in plain.nodes if n.op == "call_module"]
        self.taken = {p.rsplit(".", i)[0] for p in calls for i in range(p.count(".") + 1)}

    def run(self) -> fx.GraphModule:
        for node in self.plain.nodes:
            try:
                self._revise(node)
            except RevisionError as error:  # go on, to name the others, too
                self.obstacles.append(str(error))
                self.known.features.add(node)
                self.values[node] = next(iter(self.graph.nodes), None)
        found = list(dict.fromkeys(self.obstacles))
        if len(found) > 1:
            raise RevisionError("\n- ".join([f"{len(found)} obstacles:", *found]))
        if found:
            raise RevisionError(found[0])
        return fx.GraphModule(self.modules, self.graph, type(self.model).__name__)

    def _revise(self, node: fx.Node) -> None:
        known = self.known
        if node.op == "placeholder":
            if known.features:
                raise RevisionError(f"{node.name}: a second input; one can be revised")
            known.features.add(node)
            self.values[node] = self.graph.placeholder(node.name)
        elif node.op == "output":
            if node.args[0] not in known.features:
                raise RevisionError("the result is not one feature; return one tensor")
            self.graph.output(self.values[node.args[0]])
        elif node.op == "get_attr":
            if node.target.rpartition(".")[2] != "training":
                raise RevisionError(
                    f"{node.target}: a stored tensor enters the computation, which a rotation of "
                    "the features would not rotate; leave it out or move it to the device's side"
                )
            known.modes.add(node)
        elif node.op == "call_module":
            self._call_layer(node)
        else:
            self._call(node)

    def _call_layer(self, node: fx.Node) -> None:
        path, layer = node.target, self.model.get_submodule(node.target)
        alone = len(node.args) == 1 and not node.kwargs and node.args[0] in self.known.features
        _refuse_if(not alone, path, layer, "takes more than one feature", "pass one feature")
        refuse_in_place(node, layer)
        if path not in self.modules:  # a layer that is called twice stays one layer
            try:
                self.modules[path] = _revise_layer(layer, path, self.activation)
            except ValueError as error:  # of a constructor, such as a dropout of everything
                if isinstance(error, RevisionError):
                    raise
                raise RevisionError(f"{path} ({type(layer).__name__}): {error}") from error
        self.values[node] = self.graph.call_module(path, (self.values[node.args[0]],))
        self.known.features.add(node)

    def _call(self, node: fx.Node) -> None:
        """A function or method."""
        size = revised_size(node, self.known)
        if size is not None:
            self._put(node, size)
            return
        features = [n for n in node.all_input_nodes if n in self.known.features]
        if not features:
            raise RevisionError(
                f"{', '.join(filter(None, (path_of(node), node.name)))}: makes a tensor that is no "
                "feature; leave it out or move it to the device's side"
            )
        refuse_in_place(node, None)
        new = revised_call(node, self.known, self.activation)
        if isinstance(new, nn.Module):
            path = f"{path_of(node)}.{node.name}".lstrip(".")
            while path in self.taken:
                path += "_call"
            self.taken.add(path)
            self.modules[path] = new
            self.values[node] = self.graph.call_module(path, (self.values[features[0]],))
        else:
            self._put(node, new)
        self.known.features.add(node)

    def _put(self, node: fx.Node, new: New) -> None:
        function, *given = new
        args, kwargs = fx.node.map_arg([*given, {}][:2], self.values.__getitem__)
        self.values[node] = self.graph.call_function(function, args, kwargs)


def _gate(dim: int, gate: Gate) -> Activation:
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
        _refuse_if(
            layer.return_indices, path, layer, "returns indices, one per part", "leave them out"
        )
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
        return PerPart(copy.deepcopy(layer))
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
