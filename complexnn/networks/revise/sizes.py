"""Nodes that ask for sizes or compute with them: the axis of parts stands before all but one."""

from __future__ import annotations

import operator
from typing import Any

from torch import fx

from complexnn.networks.revise.call import Known, nodes_in, refusal
from complexnn.networks.revise.operations import size_of

_ARITHMETIC = (
    operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod,
    operator.neg, operator.getitem,
)  # fmt: skip


def revised_size(node: fx.Node, known: Known) -> tuple | None:
    """The form of a node that asks for sizes or computes with them: a function with its arguments;
    None for other nodes. Notes in ``known`` what it is."""
    args = node.args
    asks = node.target == "size" and len(args) == 1 and not node.kwargs
    if asks or (node.target is getattr and args[1] == "shape"):
        known.shapes.add(node)
        return getattr, (args[0], "shape")
    if node.target is getattr:
        raise refusal(node, f"asks for .{args[1]}", "ask for sizes only")
    of_shape = node.target is operator.getitem and args[0] in known.shapes
    if of_shape or node.target == "size":
        index = args[1] if len(args) == 2 and not node.kwargs else None
        known.numbers.add(node)
        if index == 0 and isinstance(index, int):
            known.batches.add(node)
        place = _behind_parts(index, node)
        return (operator.getitem if of_shape else size_of), (args[0], place)
    inputs = node.all_input_nodes
    if node.target in _ARITHMETIC and inputs and set(inputs) <= known.numbers:
        known.numbers.add(node)
        return node.target, args
    return None


def _behind_parts(index: Any, node: fx.Node) -> int | slice:
    """An index into a shape, moved by the axis of parts that stands before it."""

    def moved(place: int | None) -> int | None:
        return place + 1 if place is not None and place > 0 else place

    if isinstance(index, int) and index >= -2:
        return moved(index)
    numbers = isinstance(index, slice) and not nodes_in([index.start, index.stop, index.step])
    if numbers and (index.start in (-2, -1) or (index.start or 0) > 0):
        return slice(moved(index.start), moved(index.stop), index.step)
    raise refusal(node, "takes more of a shape than sizes behind the batch", "use x.shape[2:]")
