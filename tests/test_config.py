"""Settings: what no setting can be is refused, whichever it is."""

import dataclasses
import math
from pathlib import Path

import pytest

from complexnn.config import AttackConfig, InputError, NetConfig, TrainConfig
from complexnn.offload import OffloadConfig

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
    with pytest.raises(InputError, match="delta must be below 1"):
        OffloadConfig(Path("run"), delta=1.0)
