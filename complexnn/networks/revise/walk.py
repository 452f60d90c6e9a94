"""The walk through a plain network's graph, which makes the revised one node by node."""

from __future__ import annotations

import operator
from typing import Any, get_args

from torch import fx, nn

from complexnn.config import InputError, choose
from complexnn.networks.revise import attention, constants, operations
from complexnn.networks.revise.call import (
    Call,
    Known,
    Layer,
    RevisionError,
    refusal,
    refuse_in_place,
)
from complexnn.networks.revise.call_rules import revised_call
from complexnn.networks.revise.gates import Gate, Gates
from complexnn.networks.revise.layer_rules import INVARIANT, axes_of, of_invariant, revised_layer
from complexnn.networks.revise.sizes import revised_size
from complexnn.networks.trace import path_of, trace


def revise(model: nn.Module, *, dim: int = 2, gate: Gate = "mean") -> fx.GraphModule:
    r"""The rotation-equivariant form of an ordinary network.

    The rules are those of Xiang et al. (ICLR 2020): linear layers lose their bias, ReLU becomes the
    gate, batch norm loses its centre and shift, max pooling goes by modulus, dropout has one mask
    for all parts. Sums, concatenations, average pools, interpolation and changes of shape stay.
    Norms within a sample lose their shift, attention sums products over the parts, other
    activations become functions of moduli: docs/your-own-network.md has the table. Weights
    are copied where the rule keeps them; a norm's mean square starts as the mean square that the
    plain norm had seen, :math:`\sigma^2 + \mu^2`. ``model`` is left as it is. Layers keep their
    paths.

    Args:
        model: a module from features ``(B, C, *)`` or tokens ``(B, T, C)`` to the like, traceable
            by ``torch.fx``.
        dim: number of parts d, for the scale of fixed gates.
        gate: ``mean``, each channel's mean modulus, or ``fixed``, :math:`c = \sqrt d`, which
            belongs behind norms. Smooth activations take the mean over the sample, or 1 per part.

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
    return _Walk(model, plain, Gates(gate, dim)).through().train(model.training)


def _is_traced(model: nn.Module) -> bool:
    """Whether ``model`` has a graph of leaf layers: its calls still know their modules, which
    tracing it again would forget."""
    tracer = fx.Tracer()
    return isinstance(model, fx.GraphModule) and all(
        tracer.is_leaf_module(model.get_submodule(n.target), n.target)
        for n in model.graph.nodes
        if n.op == "call_module"
    )


class _Walk:
    """The plain graph, and what has been made of it so far."""

    def __init__(self, model: nn.Module, plain: fx.Graph, gates: Gates) -> None:
        self.model, self.plain, self.gates = model, plain, gates
        self.graph, self.known = fx.Graph(), Known()
        self.values: dict[fx.Node, fx.Node] = {}  # plain to revised
        self.modules: dict[str, Any] = {}  # and stored tensors, by their paths
        self.functions: dict[str, Any] = {}  # what layers become that are no layers any more
        self.invariant: dict[str, bool] = {}  # whether a layer is called with invariants
        self.obstacles: list[str] = []
        calls = [n.target for n in plain.nodes if n.op == "call_module"]
        self.taken = {p.rsplit(".", i)[0] for p in calls for i in range(p.count(".") + 1)}

    def through(self) -> fx.GraphModule:
        """The whole revised network, or every obstacle."""
        for node in self.plain.nodes:
            try:
                self._revise(node)
            except ValueError as error:  # go on, to name the others, too
                self.obstacles.append(self._named(node, error))
                self._go_on_behind(node)
        obstacles = list(dict.fromkeys(self.obstacles))
        if len(obstacles) > 1:
            raise RevisionError("\n- ".join([f"{len(obstacles)} obstacles:", *obstacles]))
        if obstacles:
            raise RevisionError(obstacles[0])
        return fx.GraphModule(self.modules, self.graph, type(self.model).__name__)

    def _named(self, node: fx.Node, error: ValueError) -> str:
        """An obstacle; that of a new layer's constructor, such as a dropout of everything, with the
        layer's name."""
        if isinstance(error, RevisionError):
            return str(error)
        if node.op == "call_module":
            kind = type(self.model.get_submodule(node.target)).__name__
            return f"{node.target} ({kind}): {error}"
        return f"{', '.join(filter(None, (path_of(node), node.name)))}: {error}"

    def _go_on_behind(self, node: fx.Node) -> None:
        """Take what was refused for the same as it takes."""
        known, inputs = self.known, set(node.all_input_nodes)
        known.refused.add(node)
        kinds = (known.features, known.invariants, known.constants)
        guess = known.numbers if inputs else known.features
        guess = next((kind for kind in kinds if kind & inputs), guess)
        guess.add(node)
        if any(guess is kind for kind in kinds[:2]):
            known.places[node] = max((known.places.get(n, 0) for n in inputs), default=0)
        self.values[node] = next(iter(self.graph.nodes), None)

    def _revise(self, node: fx.Node) -> None:
        known = self.known
        if node.op == "placeholder":
            if known.features:
                raise RevisionError(f"{node.name}: a second input; one can be revised")
            known.features.add(node)
            known.places[node] = 0
            self.values[node] = self.graph.placeholder(node.name)
        elif node.op == "output":
            self._return(node.args[0])
        elif node.op == "get_attr":
            flag = node.target.rpartition(".")[2] == "training"
            (known.modes if flag else known.constants).add(node)
        elif node.op == "call_module":
            self._revise_layer(node)
        elif constants.is_constant(node, known):
            known.constants.add(node)
        else:
            self._revise_call(node)

    def _return(self, result: Any) -> None:
        known = self.known
        if isinstance(result, fx.Node) and result in known.invariants:
            raise RevisionError(
                f"{result.name}: the result has no parts, since it is a function of moduli or "
                "products; return a feature"
            )
        if not isinstance(result, fx.Node) or result not in known.features:
            raise RevisionError("the result is not one feature; return one tensor")
        if known.places[result]:
            raise RevisionError(
                f"{result.name}: the result has its samples on axis {known.places[result]}; return "
                "them on axis 0"
            )
        self.graph.output(self.values[result])

    # ---------------------------------------------------------------------------------- layers

    def _revise_layer(self, node: fx.Node) -> None:
        path, known = node.target, self.known
        layer = Layer(self.model.get_submodule(path), path, self.gates)
        if isinstance(layer.module, nn.MultiheadAttention):
            self._revise_attention(node, layer)
            return
        source = node.args[0] if len(node.args) == 1 else None
        if source not in known.features | known.invariants or node.kwargs:
            raise layer.refuse("takes more than one feature", "pass one feature")
        refuse_in_place(node, layer.module)
        invariant, place = source in known.invariants, known.places[source]
        self._make(layer, invariant)
        value = self.values[source]
        if place:
            axes = axes_of(layer.module)
            if axes is None:
                raise layer.refuse(
                    f"takes axis 0 for the samples, which are on axis {place}", "move them back"
                )
            value = self.graph.call_function(operations.samples_in_front, (value, place, axes))
        if path in self.functions:
            self.values[node] = self.graph.call_function(self.functions[path], (value,))
            invariant = invariant or isinstance(layer.module, INVARIANT)
        else:
            self.values[node] = self.graph.call_module(path, (value,))
        (known.invariants if invariant else known.features).add(node)
        known.places[node] = place

    def _make(self, layer: Layer, invariant: bool) -> None:
        """The form of a layer, once: one that is called twice stays one."""
        path = layer.path
        if self.invariant.setdefault(path, invariant) != invariant:
            raise layer.refuse("is called with features and with functions of moduli", "use two")
        if path in self.modules or path in self.functions:
            return
        new = of_invariant(layer) if invariant else revised_layer(layer)
        (self.modules if isinstance(new, nn.Module) else self.functions)[path] = new

    def _revise_attention(self, node: fx.Node, layer: Layer) -> None:
        known = self.known
        arguments = attention.arguments_of(layer, node, known)
        self._make(layer, invariant=False)
        values = fx.node.map_arg(arguments, self._value)
        self.values[node] = self.graph.call_module(layer.path, tuple(values))
        known.lists[node], known.places[node] = (known.features, 1), known.places[arguments[0]]

    # ------------------------------------------------------------------------------- functions

    def _revise_call(self, node: fx.Node) -> None:
        """A function or method."""
        known = self.known
        if node.target is operator.getitem and node.args[0] in known.lists.keys() | known.refused:
            self._take_entry(node)
            return
        size = revised_size(node, known)
        if size is not None:
            self._put(node, *size)
            return
        if known.lists.keys() & set(node.all_input_nodes):
            raise refusal(node, "takes a list of features as a whole", "unpack it: a, b = ...")
        features = [n for n in node.all_input_nodes if n in known.features | known.invariants]
        if not features:
            raise refusal(
                node, "makes a tensor that is no feature", "leave it out or move it to the device"
            )
        refuse_in_place(node, None)
        call = Call(node, known, self.gates)
        new = revised_call(call)
        if isinstance(new, nn.Module):
            path = f"{path_of(node)}.{node.name}".lstrip(".")
            while path in self.taken:
                path += "_call"
            self.taken.add(path)
            self.modules[path] = new
            self.values[node] = self.graph.call_module(path, (self.values[features[0]],))
        else:
            self._put(node, *new)
        kind = known.invariants if call.invariant else known.features
        known.places[node] = call.place
        if call.list:
            known.lists[node] = (kind, None)
        else:
            kind.add(node)

    def _take_entry(self, node: fx.Node) -> None:
        """One tensor of a list."""
        source, index = node.args
        if source in self.known.refused:
            self._go_on_behind(node)
            return
        kind, count = self.known.lists[source]
        if not isinstance(index, int):
            raise refusal(node, "takes several entries of a list", "take one at a time")
        if count is not None and not 0 <= index < count:
            if node.users:
                raise refusal(node, "asks for the weights of attention", "pass need_weights=False")
            return
        self._put(node, operator.getitem, node.args)
        kind.add(node)
        self.known.places[node] = self.known.places[source]

    def _put(self, node: fx.Node, function: Any, args: tuple, kwargs: dict | None = None) -> None:
        args, kwargs = fx.node.map_arg([args, kwargs or {}], self._value)
        self.values[node] = self.graph.call_function(function, tuple(args), kwargs)

    def _value(self, node: fx.Node) -> fx.Node:
        """What stands for a node in the revised graph; stored tensors come in where they are used,
        so that a shift which goes leaves nothing behind."""
        if node not in self.values and node in self.known.constants:
            if node.op == "get_attr":
                self.modules[node.target] = constants.stored(self.model, node.target)
                self.values[node] = self.graph.get_attr(node.target)
            else:
                self.values[node] = self.graph.node_copy(node, self._value)
        return self.values[node]
