"""What an attacker measures on its own features, and what their mean tells of a key."""

import pytest
import torch
from test_attacks import make_attacker, observe

from complexnn.attacks import unmixing, whitening
from complexnn.attacks.baselines import Baselines
from complexnn.attacks.gallery import Gallery
from complexnn.attacks.mean_feature import guess, shared_direction, sharing_frames
from complexnn.attacks.whitening import Whitening
from complexnn.rotation import functional as cF


class Drawn(torch.nn.Module):
    """Features that have nothing to do with the images: what an attack finds can be computed."""

    def __init__(self, draw):
        super().__init__()
        self.draw = draw

    def forward(self, images):
        return self.draw(len(images))


@pytest.mark.parametrize("parts, members", [(2, 2), (3, 3), (8, 8), (7, 4)])
def test_frames_share_a_direction_equally_among_the_members(parts, members, rng):
    shared = torch.nn.functional.normalize(cF.normal((400, parts), rng), dim=1)
    frames = sharing_frames(shared, members, rng)
    torch.testing.assert_close(frames @ frames.mT, torch.eye(parts).double().expand_as(frames))
    inner = (frames @ shared.unsqueeze(2)).squeeze(2)
    wanted = torch.zeros(parts).double()
    wanted[:members] = members**-0.5
    torch.testing.assert_close(inner, wanted.expand(400, -1))
    # Nothing else is fixed: in the plane that s leaves, every frame has its mirror image.
    assert 0.4 < (torch.linalg.det(frames) > 0).float().mean() < 0.6
    rest = frames[:, 0] - inner[:, :1] * shared
    assert rest.mean(dim=0).norm() < 4 * (rest.norm(dim=1).mean() / 400**0.5)


def test_least_squares_finds_the_direction_of_the_mean(rng):
    """Without variance exactly; with unit variance to √(1 - 1/d) / |mean| rad."""
    mean = cF.normal((4, 4, 4), rng).float()
    rotation = cF.draw_rotations(200, 5, rng).float()
    known = Whitening(mean, torch.eye(64))
    wanted = rotation.sum(dim=2) / 5**0.5
    alike = mean.expand(200, 5, 4, 4, 4)
    found = shared_direction(cF.rotate(alike, rotation), known)
    torch.testing.assert_close(found, wanted)
    varied = alike + cF.normal(tuple(alike.shape), rng).float()
    found = shared_direction(cF.rotate(varied, rotation), known)
    error = (found * wanted).sum(dim=1).clamp(-1, 1).acos()
    assert error.square().mean().sqrt() == pytest.approx(0.8**0.5 / mean.norm().item(), rel=0.1)


def test_the_mean_alone_gives_a_complex_key_away(rng):
    """x = e^{iθ}(a + ib), and a and b have one mean: θ is an eighth of a turn before x's."""
    mean = cF.normal((4, 4, 4), rng).float()
    rotation = cF.draw_rotations(50, 2, rng).float()
    released = cF.rotate(mean.expand(50, 2, 4, 4, 4), rotation)
    found = guess(released, Whitening(mean, torch.eye(64)), rng, members=2, count=1)
    assert unmixing.errors(found, rotation.mT[:, :1]).max() < 1e-3


@pytest.mark.parametrize("full", [True, False])
def test_whitened_features_have_unit_covariance(tmp_path, monkeypatch, rng, full):
    if not full:
        monkeypatch.setattr(whitening, "FULL", 16)
    turns = cF.draw_rotations(2, 32, rng).float()
    mixing = turns[0] * torch.linspace(0.5, 2, 32) @ turns[1]
    encoder = Drawn(lambda n: (torch.randn(n, 32) @ mixing + 3).view(n, 8, 2, 2))
    attacker, _ = make_attacker(tmp_path, dim=3, group="packed", encoder=encoder)
    known = attacker.key_attacks.whitening
    white = known(encoder(torch.empty(20000))).movedim(1, -1)
    white = white.movedim(-1, 1).flatten(1) if full else white.flatten(0, -2)
    covariance = torch.cov(white.T)
    torch.testing.assert_close(covariance, torch.eye(len(covariance)), atol=0.25, rtol=0)
    assert (known.mean - 3).abs().max() < 1


def test_blind_guessing_knows_the_mean(tmp_path):
    """With it, a frame is nearer than a random one; without, no better and no worse."""
    still = Drawn(lambda n: torch.randn(n, 4, 4, 4))
    shifted = Drawn(lambda n: torch.randn(n, 4, 4, 4) + 2)
    found = {}
    for name, encoder in (("still", still), ("shifted", shifted)):
        attacker, whole = make_attacker(tmp_path, dim=8, group="packed", encoder=encoder)
        blind = Baselines(Gallery(attacker, whole.test)).angle(8)
        random = unmixing.chance(attacker.victim)
        seen = observe(attacker, whole)
        errors = [
            unmixing.errors(attacker.key_attacks["mean"](s.released), s.key.directions)
            for s in seen
        ]
        assert torch.cat(errors).mean() == pytest.approx(blind, rel=0.05)
        found[name] = blind / random
    assert found["still"] == pytest.approx(1, abs=0.03)
    assert found["shifted"] < 0.85
