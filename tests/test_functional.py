"""Keys, counterparts and the rotation itself."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from complexnn.rotation import functional as cF


@pytest.mark.parametrize("dim", [2, 3, 5, 16])
@pytest.mark.parametrize("seeded", [True, False])
def test_keys_are_orthogonal(dim, seeded, rng):
    keys = cF.draw_rotations(50, dim, rng if seeded else None)
    eye = torch.eye(dim, dtype=torch.float64).expand(50, dim, dim)
    torch.testing.assert_close(keys @ keys.mT, eye, atol=1e-12, rtol=0)


def test_keys_of_two_parts_are_uniform_rotations(rng):
    keys = cF.draw_rotations(20000, 2, rng)
    torch.testing.assert_close(torch.linalg.det(keys), torch.ones(20000, dtype=torch.float64))
    theta = torch.atan2(keys[:, 1, 0], keys[:, 0, 0])
    counts = torch.histc(theta, 16, -math.pi, math.pi)
    assert ((counts - 1250).abs() < 5 * 1250**0.5).all()


@pytest.mark.parametrize("dim", [3, 4])
def test_keys_of_more_parts_have_the_moments_of_haar_measure(dim, rng):
    keys = cF.draw_rotations(20000, dim, rng)
    bound = 5 / 20000**0.5
    assert keys.mean(0).abs().max() < bound
    # E[q_ij^4] = 3 / (d (d + 2)) on O(d); half of all matrices are reflections.
    assert ((keys**4).mean(0) - 3 / (dim * (dim + 2))).abs().max() < bound
    assert abs((torch.linalg.det(keys) > 0).double().mean() - 0.5) < bound


def test_rotated_features_average_to_nothing(rng):
    x = torch.ones(20000, 2, 1, dtype=torch.float64)
    mean = cF.rotate(x, cF.draw_rotations(20000, 2, rng)).mean(0)
    assert mean.abs().max() < 5 / 20000**0.5


def test_draws_repeat_with_a_generator_and_differ_without():
    def seeded():
        return cF.draw_rotations(4, 3, torch.Generator().manual_seed(7))

    assert torch.equal(seeded(), seeded())
    assert not torch.equal(cF.draw_rotations(4, 3), cF.draw_rotations(4, 3))


def test_deployment_draws_leave_torchs_generator_alone():
    before = torch.random.get_rng_state()
    cF.draw_rotations(8, 5)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("generator", [None, 0])
def test_uniform_is_uniform_and_open(generator):
    rng = None if generator is None else torch.Generator().manual_seed(generator)
    u = cF.uniform((100000,), rng)
    assert u.min() > 0
    assert u.max() < 1
    assert abs(u.mean() - 0.5) < 5 * (1 / 12 / 100000) ** 0.5
    assert abs(cF.normal((100000,), rng).var() - 1) < 0.03


@pytest.mark.parametrize("byte", [0, 255])
def test_the_last_random_bits_stay_inside(byte, monkeypatch):
    """The lowest and the highest number that the operating system can give."""
    monkeypatch.setattr(cF.os, "urandom", lambda count: bytes([byte]) * count)
    u = cF.uniform((3,), None)
    assert (u > 0).all()
    assert (u < 1).all()
    assert cF.normal((3,), None).abs().max() < 9  # erfinv(1 - 2^-52) sqrt(2) is 8.1
    assert torch.linalg.det(cF.draw_rotations(2, 2)).sub(1).abs().max() < 1e-12


@pytest.mark.parametrize("drawn", [0.0, 1 - 2.0**-53, 1.0])
def test_the_ends_of_torchs_numbers_stay_inside(drawn, monkeypatch, rng):
    monkeypatch.setattr(
        torch, "rand", lambda shape, **_: torch.full(shape, drawn, dtype=torch.float64)
    )
    u = cF.uniform((3,), rng)
    assert (u > 0).all()
    assert (u < 1).all()
    assert cF.normal((3,), rng).abs().max() < 9


@given(st.integers(2, 129), st.integers(1, 8), st.integers(0, 2**32))
@settings(max_examples=200, deadline=None)
def test_counterparts_are_never_the_sample_itself(count, others, seed):
    others = min(others, count - 1)
    index = cF.draw_counterparts(count, others, torch.Generator().manual_seed(seed))
    own = torch.arange(count).unsqueeze(1)
    assert index.shape == (count, others)
    assert (index != own).all()
    for column in index.T:  # every sample serves once per column: a permutation
        assert torch.equal(column.sort().values, torch.arange(count))
    for row in torch.cat([own, index], 1):
        assert len(row.unique()) == others + 1


def test_counterparts_are_drawn_evenly(rng):
    draws = torch.stack([cF.draw_counterparts(5, 1, rng)[:, 0] for _ in range(4000)])
    for sample in range(5):
        counts = draws[:, sample].bincount(minlength=5)
        assert counts[sample] == 0
        assert ((counts[counts > 0] - 1000).abs() < 5 * 1000**0.5).all()


def test_too_few_samples_for_counterparts():
    with pytest.raises(ValueError, match="need over 3 samples"):
        cF.draw_counterparts(3, 3)


def test_the_first_row_undoes_a_rotation_for_the_first_part(rng):
    x = torch.randn(6, 4, 3, 5, 5, dtype=torch.float64)
    keys = cF.draw_rotations(6, 4, rng)
    back = cF.rotate(cF.rotate(x, keys), keys.mT[:, :1])
    torch.testing.assert_close(back[:, 0], x[:, 0], atol=1e-12, rtol=0)


def test_wrong_keys_show_unit_mixtures(rng):
    two = cF.draw_directions(1000, 2, rng)
    assert (two[:, 1] <= 0).all()  # -sin of an angle in (0, pi)
    for dim in (2, 3, 7):
        lengths = cF.draw_directions(1000, dim, rng).norm(dim=1)
        torch.testing.assert_close(lengths, torch.ones(1000, dtype=torch.float64))


@pytest.mark.parametrize("stride", [1, 2])
def test_shortcut_fills_new_channels_with_zeros(stride):
    x = torch.randn(2, 3, 4, 5, 5)
    y = cF.pad_shortcut(x, 8, stride)
    assert y.shape[:3] == (2, 3, 8)
    assert torch.equal(y[:, :, 2:6], x[..., ::stride, ::stride])
    assert y[:, :, :2].abs().sum() == y[:, :, 6:].abs().sum() == 0
