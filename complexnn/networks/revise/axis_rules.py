"""Calls that move, cut or join axes: one row a call.

Parts join the samples, the plain call runs, and parts and samples come apart again. That is exact
as long as the call leaves the samples on an axis of their own, which may move; ``Call.place`` is
the one that they are on. What a call cannot show before the shapes are known, such as which axis -3
is, the first run checks.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from complexnn.networks.revise import operations
from complexnn.networks.revise.call import Call, New, Row, Rule, nodes_in
from complexnn.rotation import layers

_KEEP = "keep the samples on an axis of their own, such as x.view(x.size(0), ...)"


def _listed(call: Call) -> tuple[Any, ...]:
    """Numbers that are passed one by one, or as a list."""
    node = call.node
    given = node.args[1:] or tuple(node.kwargs.values())
    return tuple(given[0]) if len(given) == 1 and isinstance(given[0], (list, tuple)) else given


def _on_plain(call: Call, function: Any, after: int, axes: Any = (), *settings: Any) -> New:
    """``function`` of the plain tensor, which takes the samples to the axis ``after``."""
    before, call.place = call.place, after
    negative = [axis for axis in axes if axis < 0]
    if negative and (before or after):  # where they end up shows with the shape alone
        raise call.refuse("may work on the axis of samples", "count axes from the front")
    return operations.folded(function, before, after, negative), (call.node.args[0], *settings)


# -------------------------------------------------------------------------------------- moved


def _permuted(call: Call) -> New:
    axes = _listed(call)
    if not all(isinstance(a, int) for a in axes):
        raise call.refuse("permutes axes that are no numbers", "use numbers")
    axes = [a % len(axes) for a in axes]
    return _on_plain(call, torch.permute, axes.index(call.place), (), axes)


def _transposed(call: Call) -> New:
    axes = _listed(call)
    if len(axes) != 2 or not all(isinstance(a, int) for a in axes):
        raise call.refuse("swaps axes that are no numbers", "use numbers")
    other = dict(zip(axes, axes[::-1], strict=True)).get(call.place, call.place)
    if other < 0:
        raise call.refuse("moves the samples to an axis from the end", "count from the front")
    return _on_plain(call, torch.transpose, other, axes, *axes)


def _rolled(call: Call) -> New:
    axes = call.arguments.get("dims")
    axes = axes if isinstance(axes, (list, tuple)) else [axes]
    call.refuse_samples(axes)
    return _on_plain(call, torch.roll, call.place, axes, call.arguments["shifts"], list(axes))


# ----------------------------------------------------------------------------- joined and cut


def flatten_rule(call: Call) -> New:
    first, last = call.arguments.get("start_dim", 0), call.arguments.get("end_dim", -1)
    if (first, last, call.place) == (1, -1, 0):
        return layers.Flatten()
    if first < 0 or (0 <= last <= first) or first <= call.place:
        raise call.refuse("flattens the axis of samples with others, or may", "use flatten(x, 1)")
    return _on_plain(call, torch.flatten, call.place, (), first, last)


def _viewed(call: Call) -> New:
    """To a shape that keeps all axes up to that of the samples."""
    shape, place, known = _listed(call), call.place, call.known
    feature = call.node.args[0]
    numbers = all(isinstance(n, int) or n in known.numbers | known.shapes for n in shape)
    if len(shape) == 1 and isinstance(shape[0], fx.Node) and shape[0] in known.shapes:
        keeps, shape = known.places[shape[0]] == place, shape[0]
    else:
        keeps = len(shape) > place and shape[place] in known.batches
    if not keeps or not numbers:
        raise call.refuse("changes the shape in a way that may mix samples", _KEEP)
    if place == 0 and isinstance(shape, tuple) and shape[1:] == (-1,):
        return layers.Flatten()
    return operations.reshaped, (feature, shape, place)


def _unflattened(call: Call) -> New:
    axis, sizes = call.arguments.get("dim"), call.arguments.get("sizes")
    call.refuse_samples([axis])
    if 0 <= axis < call.place:
        raise call.refuse("cuts an axis in front of the samples", _KEEP)
    return _on_plain(call, torch.unflatten, call.place, [axis], axis, sizes)


def _cut(function: Any, name: str) -> Rule:
    """Of chunk, split: a list of features."""

    def rule(call: Call) -> New:
        axis, size = call.arguments.get("dim", 0), call.arguments.get(name)
        call.refuse_samples([axis])
        call.list = True
        return _on_plain(call, function, call.place, [axis], size, axis)

    return rule


def _unbound(call: Call) -> New:
    axis = call.arguments.get("dim", 0)
    call.refuse_samples([axis])
    call.list = True
    after = call.place - (0 <= axis < call.place)
    return _on_plain(call, torch.unbind, after, [axis], axis)


def _squeezed(call: Call) -> New:
    axes = _listed(call)
    if not axes:
        raise call.refuse("may squeeze a batch of one sample", "say which axis")
    call.refuse_samples(axes)
    after = call.place - sum(0 <= axis < call.place for axis in axes)
    return _on_plain(call, torch.squeeze, after, axes, tuple(axes))


def _unsqueezed(call: Call) -> New:
    axis = call.arguments.get("dim")
    if not isinstance(axis, int):
        raise call.refuse("adds an axis that is no number", "use numbers")
    after = call.place + (0 <= axis <= call.place)
    return _on_plain(call, torch.unsqueeze, after, range(axis + 1, 0), axis)


def _indexed(call: Call) -> New:
    """Slices, steps and entries of all axes but the samples'."""
    index = call.node.args[1]
    items = index if isinstance(index, tuple) else (index,)
    known = call.known
    plain = (int, slice, type(None), type(Ellipsis))
    numbers = all(isinstance(i, plain) or i in known.numbers for i in items)
    if (
        not numbers
        or any(isinstance(i, bool) for i in items)
        or not set(nodes_in(items)) <= known.numbers
    ):
        raise call.refuse("is indexed by something that is no number", "use numbers and slices")
    first = items.index(Ellipsis) if Ellipsis in items else len(items)
    axis, after = 0, call.place
    for item in items[:first]:
        if item is None:
            after += axis <= call.place
            continue
        if axis == call.place and item != slice(None):
            raise call.refuse("takes some samples, not all", "start with x[:, ...]")
        after -= axis < call.place and not isinstance(item, slice)
        axis += 1
    behind = sum(item is not None for item in items[first + 1 :])
    return _on_plain(call, operator.getitem, after, range(-behind, 0), index)


