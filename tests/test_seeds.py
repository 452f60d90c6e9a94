"""The generators of a run: a function of purpose and place alone."""

import numpy as np
import pytest
import torch

from complexnn.runs import seeds


def test_randomness_depends_on_the_place_alone():
    def first(*where):
        return torch.rand(1, generator=seeds.random_for("keys", *where)).item()

    assert first(0, 1, 2, 0) == first(0, 1, 2, 0)
    places = [(s, e, t, r) for s in (0, 1) for e in (1, 2) for t in (0, 1) for r in (0, 1)]
    assert len({first(*place) for place in places}) == len(places)


def test_places_of_different_length_are_different_streams():
    where = [(), (0,), (0, 0), (3,), (3, 0), (3, 0, 0), (1, 1 << 32), (1, 0, 1), (1 << 32, 1)]
    where += [("3",), ("3", 0), ("a", "b"), ("ab",)]
    streams = {seeds.random_for("keys", *place).initial_seed() for place in where}
    assert len(streams) == len(where)
    assert seeds.random_for("keys", np.int64(3)).initial_seed() in streams
    with pytest.raises(ValueError, match="order, augment"):
        seeds.random_for("kyes", 0)
