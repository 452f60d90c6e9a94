"""Measures with known answers."""

import math

import numpy as np
import pytest
import torch

from complexnn import metrics


def unit(theta):
    return torch.tensor([math.cos(theta), math.sin(theta)], dtype=torch.float64)


@pytest.mark.parametrize(
    ("a", "b", "error"),
    [(0, 0, 0), (0.1, 2 * math.pi - 0.1, 0.2), (0, math.pi, math.pi), (1, 1 + 1e-9, 1e-9)],
)
def test_circular_error_wraps_around_and_keeps_precision(a, b, error):
    got = metrics.angle_between(unit(a), unit(b)).item()
    assert got == pytest.approx(error, rel=1e-5, abs=1e-15)


def test_blind_guessing_of_an_angle_is_half_pi(rng):
    theta = 2 * math.pi * torch.rand(2, 100_000, generator=rng, dtype=torch.float64)
    vectors = torch.stack([theta.cos(), theta.sin()], dim=-1)
    assert metrics.angle_between(*vectors).mean().item() == pytest.approx(math.pi / 2, abs=0.015)


def test_image_measures():
    truth = torch.rand(4, 3, 32, 32)
    assert torch.equal(metrics.rmse(truth, truth), torch.zeros(4))
    torch.testing.assert_close(metrics.psnr(truth, truth), torch.full((4,), 100.0))
    torch.testing.assert_close(metrics.ssim(truth, truth), torch.ones(4))
    off = truth + 0.1
    torch.testing.assert_close(metrics.rmse(off, truth), torch.full((4,), 0.1))
    torch.testing.assert_close(metrics.psnr(off, truth), torch.full((4,), 20.0))
    assert (metrics.ssim(torch.rand(4, 3, 32, 32), truth) < 0.2).all()


@pytest.mark.parametrize("size", [(8, 8), (8, 20), (28, 28)])
def test_similarity_is_defined_for_small_images(size):
    truth = torch.rand(2, 1, *size)
    torch.testing.assert_close(metrics.ssim(truth, truth), torch.ones(2))
    assert metrics.ssim(1 - truth, truth).isfinite().all()
    assert metrics.ssim(truth[:1], truth[:1]).shape == (1,)


def test_intervals_cover_the_truth_about_95_times_in_100():
    rng = np.random.default_rng(0)
    covered = {"mean": 0, "share": 0}
    for trial in range(200):
        low, high = metrics.mean_interval(torch.tensor(rng.normal(3, 1, 100)), seed=trial)
        covered["mean"] += low <= 3 <= high
        low, high = metrics.share_interval(rng.binomial(200, 0.1) / 200, 200)
        covered["share"] += low <= 0.1 <= high
    assert all(0.89 <= count / 200 <= 0.99 for count in covered.values()), covered


def test_share_interval_stays_in_bounds():
    assert metrics.share_interval(0.0, 50)[0] == 0
    assert metrics.share_interval(1.0, 50)[1] == 1
