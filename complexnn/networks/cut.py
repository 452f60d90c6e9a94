"""Cut a network of one's own into encoder, processing module and decoder."""

from __future__ import annotations

import itertools
from typing import NamedTuple

from torch import fx, nn

from complexnn.config import InputError


class Stretches(NamedTuple):
    """Three modules that, one after the other, are the whole network."""

    encoder: fx.GraphModule
    processing: fx.GraphModule
    decoder: fx.GraphModule


def split(model: nn.Module, *, after: str, until: str) -> Stretches:
    """Cut ``model`` behind two of its modules.

    Args:
        model: traceable by ``torch.fx``; one input, one output.
        after: path of the last module of the encoder, such as ``layer1``.
        until: path of the last module of the processing module.

    The three share their parameters with ``model``. For the server, pass ``processing`` on to
    :func:`complexnn.revise`.

    Raises:
        InputError: an unknown path, one that is not called exactly once, or a cut that more than
            one tensor crosses.
    """
    whole = {name for name, _ in model.named_modules() if name}
    for path in (after, until):
        if path not in whole:
            top = ", ".join(name for name, _ in model.named_children())
            raise InputError(f"no module {path!r} in {type(model).__name__}; it has {top}")

    class Tracer(fx.Tracer):
        def is_leaf_module(self, module: nn.Module, name: str) -> bool:
            return name in (after, until) or super().is_leaf_module(module, name)

    graph = Tracer().trace(model)
    nodes = list(graph.nodes)
    cuts = [_call_of(path, nodes) for path in (after, until)]
    if nodes.index(cuts[0]) >= nodes.index(cuts[1]):
        raise InputError(f"{until} is not behind {after}")
    (start, *more), end = [n for n in nodes if n.op == "placeholder"], nodes[-1]
    if more:
        raise InputError(f"{type(model).__name__} has {1 + len(more)} inputs; one can be cut")
    edges = [start, *cuts, end]
    return Stretches(*(_stretch(model, nodes, a, b) for a, b in itertools.pairwise(edges)))


def _call_of(path: str, nodes: list[fx.Node]) -> fx.Node:
    calls = [n for n in nodes if n.op == "call_module" and n.target == path]
    if len(calls) != 1:
        raise InputError(
            f"{path} is called {len(calls)} times on its own; cut behind a module that is called "
            "once and lies not inside another one of the cuts"
        )
    return calls[0]


def _stretch(model: nn.Module, nodes: list[fx.Node], first: fx.Node, last: fx.Node):
    """What computes ``last`` from ``first`` alone, as a module."""
    graph = fx.Graph()
    values = {first: graph.placeholder("x")}
    for node in nodes[nodes.index(first) + 1 : nodes.index(last) + 1]:
        if node.op == "output":
            break
        crossing = [n for n in node.all_input_nodes if n not in values]
        if crossing:
            raise InputError(
                f"{node.name} uses {', '.join(n.name for n in crossing)} from before the cut "
                f"behind {first.name}: more than one tensor crosses it; cut elsewhere"
            )
        values[node] = graph.node_copy(node, values.__getitem__)
    result = last.args[0] if last.op == "output" else last
    graph.output(fx.node.map_arg(result, values.__getitem__))
    return fx.GraphModule(model, graph)
