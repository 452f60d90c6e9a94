"""Attacks with known answers, and what an attack must never do."""

import dataclasses
import inspect
import itertools
import math
from pathlib import Path

import pytest
import torch

import complexnn
from complexnn import data, metrics
from complexnn import functional as cF
from complexnn.attacks import attacker as attacker_module
from complexnn.attacks import (
    fitting,
    intersection,
    inversion,
    keys,
    optimise,
    roster,
    scoring,
    span,
)
from complexnn.attacks.attacker import Attacker
from complexnn.attacks.fitting import Knowledge, Observation, best_matching, take
from complexnn.config import AttackConfig, DataConfig
from complexnn.networks.attackers import AngleRegressor, PropertyClassifier, UNet

CPU = torch.device("cpu")


def make_attacker(folder, *, steps=150, budget="quick", encoder=None, **settings):
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
    if encoder is not None:
        net.encoder = encoder
    known = Knowledge(net.eval().requires_grad_(False), whole.train, whole.validation, CPU)
    config = AttackConfig(attack="all", victim=Path("none"), budget=budget, steps=steps)
    return Attacker(known, whole, config, folder, "hash"), whole


def observe(attacker, whole, count=360, seed=2):
    rng = torch.Generator().manual_seed(seed)
    images = whole.test.subset(torch.arange(count))
    return [attacker.knowledge.observe(b, rng) for b in images.batches(120, CPU)]


def angle_error(attacker, whole, name, draws=1):
    found = [
        keys.errors(attacker.key_attacks[name](seen.released), seen.key.directions)
        for draw in range(draws)
        for seen in observe(attacker, whole, seed=draw)
    ]
    return torch.cat(found).mean().item()


# ---------------------------------------------------------------------------- known answers: keys


@pytest.mark.parametrize("name", ["phase", "angle-regressor"])
def test_an_encoder_that_ends_in_relu_gives_its_angle_away(tmp_path, name):
    attacker, whole = make_attacker(tmp_path, steps=400, relu_end=True)
    assert angle_error(attacker, whole, name) <= 0.1


class Gaussian(torch.nn.Module):
    def forward(self, images):
        return torch.randn(len(images), 32, 4, 4)


@pytest.mark.parametrize("settings", [{}, {"dim": 3}, {"dim": 2, "group": "packed"}])
def test_gaussian_features_keep_their_key(tmp_path, settings):
    """Herschel and Maxwell: a rotation of independent Gaussians is invisible, so every attack must
    stay at chance; one that does not shows that the key leaks through the evaluation."""
    attacker, whole = make_attacker(tmp_path, steps=60, encoder=Gaussian(), **settings)
    blind = keys.chance(attacker.knowledge.net.config)
    for name in attacker.key_attacks:
        draws = 1 if name == "fast-ica" else 4
        error = angle_error(attacker, whole, name, draws=draws)
        assert error == pytest.approx(blind, rel=0.05), name


@pytest.mark.parametrize("signed", [True, False])
def test_a_part_beside_its_copy_gives_the_angle_away_exactly(rng, signed):
    """b = a: every entry of x has the phase of the key, plus a quarter turn or its opposite."""
    a = torch.randn(40, 1, 8, 4, 4) + 0.5 if signed else torch.rand(40, 1, 8, 4, 4)
    rotation = cF.draw_rotations(40, 2, rng).float()
    released = cF.rotate(torch.cat([a, a], 1), rotation)
    known = keys.Statistics(a.mean(dim=(0, 1)), torch.eye(8))
    found = keys.phase(released, known)
    assert keys.errors(found, rotation.mT[:, :1]).max() < 1e-3


def laplace_sources(dim, count=16384, groups=6):
    uniform = torch.rand(groups, dim, count) - 0.5
    return -uniform.sign() * torch.log1p(-2 * uniform.abs().clamp(max=0.4999999))


@pytest.mark.parametrize("dim", [2, 3, 4, 5, 6, 7, 8])
def test_ica_separates_independent_laplace_sources(dim, rng):
    sources = laplace_sources(dim)
    mixed = cF.draw_rotations(6, dim, rng).float() @ sources
    found = keys.unmix(mixed) @ mixed
    found, sources = (x / x.norm(dim=2, keepdim=True) for x in (found, sources))
    correlation = (found @ sources.mT).abs()
    assert correlation.amax(dim=1).min() >= 0.99
    assert correlation.amax(dim=2).min() >= 0.99


