"""All groups of a release together: which share a member, what is recovered, what is not."""

import math
import time

import pytest
import torch
from test_attacks import make_attacker

from complexnn.attacks import release, roster, scoring, span
from complexnn.attacks.baselines import Baselines
from complexnn.attacks.gallery import Gallery
from complexnn.attacks.threat import Observation
from complexnn.attacks.user import Truth
from complexnn.metrics import angle_between
from complexnn.rotation import functional as cF

NUMBERS = 60


def images(count, rng, *, numbers=NUMBERS):
    """Features that are not Gaussian, share a mean, and differ in strength, as a network's do."""
    strength = torch.logspace(0, -1.5, numbers, dtype=torch.float64)
    drawn = torch.randn(count, numbers, dtype=torch.float64, generator=rng)
    return (1 + drawn.relu()) * strength


def send(features, members, rng, *, rounded=torch.float32):
    """Groups of these members under fresh keys: released ``(G, d, N, 1, 1)``, directions."""
    key = cF.draw_rotations(*members.shape, rng)
    released = key @ features[members]
    return released.to(rounded).float().unflatten(-1, (-1, 1, 1)), key.mT


def decoys(count, dim, rng):
    """Each image with d - 1 others of the same batch."""
    own = torch.arange(count).unsqueeze(1)
    return torch.cat([own, cF.draw_counterparts(count, dim - 1, rng)], dim=1)


def blocks(count, dim):
    """Each image with d - 1 others, whose groups have the same members in another order."""
    members = torch.arange(count).view(-1, 1, dim).expand(-1, dim, dim)
    shift = torch.arange(dim)
    return members.gather(2, ((shift[:, None] + shift) % dim).expand_as(members)).flatten(0, 1)


def error(seen, truth):
    """The angle between every member's direction and the nearest one found, up to its sign;
    π / 2 where none was: ``(G, d)``."""
    rows, found = truth.to(seen.directions), seen.directions
    near = (rows @ found.mT).abs().argmax(dim=2, keepdim=True).expand_as(rows)
    best = found.gather(1, near)
    apart = torch.minimum(angle_between(best, rows), angle_between(-best, rows))
    return apart.where(best.any(dim=2), torch.tensor(math.pi / 2))


def sharing(members):
    """Pairs of groups that have some, but not all, of their members in common."""
    common = (members[:, None, :, None] == members[None, :, None, :]).any(-1).sum(-1)
    first, second = ((common > 0) & (common < members.shape[1])).triu(1).nonzero().T
    return set(zip(first.tolist(), second.tolist(), strict=True))


def pairs(seen):
    return {tuple(pair) for pair in seen.pairs.tolist()}


@pytest.mark.parametrize(("dim", "count"), [(2, 200), (3, 100), (8, 60), (2, 3)])
def test_a_batch_of_decoy_groups_gives_every_member_away(dim, count, rng):
    members = decoys(count, dim, rng)
    released, truth = send(images(count, rng), members, rng)
    seen = release.recover(released)
    assert seen.recovered.all()
    assert error(seen, truth).max() < 1e-5
    assert pairs(seen) == sharing(members)
    assert seen.misfits.max() < 1e-5
    assert (seen.directions @ seen.directions.mT - torch.eye(dim)).abs().max() < 1e-6


def test_closed_blocks_tell_nothing(rng):
    for dim in (2, 3, 8):
        released, truth = send(images(96, rng), blocks(96, dim), rng)
        seen = release.recover(released)
        assert not seen.recovered.any()
        noisy = released + 0.01 * released.std() * torch.randn(released.shape, generator=rng)
        assert not release.recover(noisy).recovered.any()
        assert error(seen, truth).min() == pytest.approx(math.pi / 2)


def test_packed_groups_of_different_images_share_nothing(rng):
    released, _ = send(images(120, rng), torch.arange(120).view(-1, 4), rng)
    seen = release.recover(released)
    assert not seen.recovered.any()
    assert not len(seen.pairs)


def test_one_decoy_that_a_pool_gives_twice_opens_both_groups(rng):
    """At d = 2 the member that nobody shares is what is left: orthogonal to the shared one's."""
    members = torch.arange(160).view(-1, 2).clone()
    members[40, 1] = members[3, 1]
    released, truth = send(images(160, rng), members, rng)
    seen = release.recover(released)
    assert pairs(seen) == {(3, 40)}
    assert seen.recovered.any(dim=1).nonzero().flatten().tolist() == [3, 40]
    assert error(seen, truth)[[3, 40]].max() < 1e-5


def test_members_that_always_come_together_are_told_from_the_others_only(rng):
    """Groups 0 and 1 share two of four members: a plane. A third group parts them."""
    members = torch.arange(160).view(-1, 4).clone()
    members[1, :2] = members[0, :2]
    features = images(160, rng)
    released, truth = send(features, members, rng)
    seen = release.recover(released)
    assert pairs(seen) == {(0, 1)}
    assert not seen.recovered.any()  # two planes in each group, no line

    members[2, 0] = members[0, 0]
    released, truth = send(features, members, rng)
    seen = release.recover(released)
    assert pairs(seen) == {(0, 1), (0, 2), (1, 2)}
    assert error(seen, truth)[:2, :2].max() < 1e-5
    assert error(seen, truth)[2, 0] < 1e-5
    assert seen.recovered[:3].sum(dim=1).tolist() == [2, 2, 1]


