"""Sums, differences, products and quotients of features: one row a call."""

from __future__ import annotations

import operator
from collections.abc import Callable

import torch
from torch import fx

from complexnn.networks.revise import operations
from complexnn.networks.revise.call import Call, New, Row

# ------------------------------------------------------------------------- sums and products


def _sum(call: Call) -> New:
    return _added(call, operations.sum_of, torch.clone, operator.add)


def _difference(call: Call) -> New:
    return _added(call, operations.difference_of, torch.neg, operator.sub)


def _added(call: Call, of_both: Callable, of_0_and: Callable, plain: Callable) -> New:
    """A sum or difference of two features, or of a feature and 0; others are refused."""
    summands = [call.feature, call.arguments.get("other")]
    if call.arguments.get("alpha", 1) != 1:
        raise call.refuse("scales a summand by alpha", "multiply it first")
    if call.invariant and any(call.is_number(s) or call.is_constant(s) for s in summands):
        return _shifted(call, summands, plain)
    if any(call.is_constant(s) for s in summands):
        raise call.refuse(
            "adds a stored tensor, such as a bias or a position embedding, which a rotation of the "
            "features would not rotate",
            "leave it out, or cut behind it, so that the device adds it",
        )
    kinds = {call.is_feature(s) for s in summands if isinstance(s, fx.Node)}
    if len(kinds) > 1 or not all(call.carries(s) for s in summands if isinstance(s, fx.Node)):
        raise call.refuse("adds something that is no feature", "leave it out")
    if all(isinstance(s, fx.Node) for s in summands):
        call.refuse_other_places(summands)
        return of_both, tuple(summands)
    constant = [not isinstance(s, fx.Node) for s in summands].index(True)
    if not (call.is_number(summands[constant]) and summands[constant] == 0):
        raise call.refuse("adds a constant, which a rotation would not rotate", "leave it out")
    return (of_0_and if constant == 0 else torch.clone), (summands[1 - constant],)


def _shifted(call: Call, summands: list, plain: Callable) -> New:
    """What no rotation changes may be shifted, such as attention's products by a position bias."""
    if any(call.is_number(s) for s in summands):
        return plain, tuple(summands)
    if plain is operator.sub:
        raise call.refuse("subtracts a stored tensor", "store its negative and add it")
    invariant, constant = summands if call.is_invariant(summands[0]) else summands[::-1]
    return operations.shifted_by, (invariant, constant, call.place)


def _product(call: Call) -> New:
    factors = [call.feature, call.arguments.get("other")]
    if all(call.is_feature(f) for f in factors):
        raise call.refuse(
            "multiplies two features, which turns their angles into a sum",
            "use a sum, or a sigmoid of one of them",
        )
    if all(call.carries(f) for f in factors):
        call.refuse_other_places(factors)
        return operations.product_of, tuple(factors)
    feature, scale = factors if call.carries(factors[0]) else factors[::-1]
    if call.is_constant(scale):
        return operations.scaled_by, (feature, scale, call.place)
    if not call.is_number(scale):
        raise call.refuse("scales by something that is no finite number", "use a number")
    return torch.mul, (feature, scale)


def _quotient(call: Call) -> New:
    divisor = call.arguments.get("other")
    if call.is_feature(divisor):
        raise call.refuse(
            "divides by a feature, which turns its angle around", "divide by a number"
        )
    if call.arguments.get("rounding_mode") is not None:
        raise call.refuse("rounds each part alone", "leave rounding_mode out")
    if call.carries(call.feature) and call.is_constant(divisor):
        return operations.divided_by, (call.feature, divisor, call.place)
    if not call.is_number(divisor) or divisor == 0:
        raise call.refuse("divides by something that is no finite number", "use a number")
    return torch.div, (call.feature, divisor)


# -------------------------------------------------------------------------------------- table

_BOTH = "input other"
_SUMMANDS = "input other alpha"
_CHECKS = {"checked": False, "anywhere": True}  # the rules check their arguments

ROWS = (
    Row((operator.add, operator.iadd, torch.add, "add", "add_"), _sum, _SUMMANDS, **_CHECKS),
    Row((operator.sub, operator.isub, torch.sub, "sub", "sub_"), _difference, _SUMMANDS, **_CHECKS),
    Row((operator.mul, operator.imul, torch.mul, "mul", "mul_"), _product, _BOTH, **_CHECKS),
    Row((operator.truediv, operator.itruediv), _quotient, _BOTH, **_CHECKS),
    Row((torch.div, "div", "div_"), _quotient, f"{_BOTH} rounding_mode", **_CHECKS),
)