def skew_sources(groups, dim, seed=0):
    """Independent entries of one sign's tail: what settles signs without any doubt."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand((groups, dim, 8, 16, 16), generator=generator).clamp(min=1e-6)
    return -drawn.log() - 1


def skewness(features):
    return features.pow(3).mean(dim=(1, 2, 3))


@pytest.mark.parametrize("name", ["ica", "fast_ica", "critic_search"])
@pytest.mark.parametrize("dim", [2, 4])
def test_attacks_without_training_find_skew_sources(name, dim, rng):
    """Signs, and at d = 2 which part is the query's, are settled by a score that knows."""
    sources = skew_sources(10, dim)
    rotation = cF.draw_rotations(10, dim, rng).float()
    released = cF.rotate(sources, rotation)
    known = keys.Statistics(torch.eye(8 * 256)[0].view(8, 16, 16), torch.eye(8))
    count = 1 if dim == 2 else dim
    if name == "critic_search":
        found = keys.critic_search(released, skewness, count=count, climbs=30)
    else:
        found = (
            keys.ica(released, known, skewness, count=count)
            if name == "ica"
            else keys.fast_ica(released, skewness, count=count)
        )
    assert found.shape == (10, count, dim)
    bound = 0.35 if name == "critic_search" and dim > 2 else 0.12
    assert keys.errors(found, rotation.mT[:, :1]).mean() < bound


def test_true_directions_recover_the_features(rng):
    batch = complexnn.images.Batch(torch.rand(6, 1, 8, 8), torch.zeros(6), torch.zeros(6))
    parts = torch.randn(6, 3, 4, 5, 5)
    rotation = cF.draw_rotations(6, 3, rng).float()
    members = torch.arange(6).unsqueeze(1).expand(6, 3)
    key = complexnn.networks.split.Key(rotation, "decoy", members, 6)
    seen = Observation(batch, cF.rotate(parts, rotation), key)
    torch.testing.assert_close(seen.parts, parts, atol=1e-5, rtol=0)
    shuffled = rotation.mT[:, torch.tensor([2, 0, 1])]
    torch.testing.assert_close(keys.recover(shuffled, seen), parts[:, 0], atol=1e-5, rtol=0)
    assert keys.errors(shuffled, key.directions).max() < 1e-3


def test_chance_of_the_angle():
    def blind(**settings):
        return keys.chance(complexnn.NetConfig(**settings))

    assert blind() == pytest.approx(math.pi / 2)
    # The better of two orthonormal frames' assignments, and the best of three vectors.
    assert 0.5 < blind(group="packed") < math.pi / 2
    assert 0.5 < blind(dim=3) < math.pi / 2
    assert blind(dim=3) < blind(dim=3, group="packed")


def test_matching_equals_a_search_over_all_orders():
    cost = torch.rand(30, 3, 4)
    columns = best_matching(cost)
    for sample, chosen in zip(cost, columns, strict=True):
        best = min(
            sum(sample[i, j] for i, j in enumerate(order))
            for order in itertools.permutations(range(4), 3)
        )
        assert sample.gather(1, chosen.unsqueeze(1)).sum() == pytest.approx(best.item(), abs=1e-5)
    assert torch.equal(take(torch.arange(4).expand(30, 4), columns), columns)
    assert torch.equal(best_matching(cost[:, :1]), cost[:, :1].argmin(2))


# ---------------------------------------------------------------------------- known answers: span


def test_an_averaged_regressor_turns_with_what_was_released(rng):
    """The average over quarter turns commutes with a quarter turn, whatever the regressor is."""
    torch.manual_seed(0)
    model = AngleRegressor(2, 3, (8, 8), vectors=1, width=4).double().eval()
    released = torch.randn(6, 2, 3, 8, 8, dtype=torch.float64, generator=rng)
    quarter = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    before = keys.regress(model, released, turns=4)
    after = keys.regress(model, cF.rotate(released, quarter.expand(6, 2, 2)), turns=4) @ quarter
    assert (after - before).abs().max() < 1e-9
    alone = model(cF.rotate(released, quarter.expand(6, 2, 2))) @ quarter
    assert (alone - model(released)).abs().max() > 0.1


