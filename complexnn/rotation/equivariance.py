"""A self-check for networks of one's own: does every layer commute with the rotation?"""

from __future__ import annotations

import copy
import math
from typing import Any

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

    worst = 0.0
    for training in (True, False):
        plain = _record(copied, x, training)
        turned = _record(copied, cF.rotate(x, keys), training)
        for (name, inputs, output), (_, turned_inputs, turned_output) in zip(
            plain, turned, strict=True
        ):
            error = _error(output, turned_output, keys)
            broken_before = any(
                _error(a, b, keys) > atol for a, b in zip(inputs, turned_inputs, strict=True)
            )
            if broken_before:  # or a call inside a layer, on features without an axis of parts
                continue
            worst = max(worst, error)
            if error > atol:
                kind = type(copied.get_submodule(name)).__name__
                wrong = f"does not commute with rotation, error {error:.3g}, allowed {atol:g}"
                if not (output.isfinite().all() and turned_output.isfinite().all()):
                    wrong = "gives NaN or infinity for features with exact zeros"
                raise EquivarianceError(
                    f"{name or 'the module itself'} ({kind}) {wrong}, "
                    f"in {'train' if training else 'eval'} mode"
                )
        if not isinstance(plain[-1][2], Tensor):
            kind = type(plain[-1][2]).__name__
            raise ValueError(
                f"{type(module).__name__} returns a {kind}; check one tensor at a time"
            )
    return worst


def _record(module: nn.Module, x: Tensor, training: bool) -> list[tuple[str, list, Any]]:
    """Run a copy of ``module``; list every call inside it, innermost first, with its inputs and its
    output as they were before later layers worked in place."""
    module = copy.deepcopy(module).train(training)
    calls: list[tuple[str, list, Any]] = []
    running: list[list] = []  # inputs of the calls that have begun

    def kept(value: Any) -> Any:
        return value.clone() if isinstance(value, Tensor) else value

    for name, child in module.named_modules():
        child.register_forward_pre_hook(
            lambda _, args, kwargs: running.append([kept(a) for a in (*args, *kwargs.values())]),
            with_kwargs=True,
        )
        child.register_forward_hook(
            lambda _, args, output, name=name: calls.append((name, running.pop(), kept(output)))
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
