"""The walk through a plain network's graph, which makes the revised one node by node."""

from __future__ import annotations

from typing import Literal, get_args

from torch import fx, nn

from complexnn.config import InputError, choose
from complexnn.networks.revise.call import Activation, Known, New, RevisionError, refuse_in_place
from complexnn.networks.revise.call_rules import revised_call
from complexnn.networks.revise.layer_rules import Layer, revised_layer
from complexnn.networks.revise.sizes import revised_size
from complexnn.networks.trace import path_of, trace
from complexnn.rotation import layers

Gate = Literal["mean", "fixed"]


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
    return _Walk(model, plain, _activation(dim, gate)).through().train(model.training)


def _is_traced(model: nn.Module) -> bool:
    """Whether ``model`` has a graph of leaf layers: its calls still know their modules, which
    tracing it again would forget."""
    tracer = fx.Tracer()
    return isinstance(model, fx.GraphModule) and all(
        tracer.is_leaf_module(model.get_submodule(n.target), n.target)
        for n in model.graph.nodes
        if n.op == "call_module"
    )


def _activation(dim: int, gate: Gate) -> Activation:
    """Constructor of the activation; its argument is the bound of a ReLU6, or None."""

    def make(bound: float | None) -> nn.Module:
        plain = layers.MeanGate() if gate == "mean" else layers.SoftGate(dim**0.5)
        # A bound of 6 for one part is one of 6 sqrt(d) for the modulus of d.
        return plain if bound is None else nn.Sequential(plain, layers.Bound(bound * dim**0.5))

    return make


class _Walk:
    """The plain graph, and what has been made of it so far."""

    def __init__(self, model: nn.Module, plain: fx.Graph, activation: Activation) -> None:
        self.model, self.plain, self.activation = model, plain, activation
        self.graph, self.known = fx.Graph(), Known()
        self.values: dict[fx.Node, fx.Node] = {}  # plain to revised
        self.modules: dict[str, nn.Module] = {}  # by their paths
        self.obstacles: list[str] = []
        calls = [n.target for n in plain.nodes if n.op == "call_module"]
        self.taken = {p.rsplit(".", i)[0] for p in calls for i in range(p.count(".") + 1)}

    def through(self) -> fx.GraphModule:
        """The whole revised network, or every obstacle."""
        for node in self.plain.nodes:
            try:
                self._revise(node)
            except RevisionError as error:  # go on, to name the others, too
                self.obstacles.append(str(error))
                self.known.features.add(node)
                self.values[node] = next(iter(self.graph.nodes), None)
        obstacles = list(dict.fromkeys(self.obstacles))
        if len(obstacles) > 1:
            raise RevisionError("\n- ".join([f"{len(obstacles)} obstacles:", *obstacles]))
        if obstacles:
            raise RevisionError(obstacles[0])
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
            self._revise_layer(node)
        else:
            self._revise_call(node)

    def _revise_layer(self, node: fx.Node) -> None:
        path = node.target
        layer = Layer(self.model.get_submodule(path), path, self.activation)
        if len(node.args) != 1 or node.kwargs or node.args[0] not in self.known.features:
            raise layer.refuse("takes more than one feature", "pass one feature")
        refuse_in_place(node, layer.module)
        if path not in self.modules:  # a layer that is called twice stays one layer
            try:
                self.modules[path] = revised_layer(layer)
            except ValueError as error:  # of a constructor, such as a dropout of everything
                if isinstance(error, RevisionError):
                    raise
                name = type(layer.module).__name__
                raise RevisionError(f"{path} ({name}): {error}") from error
        self.values[node] = self.graph.call_module(path, (self.values[node.args[0]],))
        self.known.features.add(node)

    def _revise_call(self, node: fx.Node) -> None:
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