@pytest.mark.parametrize("settings", [{"dim": 2}, {"dim": 8, "group": "packed"}])
def test_span_finds_every_member_among_a_thousand(tmp_path, settings):
    attacker, whole = make_attacker(tmp_path, **settings)
    net = attacker.knowledge.net
    candidates = torch.cat([b.images for b in whole.train.batches(1000, CPU)])[:1000]
    features = net.features(candidates)
    for seen in observe(attacker, whole, 80):
        members = seen.images[:, : seen.key.directions.shape[1]].flatten(0, 1)
        own = span.shares(seen.released, net.features(members))
        own = own.view(len(own), len(own), -1).diagonal().T  # each group's own members
        others = span.shares(seen.released, features)
        assert own.min() > 0.9999
        assert (own.min(dim=1).values > others.max(dim=1).values).all()


def test_a_query_that_is_a_counterpart_elsewhere_is_no_stranger_there(tmp_path, rng):
    """The negative control judges strangers: each group here holds the next query, too."""
    attacker, whole = make_attacker(tmp_path)
    net, images = attacker.knowledge.net, whole.test.subset(torch.arange(40))
    (batch,) = images.batches(40, CPU)
    index = torch.stack([torch.arange(40), torch.arange(40).roll(-1)], dim=1)
    parts = cF.gather_parts(net.features(batch.images), index)
    released, key = net.rotate(complexnn.networks.split.Groups(parts, index, 40), generator=rng)
    seen = Observation(batch, released, key, torch.arange(40))
    own, other = scoring.score_span(scoring.Scoring(attacker, images), released, seen)
    assert own["top1"].mean() == 1
    assert other["share"].min() > 0.9999
    assert other["top1"].max() == 0


def test_shares_are_those_of_a_least_squares_fit(rng):
    released, candidates = torch.randn(4, 3, 2, 4, 4), torch.randn(5, 2, 4, 4)
    got = span.shares(released, candidates)
    for i, j in itertools.product(range(4), range(5)):
        basis, target = released[i].flatten(1).T, candidates[j].flatten()
        fitted = basis @ torch.linalg.lstsq(basis, target).solution
        assert got[i, j] == pytest.approx((fitted.norm() / target.norm()).item(), abs=1e-4)
    paired = span.own_shares(released, candidates[:4])
    torch.testing.assert_close(paired, got[:, :4].diagonal(), atol=1e-5, rtol=0)


def test_ranks_leave_out_who_is_excluded():
    own, others = torch.tensor([0.5, 0.5]), torch.tensor([[0.9, 0.5, 0.1], [0.9, 0.4, 0.1]])
    excluded = torch.tensor([[True, False, False], [True, False, False]])
    assert span.ranks(own, others, excluded).tolist() == [2, 1]  # a tie is no success


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_damages_a_little(channels):
    images = torch.rand(3, channels, 8, 8)
    again = span.jpeg(images)
    assert again.shape == images.shape
    assert 0 < (again - images).abs().mean() < 0.2


# ----------------------------------------------------------------------- known answers: inversion


def test_an_identity_encoder_is_inverted_exactly():
    images = torch.rand(8, 3, 12, 12)
    noise = torch.rand_like(images)
    alone = torch.ones(8, 1, 1)
    found = optimise.optimise(
        lambda x: x, images.unsqueeze(1), [noise], alone, iterations=400, lr=0.05
    )
    assert metrics.psnr(found, images).min() >= 35


def test_an_identity_encoder_hides_nothing(tmp_path):
    class Identity(torch.nn.Module):
        def forward(self, images):
            return images.repeat(1, 32, 1, 1)

    attacker, whole = make_attacker(tmp_path, steps=300, kind="additional", encoder=Identity())
    (seen,) = observe(attacker, whole, 120)
    found = {
        attack.name: metrics.psnr(attack.answer(attacker, seen), seen.batch.images).mean()
        for attack in roster.ROSTER
        if attack.name in ("inversion dec(x)", "inversion optimised with key")
    }
    assert found["inversion dec(x)"] >= 22  # after 300 steps only
    assert found["inversion optimised with key"] >= 35


def test_optimisation_explains_the_release_with_and_without_a_key(tmp_path):
    attacker, whole = make_attacker(tmp_path)
    (seen,) = observe(attacker, whole, 24)
    net, truth = attacker.knowledge.net, seen.batch.images
    start = (truth + 0.3 * torch.randn_like(truth)).clamp(0, 1)
    for directions in (None, seen.key.directions.float()):
        found = optimise.optimise(net.features, seen.released, [start], directions, iterations=200)
        assert metrics.psnr(found, truth).mean() > metrics.psnr(start, truth).mean() + 3
        shares = span.own_shares(seen.released, net.features(found))
        assert shares.mean() > 0.98


