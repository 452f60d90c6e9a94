"""Denoising source separation: exact where the denoiser is, better than ICA where it is learned."""

import itertools
import math
from pathlib import Path

import pytest
import torch
from test_attacks import CPU, angle_error, ask, make_attacker, observe

import complexnn
from complexnn.attacks import dss, roster, unmixing
from complexnn.attacks.attacker import Attacker
from complexnn.attacks.baselines import Baselines
from complexnn.attacks.fitting import Knowledge
from complexnn.attacks.gallery import Gallery
from complexnn.config import DataConfig
from complexnn.config_attack import AttackConfig
from complexnn.data import datasets
from complexnn.rotation import functional as cF
from complexnn.training import terms


@pytest.mark.parametrize("dim", [2, 4, 8])
def test_a_denoiser_that_knows_every_feature_separates_exactly(dim, rng):
    every = torch.randn(160, 4, 8, 8, generator=rng)
    groups = every[: 10 * dim].unflatten(0, (10, dim))
    rotation = cF.draw_rotations(10, dim, rng).float()

    def nearest(views, angle):
        return every[(views.flatten(1) @ every.flatten(1).T).argmax(dim=1)]

    starts = cF.draw_rotations(160, dim, rng).float().split(10)
    found = dss.separate(cF.rotate(groups, rotation), nearest, starts)
    missed = unmixing.errors(found, rotation.mT) > 1e-3
    assert missed.float().mean() <= 0.05
    torch.testing.assert_close(found @ found.mT, torch.eye(dim).expand(10, dim, dim))


def sparse(*shape):
    """Of variance 1, nine in ten of them 0."""
    return torch.randn(shape) * (torch.rand(shape) < 0.1) * 10**0.5


def posterior_mean(views, angle):
    """E[a | v] for v = a cos φ + n sin φ with n standard normal and a like :func:`sparse`."""
    cos, sin = math.cos(angle), math.sin(angle)
    wide = 10 * cos**2 + sin**2  # variance of a view's entry where a is not 0
    odds = math.log(0.1 / 0.9) + 0.5 * math.log(sin**2 / wide)
    odds = odds + 0.5 * views.square() * (1 / sin**2 - 1 / wide)
    return odds.sigmoid() * views * (10 * cos / wide)


