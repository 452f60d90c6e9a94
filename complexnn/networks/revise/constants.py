"""Stored tensors that enter the computation, and what is made of them alone: masks, position
biases, scales per channel."""

from __future__ import annotations

import operator

from torch import Tensor, fx, nn

from complexnn.networks.revise.call import Known, refusal

# Calls whose result is the same each time, by their names.
_FIXED = frozenset({
    "getitem", "getattr", "view", "reshape", "flatten", "permute", "transpose", "unsqueeze",
    "squeeze", "expand", "contiguous", "clone", "to", "add", "sub", "mul", "truediv", "div", "neg",
    "eq", "ne", "lt", "gt", "le", "ge", "invert", "logical_not", "exp", "sigmoid", "tanh", 
    "softmax", "sum", "mean", "bool", "float", "size", "tril", "triu",
})  # fmt: skip


def is_constant(node: fx.Node, known: Known) -> bool:
    """Whether a call takes stored tensors, and no features.

    Raises:
        RevisionError: a call that may draw random numbers or change what is stored.
    """
    inputs = set(node.all_input_nodes)
    if not inputs & known.constants or inputs - known.constants - known.numbers - known.modes:
        return False
    name = getattr(node.target, "__name__", node.target)
    if name not in _FIXED:
        raise refusal(
            node, "computes with a stored tensor in a way that is not known", "store the result"
        )
    return True


def stored(model: nn.Module, path: str) -> Tensor:
    """A copy of a parameter or buffer of the plain network."""
    tensor = operator.attrgetter(path)(model)
    copied = tensor.detach().clone()
    return (
        nn.Parameter(copied, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else copied
    )
