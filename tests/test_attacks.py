"""Attacks with known answers, and what an attack must never do."""

import dataclasses
import inspect
import math

import pytest
import torch

import complexnn
from complexnn import data, metrics
from complexnn import functional as cF
from complexnn.attacks import angle, fitting, inference, inversion
from complexnn.attacks.fitting import Knowledge, best_matching, take
from complexnn.config import AttackConfig, DataConfig
from complexnn.networks.attackers import AngleRegressor, PropertyClassifier, UNet

CPU = torch.device("cpu")


def knowledge(**settings):
    torch.manual_seed(0)
    whole = data.load(DataConfig(groups="parity"))
    net = complexnn.build(
        "lenet", image_size=8, in_channels=1, num_classes=2, mean=whole.mean, std=whole.std,
        **settings,
    )  # fmt: skip
    net.train()
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():  # warm the norms' statistics up
        for batch in whole.train.batches(128, CPU):
            net(batch.images, generator=rng)
    return Knowledge(net.eval().requires_grad_(False), whole.train, whole.validation, CPU), whole


def settings(steps=150):
    return AttackConfig(attack="all", victim=None, steps=steps, lr=2e-3)


def angle_error(known, whole, steps=150):
    model = angle.make_regressor(known, (32, 4, 4))
    angle.fit_regressor(model, known, settings(steps), torch.Generator().manual_seed(1))
    rng = torch.Generator().manual_seed(2)
    seen = [known.observe(b, rng) for b in whole.test.batches(120, CPU)]
    found = [angle.errors(angle.recover(model, s.released)[0], s.key.directions) for s in seen]
    return torch.cat(found).mean().item()


def test_an_encoder_that_ends_in_relu_gives_its_angle_away():
    assert angle_error(*knowledge(relu_end=True)) < 0.15


def test_gaussian_features_keep_their_angle():
    """Herschel and Maxwell: a rotation of independent Gaussians is invisible, so the attack must
    stay at chance; if it does not, the key leaks through the evaluation."""
    known, whole = knowledge()

    class Gaussian(torch.nn.Module):
        def forward(self, images):
            return torch.randn(len(images), 32, 4, 4)

    known.net.encoder = Gaussian()
    assert angle_error(known, whole, steps=60) == pytest.approx(math.pi / 2, rel=0.05)


def test_a_part_beside_its_copy_gives_the_angle_away_exactly(rng):
    """b = a: every entry of x has the phase of the key, plus a quarter turn or its opposite."""
    a = torch.rand(20, 1, 8, 4, 4, dtype=torch.float64)
    keys = cF.draw_rotations(20, 2, rng)
    x = cF.rotate(torch.cat([a, a], 1), keys)
    phase = torch.atan2(x[:, 1], x[:, 0]).flatten(1).median(1).values - math.pi / 4
    estimate = torch.stack([phase.cos(), phase.sin()], -1)
    assert metrics.angle_between(estimate, keys.mT[:, 0]).max() < 1e-3


def test_true_directions_recover_the_features(rng):
    x = torch.randn(6, 3, 4, 5, 5)
    keys = cF.draw_rotations(6, 3, rng).float()

    class Oracle(torch.nn.Module):
        def forward(self, released):
            return keys.mT

    directions, features = angle.recover(Oracle(), cF.rotate(x, keys))
    torch.testing.assert_close(features, x, atol=1e-5, rtol=0)
    assert angle.errors(directions, keys.mT).max() < 1e-3


def test_chance_of_the_angle():
    assert angle.chance(2, 1) == angle.chance(7, 1) == pytest.approx(math.pi / 2)
    # Two unordered queries at d = 2: the better assignment of two orthonormal frames.
    assert 0.5 < angle.chance(2, 2) < math.pi / 2
    for dim, vectors in ((3, 1), (5, 1)):
        guess, truth = (
            torch.nn.functional.normalize(torch.randn(20000, vectors, dim), dim=-1)
            for _ in range(2)
        )
        assert metrics.angle_between(guess, truth).mean() == pytest.approx(math.pi / 2, abs=0.02)


def test_matching_equals_a_search_over_all_orders():
    import itertools

    cost = torch.rand(30, 4, 4)
    columns = best_matching(cost)
    for sample, chosen in zip(cost, columns, strict=True):
        best = min(
            sum(sample[i, j] for i, j in enumerate(order))
            for order in itertools.permutations(range(4))
        )
        assert sample.gather(1, chosen.unsqueeze(1)).sum() == pytest.approx(best.item(), abs=1e-5)
    values = torch.arange(4).expand(30, 4)
    assert torch.equal(take(values, columns), columns)