def test_an_unprotected_network_is_inverted(tmp_path):
    attacker, whole = make_attacker(tmp_path, steps=300, kind="additional")
    seen = observe(attacker, whole)
    images = torch.cat([s.batch.images for s in seen])
    guess = torch.cat([inversion.decoded(attacker.released_decoder, s) for s in seen])
    blind = whole.train.pixels.float().mean(0) / 255
    floor = metrics.rmse(blind.expand_as(guess), images).mean()
    assert metrics.rmse(guess, images).mean() < 0.5 * floor


def test_averaging_queries_averages_noise_away(tmp_path):
    attacker, whole = make_attacker(tmp_path, kind="noisy", gamma=1.0)
    (seen,) = observe(attacker, whole, 100)
    plain = attacker.knowledge.net.features(seen.batch.images)
    one = (attacker.features(seen) - plain).square().mean()
    mean = (attacker.mean_features(seen) - plain).square().mean()
    assert mean / one == pytest.approx(1 / attacker.config.spend.repeats, rel=0.05)


def test_repeated_queries_share_their_group_or_do_not(tmp_path, rng):
    attacker, whole = make_attacker(tmp_path)
    batch = next(whole.test.batches(60, CPU))
    for same in (True, False):
        a, b = attacker.knowledge.repeat(batch, 2, rng, same_group=same)
        assert not torch.equal(a.released, b.released)
        assert torch.equal(a.key.members, b.key.members) == same
        torch.testing.assert_close(a.parts[:, 0], b.parts[:, 0], atol=1e-5, rtol=0)


# -------------------------------------------------------------------- known answers: properties


def test_an_unprotected_network_shows_the_hidden_property(tmp_path):
    attacker, whole = make_attacker(tmp_path, kind="additional")
    for attack in roster.ROSTER:
        if attack.family == "property" and roster.applicable(attack, attacker.knowledge.net.config):
            wrong = [
                attack.answer(attacker, seen).argmax(1) != seen.batch.classes
                for seen in observe(attacker, whole)
            ]
            assert torch.cat(wrong).float().mean() < 0.2, attack.name


def test_true_positive_rate_at_one_percent_of_false_positives():
    truth = torch.arange(1000) >= 800
    scores = torch.arange(1000.0)
    assert metrics.tpr_at_fpr(scores, truth) == 1
    assert metrics.tpr_at_fpr(-scores, truth) == 0
    assert metrics.tpr_at_fpr(torch.rand(1000), truth) == pytest.approx(0.01, abs=0.03)
    mixed = scores.clone()
    mixed[:8] = 950.5  # 8 of 800 negatives, one per cent, may lie above
    assert metrics.tpr_at_fpr(mixed, truth) == 1
    mixed[8] = 950.5
    assert metrics.tpr_at_fpr(mixed, truth) == pytest.approx(49 / 200)
    assert math.isnan(metrics.tpr_at_fpr(scores, torch.zeros(1000, dtype=torch.bool)))


# ---------------------------------------------------------------------- what must never happen


def test_the_blind_answer_to_a_packed_group_is_a_set_in_the_best_order(tmp_path):
    """A set gains from the assignment alone, so that a floor of one image would flatter attacks."""
    psnr = {}
    for name, settings in (("decoy", {}), ("packed", {"dim": 8, "group": "packed"})):
        attacker, whole = make_attacker(tmp_path / name, **settings)
        judge = scoring.Scoring(attacker, whole.test)
        (seen,) = observe(attacker, whole, 120)
        guess = judge.guess(seen)
        assert guess.shape == seen.batch.images.shape
        psnr[name] = metrics.psnr(guess, seen.batch.images).mean().item()
        if name == "decoy":
            assert torch.equal(guess, judge.mean_image.expand_as(guess))
            continue
        for group in guess.unflatten(0, (15, 8)):  # each image of the book once
            matched = torch.cdist(group.flatten(1), judge.codebook.flatten(1)).argmin(dim=1)
            assert matched.sort().values.tolist() == list(range(8))
    assert psnr["packed"] > psnr["decoy"] + 0.5


NOISE = {"dim": 3, "group": "packed", "gaussian_decoys": 2}


