"""Cut a network of one's own into encoder, processing module and decoder."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import fx, nn

from complexnn.config import InputError
from complexnn.networks import signs
from complexnn.networks.trace import trace


class Stretches(NamedTuple):
    """Three modules that, one after the other, are the whole network."""

    encoder: fx.GraphModule
    processing: fx.GraphModule
    decoder: fx.GraphModule


def split(model: nn.Module, *, after: str, until: str) -> Stretches:
    """Cut ``model`` behind two of its modules.

    Args:
        model: traceable by ``torch.fx``; one input, one output.
        after: path of the last module of the encoder, such as ``bn1``. Its output should have both
            signs: features behind a ReLU give the key away, which logs a warning.
        until: path of the last module of the processing module.

    The three share their parameters with ``model``, and follow their own train or eval mode. For
    the server, pass ``processing`` on to :func:`complexnn.revise`.

    Raises:
        InputError: a network that ``torch.fx`` cannot trace, an unknown path, one that is not
            called exactly once, or a cut that more than one tensor crosses.
    """
    whole = {name for name, _ in model.named_modules() if name}
    for path in (after, until):
        if path not in whole:
            top = ", ".join(name for name, _ in model.named_children())
            raise InputError(f"no module {path!r} in {type(model).__name__}; it has {top}")
    graph, results = trace(model, (after, until))
    nodes = list(graph.nodes)
    cuts = [_result(path, results[path]) for path in (after, until)]
    if nodes.index(cuts[0]) >= nodes.index(cuts[1]):
        raise InputError(f"{until} is not behind {after}")
    (start, *more), end = [n for n in nodes if n.op == "placeholder"], nodes[-1]
    if more:
        raise InputError(f"{type(model).__name__} has {1 + len(more)} inputs; one can be cut")
    if _never_negative(model, cuts[0]):
        signs.warn(f"the cut behind {after}")
    edges = [start, *cuts, end]
    return Stretches(*(_stretch(model, nodes, a, b) for a, b in itertools.pairwise(edges)))


def _result(path: str, calls: list[Any]) -> fx.Node:
    """The one tensor that the one call of a module returns."""
    if len(calls) != 1:
        raise InputError(
            f"{path} is called {len(calls)} times; cut behind a module that is called once"
        )
    if not isinstance(calls[0], fx.Node):
        raise InputError(
            f"{path} returns a {type(calls[0]).__name__}: more than one tensor crosses the cut; "
            "cut elsewhere"
        )
    return calls[0]


def _never_negative(model: nn.Module, node: fx.Node) -> bool:
    if node.op == "call_module":
        layer = model.get_submodule(node.target)
        return isinstance(layer, (nn.ReLU, nn.ReLU6, nn.Sigmoid, nn.Softplus))
    known = (F.relu, F.relu_, F.relu6, torch.relu, torch.relu_, torch.sigmoid, "relu", "relu_")
    return node.target in known


def _stretch(
    model: nn.Module, nodes: list[fx.Node], first: fx.Node, last: fx.Node
) -> fx.GraphModule:
    """What computes ``last`` from ``first`` alone, as a module."""
    graph = fx.Graph()
    values = {first: graph.placeholder("x")}
    for node in nodes[nodes.index(first) + 1 : nodes.index(last) + 1]:
        crossing = [n for n in node.all_input_nodes if n not in values]
        for stored in [n for n in crossing if n.op == "get_attr"]:  # each stretch has its own
            values[stored] = graph.node_copy(stored)
            crossing.remove(stored)
        if crossing:
            raise InputError(
                f"{node.name} uses {', '.join(n.name for n in crossing)} from before the cut "
                f"behind {first.name}: more than one tensor crosses it; cut elsewhere"
            )
        if node.op == "output":
            break
        values[node] = graph.node_copy(node, values.__getitem__)
    result = last.args[0] if last.op == "output" else last
    graph.output(fx.node.map_arg(result, values.__getitem__))
    return fx.GraphModule(model, graph)
