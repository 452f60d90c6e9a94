"""A call or layer of the plain graph on its way to the revised one: its arguments, and how it is
refused."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import fx, nn

from complexnn.config import InputError
from complexnn.networks.revise.gates import Gates
from complexnn.networks.trace import path_of

New = nn.Module | tuple  # a layer on the feature, or a function with its arguments


class RevisionError(InputError):
    """A layer that has no rotation-equivariant form; names it, says why and what to use instead."""


@dataclass
class Known:
    """What is known of the nodes of the plain graph so far.

    A feature ``(B, d, *)`` of the revised network stands for a plain tensor whose samples are on
    any one axis, its place; parts and samples always come first in the revised one. An invariant is
    a tensor ``(B, 1, *)`` that no rotation changes: a function of moduli, or of products that are
    summed over the parts.
    """

    features: set[fx.Node] = field(default_factory=set)  # carry parts
    invariants: set[fx.Node] = field(default_factory=set)
    places: dict[fx.Node, int] = field(default_factory=dict)  # of features, invariants and lists
    # To what their entries are, and how many of them; None: all.
    lists: dict[fx.Node, tuple[set[fx.Node], int | None]] = field(default_factory=dict)
    constants: set[fx.Node] = field(default_factory=set)  # stored tensors, and what is made of them
    refused: set[fx.Node] = field(default_factory=set)  # which the walk goes on behind
    shapes: set[fx.Node] = field(default_factory=set)  # the whole shape of a feature
    batches: set[fx.Node] = field(default_factory=set)  # the number of samples
    numbers: set[fx.Node] = field(default_factory=set)  # the same in the revised network
    modes: set[fx.Node] = field(default_factory=set)  # the flag of train mode


@dataclass
class Call:
    """A call of a function or method on a feature or invariant."""

    node: fx.Node
    known: Known
    gates: Gates
    arguments: dict[str, Any] = field(default_factory=dict)  # by name, once bound
    # What the call returns, which its rule may change.
    invariant: bool = False
    list: bool = False
    place: int = 0  # of the samples among the plain axes; before the call, that of its feature

    def __post_init__(self) -> None:
        inputs = [n for n in self.node.all_input_nodes if n in self.known.places]
        carriers = [n for n in inputs if n not in self.known.shapes]
        self.place = self.known.places[carriers[0]] if carriers else 0
        self.invariant = not any(n in self.known.features for n in carriers)

    @property
    def name(self) -> str:
        return getattr(self.node.target, "__name__", str(self.node.target))

    @property
    def feature(self) -> Any:
        """The first argument."""
        return self.arguments.get("input")

    @property
    def settings(self) -> dict[str, Any]:
        """All arguments but the first."""
        return {name: value for name, value in self.arguments.items() if name != "input"}

    def refuse(self, reason: str, instead: str) -> RevisionError:
        return refusal(self.node, reason, instead)

    def bind(self, names: str) -> None:
        """Name the arguments, and refuse others."""
        node, order = self.node, names.split()
        unknown = sorted(node.kwargs.keys() - set(order))
        if unknown or len(node.args) > len(order):
            what = f"{unknown[0]}=" if unknown else f"{len(node.args)} arguments"
            raise self.refuse(f"takes {what}, which has no equivariant form", "leave it out")
        self.arguments = dict(zip(order, node.args, strict=False)) | dict(node.kwargs)

    def refuse_features_behind_the_first(self) -> None:
        """The first argument is to be a feature, all others settings that are known beforehand."""
        settings, known = set(nodes_in(self.settings)), self.known
        if not self.carries(self.feature) or settings & known.places.keys() - known.shapes:
            raise self.refuse("takes a feature for a setting", "pass features first")
        if settings - known.numbers - known.modes:
            raise self.refuse("has a setting that is no number", "use numbers")

    def refuse_samples_elsewhere(self) -> None:
        """For calls that take samples from the first axis."""
        if self.place:
            raise self.refuse(
                f"takes axis 0 for the samples, which are on axis {self.place}", "move them back"
            )

    def refuse_other_places(self, features: list[fx.Node]) -> None:
        if len({self.known.places[f] for f in features}) > 1:
            raise self.refuse("takes features whose samples are on different axes", "move them")

    def refuse_samples(self, axes: Iterable[Any]) -> None:
        """Refuse axes that are no integers, or one of which holds the samples. A negative one shows
        only with the shape."""
        if not all(isinstance(axis, int) for axis in axes):
            raise self.refuse("goes over axes that are no numbers", "use numbers")
        if self.place in axes:
            raise self.refuse(
                "works on the axis of samples, which it would mix", "use another axis"
            )

    def is_feature(self, value: Any) -> bool:
        return isinstance(value, fx.Node) and value in self.known.features

    def is_invariant(self, value: Any) -> bool:
        return isinstance(value, fx.Node) and value in self.known.invariants

    def is_constant(self, value: Any) -> bool:
        return isinstance(value, fx.Node) and value in self.known.constants

    def carries(self, value: Any) -> bool:
        """Whether it is a feature or an invariant: a tensor that has samples."""
        return self.is_feature(value) or self.is_invariant(value)

    def is_number(self, value: Any) -> bool:
        """A finite number that is known beforehand, or a size."""
        if isinstance(value, fx.Node):
            return value in self.known.numbers
        return isinstance(value, (int, float)) and math.isfinite(value)


@dataclass(frozen=True)
class Layer:
    """A module of the plain network that is not opened."""

    module: nn.Module
    path: str
    gates: Gates

    def refuse(self, reason: str, instead: str) -> RevisionError:
        return RevisionError(f"{self.path} ({type(self.module).__name__}): {reason}; {instead}")


Rule = Callable[[Call], New]


class Row(NamedTuple):
    """Calls that are revised alike."""

    targets: tuple[Any, ...]  # functions by themselves, methods by their names
    rule: Rule
    arguments: str | None = None  # their names in order; None: the rule reads the node itself
    checked: bool = True  # the first argument, and no other, is a feature; False: the rule checks
    anywhere: bool = False  # the samples may stand on another axis than the first


def nodes_in(value: Any) -> list[fx.Node]:
    """The nodes among nested arguments."""
    nodes: list[fx.Node] = []
    fx.node.map_arg(value, nodes.append)
    return nodes


def refusal(node: fx.Node, reason: str, instead: str) -> RevisionError:
    """Where a call stands, why it has no equivariant form and what to use in its place."""
    name = getattr(node.target, "__name__", node.target)
    where = ", ".join(filter(None, (path_of(node), node.name)))
    return RevisionError(f"{where} ({name}): {reason}; {instead}")


_IN_PLACE = (operator.iadd, operator.isub, operator.imul, operator.itruediv, F.relu_)
_VIEWS = frozenset({
    "view", "reshape", "flatten", "permute", "transpose", "chunk", "split", "unbind", "squeeze",
    "unsqueeze", "unflatten", "getitem",
})  # fmt: skip


def refuse_in_place(node: fx.Node, layer: nn.Module | None) -> None:
    """Refuse a call that changes a feature which others use afterwards, or a view of it: the
    revised call does not."""
    method = isinstance(node.target, str) and node.op == "call_method" and node.target.endswith("_")
    if not (
        method or node.target in _IN_PLACE
        or node.kwargs.get("inplace", False) is True or getattr(layer, "inplace", False) is True
    ) or not node.args:  # fmt: skip
        return
    order, changed = {n: i for i, n in enumerate(node.graph.nodes)}, node.args[0]
    while isinstance(changed, fx.Node):
        if any(order[user] > order[node] for user in changed.users):
            raise refusal(
                node, "changes in place what is used again", "use its result, or inplace=False"
            )
        view = getattr(changed.target, "__name__", changed.target) in _VIEWS and changed.args
        changed = changed.args[0] if view else None
