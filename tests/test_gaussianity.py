"""How Gaussian features are: known moments, a slow oracle, and what a rotation must take away."""

import math

import pytest
import torch

from complexnn.commands import app, measure
from complexnn.measurements import gaussianity
from complexnn.measurements.gaussianity import epps_pulley, excess_kurtosis, unshared
from complexnn.rotation import functional as cF
from complexnn.runs import results


def laplace(shape, rng):
    uniform = torch.rand(shape, generator=rng, dtype=torch.float64) - 0.5
    return -uniform.sign() * torch.log1p(-2 * uniform.abs())


def test_kurtosis_of_known_distributions(rng):
    uniform = torch.rand(4, 200_000, generator=rng, dtype=torch.float64)
    normal = torch.randn(4, 200_000, generator=rng, dtype=torch.float64)
    assert excess_kurtosis(7 * uniform + 3).mean() == pytest.approx(-1.2, abs=0.01)
    assert excess_kurtosis(normal - 5).mean() == pytest.approx(0, abs=0.03)
    assert excess_kurtosis(laplace((4, 200_000), rng)).mean() == pytest.approx(3, abs=0.15)
    assert torch.isfinite(excess_kurtosis(torch.ones(2, 9))).all()


def test_epps_pulley_agrees_with_its_double_sum(rng):
    for x in (laplace((3, 300), rng), torch.rand(3, 300, generator=rng, dtype=torch.float64)):
        z = gaussianity.standardised(x)
        pairs = (z.unsqueeze(1) - z.unsqueeze(2)).square().div(-2).exp().mean(dim=(1, 2))
        single = math.sqrt(2) * z.square().div(-4).exp().mean(dim=1)
        torch.testing.assert_close(epps_pulley(x), pairs - single + 1 / math.sqrt(3))


def test_epps_pulley_falls_with_the_number_of_gaussian_samples(rng):
    few, many = (
        epps_pulley(torch.randn(200, n, generator=rng, dtype=torch.float64)).mean()
        for n in (100, 1000)
    )
    assert few / many == pytest.approx(10, rel=0.3)
    assert epps_pulley(laplace((200, 1000), rng)).min() > 3 * many


@pytest.mark.parametrize("dim", [2, 8])
def test_rotating_independent_parts_takes_the_kurtosis_that_cumulants_say(dim, rng):
    parts = laplace((400, dim, 1, 40, 50), rng)
    released = cF.rotate(parts, cF.draw_rotations(400, dim, rng))
    before, after = (excess_kurtosis(x.flatten(2)).mean().item() for x in (parts, released))
    assert after == pytest.approx(unshared(before, dim), rel=0.05)
    # Where parts are large in the same places, more is left than if they were independent.
    scale = laplace((400, 1, 1, 40, 50), rng).abs()
    shared = torch.randn(parts.shape, generator=rng, dtype=torch.float64) * scale
    mixed = cF.rotate(shared, cF.draw_rotations(400, dim, rng))
    before, after = (excess_kurtosis(x.flatten(2)).mean().item() for x in (shared, mixed))
    assert after == pytest.approx(before, rel=0.05)


def test_the_command_measures_a_rotated_network(trained_run, tmp_path, capsys):
    victim = trained_run(tmp_path / "complex", **{"adversarial-weight": 0})
    words = ["--victim", str(victim), "--images", "200"]
    assert app.run(measure.gaussianity, words) == 0
    assert "200 test images" in capsys.readouterr().out
    *_, row = results.read_rows(victim / "results.jsonl")
    assert (row["name"], row["images"]) == ("gaussianity", 200)
    found = {name: numbers["value"] for name, numbers in row["metrics"].items()}
    assert found["epps_pulley_gaussian"] < found["epps_pulley_released"]
    assert abs(found["kurtosis_gaussian"]) < 0.1
    for numbers in row["metrics"].values():
        assert numbers["low"] <= numbers["value"] <= numbers["high"]
    config = app.parse(gaussianity.GaussianityConfig, words, "")
    assert results.measured(config, "gaussianity")
    other = app.parse(gaussianity.GaussianityConfig, words[:2], "")
    assert not results.measured(other, "gaussianity")


def test_networks_without_rotation_are_refused(trained_run, tmp_path, capsys):
    victim = trained_run(tmp_path / "run", arch="thin1", kind="additional")
    assert app.run(measure.gaussianity, ["--victim", str(victim)]) == 2
    assert "is additional: measure a network of kind complex" in capsys.readouterr().err
