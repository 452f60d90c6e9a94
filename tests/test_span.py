"""Membership scores: members lie on an ellipsoid, or are told by the likelihood of the others."""

import dataclasses
import math

import pytest
import torch
from scipy.optimize import minimize
from scipy.stats import wishart
from test_attacks import make_attacker, make_user

import complexnn
from complexnn.attacks import scoring, span
from complexnn.attacks.gallery import Gallery
from complexnn.attacks.threat import Answer
from complexnn.rotation import functional as cF

NUMBERS = 16


def population(count, rng, *, numbers=NUMBERS, normal=False):
    """Features with a mean, of unequal strength; not normal unless asked for."""
    strength = torch.logspace(0, -1, numbers, dtype=torch.float64)
    drawn = torch.randn(count, numbers, generator=rng, dtype=torch.float64)
    values = 0.5 + drawn if normal else 0.5 + drawn.relu()
    return (values * strength).view(count, numbers, 1, 1)


def send(features, dim, rng):
    """Packed groups of dim, under fresh keys."""
    index = torch.arange(len(features)).view(-1, dim)
    key = cF.draw_rotations(len(index), dim, rng)
    return cF.rotate(cF.gather_parts(features, index), key)


def identified(released, members, strangers, moment=None):
    """The share of members that score above every stranger."""
    each = released.repeat_interleave(released.shape[1], dim=0)
    own = span.own_scores(each, members, moment).view(len(released), -1)
    best = span.scores(released, strangers, moment).amax(dim=1, keepdim=True)
    return (own > best).double().mean().item()


@pytest.mark.parametrize("dim", [1, 2, 8, 15, 16])
def test_up_to_as_many_parts_as_numbers_every_member_is_identified(dim, rng):
    members, strangers = population(20 * dim, rng), population(1000, rng)
    released = send(members, dim, rng)
    each = released.repeat_interleave(dim, dim=0)
    assert span.own_scores(each, members).abs().max() < 1e-12
    assert identified(released, members, strangers) == 1
    if dim == NUMBERS:  # where the span holds everything
        assert span.shares(released, strangers).min() > 1 - 1e-6


def test_rounded_to_bf16_nearly_all_are(rng):
    members, strangers = (population(n, rng, numbers=64) for n in (256, 1000))
    released = send(members, 64, rng).bfloat16().float()
    assert identified(released, members.float(), strangers.float()) > 0.9


def test_near_the_ellipsoid_it_is_the_distance_from_there(rng):
    flat = torch.randn(3, 6, generator=rng, dtype=torch.float64)
    u = torch.nn.functional.normalize(torch.randn(5, 3, generator=rng, dtype=torch.float64), dim=1)
    candidates = u @ flat + 1e-3 * torch.randn(5, 6, generator=rng, dtype=torch.float64)
    got = -span.scores(flat.view(1, 3, 6, 1, 1), candidates.view(5, 6, 1, 1))[0]
    for start, candidate, squared in zip(u.numpy(), candidates.numpy(), got, strict=True):

        def away(point, candidate=candidate):
            nearest = point / (point**2).sum() ** 0.5 @ flat.numpy()
            return 1e6 * ((candidate - nearest) ** 2).sum()

        best = minimize(away, start, tol=1e-12).fun / 1e6
        assert squared.item() == pytest.approx(best, rel=0.02)


def test_above_it_is_the_ratio_of_wishart_densities(rng):
    """With zero mean: the density of G less the candidate, with one member less, over G's own."""
    parts = 24
    moment = torch.cov(torch.randn(NUMBERS, 200, generator=rng, dtype=torch.float64))
    features = torch.randn(parts, NUMBERS, generator=rng, dtype=torch.float64)
    features = features @ torch.linalg.cholesky(moment).mT
    gram = features.mT @ features
    released = send(features.view(parts, NUMBERS, 1, 1), parts, rng)
    got = span.scores(released, features.view(parts, NUMBERS, 1, 1), moment)[0]
    for member, score in zip(features, got, strict=True):
        less = gram - torch.outer(member, member)
        with_it = wishart.logpdf(less.numpy(), parts - 1, moment.numpy())
        without = wishart.logpdf(gram.numpy(), parts, moment.numpy())
        assert score.item() == pytest.approx(with_it - without, rel=1e-6)


