"""An image that is sent several times: what linear algebra finds, and where it ends."""

import math

import pytest
import torch
from test_attacks import make_attacker, make_user

import complexnn
from complexnn.attacks import intersection, span, unmixing, user
from complexnn.rotation import functional as cF

IMAGES = 50


def releases(numbers, dim, count, rng, *, decoys=0, strength=3, same_company=False):
    """One feature per image in ``count`` groups of ``dim``, under fresh keys; and its direction in
    the first."""
    features = torch.randn(IMAGES, 1, numbers, generator=rng, dtype=torch.float64)
    company = torch.randn(IMAGES, dim - 1, numbers, generator=rng, dtype=torch.float64)
    found, truth = [], None
    for _ in range(count):
        if not same_company:
            company = torch.randn(company.shape, generator=rng, dtype=torch.float64)
        noise = torch.randn(IMAGES, decoys, numbers, generator=rng, dtype=torch.float64)
        noise = strength * noise
        parts = torch.cat([features, company, noise], dim=1)
        key = cF.draw_rotations(IMAGES, dim + decoys, rng).double()
        truth = key.mT[:, 0] if truth is None else truth
        groups = (key @ parts).view(IMAGES, dim + decoys, numbers, 1, 1)
        found.append((groups, torch.arange(IMAGES)))
    return found, truth


def error(found, truth):
    """Up to the sign, which spans do not show."""
    return (found * truth).sum(dim=1).abs().clamp(max=1).acos()


@pytest.mark.parametrize("dim", [2, 8, 20])
def test_two_releases_meet_in_the_feature_that_both_hold(dim, rng):
    (first, *others), truth = releases(40, dim, 2, rng)
    assert error(intersection.directions(first, others), truth).max() < 1e-6


@pytest.mark.parametrize(("count", "exact"), [(2, False), (3, True), (4, True)])
def test_how_many_releases_it_takes(count, exact, rng):
    """R (d - 1) <= (R - 1)(N - 1): with 8 parts of 12 numbers from three releases on."""
    assert (count * 7 <= (count - 1) * 11) is exact
    (first, *others), truth = releases(12, 8, count, rng)
    found = error(intersection.directions(first, others), truth)
    assert found.max() < 1e-5 if exact else found.median() > 0.3


def blind(parts, rng):
    uniform = torch.randn(4000, 2, parts, generator=rng, dtype=torch.float64)
    uniform = uniform / uniform.norm(dim=2, keepdim=True)
    return error(uniform[:, 0], uniform[:, 1]).mean()


def test_spans_that_hold_everything_show_a_spike(rng):
    """As many parts as numbers: two releases say little, and more say ever more."""
    found = []
    for count in (2, 8, 32):
        (first, *others), truth = releases(40, 40, count, rng)
        found.append(error(intersection.directions(first, others), truth).mean() / blind(40, rng))
    assert found[0] > 0.8
    assert found[1] < 0.6
    assert found[2] < 0.4


@pytest.mark.parametrize(
    "hidden", [{"numbers": 12, "dim": 2, "decoys": 24, "strength": 20},
               {"numbers": 40, "dim": 4, "same_company": True}],
)  # fmt: skip
def test_what_repetition_does_not_show(hidden, rng):
    """Behind Gaussian decoys of many times the features' power, and in the same company again."""
    (first, *others), truth = releases(**hidden, count=16, rng=rng)
    found = error(intersection.directions(first, others), truth).mean()
    assert found > 0.85 * blind(truth.shape[1], rng)


@pytest.mark.parametrize(
    "settings",
    [{}, {"dim": 3}, {"dim": 8, "group": "packed"}, {"dim": 2, "gaussian_decoys": 6}],
)
def test_a_network_gives_away_every_image_that_is_sent_again(tmp_path, settings):
    attacker, whole = make_attacker(tmp_path, steps=2, **settings)
    times = attacker.config.resources.repeats
    sent = make_user(attacker, whole, 96).sends_whole(0, 96, again="other co-members", times=times)
    seen, known = sent
    found = attacker.intersected(seen)
    truth = known.key.directions
    assert found.shape == truth.shape
    assert error(found.flatten(0, 1), truth.flatten(0, 1).to(found)).max() < 2e-3


def test_other_company_is_that_of_other_queries(tmp_path, rng):
    attacker, whole = make_attacker(tmp_path, dim=4, group="packed")
    batch = next(whole.test.subset(torch.arange(100)).batches(100, torch.device("cpu")))
    released, place = make_user(attacker, whole).elsewhere(batch, rng)
    assert released.shape[:2] == (user.CROWD, 4)
    before = torch.arange(100) // 4
    together = (place.unsqueeze(0) == place.unsqueeze(1)) & (before == before.unsqueeze(1))
    assert together.sum() - 100 < 20  # of 300 pairs: one in 64 by chance
    features = attacker.knowledge.net.features(batch.images)
    assert span.own_shares(released[place], features).min() > 0.9999
    assert span.own_shares(released[place.roll(4)], features).median() < 0.9999


def test_blind_guessing_of_as_many_directions_as_are_returned():
    decoys, packed = complexnn.NetConfig(dim=5), complexnn.NetConfig(dim=5, group="packed")
    assert unmixing.chance(decoys, answers=1) == pytest.approx(math.pi / 2)
    assert unmixing.chance(packed, answers=5) == unmixing.chance(packed)
