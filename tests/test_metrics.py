"""Measures with known answers."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

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


@pytest.mark.parametrize(("found", "count"), [(0, 8), (8, 8), (0, 500), (3, 40), (1999, 2000)])
def test_shares_have_wilson_intervals(found, count):
    expected = stats.binomtest(found, count).proportion_ci(method="wilson")
    assert metrics.share_interval(found / count, count) == pytest.approx(expected)
    outcomes = (torch.arange(count) < found).float()
    for measure in ("top1", "top5", "top1_jpeg", "error"):
        assert metrics.interval(measure, outcomes) == pytest.approx(expected)
    # Shares of several draws of an image are one trial each.
    assert metrics.share_interval_of(0.5 * outcomes) == metrics.share_interval(
        found / count / 2, count
    )


@pytest.mark.parametrize("size", [None, 4])
def test_means_have_the_bootstrap_intervals_of_scipy(size):
    values = torch.tensor(np.random.default_rng(1).exponential(2.0, 60))
    groups = None if size is None else torch.arange(60) // size
    sums = values if size is None else values.view(-1, size).sum(dim=1)
    count = len(sums)
    tail = stats.norm.sf((count / (count - 1)) ** 0.5 * stats.t.ppf(0.975, count - 1))
    scipys = stats.bootstrap(
        (sums.numpy() / (size or 1),), np.mean, n_resamples=1000, method="percentile",
        confidence_level=1 - 2 * tail, random_state=np.random.default_rng(3),
    )  # fmt: skip
    expected = tuple(scipys.confidence_interval)
    assert metrics.mean_interval(values, groups=groups, seed=3) == pytest.approx(expected)


def test_nothing_is_known_of_no_trials():
    assert metrics.share_interval(0.0, 0) == (0.0, 1.0)


def test_groups_that_agree_are_one_trial_each():
    groups = torch.arange(40).repeat_interleave(8)
    agreeing = (torch.arange(40) % 4 == 0).float().repeat_interleave(8)
    assert metrics.effective_count(agreeing, groups) == 40
    assert metrics.effective_count(torch.zeros(320), groups) == 40
    assert metrics.effective_count(agreeing) == 320
    independent = (torch.rand(320) < 0.3).float()
    assert 200 < metrics.effective_count(independent, groups) <= 320
    order = torch.randperm(320)  # which image stands where makes no difference
    assert metrics.share_interval_of(agreeing[order], groups[order]) == pytest.approx(
        metrics.share_interval(0.25, 40)
    )


def test_attributes_of_an_image_are_trials_as_far_as_they_err_independently():
    independent = (torch.rand(500, 30) < 0.1).float().mean(dim=1)
    together = (torch.rand(500, 1) < 0.1).float().expand(500, 30).mean(dim=1)
    assert metrics.effective_count(independent, trials=30) > 10_000
    assert metrics.effective_count(together, trials=30) == pytest.approx(500, rel=0.01)


@pytest.mark.parametrize("what", ["mean", "share"])
def test_intervals_over_groups_cover_the_truth_where_images_share_a_key(what):
    """As those over images do not: 16 groups of 8 images, half of the variance between groups."""
    rng = np.random.default_rng(0)
    groups = torch.arange(16).repeat_interleave(8)
    covered = {"groups": 0, "images": 0}
    for trial in range(200):
        if what == "mean":
            values = torch.tensor(rng.normal(size=(16, 1)) + rng.normal(size=(16, 8))).flatten()
            pair = [metrics.mean_interval(values, groups=g, resamples=200, seed=trial)
                    for g in (groups, None)]  # fmt: skip
            truth = 0.0
        else:
            chance = rng.beta(0.3 * 1.5, 0.7 * 1.5, size=(16, 1))  # mean 0.3
            values = torch.tensor(rng.random((16, 8)) < chance).flatten().float()
            pair = [metrics.share_interval_of(values, g) for g in (groups, None)]
            truth = 0.3
        for name, (low, high) in zip(covered, pair, strict=True):
            covered[name] += low <= truth <= high
    assert covered["groups"] >= 0.9 * 200, covered
    assert covered["images"] < 0.8 * 200, covered


def test_intervals_of_few_values_are_wide_enough():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(300):
        low, high = metrics.mean_interval(torch.tensor(rng.normal(3, 1, 10)), seed=trial,
                                          resamples=200)  # fmt: skip
        covered += low <= 3 <= high
    assert covered >= 0.92 * 300  # plain percentiles: 0.90


def test_share_interval_stays_in_bounds():
    assert metrics.share_interval(0.0, 50)[0] == 0
    assert metrics.share_interval(1.0, 50)[1] == 1


@pytest.mark.parametrize("count", [1, 8, 100, 499, 1000, 2000, 10_000])
def test_a_share_lies_in_its_own_interval_whatever_the_rounding(count):
    for hits in {0, 1, count // 3, count - 1, count}:
        low, high = metrics.share_interval(hits / count, count)
        assert 0 <= low <= hits / count <= high <= 1
