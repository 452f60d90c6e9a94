"""Nodes that ask for sizes or compute with them. A size in the revised network is the plain one."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from complexnn.networks.revise import operations
from complexnn.networks.revise.call import Known, nodes_in, refusal

_ARITHMETIC = (
    operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod,
    operator.neg, operator.pow, operator.getitem, operator.eq, torch._assert, int,
)  # fmt: skip


def revised_size(node: fx.Node, known: Known) -> tuple | None:
    """The form of a node that asks for sizes or computes with them: a function with its arguments;
    None for other nodes. Notes in ``known`` what it is."""
    args, inputs = node.args, set(node.all_input_nodes)
    if node.target in _ARITHMETIC and inputs and inputs <= known.numbers:
        known.numbers.add(node)
        return node.target, args, node.kwargs
    source = args[0] if args and isinstance(args[0], fx.Node) else None
    if node.target is operator.getitem and source in known.shapes:
        return _size(node, known, operator.getitem, (source,))
    if source not in known.places or source in known.shapes:
        return None
    place = known.places[source]
    attribute = args[1] if node.target is getattr else node.target
    if attribute == "shape" or (attribute == "size" and len(args) == 1 and not node.kwargs):
        known.shapes.add(node)
        known.places[node] = place
        return operations.plain_shape, (source, place)
    if attribute == "size":
        return _size(node, known, operations.plain_size, (source, place))
    if attribute in ("ndim", "dim", "ndimension"):
        known.numbers.add(node)
        return operations.plain_rank, (source,)
    if node.target is getattr:
        raise refusal(node, f"asks for .{attribute}", "ask for sizes only")
    return None


def _size(node: fx.Node, known: Known, function: Any, of: tuple) -> tuple:
    """One size, or those behind the samples."""
    place = known.places[node.args[0]]
    index = [*node.args[1:], *node.kwargs.values()][0]
    of_samples = index == place and isinstance(index, int)
    behind = isinstance(index, int) and index >= -2
    if isinstance(index, slice) and not nodes_in([index.start, index.stop, index.step]):
        behind = index.start in (-2, -1) or (index.start or 0) > place
    if not behind:
        raise refusal(node, "takes more of a shape than sizes behind the batch", "use x.shape[2:]")
    known.numbers.add(node)
    if of_samples:
        known.batches.add(node)
    return function, (*of, index)
