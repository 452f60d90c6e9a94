"""Attention, as a layer and by calls: products of features, and what is done to them; one row a
call."""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from complexnn.networks.revise import operations
from complexnn.networks.revise.call import Call, Known, Layer, New, Row


def arguments_of(layer: Layer, node: fx.Node, known: Known) -> list[Any]:
    """Query, key, value, mask and causality of a call of :class:`torch.nn.MultiheadAttention`."""
    names = (
        "query", "key", "value", "key_padding_mask", "need_weights", "attn_mask",
        "average_attn_weights", "is_causal",
    )  # fmt: skip
    given = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    features, mask = [given.get(name) for name in names[:3]], given.get("attn_mask")
    if not all(isinstance(f, fx.Node) and f in known.features for f in features):
        raise layer.refuse("attends to something that is no feature", "pass features")
    place = 0 if layer.module.batch_first else 1
    if any(known.places[f] != place for f in features):
        raise layer.refuse(
            f"takes axis {place} for the samples, which are on another", "set batch_first to match"
        )
    stored = mask is None or mask in known.constants
    if given.get("key_padding_mask") is not None or not stored:
        raise layer.refuse("has a mask that is not stored", "register it as a buffer")
    return [*features, mask]


def _matrix_product(call: Call) -> New:
    factors = [call.feature, call.arguments.get("other")]
    if not all(call.carries(f) for f in factors):
        raise call.refuse("multiplies by a matrix that is no feature", "use nn.Linear")
    call.refuse_other_places(factors)
    both = all(call.is_feature(f) for f in factors)
    call.invariant = both or call.invariant
    return operations.matrix_product, (*factors, both)


def _attention(call: Call) -> New:
    given = call.arguments
    features, mask = [given.get(n) for n in ("query", "key", "value")], given.get("attn_mask")
    if not all(call.is_feature(f) for f in features):
        raise call.refuse("attends to something that is no feature", "pass features")
    call.refuse_other_places(features)
    if mask is not None and not (call.is_constant(mask) or call.is_invariant(mask)):
        raise call.refuse("has a mask that is not stored", "register it as a buffer")
    if given.get("dropout_p", 0.0) != 0:
        raise call.refuse("drops in eval mode, too", "use nn.MultiheadAttention, or no dropout")
    settings = {n: given[n] for n in ("is_causal", "scale", "enable_gqa") if n in given}
    return operations.attention, (*features, mask), settings


def _softmax(call: Call) -> New:
    axis = call.arguments.get("dim")
    if not call.invariant:
        raise call.refuse(
            "no equivariant form is known: it compares signed values",
            "do it in the decoder, or on products of features",
        )
    call.refuse_samples([axis])
    return operations.folded(torch.softmax, call.place, call.place, [axis]), (call.feature, axis)


def _masked(call: Call) -> New:
    mask, value = call.arguments.get("mask"), call.arguments.get("value")
    if not call.invariant or not call.is_constant(mask) or not isinstance(value, (int, float)):
        raise call.refuse("masks something else than products of features", "use a stored mask")
    return operations.masked, (call.feature, mask, value, call.place)


# -------------------------------------------------------------------------------------- table

_BOTH = "input other"
_ATTENTION = "query key value attn_mask dropout_p is_causal scale enable_gqa"

ROWS = (
    Row((operator.matmul, torch.matmul, torch.bmm), _matrix_product, _BOTH, checked=False),
    Row(("matmul", "bmm"), _matrix_product, _BOTH, checked=False),
    Row((F.scaled_dot_product_attention,), _attention, _ATTENTION, checked=False),
    Row((F.softmax, torch.softmax, "softmax"), _softmax, "input dim", anywhere=True),
    Row(("masked_fill", torch.masked_fill), _masked, "input mask value", checked=False),
)
