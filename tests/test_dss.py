"""Denoising source separation: exact where the denoiser is, better than ICA where it is learned."""

import pytest
import torch
from test_attacks import angle_error, ask, make_attacker, observe

from complexnn import adversaries
from complexnn import functional as cF
from complexnn.attacks import dss, keys, roster


@pytest.mark.parametrize("dim", [2, 4, 8])
def test_a_denoiser_that_knows_every_feature_separates_exactly(dim, rng):
    every = torch.randn(160, 4, 8, 8, generator=rng)
    groups = every[: 10 * dim].unflatten(0, (10, dim))
    rotation = cF.draw_rotations(10, dim, rng).float()

    def nearest(views):
        return every[(views.flatten(1) @ every.flatten(1).T).argmax(dim=1)]

    found = dss.separate(cF.rotate(groups, rotation), nearest, starts=4)
    missed = keys.errors(found, rotation.mT) > 1e-3
    assert missed.float().mean() <= 0.05
    torch.testing.assert_close(found @ found.mT, torch.eye(dim).expand(10, dim, dim))


@pytest.mark.parametrize("settings", [{"dim": 3}, {"dim": 4, "group": "packed"}])
def test_views_stand_beside_the_image_that_they_are_nearest_to(
    tmp_path, monkeypatch, rng, settings
):
    attacker, whole = make_attacker(tmp_path, **settings)
    seen = observe(attacker, whole, count=120)[0]
    monkeypatch.setattr(adversaries, "WIDEST", 0.0)
    views, members = dss.mixed_views(seen, rng)
    own = attacker.knowledge.net.features(seen.batch.images[members])
    torch.testing.assert_close(views, own, atol=1e-4, rtol=1e-4)
    monkeypatch.setattr(adversaries, "WIDEST", 1.2)
    views, members = dss.mixed_views(seen, rng)
    parts = seen.parts.flatten(2)
    weights = views.reshape(len(parts), -1, parts.shape[2]) @ torch.linalg.pinv(parts)
    assert weights.norm(dim=2).sub(1).abs().max() < 1e-3
    there = members.view(*weights.shape[:2], 1) == seen.key.members.unsqueeze(1)
    own = (weights * there).sum(dim=2)  # cos 1.2 = 0.362 at least
    assert 0.36 < own.min() < 0.7 < 0.98 < own.max() < 1.01
    assert len(views) == seen.key.queries


def test_a_learned_denoiser_separates_where_ica_does_not(tmp_path):
    attacker, whole = make_attacker(tmp_path, dim=8, group="packed", steps=300)
    error = {name: angle_error(attacker, whole, name) for name in ("ica", "dss")}
    assert error["dss"] < 0.6 * error["ica"]
    assert attacker.sharpest_key_attack == "dss" != attacker.best_key_attack
    wrong = {}
    for attack in roster.ROSTER:
        if attack.name in ("property reconstructions", "property dss"):
            answer, truth = ask(attacker, whole, attack)
            missed = answer.argmax(1) != truth.batch.classes
            wrong[attack.name.split()[1]] = missed.float().mean()
    assert wrong["dss"] < 0.7 * wrong["reconstructions"]
