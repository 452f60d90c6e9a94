"""Which functions and methods of an ordinary network have a rotation-equivariant form: one row a
call. Activations, norms and windows stand here; what computes with several features and what moves
axes has tables of its own, which are joined at the end."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torchvision.ops import stochastic_depth

from complexnn.networks.revise import attention, axis_rules, operations, sum_rules
from complexnn.networks.revise.call import Call, New, Row, Rule, nodes_in
from complexnn.rotation import functional as cF
from complexnn.rotation import layers


def revised_call(call: Call) -> New:
    """The equivariant form of a call that takes a feature.

    Raises:
        RevisionError: saying where the call is, why there is none and what to use instead.
    """
    if call.node.target not in RULES:
        home = getattr(call.node.target, "__module__", None) or "torch"
        closed = not home.startswith(("torch.", "_operator")) and home != "torch"
        raise call.refuse(
            f"is a function of {home} that tracing does not open; no equivariant form is known"
            if closed
            else "no equivariant form is known",
            "build it from sums, concatenations, activations, pools and linear layers",
        )
    row = RULES[call.node.target]
    if row.arguments is not None:
        call.bind(row.arguments)
    if row.checked:
        call.refuse_features_behind_the_first()
    if not row.anywhere:
        call.refuse_samples_elsewhere()
    return row.rule(call)


# --------------------------------------------------------------------------------------- norms


def _layer_norm(*, centre: bool) -> Rule:
    def rule(call: Call) -> New:
        shape, eps = call.arguments.get("normalized_shape"), call.arguments.get("eps", None)
        if nodes_in(shape):
            raise call.refuse("normalises over a shape that is not known beforehand", "use numbers")
        axes = [shape] if isinstance(shape, int) else list(shape)
        eps = 1e-5 if eps is None and centre else eps
        return operations.layer_norm, (call.feature, axes, _scale(call), eps, centre, call.place)

    return rule


def _group_norm(call: Call) -> New:
    groups, eps = call.arguments.get("num_groups"), call.arguments.get("eps", 1e-5)
    return operations.group_norm, (_only_feature(call), groups, _scale(call), eps)


def _instance_norm(call: Call) -> New:
    if not call.arguments.get("use_input_stats", True):
        raise call.refuse(
            "subtracts a stored mean, which a rotation would not rotate",
            "use use_input_stats=True, or BatchNorm",
        )
    eps = call.arguments.get("eps", 1e-5)
    return operations.group_norm, (_only_feature(call), None, _scale(call), eps)


def _scale(call: Call) -> fx.Node | None:
    """The stored scale of a norm, whose shift goes."""
    _only_feature(call)
    weight = call.arguments.get("weight")
    if weight is not None and not call.is_constant(weight):
        raise call.refuse("has a scale that is not stored", "use a parameter")
    return weight


def _only_feature(call: Call) -> fx.Node:
    if not call.is_feature(call.feature):
        raise call.refuse("normalises something that is no feature", "normalise features")
    return call.feature


# ----------------------------------------------------------------------- windows and positions


def _max_pool(call: Call) -> New:
    given = call.arguments
    if call.invariant:
        raise call.refuse("goes by the modulus of something that has none", "pool features")
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


def _gate(plain: Callable, make: Callable[[Call], nn.Module]) -> Rule:
    """The form of an activation; what no rotation changes keeps the plain one."""

    def rule(call: Call) -> New:
        if call.invariant:
            settings = {n: v for n, v in call.settings.items() if n != "inplace"}
            return plain, (call.feature,), settings
        return make(call)

    return rule


def _smooth(plain: Callable, slope: str) -> Rule:
    return _gate(plain, lambda call: call.gates.smooth(slope))


def _leaky(call: Call) -> nn.Module:
    return call.gates.leaky(call.arguments.get("negative_slope", 0.01))


def _elu(call: Call) -> nn.Module:
    if call.arguments.get("alpha", 1.0) != 1:
        raise call.refuse("has a slope that jumps at 0", "use alpha=1")
    return call.gates.smooth("elu")


def _sigmoid(plain: Callable) -> Rule:
    def rule(call: Call) -> New:
        function = plain if call.invariant else call.gates.of_moduli(plain)
        call.invariant = True
        return function, (call.feature,)

    return rule


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


def _stochastic_depth(call: Call) -> New:
    """Whole samples, or the whole batch, are dropped: with all their parts."""
    p, mode = call.arguments.get("p"), call.arguments.get("mode")
    training = call.arguments.get("training", True)
    if training not in call.known.modes and training is not False:
        raise call.refuse("drops in eval mode, too", "pass training=self.training")
    return layers.StochasticDepth(p, mode) if training else nn.Identity()


def _as_it_is(function: Callable) -> Rule:
    """The rule of a function of one feature that commutes with every rotation."""
    return lambda call: (function, (call.feature,))


def _identity(call: Call) -> New:
    return nn.Identity()


# -------------------------------------------------------------------------------------- table

_LAYER_NORM = "input normalized_shape weight bias eps"
_INSTANCE_NORM = "input running_mean running_var weight bias use_input_stats momentum eps"
_MAX_POOL = "input kernel_size stride padding dilation ceil_mode return_indices"
_AVG_POOL = "input kernel_size stride padding ceil_mode count_include_pad divisor_override"
_SIZES = "input size scale_factor mode align_corners recompute_scale_factor antialias"
_IN_PLACE = "input inplace"
_EACH = {"anywhere": True}  # entry by entry

_TABLE = (
    *sum_rules.ROWS,
    *attention.ROWS,
    *axis_rules.ROWS,
    # Activations.
    Row(
        (F.relu, F.relu_, torch.relu, "relu", "relu_"),
        _gate(F.relu, lambda call: call.gates.relu()),
        _IN_PLACE,
        **_EACH,
    ),
    Row((F.relu6,), _gate(F.relu6, lambda call: call.gates.relu(6.0)), _IN_PLACE, **_EACH),
    Row((F.gelu,), _smooth(F.gelu, "gelu"), "input approximate", **_EACH),
    Row((F.silu,), _smooth(F.silu, "silu"), _IN_PLACE, **_EACH),
    Row((F.hardswish,), _smooth(F.hardswish, "hardswish"), _IN_PLACE, **_EACH),
    Row((F.mish,), _smooth(F.mish, "mish"), _IN_PLACE, **_EACH),
    Row((F.elu,), _gate(F.elu, _elu), "input alpha inplace", **_EACH),
    Row((F.leaky_relu,), _gate(F.leaky_relu, _leaky), "input negative_slope inplace", **_EACH),
    Row((torch.sigmoid, F.sigmoid, "sigmoid"), _sigmoid(torch.sigmoid), "input", **_EACH),
    Row((F.hardsigmoid,), _sigmoid(F.hardsigmoid), _IN_PLACE, **_EACH),
    # Norms.
    Row((F.layer_norm,), _layer_norm(centre=True), _LAYER_NORM, checked=False, anywhere=True),
    Row(
        (F.rms_norm,),
        _layer_norm(centre=False),
        "input normalized_shape weight eps",
        checked=False,
        anywhere=True,
    ),
    Row((F.group_norm,), _group_norm, "input num_groups weight bias eps", checked=False),
    Row((F.instance_norm,), _instance_norm, _INSTANCE_NORM, checked=False),
    # Dropout.
    Row((F.dropout,), _dropout(whole_channels=False), "input p training inplace", **_EACH),
    Row((F.dropout2d,), _dropout(whole_channels=True), "input p training inplace"),
    Row((torch.dropout,), _dropout(whole_channels=False), "input p train", **_EACH),
    Row((torch.feature_dropout,), _dropout(whole_channels=True), "input p train"),
    Row((stochastic_depth,), _stochastic_depth, "input p mode training"),
    # Windows and positions.
    Row((F.max_pool2d, torch.max_pool2d), _max_pool, _MAX_POOL),
    Row((F.avg_pool2d,), _of_every_part(F.avg_pool2d), _AVG_POOL),
    Row((F.adaptive_avg_pool2d,), _of_every_part(F.adaptive_avg_pool2d), "input output_size"),
    Row((F.interpolate,), _of_every_part(F.interpolate), _SIZES),
    Row((F.pixel_shuffle,), _of_every_part(F.pixel_shuffle), "input upscale_factor"),
    Row((F.pad,), _pad, "input pad mode value"),
    # Others.
    Row((operator.neg, torch.neg, "neg", "neg_"), _as_it_is(torch.neg), "input", **_EACH),
    Row(("contiguous", "clone", torch.clone), _identity, "input memory_format", **_EACH),
    Row(("detach", torch.detach), _as_it_is(torch.detach), "input", **_EACH),
)
RULES = {target: row for row in _TABLE for target in row.targets}