def _concatenation(call: Call) -> New:
    tensors, axis = call.arguments.get("tensors"), call.arguments.get("dim", 0)
    call.refuse_samples_elsewhere()
    listed = tensors if isinstance(tensors, (list, tuple)) else []
    if any(call.is_constant(t) for t in listed):
        raise call.refuse(
            "concatenates a stored tensor, such as a class token, which a rotation of the features "
            "would not rotate",
            "cut behind it, so that the device does it",
        )
    if not listed or not (all(map(call.is_feature, listed)) or all(map(call.is_invariant, listed))):
        raise call.refuse("concatenates something that is no feature", "concatenate features")
    if any(call.known.places[t] for t in listed):
        raise call.refuse("concatenates features whose samples are on other axes", _KEEP)
    if axis == 0 or not isinstance(axis, int):
        raise call.refuse("concatenates along the batch", "use dim=1")
    if axis not in (-3, -1) and axis < 0:
        raise call.refuse("may concatenate along the batch", "count the axis from the front")
    return operations.concatenated, (list(tensors), axis + 1 if axis > 0 else axis)


def _reduced(*, total: bool) -> Rule:
    """Mean or sum over axes, which are linear."""

    def rule(call: Call) -> New:
        axes, keep = call.arguments.get("dim"), call.arguments.get("keepdim", False)
        axes = list(axes) if isinstance(axes, (list, tuple)) else [axes]
        what = "adds up" if total else "averages over"
        if not axes or not all(isinstance(a, int) for a in axes) or call.place in axes:
            raise call.refuse(f"{what} samples", "name axes of channels or positions")
        before = call.place
        if not keep:
            if before and any(a < 0 for a in axes):
                raise call.refuse(f"{what} axes that may hold samples", "count from the front")
            call.place -= sum(0 <= a < before for a in axes)
        return operations.mean_over, (call.feature, axes, keep, before, total)

    return rule


# -------------------------------------------------------------------------------------- table

_MOVED = {"checked": False, "anywhere": True}  # their rules read the node itself, or all of it
ROWS = (
    Row((torch.permute, "permute"), _permuted, **_MOVED),
    Row((torch.transpose, torch.swapaxes, "transpose", "swapaxes"), _transposed, **_MOVED),
    Row((torch.roll, "roll"), _rolled, "input shifts dims", anywhere=True),
    Row((torch.flatten, "flatten"), flatten_rule, "input start_dim end_dim", anywhere=True),
    Row(("view", "reshape", torch.reshape), _viewed, **_MOVED),
    Row((torch.unflatten, "unflatten"), _unflattened, "input dim sizes", anywhere=True),
    Row((torch.chunk, "chunk"), _cut(torch.chunk, "chunks"), "input chunks dim", anywhere=True),
    Row(
        (torch.split, "split"),
        _cut(torch.split, "split_size_or_sections"),
        "input split_size_or_sections dim",
        anywhere=True,
    ),
    Row((torch.unbind, "unbind"), _unbound, "input dim", anywhere=True),
    Row((torch.squeeze, "squeeze"), _squeezed, **_MOVED),
    Row((torch.unsqueeze, "unsqueeze"), _unsqueezed, "input dim", anywhere=True),
    Row((operator.getitem,), _indexed, **_MOVED),
    Row((torch.cat, torch.concat), _concatenation, "tensors dim", **_MOVED),
    Row((torch.mean, "mean"), _reduced(total=False), "input dim keepdim", anywhere=True),
    Row((torch.sum, "sum"), _reduced(total=True), "input dim keepdim", anywhere=True),
)
