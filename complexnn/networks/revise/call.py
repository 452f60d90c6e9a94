"""A call of the plain graph on its way to the revised one: its arguments, and how it is refused."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch.nn.functional as F
from torch import fx, nn

from complexnn.config import InputError
from complexnn.networks.trace import path_of

New = nn.Module | tuple  # a layer on the feature, or a function with its arguments
Activation = Callable[[float | None], nn.Module]  # of the bound of a ReLU6; None: of a ReLU


class RevisionError(InputError):
    """A layer that has no rotation-equivariant form; names it, says why and what to use instead."""


@dataclass
class Known:
    """What is known of the nodes of the plain graph so far."""

    features: set[fx.Node] = field(default_factory=set)  # carry parts
    shapes: set[fx.Node] = field(default_factory=set)  # the whole shape of a feature
    batches: set[fx.Node] = field(default_factory=set)  # the number of samples
    numbers: set[fx.Node] = field(default_factory=set)  # the same in the revised network
    modes: set[fx.Node] = field(default_factory=set)  # the flag of train mode


@dataclass
class Call:
    """A call of a function or method on a feature."""

    node: fx.Node
    known: Known
    activation: Activation
    arguments: dict[str, Any] = field(default_factory=dict)  # by name, once bound

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
        if self.feature not in known.features or known.features & settings:
            raise self.refuse("takes a feature for a setting", "pass features first")
        if settings - known.numbers - known.modes:
            raise self.refuse("has a setting that is no number", "use numbers")

    def is_feature(self, value: Any) -> bool:
        return isinstance(value, fx.Node) and value in self.known.features

    def is_number(self, value: Any) -> bool:
        """A finite number that is known beforehand, or a size."""
        if isinstance(value, fx.Node):
            return value in self.known.numbers
        return isinstance(value, (int, float)) and math.isfinite(value)


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


def refuse_in_place(node: fx.Node, layer: nn.Module | None) -> None:
    """Refuse a call that changes a feature which others use afterwards: the revised call does
    not."""
    method = isinstance(node.target, str) and node.op == "call_method" and node.target.endswith("_")
    if not (
        method or node.target in _IN_PLACE
        or node.kwargs.get("inplace", False) is True or getattr(layer, "inplace", False) is True
    ) or not node.args or not isinstance(node.args[0], fx.Node):  # fmt: skip
        return
    order = {n: i for i, n in enumerate(node.graph.nodes)}
    if any(order[user] > order[node] for user in node.args[0].users):
        raise refusal(
            node, "changes in place what is used again", "use its result, or inplace=False"
        )
