"""Settings: what no setting can be is refused, whichever it is."""

import dataclasses
import math
from pathlib import Path

import pytest

from complexnn.config import InputError, NetConfig, TrainConfig
from complexnn.config_attack import AttackConfig
from complexnn.config_io import from_dict, to_dict
from complexnn.measurements.remote_network import OffloadConfig

BASES = [
    NetConfig(kind="noisy"),
    NetConfig(gaussian_decoys=2),
    NetConfig(defence="laplace"),
    NetConfig(defence="dropout"),
    TrainConfig(),
    TrainConfig(NetConfig(defence="nopeek")),
    TrainConfig(NetConfig(defence="decoder")),
    AttackConfig("all", Path("run")),
    OffloadConfig(Path("run")),
]
NUMBERS = [
    (base, spec.name)
    for base in BASES
    for spec in dataclasses.fields(base)
    if spec.type in ("float", "float | None")
]


def test_every_number_is_among_the_cases():
    assert {name for _, name in NUMBERS} >= {"lr", "gamma", "decoy_scale", "capacity", "epsilon"}


@pytest.mark.parametrize(("base", "name"), NUMBERS, ids=lambda v: v if isinstance(v, str) else "")
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_are_finite(base, name, value):
    with pytest.raises(InputError, match=name):
        dataclasses.replace(base, **{name: value})


@pytest.mark.parametrize("base", [b for b in BASES if hasattr(b, "seed")], ids=lambda b: type(b))
@pytest.mark.parametrize("seed", [-1, 2**63, 10**30])
def test_seeds_fit_into_63_bits(base, seed):
    with pytest.raises(InputError, match="seed"):
        dataclasses.replace(base, seed=seed)
    assert dataclasses.replace(base, seed=2**63 - 1).seed == 2**63 - 1


def test_a_delta_of_1_or_more_promises_nothing():
    with pytest.raises(InputError, match=r"delta must be .* below 1"):
        OffloadConfig(Path("run"), delta=1.0)


PLAIN = NetConfig(kind="additional")
OFF = {"adversarial_weight": 0.0}
CLIPPED = {"critic_constraint": "weight-clipping"}
IDLE = [  # what is set, and why it has no effect
    ({"net": PLAIN, "adversarial_weight": 0.0}, "adversarial_weight applies to kind complex only"),
    ({"net": PLAIN, "wrong_keys": 3}, "wrong_keys applies to kind complex only, not to additional"),
    ({"net": PLAIN, "clip_value": 0.1}, "clip_value applies to kind complex only"),
    ({"wrong_keys": 3} | OFF, "wrong_keys applies to adversarial_weight above 0 only, not to 0.0"),
    ({"critic_lr": 1e-3} | OFF, "critic_lr applies to adversarial_weight above 0"),
    ({"critic_steps": 2} | OFF, "critic_steps applies to adversarial_weight above 0"),
    ({"critic_every": 2} | OFF, "critic_every applies to adversarial_weight above 0"),
    (CLIPPED | OFF, "critic_constraint applies to adversarial_weight above 0"),
    ({"gradient_penalty": 1.0} | OFF, "gradient_penalty applies to adversarial_weight above 0"),
    ({"clip_value": 0.1}, "clip_value applies to critic_constraint weight-clipping only"),
    ({"gradient_penalty": 1.0} | CLIPPED, "gradient_penalty applies to critic_constraint grad"),
]


@pytest.mark.parametrize(("settings", "message"), IDLE)
def test_settings_without_effect_are_refused_but_load_from_old_runs(settings, message):
    with pytest.raises(InputError, match=message):
        TrainConfig(**settings)
    plain = {name: value for name, value in settings.items() if name == "net"}
    # An early run could be given them; they did nothing, and are dropped.
    saved = to_dict(TrainConfig(**plain)) | {n: v for n, v in settings.items() if n != "net"}
    loaded = from_dict(TrainConfig, saved)
    (name,) = (n for n in settings if f"{n} applies" in message)
    assert getattr(loaded, name) == getattr(TrainConfig(), name)
    assert loaded.net == TrainConfig(**plain).net


@pytest.mark.parametrize(
    "settings",
    [
        {"wrong_keys": 3, "critic_lr": 1e-3, "critic_steps": 2, "critic_every": 2},
        {"gradient_penalty": 1.0},
        {"clip_value": 0.1} | CLIPPED,
        OFF,
    ],
)
def test_settings_of_a_critic_that_is_there_are_kept(settings):
    config = TrainConfig(**settings)
    assert from_dict(TrainConfig, to_dict(config)) == config


def test_a_configuration_from_before_closed_blocks_means_draws_from_the_batch():
    early = to_dict(TrainConfig())
    del early["net"]["counterparts"]
    assert from_dict(TrainConfig, early).net.counterparts == "batch"
    assert from_dict(NetConfig, early["net"]) == NetConfig(counterparts="batch")
    early["net"]["kind"] = "additional"
    assert from_dict(NetConfig, early["net"]) == NetConfig(kind="additional")
    for config in (NetConfig(), NetConfig(counterparts="batch")):
        assert from_dict(NetConfig, to_dict(config)) == config


def test_settings_of_other_commands_are_not_taken_for_the_networks():
    config = OffloadConfig(Path("run"), epsilon=0.5)
    assert from_dict(OffloadConfig, to_dict(config)).epsilon == 0.5