@pytest.mark.parametrize("dim", [3, 8, 32])
def test_the_best_denoiser_of_sparse_sources_separates_them(dim, rng):
    """Signs are not to be known: the sources are symmetric."""
    torch.manual_seed(0)
    rotation = cF.draw_rotations(8, dim, rng).float()
    released = cF.rotate(sparse(8, dim, 4, 16, 16), rotation)
    starts = [cF.draw_rotations(8, dim, rng).float()]
    found = dss.separate(released, posterior_mean, starts, shift=dss.SHIFT, angles=dss.FALLING)
    alike = (found @ rotation).abs().amax(dim=1)
    assert alike.min() > 0.98
    # A denoiser that takes the sources for Gaussian has nothing to go by.
    still = dss.separate(
        released, lambda v, angle: v * math.cos(angle), starts, shift=dss.SHIFT, angles=dss.FALLING
    )
    torch.testing.assert_close(still, starts[0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("settings", [{"dim": 3}, {"dim": 4, "group": "packed"}])
def test_views_stand_beside_the_image_that_they_are_nearest_to(
    tmp_path, monkeypatch, rng, settings
):
    attacker, whole = make_attacker(tmp_path, **settings)
    seen = observe(attacker, whole, count=120)[0]
    monkeypatch.setattr(terms, "WIDEST", 0.0)
    views, members = dss.mixed_views(seen, rng)
    own = attacker.knowledge.net.features(seen.batch.images[members])
    torch.testing.assert_close(views, own, atol=1e-4, rtol=1e-4)
    monkeypatch.setattr(terms, "WIDEST", 1.2)
    views, members = dss.mixed_views(seen, rng)
    parts = seen.rotated_back.flatten(2)
    weights = views.reshape(len(parts), -1, parts.shape[2]) @ torch.linalg.pinv(parts)
    assert weights.norm(dim=2).sub(1).abs().max() < 1e-3
    there = members.view(*weights.shape[:2], 1) == seen.key.members.unsqueeze(1)
    own = (weights * there).sum(dim=2)  # cos 1.2 = 0.362 at least
    assert 0.36 < own.min() < 0.7 < 0.98 < own.max() < 1.01
    assert len(views) == seen.key.queries


class Sources(torch.nn.Module):
    """Features of independent numbers, which know nothing of the images."""

    def __init__(self, draw):
        super().__init__()
        self.draw = draw

    def forward(self, images):
        return self.draw(len(images), 4, 4, 4) + 0.5


def attacker_of(folder, draw, *, steps):
    torch.manual_seed(0)
    whole = datasets.load(DataConfig(groups="parity"))
    net = complexnn.build(
        "thin4", image_size=16, in_channels=1, num_classes=2, mean=whole.mean, std=whole.std,
        dim=4, group="packed",
    )  # fmt: skip
    net.encoder = Sources(draw)
    known = Knowledge(net.eval().requires_grad_(False), whole.train, whole.validation, CPU)
    config = AttackConfig(
        attack="all", victim=Path("none"), budget="quick", steps=steps, capacity=0.25
    )
    return Attacker(known, whole.classes, config, folder, "hash"), whole


def best_linear(views, angle):
    return angle.cos().view(-1, 1, 1, 1) * views


@torch.no_grad()
def loss_of(attacker, model):
    """On fresh views, the same for every model."""
    rng, know = torch.Generator().manual_seed(3), attacker.knowledge
    torch.manual_seed(4)
    seen = itertools.islice(know.endless(128, rng), 20)
    found = [dss.denoising_error(model, attacker.key_attacks.whitening, s, rng) for s in seen]
    return torch.stack(found).mean().item()


@pytest.mark.parametrize("draw", [sparse, torch.randn], ids=["sparse", "gaussian"])
def test_separation_stands_and_falls_with_the_sources(tmp_path, draw):
    """A denoiser learns what sparse sources look like. Of Gaussian ones nothing is to be learned
    beyond the best linear estimate, and no direction but the mean's to be found."""
    attacker, whole = attacker_of(tmp_path, draw, steps=150 if draw is sparse else 40)
    error = angle_error(attacker, whole, "dss")
    blind = Baselines(Gallery(attacker, whole.test)).angle(4)
    learned, linear = (loss_of(attacker, m) for m in (attacker.key_attacks.separator, best_linear))
    assert linear == pytest.approx(1, abs=0.05)
    if draw is sparse:
        assert error < 0.5 * blind
        assert learned < 0.98 * linear
    else:
        assert error == pytest.approx(blind, rel=0.06)
        assert learned > 0.98 * linear


def test_separation_is_the_same_again(tmp_path):
    found = []
    for folder in ("first", "second"):
        attacker, whole = attacker_of(tmp_path / folder, sparse, steps=2)
        torch.manual_seed(7)
        seen = observe(attacker, whole, count=60)[0]
        found.append(attacker.key_attacks["dss"](seen.released))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


@pytest.mark.slow
def test_a_learned_denoiser_separates_where_ica_does_not(tmp_path):
    attacker, whole = make_attacker(tmp_path, dim=8, group="packed", steps=300)
    error = {name: angle_error(attacker, whole, name) for name in ("ica", "dss")}
    assert error["dss"] < 0.6 * error["ica"]
    assert attacker.key_attacks.sharpest == "dss" != attacker.key_attacks.best
    wrong = {}
    for attack in roster.ROSTER:
        if attack.name in ("property reconstructions", "property dss"):
            answer, truth = ask(attacker, whole, attack)
            missed = answer.argmax(1) != truth.batch.classes
            wrong[attack.name.split()[1]] = missed.float().mean()
    assert wrong["dss"] < 0.7 * wrong["reconstructions"]