def test_every_attack_answers_for_every_kind_of_group(tmp_path):
    """100 queries are no multiple of 3; nothing of the victim changes."""
    for number, settings in enumerate(
        ({"kind": "additional"}, {}, {"dim": 3}, {"dim": 3, "group": "packed"}, NOISE)
    ):
        attacker, whole = make_attacker(tmp_path / str(number), steps=2, **settings)
        before = {k: v.clone() for k, v in attacker.knowledge.net.state_dict().items()}
        (seen,) = observe(attacker, whole, 100)
        families = set()
        for attack in roster.ROSTER:
            if roster.applicable(attack, attacker.knowledge.net.config):
                families.add(attack.family)
                answer = attack.answer(attacker, seen)
                assert torch.isfinite(answer).all(), attack.name
                if attack.family == "inversion":
                    assert answer.shape == (100, 1, 8, 8), attack.name
                elif attack.family == "property":
                    assert answer.shape == (100, 10), attack.name
                elif attack.family == "angle":
                    wanted = keys.candidates(attacker.knowledge.net.config)
                    parts = attacker.knowledge.net.config.parts
                    assert answer.shape == (len(seen.released), wanted, parts), attack.name
                elif attack.family == "intersection":
                    assert answer.shape == seen.key.directions.shape
        assert families >= {"span", "inversion", "property"}
        after = attacker.knowledge.net.state_dict()
        assert all(torch.equal(before[k], v) for k, v in after.items())
        assert not attacker.knowledge.net.training


def test_attackers_are_trained_on_no_test_image(tmp_path):
    attacker, whole = make_attacker(tmp_path)
    known = attacker.knowledge
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


@pytest.mark.parametrize(
    "function",
    [
        keys.phase,
        keys.ica,
        keys.fast_ica,
        keys.critic_search,
        span.shares,
        intersection.directions,
        optimise.optimise,
    ],
)
def test_an_attack_takes_what_is_released_and_no_key(function):
    assert not {"key", "keys", "theta", "rotation"} & set(inspect.signature(function).parameters)
    for network in (AngleRegressor, UNet, PropertyClassifier):
        assert len(inspect.signature(network.forward).parameters) == 2


def test_attackers_are_trained_once(tmp_path, monkeypatch):
    first, whole = make_attacker(tmp_path, steps=3)
    (seen,) = observe(first, whole, 100)
    before = first.regressor(seen.released)
    again, _ = make_attacker(tmp_path, steps=3)
    monkeypatch.setattr(attacker_module.keys, "fit_regressor", None)
    assert torch.equal(again.regressor(seen.released), before)
    assert again.logs["angle"] == first.logs["angle"]


@pytest.mark.parametrize("size", [(8, 8), (28, 28), (32, 32), (19, 33)])
def test_decoders_make_images_of_any_size(size):
    net = UNet(6, (3, *size), images=2, width=8)
    assert net(torch.randn(4, 6, 5, 7)).shape == (4, 2, 3, *size)


def test_a_fit_keeps_its_best_state_and_tells_what_looks_wrong(tmp_path):
    attacker, _ = make_attacker(tmp_path, steps=20)
    model = torch.nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(1.0)

    def loss(model, seen):  # an attacker that only gets worse: any step grows the weight
        return (model.weight.sum() - 1).square() + (0 if model.training else 0.1)

    log = fitting.fit(model, loss, attacker.knowledge, attacker.config, torch.Generator(), "test")
    assert model.weight.item() == pytest.approx(1.0, abs=0.05)
    assert log.flags()[0].startswith("training loss did not fall")
    assert fitting.FitLog(1.0, 0.1, 0.5).flags() == ["overfit (training 0.1, validation 0.5)"]
    assert fitting.FitLog(1.0, 0.1, 0.11).flags() == []


def test_attackers_train_in_half_precision_and_are_judged_in_full(tmp_path):
    attacker, _ = make_attacker(tmp_path, steps=2)
    inside, outside = [], []

    class Probe(torch.nn.Linear):
        def forward(self, x):
            y = super().forward(x)
            inside.append(y.dtype)
            return y

    def loss(model, seen):
        assert seen.released.dtype == torch.float32
        y = model(seen.released.flatten(1)[:, :4])
        outside.append(y.dtype)
        return y.square().mean()

    model = Probe(4, 1)
    config = dataclasses.replace(attacker.config, precision="bf16")
    fitting.fit(model, loss, attacker.knowledge, config, torch.Generator().manual_seed(0), "test")
    assert set(inside) == {torch.bfloat16}
    assert set(outside) == {torch.float32}
    model(torch.zeros(1, 4))
    assert inside[-1] == torch.float32
    assert {p.dtype for p in model.parameters()} == {torch.float32}
