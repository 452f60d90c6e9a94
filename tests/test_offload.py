"""Interactive offload: the plain network's answers, what is sent, what it costs, who is found."""

import dataclasses
import math

import pytest
import torch
from torch import nn

from complexnn import cli, offload, privacy, results
from complexnn.attacks.membership import Audit
from complexnn.config import InputError
from complexnn.networks import offloaded
from complexnn.networks.offloaded import PRESETS, Guarantee


@pytest.fixture(autouse=True)
def _one_thread():
    """Decompositions of small matrices crawl where threads fight for cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def network(dtype=torch.float64):
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(12, 5)
    ).to(dtype)


def test_the_answer_is_the_plain_networks(rng):
    net, images = network(), torch.randn(20, 2, 4, 4, dtype=torch.float64, generator=rng)
    away = offloaded.offload(net, images, PRESETS["private"], generator=rng)
    torch.testing.assert_close(away(images), net(images), atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(away(images[:1]), net(images[:1]), atol=1e-10, rtol=1e-10)


def test_rounding_stays_small_in_float32(rng):
    net, images = network(torch.float32), torch.randn(20, 2, 4, 4, generator=rng)
    away = offloaded.offload(net, images, PRESETS["private"], generator=rng)
    torch.testing.assert_close(away(images), net(images), atol=1e-3, rtol=1e-3)


def test_inputs_beyond_the_bound_are_scaled_down_to_it(rng):
    net, images = network(), torch.randn(20, 2, 4, 4, dtype=torch.float64, generator=rng)
    away = offloaded.offload(net, images, PRESETS["private"], generator=rng)
    layer = offloaded.layers(away)[0]
    assert layer.bound == images.flatten(1).norm(dim=1).max()
    loud = 10 * images[:3]
    sent = layer.clipped(loud)
    torch.testing.assert_close(sent.norm(dim=1), torch.full((3,), layer.bound).double())
    torch.testing.assert_close(layer.clipped(images), images.flatten(1))


def test_what_is_sent_is_a_rotated_group_with_gaussian_decoys(rng):
    net, images = network(), torch.randn(20, 2, 4, 4, dtype=torch.float64, generator=rng)
    away = offloaded.offload(net, images, Guarantee(2, 1e-4, 2), generator=rng)
    first = offloaded.layers(away)[0]
    heard = []
    first.listener = lambda *seen: heard.append(seen[:2])
    for _ in range(100):
        away(images)
    freedom = privacy.freedom_for(2, 1e-4, 2, releases=2)
    assert first.decoys == 32 + freedom - 1
    sent, rows = heard[0]
    assert sent.shape == (20 + first.decoys, 32)
    # XᵀX holds the inputs' own part and a Wishart matrix of the stated freedom and variance.
    noise = torch.stack([s.mT @ s - rows.mT @ rows for s, _ in heard]).mean(0)
    expected = first.decoys * first.bound**2 / 2
    torch.testing.assert_close(
        noise / expected, torch.eye(32, dtype=torch.float64), atol=0.06, rtol=0
    )
    # Every key is fresh, and uniform: no row of what is sent leans to one side.
    stacked = torch.stack([s for s, _ in heard])
    lean = stacked.mean(0).abs().max() / stacked.std()
    assert lean < 6 / math.sqrt(len(heard))


def test_cost_counts_multiplications(rng):
    net = network()
    images = torch.randn(20, 2, 4, 4, dtype=torch.float64, generator=rng)
    away = offloaded.offload(net, images, PRESETS["private"], generator=rng)
    away(images)
    conv, linear = offloaded.layers(away)
    n, d = 20 + conv.decoys, 20
    cost = offloaded.cost(conv, d)
    assert cost.plain == 2 * 9 * 12  # each of 12 outputs
    assert cost.server == pytest.approx(cost.plain * n / d)
    assert cost.device == pytest.approx(n * n * 32 / d + n * 12)
    assert cost.traffic == pytest.approx(n * (32 + 12) / d)
    assert offloaded.cost(linear, d).plain == 12 * 5


@pytest.mark.parametrize(("numbers", "outputs", "group"), [(16, 16, 64), (64, 256, 64), (8, 2, 1)])
def test_a_dense_key_always_costs_the_device_more_than_the_layer(numbers, outputs, group, rng):
    """Rotating one answer back takes (d + k) N' products; the layer takes N N', and k >= N."""
    net = nn.Sequential(nn.Linear(numbers, outputs))
    images = torch.randn(group, numbers, generator=rng)
    away = offloaded.offload(net, images, PRESETS["private"], generator=rng)
    away(images)
    cost = offloaded.cost(offloaded.layers(away)[0], group)
    assert cost.device > cost.plain


def test_no_layer_to_offload_is_refused():
    with pytest.raises(InputError, match="no linear layer"):
        offloaded.offload(nn.ReLU(), torch.zeros(2, 3), PRESETS["private"])


def audited(ratio, freedom, rng, groups=40):
    """An audit of one layer with N = 6 numbers and 30 queries of full norm."""
    layer = offloaded.Layer(nn.Linear(6, 2).double(), freedom, ratio, rng)
    layer.bound = 1.0
    gallery = nn.functional.normalize(torch.randn(50, 6, generator=rng).double(), dim=1)
    audit = Audit([gallery])
    layer.listener = audit.hear
    for _ in range(groups):
        layer(nn.functional.normalize(torch.randn(30, 6, generator=rng).double(), dim=1))
        audit.finish_group()
    return torch.cat(audit.there), torch.cat(audit.absent), torch.cat(audit.ranks)


@pytest.mark.parametrize(("ratio", "freedom"), [(1.0, 19), (8.0, 9)])
def test_the_audit_reaches_the_best_tests_curve_and_does_not_pass_it(ratio, freedom, rng):
    there, absent, _ = audited(ratio, freedom, rng)
    for false_alarms in (0.05, 0.2, 0.5):
        found = (there > absent.quantile(1 - false_alarms)).double().mean().item()
        # 40 groups share their decoys among 30 queries: a generous error bar.
        known = privacy.detection(false_alarms, freedom, ratio)
        assert found == pytest.approx(known, abs=0.06)


def test_the_audit_identifies_whom_nothing_hides(rng):
    """With hardly any noise the query has the best score of 51; with much, it is one of many."""
    assert (audited(1e4, 5, rng, groups=5)[2] == 1).double().mean() > 0.95
    assert (audited(0.1, 30, rng, groups=20)[2] == 1).double().mean() < 0.06


def test_the_command_measures_a_trained_network(trained_run, tmp_path, capsys):
    victim = trained_run(tmp_path / "plain", arch="thin4", kind="additional")
    assert cli.run(offload.main, ["--victim", str(victim), "--group-size", "100"]) == 0
    shown = capsys.readouterr().out
    assert "same answer as without, %     100.00" in shown
    (row,) = [r for r in results.read_rows(victim / "results.jsonl") if r["name"] == "offload"]
    measured = row["metrics"]
    assert measured["error"]["value"] == measured["error"]["plain"]
    assert measured["delta"]["value"] <= 1e-6
    freedom = privacy.freedom_for(1.0, 1e-6, 1e-3, releases=7)
    assert measured["degrees_of_freedom"]["value"] == freedom
    # k = N + m - 1 decoys beside 100 queries, N from 16 to 256
    assert (100 + 16 + freedom - 1) / 100 < measured["server_work"]["value"]
    assert measured["server_work"]["value"] < (100 + 256 + freedom - 1) / 100
    asked = offload.OffloadConfig(victim, group_size=100)
    assert results.measured(asked, "offload")
    assert not results.measured(dataclasses.replace(asked, preset="strict"), "offload")
    assert measured["identified"]["value"] < 0.02
    assert measured["detected_at_1_fpr"]["value"] < 0.05


def test_the_command_refuses_what_it_cannot_offload(trained_run, tmp_path, capsys):
    victim = trained_run(tmp_path / "rotated", arch="thin4", **{"adversarial-weight": 0})
    assert cli.run(offload.main, ["--victim", str(victim)]) == 2
    assert "offload a network without rotation" in capsys.readouterr().err
    for words, message in (
        (["--epsilon", "0"], "epsilon must be positive"),
        (["--group-size", "0"], "group_size must be at least 1"),
    ):
        assert cli.run(offload.main, ["--victim", str(victim), *words]) == 2
        assert message in capsys.readouterr().err


def test_presets_and_their_changes():
    config = offload.OffloadConfig("victim", preset="strict", ratio=0.5)
    assert config.guarantee == (0.1, 1e-9, 0.5)
    assert offload.OffloadConfig("victim").guarantee == PRESETS["private"]