@pytest.mark.parametrize("group", ["decoy", "packed"])
def test_attackers_fit_every_kind_of_group(group):
    known, whole = knowledge(dim=3, group=group)
    rng = torch.Generator().manual_seed(0)
    seen = known.observe(next(whole.test.batches(100, CPU)), rng)  # 100 is no multiple of 3
    vectors = 3 if group == "packed" else 1
    directions, features = angle.recover(angle.make_regressor(known, (32, 4, 4)), seen.released)
    assert directions.shape == (len(seen.released), vectors, 3)
    assert features.shape == (len(seen.released), vectors, 32, 4, 4)
    decoder = inversion.make_released_decoder(known, (32, 4, 4))
    guess = decoder(seen.released.flatten(1, 2))
    truth = inversion.true_images(seen, vectors)
    assert guess.shape == truth.shape
    assert torch.equal(truth.flatten(0, 1)[:100], seen.batch.images)


def test_an_unprotected_network_is_inverted():
    known, whole = knowledge(kind="additional")
    model = inversion.make_released_decoder(known, (32, 4, 4))
    inversion.fit_released_decoder(model, known, settings(200), torch.Generator().manual_seed(0))
    seen = known.observe(next(whole.test.batches(360, CPU)), torch.Generator())
    guess = model(seen.released.flatten(1, 2)).squeeze(1)
    blind = whole.train.pixels.float().mean(0) / 255
    error = metrics.rmse(guess, seen.batch.images).mean()
    floor = metrics.rmse(blind.expand_as(guess), seen.batch.images).mean()
    assert error < 0.5 * floor


def test_an_unprotected_network_shows_the_hidden_property():
    known, whole = knowledge(kind="additional")

    def view(seen):
        return seen.released.flatten(0, 1)

    model = PropertyClassifier(32, 10)
    inference.fit_classifier(
        model, view, known, settings(100), torch.Generator().manual_seed(0), "features"
    )
    neighbours = inference.fit_neighbours(view, known, torch.Generator().manual_seed(0))
    seen = known.observe(next(whole.test.batches(360, CPU)), torch.Generator())
    error = (model(view(seen)).argmax(1) != seen.batch.classes).float().mean()
    assert error < 0.15
    for k in (1, 3, 5):
        guess = torch.from_numpy(neighbours[k].predict(view(seen).flatten(1).numpy()))
        assert (guess != seen.batch.classes).float().mean() < 0.15


def test_attacking_changes_no_tensor_of_the_victim():
    known, _ = knowledge()
    before = {k: v.clone() for k, v in known.net.state_dict().items()}
    model = angle.make_regressor(known, (32, 4, 4))
    angle.fit_regressor(model, known, settings(5), torch.Generator())
    assert all(torch.equal(before[k], v) for k, v in known.net.state_dict().items())
    assert not known.net.training


def test_attackers_are_trained_on_no_test_image():
    known, whole = knowledge()
    rng = torch.Generator().manual_seed(0)
    observations = known.endless(64, rng)
    shown = [next(observations).batch.images for _ in range(40)]
    shown += [seen.batch.images for seen in known.held_out(64)]
    tests = {tuple(p) for p in whole.test.pixels.flatten(1).tolist()}
    overlap = [tuple(p) for p in (torch.cat(shown) * 255).round().int().flatten(1).tolist()]
    twins = {tuple(p) for p in whole.train.pixels.flatten(1).tolist()} | {
        tuple(p) for p in whole.validation.pixels.flatten(1).tolist()
    }
    assert not (set(overlap) - twins)
    assert not (set(overlap) & (tests - twins))


@pytest.mark.parametrize("function", [angle.recover])
def test_an_attack_takes_what_is_released_and_no_key(function):
    assert not {"key", "keys", "theta", "rotation"} & set(inspect.signature(function).parameters)
    for network in (AngleRegressor, UNet, PropertyClassifier):
        assert len(inspect.signature(network.forward).parameters) == 2


@pytest.mark.parametrize("size", [(8, 8), (28, 28), (32, 32), (19, 33)])
def test_decoders_make_images_of_any_size(size):
    net = UNet(6, (3, *size), images=2, width=8)
    assert net(torch.randn(4, 6, 5, 7)).shape == (4, 2, 3, *size)


def test_a_fit_keeps_its_best_state():
    known, _ = knowledge()
    model = torch.nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(1.0)

    def loss(model, seen):  # an attacker that only gets worse: any step grows the weight
        return (model.weight.sum() - 1).square() + (0 if model.training else 0.1)

    fitting.fit(model, loss, known, dataclasses.replace(settings(20)), torch.Generator(), "test")
    assert model.weight.item() == pytest.approx(1.0, abs=0.05)
