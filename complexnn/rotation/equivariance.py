"""A self-check for networks of one's own: does every layer commute with the rotation?"""

from __future__ import annotations

import copy
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from complexnn.rotation import functional as cF


class EquivarianceError(ValueError):
    """A module does not commute with the rotation of its parts."""


def check_equivariance(
    module: nn.Module,
    shape: tuple[int, ...],
    *,
    generator: torch.Generator | None = None,
    atol: float = 1e-10,
) -> float:
    """Check ``module(rotate(x, R)) == rotate(module(x), R)`` and name the layer that breaks it.

    The check runs in float64 on a copy, so the module is left as it is. The input has exact zeros;
    ``R`` is a fresh key per sample; parameters are jittered, because a bias that is still zero
    would hide; train and eval mode are both checked.

    Args:
        module: any module on features ``(B, d, C, *)``.
        shape: shape of the input, batch and parts included.
        generator: source of input and keys; None: one with a fixed seed.
        atol: largest error allowed: absolute, or relative to the largest output above 1.

    Returns:
        The largest error seen.

    Raises:
        EquivarianceError: naming the innermost module with an equivariant input and an output
            that is not, or that is not finite, its mode and its error.
        ValueError: a shape without parts, or a module that does not return one tensor.
    """
    if len(shape) < 3 or shape[1] < 2:
        raise ValueError(f"shape must be (B, d, C, ...) with d of 2 or more, got {tuple(shape)}")
    generator = generator or torch.Generator().manual_seed(0)
    x = cF.normal(tuple(shape), generator)
    x = x * (cF.uniform(tuple(shape), generator) > 0.3)
    keys = cF.draw_rotations(shape[0], shape[1], generator)

    copied = copy.deepcopy(module).cpu().double()
    for parameter in copied.parameters():
        parameter.data.add_(0.1 * cF.normal(tuple(parameter.shape), generator))

    turned = cF.rotate(x, keys)
    return max(_compare(copied, (x, turned), keys, atol, training=t) for t in (True, False))


def _compare(
    module: nn.Module, inputs: tuple[Tensor, Tensor], keys: Tensor, atol: float, *, training: bool
) -> float:
    """The largest error of any call in one mode; raises for the first that is above ``atol``."""
    plain, turned = (_record(module, x, training) for x in inputs)
    worst = 0.0
    for call, twin in zip(plain, turned, strict=True):
        pairs = zip(call.inputs, twin.inputs, strict=True)
        if any(_error(a, b, keys) > atol for a, b in pairs):
            continue  # broken before, or inside a layer, on features without an axis of parts
        error = _error(call.output, twin.output, keys)
        worst = max(worst, error)
        if error > atol:
            mode = "train" if training else "eval"
            raise EquivarianceError(f"{_fault(call, twin, error, atol)}, in {mode} mode")
    if not isinstance(plain[-1].output, Tensor):
        kind = type(plain[-1].output).__name__
        raise ValueError(f"{type(module).__name__} returns a {kind}; check one tensor at a time")
    return worst


class _Recorded(NamedTuple):
    """A call of a module inside another."""

    path: str
    kind: str
    inputs: list[Any]
    output: Any


def _fault(call: _Recorded, twin: _Recorded, error: float, allowed: float) -> str:
    wrong = f"does not commute with rotation, error {error:.3g}, allowed {allowed:g}"
    if not (call.output.isfinite().all() and twin.output.isfinite().all()):
        wrong = "gives NaN or infinity for features with exact zeros"
    return f"{call.path or 'the module itself'} ({call.kind}) {wrong}"


def _record(module: nn.Module, x: Tensor, training: bool) -> list[_Recorded]:
    """Run a copy of ``module``; list every call inside it, innermost first, with its inputs and its
    output as they were before later layers worked in place."""
    module = copy.deepcopy(module).train(training)
    calls: list[_Recorded] = []
    running: list[list] = []  # inputs of the calls that have begun

    def kept(value: Any) -> Any:
        return value.clone() if isinstance(value, Tensor) else value

    for name, child in module.named_modules():
        child.register_forward_pre_hook(
            lambda _, args, kwargs: running.append([kept(a) for a in (*args, *kwargs.values())]),
            with_kwargs=True,
        )
        child.register_forward_hook(
            lambda layer, args, output, name=name: calls.append(
                _Recorded(name, type(layer).__name__, running.pop(), kept(output))
            )
        )
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # both runs draw the same dropout masks
        module(x.clone())
    return calls


def _error(plain: Any, turned: Any, keys: Tensor) -> float:
    """Largest deviation of ``turned`` from the rotated ``plain``, relative to values above 1;
    infinite if there are no parts, or numbers that are not finite."""
    if not isinstance(plain, Tensor):
        return 0.0
    if plain.dim() < 3 or plain.shape[:2] != keys.shape[:2] or plain.shape != turned.shape:
        return math.inf
    scale = plain.abs().max().clamp(min=1)
    error = ((turned - cF.rotate(plain, keys)).abs().max() / scale).item()
    return math.inf if math.isnan(error) else error  # comparisons with NaN are false
