"""Scoring: copies are no strangers, ties no losses, and blind answers are matched like attacks."""

import pytest
import torch
from test_attacks import CPU, make_attacker, make_user

from complexnn.attacks import gallery, ica, scoring
from complexnn.attacks.fitting import OwnRelease
from complexnn.attacks.threat import Answer
from complexnn.data.images import ImageSet

SETTINGS = [{}, {"dim": 4, "group": "packed"}, {"kind": "additional"}]


def twice(images):
    """Every image of a set two times, far apart."""
    index = torch.arange(len(images)).repeat(2)
    return ImageSet(images.pixels[index], images.labels[index], images.classes[index])


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_perfect_attack_identifies_images_that_occur_twice(tmp_path, settings):
    attacker, whole = make_attacker(tmp_path, **settings)
    images = twice(whole.test.subset(torch.arange(60)))
    user = make_user(attacker, whole)
    object.__setattr__(user, "images", images)
    candidates = gallery.Gallery(attacker, images)
    seen, truth = user.sends_whole(1, 120)
    own, other = scoring.score_span(candidates, Answer(seen.released), truth)
    assert own["top1"].min() == 1
    assert own["best_other"].max() < 0.9999
    assert other["top1"].max() == 0
    centre = torch.randn(1, 64, generator=torch.Generator().manual_seed(0))
    candidates.embedded = lambda x: torch.nn.functional.normalize(x.flatten(1) - centre, dim=1)
    own, other = scoring.score_reconstructions(candidates, truth.batch.images, truth)
    assert own["top1"].min() == own["top5"].min() == 1
    assert own["rmse"].max() == 0 < other["rmse"].min()


@pytest.mark.parametrize("settings", SETTINGS)
def test_the_negative_control_is_no_copy(tmp_path, settings):
    """Not even where all copies stand beside each other."""
    attacker, whole = make_attacker(tmp_path, **settings)
    index = torch.arange(30).repeat_interleave(2)
    images = ImageSet(whole.test.pixels[index], whole.test.labels[index], index)
    net, rng = attacker.knowledge.net, torch.Generator().manual_seed(0)
    (batch,) = images.batches(60, CPU)
    truth = OwnRelease(batch, net.release(batch.images, generator=rng))
    other = scoring.next_group(truth)
    assert (batch.classes[other] != batch.classes).all()
    group = torch.arange(60) // attacker.victim.queries
    assert (group[other] != group).all()


def test_the_same_are_copies_and_equal_features(rng):
    images = torch.rand(40, 3, 6, 6, generator=rng)
    others = torch.rand(50, 3, 6, 6, generator=rng)
    images, others = ((x * 255).round() / 255 for x in (images, others))
    others[7], others[8] = images[3], images[3]
    others[9] = images[4]
    others[9, 0, 0, 0] += 1 / 255 if others[9, 0, 0, 0] < 0.5 else -1 / 255  # nearly a copy

    def encode(x):  # which does not see the blue channel
        return x[:, :2] @ torch.ones(6, 6).triu() + 10

    others[11], others[11, 2] = images[5], 0
    found = gallery.same(images, encode(images), others, encode(others))
    assert found.nonzero().tolist() == [[3, 7], [3, 8], [5, 11]]
    jitter = encode(others) * (1 + 3e-7 * torch.randn(50, 1, 1, 1, generator=rng))
    assert torch.equal(gallery.same(images, encode(images), others, jitter), found)


def test_answers_are_compared_with_the_queries_that_they_belong_to(tmp_path, rng):
    """In any order, and by the directions that showed them wherever there are any."""
    attacker, whole = make_attacker(tmp_path, dim=4, group="packed")
    _, truth = make_user(attacker, whole, 80).sends_whole(0, 80)
    order = torch.rand(20, 4, generator=rng).argsort(dim=1)
    directions = scoring.take(truth.key.directions, order)
    images = scoring.take(truth.images, order)
    assert torch.equal(
        scoring.order_by_direction_or_image(Answer(images), truth), truth.batch.images
    )
    assert torch.equal(
        scoring.order_by_direction_or_image(Answer(images, directions), truth), truth.batch.images
    )
    logits = torch.randn(20, 4, 10, generator=rng)
    shown = scoring.order_by_direction_or_image(
        Answer(scoring.take(logits, order), directions), truth
    )
    assert torch.equal(shown, logits.flatten(0, 1))
    assert scoring.choices(Answer(images)) == 4
    assert scoring.choices(Answer(images, directions)) == 1


def test_an_all_zero_group_has_no_key_and_breaks_nothing(tmp_path, rng):
    """FastICA cannot whiten it; the groups beside it are separated as without it."""
    released = torch.rand(3, 4, 2, 12, 12, generator=rng).log().neg()
    released[1] = 0
    released[2, 3] = released[2, 2]  # one direction less than parts

    def score(features):
        return features.pow(3).mean(dim=(1, 2, 3))

    found = ica.fast_ica(released, score, count=4)
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found @ found.mT, torch.eye(4).expand(3, 4, 4), atol=1e-4, rtol=1e-4)
    alone = ica.fast_ica(released[:1], score, count=4)
    torch.testing.assert_close(found[:1], alone)


def test_attackers_randomness_is_a_function_of_their_name(tmp_path):
    attacker, _ = make_attacker(tmp_path)
    names = ["judge", "angle", "dec_x", "one that did not exist"]
    seeds = [attacker.networks.rng(name).initial_seed() for name in names]
    assert len(set(seeds)) == 4
    assert seeds == [attacker.networks.rng(name).initial_seed() for name in names]


def test_attacks_see_no_more_than_two_tensors_of_a_batch(tmp_path):
    attacker, whole = make_attacker(tmp_path)
    (seen, truth), *_ = make_user(attacker, whole).sends(0, 60)
    assert set(vars(seen)) == {"released", "again"}
    assert seen.again == ()
    assert seen.released.device == CPU
    assert truth.key.rotation is not None
