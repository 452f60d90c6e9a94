"""Which functions and methods of an ordinary network have a rotation-equivariant form: one row a
call."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from complexnn.networks.revise import operations
from complexnn.networks.revise.call import Activation, Call, Known, New, nodes_in
from complexnn.rotation import functional as cF
from complexnn.rotation import layers

Rule = Callable[[Call], New]


class Row(NamedTuple):
    """Calls that are revised alike."""

    targets: tuple[Any, ...]  # functions by themselves, methods by their names
    rule: Rule
    arguments: str | None = None  # their names in order; None: the rule reads the node itself
    checked: bool = True  # the first argument, and no other, is a feature; False: the rule checks


def revised_call(node: fx.Node, known: Known, activation: Activation) -> New:
    """The equivariant form of a call that takes a feature.

    Raises:
        RevisionError: saying where the call is, why there is none and what to use instead.
    """
    call = Call(node, known, activation)
    if node.target not in RULES:
        raise call.refuse(
            "no equivariant form is known",
            "build it from sums, concatenations, ReLU, pools and linear layers",
        )
    row = RULES[node.target]
    if row.arguments is not None:
        call.bind(row.arguments)
    if row.checked:
        call.refuse_features_behind_the_first()
    return row.rule(call)


# ------------------------------------------------------------------------- sums and products


def _sum(call: Call) -> New:
    return _added(call, operations.sum_of, torch.clone)


def _difference(call: Call) -> New:
    return _added(call, operations.difference_of, torch.neg)


def _added(call: Call, of_both: Callable, of_0_and: Callable) -> New:
    """A sum or difference of two features, or of a feature and 0; others are refused."""
    summands = [call.feature, call.arguments.get("other")]
    if call.arguments.get("alpha", 1) != 1:
        raise call.refuse("scales a summand by alpha", "multiply it first")
    if not all(call.is_feature(s) for s in summands if isinstance(s, fx.Node)):
        raise call.refuse("adds something that is no feature", "leave it out")
    if all(isinstance(s, fx.Node) for s in summands):
        return of_both, tuple(summands)
    constant = [not isinstance(s, fx.Node) for s in summands].index(True)
    if not (call.is_number(summands[constant]) and summands[constant] == 0):
        raise call.refuse("adds a constant, which a rotation would not rotate", "leave it out")
    return (of_0_and if constant == 0 else torch.clone), (summands[1 - constant],)


def _product(call: Call) -> New:
    factors = [call.feature, call.arguments.get("other")]
    if all(call.is_feature(f) for f in factors):
        raise call.refuse(
            "multiplies two features, which turns their angles into a sum",
            "use a sum or a concatenation",
        )
    feature, scale = factors if call.is_feature(factors[0]) else factors[::-1]
    if not call.is_number(scale):
        raise call.refuse("scales by something that is no finite number", "use a number")
    return torch.mul, (feature, scale)


def _quotient(call: Call) -> New:
    divisor = call.arguments.get("other")
    if call.is_feature(divisor):
        raise call.refuse(
            "divides by a feature, which turns its angle around", "divide by a number"
        )
    if not call.is_number(divisor) or divisor == 0:
        raise call.refuse("divides by something that is no finite number", "use a number")
    if call.arguments.get("rounding_mode") is not None:
        raise call.refuse("rounds each part alone", "leave rounding_mode out")
    return torch.div, (call.feature, divisor)


# ------------------------------------------------------------------------- axes and positions


def _concatenation(call: Call) -> New:
    tensors, axis = call.arguments.get("tensors"), call.arguments.get("dim", 0)
    listed = isinstance(tensors, (list, tuple))
    if not listed or not all(call.is_feature(t) for t in tensors):
        raise call.refuse("concatenates something that is no feature", "concatenate features")
    if axis == 0 or not isinstance(axis, int):
        raise call.refuse("concatenates along the batch", "use dim=1")
    if axis not in (-3, -1) and axis < 0:
        raise call.refuse("may concatenate along the batch", "count the axis from the front")
    return operations.concatenated, (list(tensors), axis + 1 if axis > 0 else axis)


def _flatten(call: Call) -> New:
    ends = call.arguments.get("start_dim", 0), call.arguments.get("end_dim", -1)
    if ends != (1, -1):
        raise call.refuse("flattens other axes than channels and positions", "use flatten(x, 1)")
    return layers.Flatten()


def _view(call: Call) -> New:
    """``x.view(x.shape[0], -1)``, as often written for ``flatten(x, 1)``."""
    shape = call.node.args[1:]
    if len(shape) == 1 and isinstance(shape[0], (list, tuple)):
        shape = tuple(shape[0])
    flat = len(shape) == 2 and shape[0] in call.known.batches and shape[1] == -1
    if not flat or call.node.kwargs:
        raise call.refuse("changes the shape in a way that may mix parts", "use flatten(x, 1)")
    return layers.Flatten()


def _mean(call: Call) -> New:
    axes, keep = call.arguments.get("dim"), call.arguments.get("keepdim", False)
    axes = axes if isinstance(axes, (list, tuple)) else [axes]
    if not axes or not all(isinstance(a, int) and (a >= 2 or a in (-1, -2)) for a in axes):
        raise call.refuse("averages over channels or samples", "average over positions")
    return operations.mean_over, (call.feature, [a + 1 if a > 0 else a for a in axes], keep)


def _max_pool(call: Call) -> New:
    given = call.arguments
    if given.get("dilation", 1) not in (1, (1, 1), [1, 1]):
        raise call.refuse("is dilated", "use a plain pool")
    if given.get("return_indices", False):
        raise call.refuse("returns indices, one per part", "leave return_indices out")
    kernel, stride = given.get("kernel_size"), given.get("stride") or None
    padding = given.get("padding", 0)
    if nodes_in((kernel, stride, padding)):
        raise call.refuse("has a window that is no number", "use numbers")
    return layers.MaxPool2d(kernel, stride, padding, ceil_mode=given.get("ceil_mode", False))


def _pad(call: Call) -> New:
    pad, mode = call.arguments.get("pad"), call.arguments.get("mode", "constant")
    if call.arguments.get("value") not in (None, 0):
        raise call.refuse("pads with a constant that is not 0", "pad with 0")
    if not isinstance(pad, (list, tuple)):
        raise call.refuse("pads by something that is no list of numbers", "use numbers")
    if len(pad) >= 8:  # batch, channels and two axes of positions, two ends each
        raise call.refuse("may pad the batch", "pad channels and positions")
    return operations.padded, (call.feature, list(pad), mode)


def _of_every_part(function: Callable) -> Rule:
    """The rule of a function that is linear in its first argument."""

    def of_every_part(x: Tensor, **settings: Any) -> Tensor:
        return cF.per_part(lambda part: function(part, **settings), x)

    # What the revised graph shows as its name.
    of_every_part.__name__ = of_every_part.__qualname__ = f"{function.__name__}_of_every_part"
    return lambda call: (of_every_part, (call.feature,), call.settings)


# --------------------------------------------------------------------------------- all others


def _relu(bound: float | None) -> Rule:
    return lambda call: call.activation(bound)


def _dropout(*, whole_channels: bool) -> Rule:
    def rule(call: Call) -> New:
        p = call.arguments.get("p", 0.5)
        mode = call.arguments.get("training", call.arguments.get("train", True))
        if mode is False:
            return nn.Identity()
        if mode not in call.known.modes:
            raise call.refuse("drops in eval mode, too", "pass training=self.training")
        if not isinstance(p, (int, float)) or not 0 <= p < 1:
            raise call.refuse(f"drops a share of {p}", "use a share in [0, 1)")
        return layers.Dropout(p, whole_channels=whole_channels)

    return rule


def _as_it_is(function: Callable) -> Rule:
    """The rule of a function of one feature that commutes with every rotation."""
    return lambda call: (function, (call.feature,))


def _identity(call: Call) -> New:
    return nn.Identity()


def _number_of_axes(call: Call) -> NoReturn:
    raise call.refuse("asks for the number of axes, of which there is one more", "leave it out")


# -------------------------------------------------------------------------------------- table

_BOTH = "input other"
_SUMMANDS = "input other alpha"
_MAX_POOL = "input kernel_size stride padding dilation ceil_mode return_indices"
_AVG_POOL = "input kernel_size stride padding ceil_mode count_include_pad divisor_override"
_SIZES = "input size scale_factor mode align_corners recompute_scale_factor antialias"

_TABLE = (
    Row((operator.add, operator.iadd, torch.add, "add", "add_"), _sum, _SUMMANDS, checked=False),
    Row(
        (operator.sub, operator.isub, torch.sub, "sub", "sub_"),
        _difference,
        _SUMMANDS,
        checked=False,
    ),
    Row((operator.mul, operator.imul, torch.mul, "mul", "mul_"), _product, _BOTH, checked=False),
    Row((operator.truediv, operator.itruediv), _quotient, _BOTH, checked=False),
    Row((torch.div, "div", "div_"), _quotient, f"{_BOTH} rounding_mode", checked=False),
    Row((operator.neg, torch.neg, "neg", "neg_"), _as_it_is(torch.neg), "input"),
    Row((torch.cat,), _concatenation, "tensors dim", checked=False),
    Row((torch.flatten, "flatten"), _flatten, "input start_dim end_dim"),
    Row(("view", "reshape", torch.reshape), _view, checked=False),
    Row(("dim", "ndimension"), _number_of_axes, checked=False),
    Row((F.relu, F.relu_, torch.relu, "relu", "relu_"), _relu(None), "input inplace"),
    Row((F.relu6,), _relu(6.0), "input inplace"),
    Row((torch.mean, "mean"), _mean, "input dim keepdim"),
    Row((F.dropout,), _dropout(whole_channels=False), "input p training inplace"),
    Row((F.dropout2d,), _dropout(whole_channels=True), "input p training inplace"),
    Row((torch.dropout,), _dropout(whole_channels=False), "input p train"),
    Row((torch.feature_dropout,), _dropout(whole_channels=True), "input p train"),
    Row((F.max_pool2d, torch.max_pool2d), _max_pool, _MAX_POOL),
    Row((F.avg_pool2d,), _of_every_part(F.avg_pool2d), _AVG_POOL),
    Row((F.adaptive_avg_pool2d,), _of_every_part(F.adaptive_avg_pool2d), "input output_size"),
    Row((F.interpolate,), _of_every_part(F.interpolate), _SIZES),
    Row((F.pixel_shuffle,), _of_every_part(F.pixel_shuffle), "input upscale_factor"),
    Row((F.pad,), _pad, "input pad mode value"),
    Row(("contiguous", "clone", torch.clone), _identity, "input memory_format"),
    Row(("detach", torch.detach), _as_it_is(torch.detach), "input"),
)
RULES = {target: row for row in _TABLE for target in row.targets}
