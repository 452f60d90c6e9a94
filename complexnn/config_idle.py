"""Which settings have no effect beside which others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_ABOVE_0 = ("above 0",)
_GENERATED = ("kind", ("additional", "noisy", "complex", "local"))
# setting: (another one, the values of it beside which the setting means something). Changing a
# setting elsewhere is refused, not ignored. Where the other one is idle, so is the setting.
_ONLY_FOR: dict[str, tuple[str, tuple[str, ...]]] = {
    "dim": ("kind", ("complex",)),
    "group": ("kind", ("complex",)),
    "counterparts": ("kind", ("complex",)),
    "weights": ("kind", ("complex",)),
    "gate": ("kind", ("complex",)),
    "gaussian_decoys": ("kind", ("complex",)),
    "decoy_scale": ("gaussian_decoys", _ABOVE_0),
    "gamma": ("kind", ("noisy",)),
    "generator_width": _GENERATED,
    "relu_end": _GENERATED,
    "defence": ("kind", ("original", "additional", "complex")),
    "epsilon": ("defence", ("laplace",)),
    "drop_rate": ("defence", ("dropout",)),
    "bits": ("defence", ("quantise",)),
    "nopeek_weight": ("defence", ("nopeek",)),
    "decoder_weight": ("defence", ("decoder",)),
    "decoder_lr": ("defence", ("decoder",)),
    "adversarial_weight": ("kind", ("complex",)),
    "wrong_keys": ("adversarial_weight", _ABOVE_0),
    "critic_lr": ("adversarial_weight", _ABOVE_0),
    "critic_steps": ("adversarial_weight", _ABOVE_0),
    "critic_every": ("adversarial_weight", _ABOVE_0),
    "critic_constraint": ("adversarial_weight", _ABOVE_0),
    "gradient_penalty": ("critic_constraint", ("gradient-penalty",)),
    "clip_value": ("critic_constraint", ("weight-clipping",)),
}
OF_SOME_NETWORKS = frozenset(_ONLY_FOR)


def why_idle(name: str, value_of: Callable[[str], Any]) -> str | None:
    """Why a setting has no effect beside the values of the others; None if it has one."""
    if name not in _ONLY_FOR:
        return None
    other, values = _ONLY_FOR[name]
    reason = why_idle(other, value_of)
    value = value_of(other)
    if reason is None and not (value > 0 if values is _ABOVE_0 else value in values):
        reason = f"{other} {' and '.join(values)} only, not to {value}"
    return reason