def test_an_image_of_two_releases_is_found_without_being_told_where(rng):
    """Closed blocks, twice, in another order: nothing within a release, all between the two."""
    features = images(96, rng)
    order = torch.randperm(96, generator=rng)
    first, truth = send(features, blocks(96, 2), rng)
    second, _ = send(features, order[blocks(96, 2)], rng)
    assert not release.recover(first).recovered.any()
    assert not release.recover(second).recovered.any()
    seen = release.recover(torch.cat([first, second]))
    assert error(seen, truth.repeat(2, 1, 1))[:96].max() < 1e-5


def test_the_same_image_under_two_indices_is_found(rng):
    features = images(80, rng)
    features[17] = features[64]
    members = blocks(80, 2)
    released, truth = send(features, members, rng)
    seen = release.recover(released)
    there = torch.tensor([17, 64]).view(-1, 1, 1) == members
    opened = there.any(dim=2).any(dim=0)
    assert torch.equal(seen.recovered.all(dim=1), opened)
    assert error(seen, truth)[opened].max() < 1e-5


@pytest.mark.parametrize(("level", "bound"), [(0.0, 0.01), (0.01, 0.05)])
def test_rounding_and_slight_noise_do_not_help(level, bound, rng):
    members = decoys(200, 2, rng)
    released, truth = send(images(200, rng), members, rng, rounded=torch.bfloat16)
    released = released + level * released.std() * torch.randn(released.shape, generator=rng)
    seen = release.recover(released)
    assert seen.recovered.all()
    assert error(seen, truth).median() < bound


def test_spans_that_meet_by_their_size_alone_tell_nothing(rng):
    """40 parts of 60 numbers: any two spans have 20 dimensions in common."""
    released, _ = send(images(200, rng), torch.arange(200).view(-1, 40), rng)
    assert not release.recover(released).recovered.any()


def test_a_copy_within_a_group_breaks_nothing(rng):
    features = images(90, rng)
    members = torch.arange(90).view(-1, 3).clone()
    members[5, 2] = members[5, 1]
    members[7, 0] = members[8, 0]
    released, truth = send(features, members, rng)
    seen = release.recover(released)
    assert seen.directions.isfinite().all()
    assert error(seen, truth)[[7, 8], 0].max() < 1e-5


@pytest.mark.parametrize("dim", [2, 5])
def test_known_decoys_project_out(dim, rng):
    """Where the decoys are public, G - b b^T = a a^T gives the query alone."""
    members = torch.arange(40 * dim).view(-1, dim)
    features = images(40 * dim, rng)
    released, truth = send(features, members, rng)
    public = features[members[:, 1:]].unflatten(-1, (-1, 1, 1)).float()
    query = release.without(released, public).squeeze(1)
    along = (query * truth[:, 0]).sum(dim=1).abs()
    assert along.min() > 1 - 1e-6


@pytest.mark.slow
def test_ten_thousand_groups_take_minutes_at_most(rng):
    members = decoys(10_000, 2, rng)
    released, truth = send(images(10_000, rng, numbers=512), members, rng)
    begun = time.monotonic()
    seen = release.recover(released)
    assert time.monotonic() - begun < 300
    assert error(seen, truth).max() < 1e-3


def test_what_is_recovered_is_a_member(rng):
    """The views that the found directions show are in the spans, and of a member's length."""
    members = decoys(60, 2, rng)
    features = images(60, rng)
    released, _ = send(features, members, rng)
    seen = release.recover(released)
    views = (seen.directions @ released.flatten(2)).flatten(0, 1).double()
    apart = torch.cdist(views, features[members[:, 0]])
    apart = torch.minimum(apart, torch.cdist(-views, features))
    assert (apart.amin(dim=1) < 1e-4 * features.norm(dim=1).mean()).all()
    assert span.own_shares(released, features[:60].unflatten(1, (-1, 1, 1)).float()).min() > 0.999


def ask(folder, members, count=60, **settings):
    """What the roster's attack makes of a network's release of groups with these members."""
    attacker, whole = make_attacker(folder, steps=20, **settings)
    net, images = attacker.knowledge.net, whole.test.subset(torch.arange(count))
    (batch,) = images.batches(count, torch.device("cpu"))
    parts = cF.gather_parts(net.features(batch.images), members)
    rng = torch.Generator().manual_seed(1)
    truth = Truth(batch, net._rotate(parts, members, count, rng), torch.arange(count))
    (attack,) = (a for a in roster.ROSTER if a.name == "release")
    gallery = Gallery(attacker, images)
    answer = attack.answer(attacker, Observation(truth.released))
    own, other = scoring.SCORES["release"](gallery, answer, truth)
    chance = Baselines(gallery).chances("release")["angle_error"]["chance"]
    return own, other, chance


def test_a_networks_default_release_is_scored_as_broken_and_closed_blocks_as_blind(tmp_path, rng):
    own, other, chance = ask(tmp_path, decoys(60, 2, rng))
    assert own["share"].min() == 1
    assert own["angle_error"].median() < 1e-3
    assert other["angle_error"].mean() == pytest.approx(chance, abs=0.25)

    own, other, chance = ask(tmp_path, blocks(60, 2))
    for measured in (own, other):
        assert measured["share"].max() == 0
        assert measured["angle_error"].tolist() == pytest.approx([chance] * 60)
