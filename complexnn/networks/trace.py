"""The graph of a network's forward, in which neither train nor eval mode is baked in."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import fx, nn

from complexnn.config import InputError

Results = dict[str, list[Any]]  # path of a module to what each of its calls returned


def trace(model: nn.Module, watch: Collection[str] = ()) -> tuple[fx.Graph, Results]:
    """The graph of ``model``, and the nodes that the modules ``watch`` return.

    ``torch.fx`` runs the forward once, so ``F.dropout(x, training=self.training)`` would keep the
    mode that the model was in. Here the forward runs in both modes. An argument that is True in
    train and False in eval mode becomes the flag ``training`` of the module that makes the call.

    Raises:
        InputError: a forward that ``torch.fx`` cannot follow, or one whose two modes differ in
            anything else.
    """
    graphs, results = [], []
    for mode in (True, False):
        tracer = _Watching(watch)
        before = set(vars(model))
        with _in_mode(model, mode):
            try:
                graphs.append(tracer.trace(model))
            except Exception as error:  # the tracer passes on whatever the model's own code raised
                raise InputError(
                    f"torch.fx cannot trace {type(model).__name__} ({error}): its forward must not "
                    "branch on values or shapes"
                ) from error
        results.append(tracer.results)
    _merge(model, *(list(graph.nodes) for graph in graphs))
    for name in set(vars(model)) - before:  # constants of the second run
        delattr(model, name)
    return graphs[0], results[0]


def path_of(node: fx.Node) -> str:
    """The module whose forward makes a call; empty for the network itself."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [str(entry[0]) for entry in stack.values() if entry[0]]
    return paths[-1] if paths else ""


class _Watching(fx.Tracer):
    def __init__(self, watch: Collection[str]) -> None:
        super().__init__()
        self.results: Results = {path: [] for path in watch}

    def call_module(self, m: nn.Module, *args: Any) -> Any:
        result = super().call_module(m, *args)
        path = self.path_of_module(m)
        if path in self.results:
            self.results[path].append(result.node if isinstance(result, fx.Proxy) else result)
        return result


@contextlib.contextmanager
def _in_mode(model: nn.Module, training: bool) -> Iterator[None]:
    before = {module: module.training for module in model.modules()}
    try:
        for module in before:
            module.training = training
        yield
    finally:
        for module, mode in before.items():
            module.training = mode


def _merge(model: nn.Module, train: list[fx.Node], evaluation: list[fx.Node]) -> None:
    """Put flags into the graph of train mode where that of eval mode differs."""
    train_of = dict(zip(evaluation, train, strict=False))

    def refuse(node: fx.Node) -> InputError:
        where = path_of(node) or type(model).__name__
        return InputError(
            f"{where}, {node.name}: the forward computes otherwise in train than in eval mode (or "
            "draws random numbers of its own), which no one graph holds; leave the branch out, "
            "such as an auxiliary head, or pass training=self.training"
        )

    def merged(node: fx.Node, one: Any, other: Any) -> Any:
        if isinstance(one, fx.Node):
            same = train_of.get(other) is one if isinstance(other, fx.Node) else False
        elif isinstance(one, (list, tuple)):
            same = type(one) is type(other) and len(one) == len(other)
            if same:
                return type(one)(merged(node, a, b) for a, b in zip(one, other, strict=True))
        elif isinstance(one, slice):
            ends = [[s.start, s.stop, s.step] for s in (one, other)]
            return slice(*merged(node, *ends))
        elif one is True and other is False:
            target = f"{path_of(node)}.training".lstrip(".")
            with node.graph.inserting_before(node):
                return node.graph.create_node("get_attr", target)
        else:
            same = type(one) is type(other) and one == other
        if not same:
            raise refuse(node)
        return one

    for node, twin in zip(train, evaluation, strict=False):
        if node.op != twin.op or not _same_target(model, node, twin):
            raise refuse(node)
        node.args = merged(node, node.args, twin.args)
        if node.kwargs.keys() != twin.kwargs.keys():
            raise refuse(node)
        node.kwargs = {k: merged(node, v, twin.kwargs[k]) for k, v in node.kwargs.items()}
    if len(train) != len(evaluation):
        raise refuse(max(train, evaluation, key=len)[-2])


def _same_target(model: nn.Module, node: fx.Node, twin: fx.Node) -> bool:
    if node.target == twin.target:
        return True
    if node.op != "get_attr":
        return False
    # A tensor that the forward makes from numbers is stored anew by each run.
    stored = [model, model]
    for i, target in enumerate((node.target, twin.target)):
        for name in target.split("."):
            stored[i] = getattr(stored[i], name)
    return all(isinstance(s, torch.Tensor) for s in stored) and torch.equal(*stored)
