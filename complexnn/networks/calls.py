"""Which function and method calls of an ordinary network have a rotation-equivariant form."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from complexnn.config import InputError
from complexnn.networks.trace import path_of
from complexnn.rotation import functional as cF
from complexnn.rotation import layers


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


New = nn.Module | tuple  # a layer on the feature, or a function with its arguments
Activation = Callable[[float | None], nn.Module]


@dataclass
class Call:
    """A call on a feature, its arguments by name."""

    node: fx.Node
    known: Known
    activation: Activation
    given: dict[str, Any] = field(default_factory=dict)

    @property
    def x(self) -> Any:
        return self.given.get("input")

    def refuse(self, reason: str, instead: str) -> RevisionError:
        name = getattr(self.node.target, "__name__", self.node.target)
        where = ", ".join(filter(None, (path_of(self.node), self.node.name)))
        return RevisionError(f"{where} ({name}): {reason}; {instead}")

    def bind(self, names: str) -> None:
        """Name the arguments; refuse others, and features where a setting is due."""
        node, order = self.node, names.split()
        unknown = sorted(node.kwargs.keys() - set(order))
        if unknown or len(node.args) > len(order):
            what = f"{unknown[0]}=" if unknown else f"{len(node.args)} arguments"
            raise self.refuse(f"takes {what}, which has no equivariant form", "leave it out")
        self.given = dict(zip(order, node.args, strict=False)) | dict(node.kwargs)

    def alone(self) -> None:
        """Refuse a call whose only feature is not its first argument."""
        settings = {k: v for k, v in self.given.items() if k != "input"}
        if self.x not in self.known.features or self.known.features & set(_nodes(settings)):
            raise self.refuse("takes a feature for a setting", "pass features first")
        if set(_nodes(settings)) - self.known.numbers - self.known.modes:
            raise self.refuse("has a setting that is no number", "use numbers")

    def is_number(self, value: Any) -> bool:
        """A finite number that is known beforehand, or a size."""
        if isinstance(value, fx.Node):
            return value in self.known.numbers
        return isinstance(value, (int, float)) and math.isfinite(value)


def _nodes(value: Any) -> list[fx.Node]:
    found: list[fx.Node] = []
    fx.node.map_arg(value, found.append)
    return found


# ------------------------------------------------------------------- run in the revised network


def size_of(x: Tensor, place: int) -> int:
    return x.shape[place]


def sum_of(x: Tensor, y: Tensor) -> Tensor:
    """x + y, of features with the same number of axes: others would be lined up by their last."""
    return x + _like(x, y)


def difference_of(x: Tensor, y: Tensor) -> Tensor:
    return x - _like(x, y)


def _like(x: Tensor, y: Tensor) -> Tensor:
    if x.dim() != y.dim():
        raise RevisionError(
            f"a sum of features with {x.dim() - 1} and {y.dim() - 1} axes lines parts up with "
            "channels; use keepdim=True"
        )
    return y


def concatenated(features: list[Tensor], axis: int) -> Tensor:
    place = axis + features[0].dim() if axis < 0 else axis
    if place < 2:
        raise RevisionError("concatenates along the batch; use dim=1")
    return torch.cat(features, place)


def mean_over(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    """The mean over positions, which stand behind samples, parts and channels."""
    if any((a + x.dim() if a < 0 else a) < 3 for a in axes):
        raise RevisionError("averages over channels or samples; average over positions")
    return torch.mean(x, axes, keep)


def padded(x: Tensor, pad: list[int], mode: str) -> Tensor:
    if len(pad) > 2 * (x.dim() - 2):
        raise RevisionError("pads the batch; pad channels and positions")
    return cF.per_part(lambda part: F.pad(part, list(pad), mode), x)


# -------------------------------------------------------------------------------------- rules


def _add(call: Call) -> New:
    both = [call.x, call.given.get("other")]
    if call.given.get("alpha", 1) != 1:
        raise call.refuse("scales a summand by alpha", "multiply it first")
    subtracts = "sub" in getattr(call.node.target, "__name__", str(call.node.target))
    if all(b in call.known.features for b in both if isinstance(b, fx.Node)):
        zeros = [not isinstance(b, fx.Node) and call.is_number(b) and b == 0 for b in both]
        if not any(zeros):
            if not all(isinstance(b, fx.Node) for b in both):
                raise call.refuse(
                    "adds a constant, which a rotation would not rotate", "leave it out"
                )
            return (difference_of if subtracts else sum_of), tuple(both)
        return (torch.neg if subtracts and zeros[0] else torch.clone), (both[zeros[0]],)
    raise call.refuse("adds something that is no feature", "leave it out")


def _multiply(call: Call) -> New:
    both = [call.x, call.given.get("other")]
    feature = [isinstance(b, fx.Node) and b in call.known.features for b in both]
    if all(feature):
        raise call.refuse(
            "multiplies two features, which turns their angles into a sum",
            "use a sum or a concatenation",
        )
    if not call.is_number(both[feature[0]]):
        raise call.refuse("scales by something that is no finite number", "use a number")
    return torch.mul, tuple(both) if feature[0] else tuple(both[::-1])


def _divide(call: Call) -> New:
    divisor = call.given.get("other")
    if isinstance(divisor, fx.Node) and divisor in call.known.features:
        raise call.refuse(
            "divides by a feature, which turns its angle around", "divide by a number"
        )
    if not call.is_number(divisor) or divisor == 0:
        raise call.refuse("divides by something that is no finite number", "use a number")
    if call.given.get("rounding_mode") is not None:
        raise call.refuse("rounds each part alone", "leave rounding_mode out")
    return torch.div, (call.x, divisor)


def _negate(call: Call) -> New:
    return torch.neg, (call.x,)


def _cat(call: Call) -> New:
    tensors, axis = call.given.get("tensors"), call.given.get("dim", 0)
    listed = isinstance(tensors, (list, tuple))
    if not listed or not all(t in call.known.features for t in tensors):
        raise call.refuse("concatenates something that is no feature", "concatenate features")
    if axis == 0 or not isinstance(axis, int):
        raise call.refuse("concatenates along the batch", "use dim=1")
    if axis not in (-3, -1) and axis < 0:
        raise call.refuse("may concatenate along the batch", "count the axis from the front")
    return concatenated, (list(tensors), axis + 1 if axis > 0 else axis)


def _flatten(call: Call) -> New:
    if (call.given.get("start_dim", 0), call.given.get("end_dim", -1)) != (1, -1):
        raise call.refuse("flattens other axes than channels and positions", "use flatten(x, 1)")
    return layers.Flatten()


def _view(call: Call) -> New:
    shape = call.node.args[1:]
    if len(shape) == 1 and isinstance(shape[0], (list, tuple)):
        shape = tuple(shape[0])
    own = len(shape) == 2 and shape[0] in call.known.batches and shape[1] == -1
    if not own or call.node.kwargs:
        raise call.refuse("changes the shape in a way that may mix parts", "use flatten(x, 1)")
    return layers.Flatten()


def _relu(call: Call) -> New:
    return call.activation(None)


def _relu6(call: Call) -> New:
    return call.activation(6.0)


def _mean(call: Call) -> New:
    axes, keep = call.given.get("dim"), call.given.get("keepdim", False)
    axes = axes if isinstance(axes, (list, tuple)) else [axes]
    if not axes or not all(isinstance(a, int) and (a >= 2 or a in (-1, -2)) for a in axes):
        raise call.refuse("averages over channels or samples", "average over positions")
    return mean_over, (call.x, [a + 1 if a > 0 else a for a in axes], keep)


def _dropout(call: Call) -> New:
    name = getattr(call.node.target, "__name__", "")
    p = call.given.get("p", 0.5)
    mode = call.given.get("training", call.given.get("train", True))
    if mode is False:
        return nn.Identity()
    if mode not in call.known.modes:
        raise call.refuse("drops in eval mode, too", "pass training=self.training")
    if not isinstance(p, (int, float)) or not 0 <= p < 1:
        raise call.refuse(f"drops a share of {p}", "use a share in [0, 1)")
    return layers.Dropout(p, whole_channels=name != "dropout")


def _max_pool(call: Call) -> New:
    given = call.given
    if given.get("dilation", 1) not in (1, (1, 1), [1, 1]):
        raise call.refuse("is dilated", "use a plain pool")
    if given.get("return_indices", False):
        raise call.refuse("returns indices, one per part", "leave return_indices out")
    kernel, stride = given.get("kernel_size"), given.get("stride") or None
    if _nodes((kernel, stride, given.get("padding", 0))):
        raise call.refuse("has a window that is no number", "use numbers")
    return layers.MaxPool2d(
        kernel, stride, given.get("padding", 0), ceil_mode=given.get("ceil_mode", False)
    )


def _pad(call: Call) -> New:
    pad, mode = call.given.get("pad"), call.given.get("mode", "constant")
    if call.given.get("value") not in (None, 0):
        raise call.refuse("pads with a constant that is not 0", "pad with 0")
    if not isinstance(pad, (list, tuple)):
        raise call.refuse("pads by something that is no list of numbers", "use numbers")
    if len(pad) >= 8:
        raise call.refuse("may pad the batch", "pad channels and positions")
    return padded, (call.x, list(pad), mode)


def _identity(call: Call) -> New:
    return nn.Identity()


def _detach(call: Call) -> New:
    return torch.detach, (call.x,)


def _linear(function: Callable) -> Callable[[Call], New]:
    """A rule for a function that is linear in its first argument, applied to every part."""

    def of_every_part(x: Tensor, **settings: Any) -> Tensor:
        return cF.per_part(lambda part: function(part, **settings), x)

    of_every_part.__name__ = of_every_part.__qualname__ = f"{function.__name__}_of_every_part"

    def rule(call: Call) -> New:
        settings = {k: v for k, v in call.given.items() if k != "input"}
        return of_every_part, (call.x,), settings

    return rule


_BOTH = "input other"
_POOL = "input kernel_size stride padding dilation ceil_mode return_indices"
_SIZES = "input size scale_factor mode align_corners recompute_scale_factor antialias"
RULES: dict[Any, tuple[Callable[[Call], New], str]] = {}
for _targets, _rule, _names in (
    ((operator.add, operator.iadd, torch.add, "add", "add_"), _add, f"{_BOTH} alpha"),
    ((operator.sub, operator.isub, torch.sub, "sub", "sub_"), _add, f"{_BOTH} alpha"),
    ((operator.mul, operator.imul, torch.mul, "mul", "mul_"), _multiply, _BOTH),
    ((operator.truediv, operator.itruediv), _divide, _BOTH),
    ((torch.div, "div", "div_"), _divide, f"{_BOTH} rounding_mode"),
    ((operator.neg, torch.neg, "neg", "neg_"), _negate, "input"),
    ((torch.cat,), _cat, "tensors dim"),
    ((torch.flatten, "flatten"), _flatten, "input start_dim end_dim"),
    (("view", "reshape", torch.reshape), _view, ""),
    ((F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_"), _relu, "input inplace"),
    ((F.relu6,), _relu6, "input inplace"),
    ((torch.mean, "mean"), _mean, "input dim keepdim"),
    ((F.dropout, F.dropout2d), _dropout, "input p training inplace"),
    ((torch.dropout, torch.feature_dropout), _dropout, "input p train"),
    ((F.max_pool2d, torch.max_pool2d), _max_pool, _POOL),
    ((F.pad,), _pad, "input pad mode value"),
    ((F.interpolate,), _linear(F.interpolate), _SIZES),
    ((F.pixel_shuffle,), _linear(F.pixel_shuffle), "input upscale_factor"),
    (
        (F.avg_pool2d,), _linear(F.avg_pool2d),
        "input kernel_size stride padding ceil_mode count_include_pad divisor_override",
    ),
    ((F.adaptive_avg_pool2d,), _linear(F.adaptive_avg_pool2d), "input output_size"),
    (("contiguous", "clone", torch.clone), _identity, "input memory_format"),
    (("detach", torch.detach), _detach, "input"),
):  # fmt: skip
    RULES |= dict.fromkeys(_targets, (_rule, _names))
_THOROUGH = (_add, _multiply, _divide, _cat, _view)  # rules that check every argument themselves


def revised_call(node: fx.Node, known: Known, activation: Activation) -> New:
    """The equivariant form of a call that takes a feature.

    Raises:
        RevisionError: saying where the call is, why there is none and what to use instead.
    """
    call = Call(node, known, activation)
    if node.target not in RULES:
        if node.target in ("dim", "ndimension"):
            raise call.refuse(
                "asks for the number of axes, of which there is one more", "leave it out"
            )
        raise call.refuse(
            "no equivariant form is known",
            "build it from sums, concatenations, ReLU, pools and linear layers",
        )
    rule, names = RULES[node.target]
    if names:
        call.bind(names)
    if rule not in _THOROUGH:
        call.alone()
    return rule(call)


# -------------------------------------------------------------------------------------- sizes

_ARITHMETIC = (
    operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod,
    operator.neg, operator.getitem,
)  # fmt: skip


def revised_size(node: fx.Node, known: Known) -> tuple | None:
    """The form of a node that asks for sizes or computes with them: a function with its arguments;
    None for other nodes."""
    call, args = Call(node, known, lambda _: nn.Identity()), node.args
    asks = node.target == "size" and len(args) == 1 and not node.kwargs
    if asks or (node.target is getattr and args[1] == "shape"):
        known.shapes.add(node)
        return getattr, (args[0], "shape")
    if node.target is getattr:
        raise call.refuse(f"asks for .{args[1]}", "ask for sizes only")
    of_shape = node.target is operator.getitem and args[0] in known.shapes
    if of_shape or node.target == "size":
        index = args[1] if len(args) == 2 and not node.kwargs else None
        known.numbers.add(node)
        if index == 0 and isinstance(index, int):
            known.batches.add(node)
        place = _behind_parts(index, call.refuse)
        return (operator.getitem if of_shape else size_of), (args[0], place)
    inputs = node.all_input_nodes
    if node.target in _ARITHMETIC and inputs and set(inputs) <= known.numbers:
        known.numbers.add(node)
        return node.target, args
    return None


def _behind_parts(index: Any, refuse: Callable) -> int | slice:
    """An index into a shape, moved by the axis of parts that stands before it."""

    def moved(place: int | None) -> int | None:
        return place + 1 if place is not None and place > 0 else place

    if isinstance(index, int) and index >= -2:
        return moved(index)
    numbers = isinstance(index, slice) and not _nodes([index.start, index.stop, index.step])
    if numbers and (index.start in (-2, -1) or (index.start or 0) > 0):
        return slice(moved(index.start), moved(index.stop), index.step)
    raise refuse("takes more of a shape than sizes behind the batch", "use x.shape[2:]")


# ----------------------------------------------------------------------------------- in place

_IN_PLACE = (operator.iadd, operator.isub, operator.imul, operator.itruediv, F.relu_, torch.relu_)


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
        raise Call(node, Known(), lambda _: nn.Identity()).refuse(
            "changes in place what is used again", "use its result, or inplace=False"
        )