def test_over_the_population_likelihood_ratios_have_a_mean_of_one(rng):
    features = torch.randn(9, 2, 1, 1, generator=rng, dtype=torch.float64)
    strangers = torch.randn(200_000, 2, 1, 1, generator=rng, dtype=torch.float64)
    ratios = span.scores(send(features, 9, rng), strangers, torch.eye(2)).exp()
    spread = 5 * ratios.std().item() / math.sqrt(ratios.numel())
    assert ratios.mean().item() == pytest.approx(1, abs=spread)


@pytest.mark.parametrize("normal", [True, False])
def test_above_many_are_still_identified_and_ever_fewer(normal, rng):
    strangers = population(1000, rng, normal=normal)
    moment = span.second_moment(population(4000, rng, normal=normal), parts=1)
    found = []
    for dim in (20, 32, 128):
        members = population(10 * dim, rng, normal=normal)
        found.append(identified(send(members, dim, rng), members, strangers, moment))
    assert found[0] > 0.3
    assert found[0] > found[1] > found[2] > 5 / 1000


def test_a_linear_map_of_the_numbers_changes_nothing_above(rng):
    members, strangers = population(40, rng), population(50, rng)
    turn = torch.eye(NUMBERS) + 0.1 * torch.randn(NUMBERS, NUMBERS, generator=rng)
    turn = turn.double()

    def mapped(x):
        return (x.flatten(-3) @ turn).unflatten(-1, (NUMBERS, 1, 1))

    moment = span.second_moment(population(500, rng), parts=1)
    released = send(members, 40, rng)
    before = span.scores(released, strangers, moment)
    after = span.scores(mapped(released), mapped(strangers), turn.mT @ moment @ turn)
    apart = (after - before)[before > -span.OUTSIDE / 2]
    assert apart.std() < 1e-5  # up to the constant log |turn|


def test_copies_within_a_group_are_members(rng):
    members, strangers = population(8, rng), population(1000, rng)
    members[3] = members[5]
    released = send(members, 8, rng)
    assert identified(released, members, strangers) == 1


def test_gaussian_decoys_are_part_of_the_second_moment(rng):
    features = population(4000, rng)
    parts = torch.cat([features, 3 * torch.randn(4000, NUMBERS, 1, 1, generator=rng).double()])
    mixed = span.second_moment(features, parts=2, decoys=1, scale=3.0)
    assert torch.allclose(mixed, span.second_moment(parts, parts=1), atol=0.5)
    with pytest.raises(ValueError, match="second_moment"):
        span.scores(torch.zeros(1, 20, NUMBERS, 1, 1), features)


@pytest.mark.parametrize("dim", [2, 16, 24])
def test_scores_have_gradients(dim, rng):
    released = send(population(dim, rng), dim, rng)
    moment = span.second_moment(population(500, rng), parts=1)
    candidates = population(3, rng).requires_grad_()
    if dim == 24:
        candidates = (0.3 * candidates.detach()).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: span.scores(released, x, moment), candidates)


@pytest.mark.parametrize("dim", [4, 6])
def test_a_network_of_as_many_parts_as_numbers_is_scored_by_the_norm(dim, tmp_path):
    """thin1 releases 4 numbers of digits."""
    attacker, whole = make_attacker(tmp_path)
    net = complexnn.build(
        "thin1", image_size=8, in_channels=1, num_classes=2, dim=dim, group="packed"
    )
    known = dataclasses.replace(attacker.knowledge, net=net.eval().requires_grad_(False))
    attacker = dataclasses.replace(attacker, knowledge=known)
    gallery = Gallery(attacker, whole.test)
    seen, truth = make_user(attacker, whole, 48).sends_whole(0, 48)
    own, other = scoring.score_span(gallery, Answer(seen.released), truth)
    assert (gallery.moment is not None) == (dim > 4)
    if dim == 4:
        assert own["top1"].mean() > 0.9
        assert other["top1"].mean() < 0.1
    else:
        assert own["top1"].mean() > 5 / len(gallery)
