"""Interactive offload: the plain network's answers, what is sent, what it costs, who is found."""

import dataclasses
import math

import pytest
import torch
from torch import nn

from complexnn import metrics, privacy
from complexnn.commands import app, measure
from complexnn.config import InputError
from complexnn.measurements import remote_network
from complexnn.privacy import offload
from complexnn.privacy.audit import Audit
from complexnn.privacy.offload import PRESETS, Guarantee
from complexnn.runs import results


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
    away = offload.offload(net, images, PRESETS["private"], generator=rng)
    torch.testing.assert_close(away(images), net(images), atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(away(images[:1]), net(images[:1]), atol=1e-10, rtol=1e-10)


def test_rounding_stays_small_in_float32(rng):
    net, images = network(torch.float32), torch.randn(20, 2, 4, 4, generator=rng)
    away = offload.offload(net, images, PRESETS["private"], generator=rng)
    torch.testing.assert_close(away(images), net(images), atol=1e-3, rtol=1e-3)


def test_inputs_beyond_the_bound_are_scaled_down_to_it(rng):
    net, images = network(), torch.randn(20, 2, 4, 4, dtype=torch.float64, generator=rng)
    away = offload.offload(net, images, PRESETS["private"], generator=rng)
    layer = offload.remote_layers(away)[0]
    assert layer.bound == images.flatten(1).norm(dim=1).max()
    loud = 10 * images[:3]
    sent = layer.clipped(loud)
    torch.testing.assert_close(sent.norm(dim=1), torch.full((3,), layer.bound).double())
    torch.testing.assert_close(layer.clipped(images), images.flatten(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_clipped_norms_never_exceed_the_bound(dtype, rng):
    """Not in the last bit either: the decoys' variance is set by the bound."""
    images = torch.randn(2000, 2, 4, 4, generator=rng).to(dtype)
    calls = [offload.CallSize(32, 5)]
    layer = offload.RemoteLayer(nn.Linear(32, 5), 9, 1.0, rng, bound=1.0, calls=calls)
    norms = layer.clipped(images).double().square().sum(dim=1).sqrt()
    assert norms.max() <= 1.0
    assert norms.min() > 1 - 2.5 * torch.finfo(dtype).eps - 1e-14


def test_what_is_sent_is_a_rotated_group_with_gaussian_decoys(rng):
    net, images = network(), torch.randn(20, 2, 4, 4, dtype=torch.float64, generator=rng)
    away = offload.offload(net, images, Guarantee(2, 1e-4, 2), generator=rng)
    first = offload.remote_layers(away)[0]
    heard = []
    first.observer = lambda *seen: heard.append(seen[:2])
    for _ in range(100):
        away(images)
    freedom = privacy.freedom_for(2, 1e-4, 2, releases=2)
    assert first.decoys(32) == 32 + freedom - 1
    sent, rows = heard[0]
    assert sent.shape == (20 + first.decoys(32), 32)
    # XᵀX holds the inputs' own part and a Wishart matrix of the stated freedom and variance.
    noise = torch.stack([s.mT @ s - rows.mT @ rows for s, _ in heard]).mean(0)
    expected = first.decoys(32) * first.bound**2 / 2
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
    away = offload.offload(net, images, PRESETS["private"], generator=rng)
    away(images)
    conv, linear = offload.remote_layers(away)
    n, d = 20 + conv.decoys(32), 20
    cost = offload.cost_per_query(conv, d)
    assert cost.plain == 2 * 9 * 12  # each of 12 outputs
    assert cost.server == pytest.approx(cost.plain * n / d)
    assert cost.device == pytest.approx(n * n * 32 / d + n * 12)
    assert cost.traffic == pytest.approx(n * (32 + 12) / d)
    assert offload.cost_per_query(linear, d).plain == 12 * 5


@pytest.mark.parametrize(("numbers", "outputs", "group"), [(16, 16, 64), (64, 256, 64), (8, 2, 1)])
def test_a_dense_key_always_costs_the_device_more_than_the_layer(numbers, outputs, group, rng):
    """Rotating one answer back takes (d + k) N' products; the layer takes N N', and k >= N."""
    net = nn.Sequential(nn.Linear(numbers, outputs))
    images = torch.randn(group, numbers, generator=rng)
    away = offload.offload(net, images, PRESETS["private"], generator=rng)
    away(images)
    cost = offload.cost_per_query(offload.remote_layers(away)[0], group)
    assert cost.device > cost.plain


class Twice(nn.Module):
    """One layer that is called twice, under two names."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = self.first
        self.more = False

    def forward(self, x):
        x = self.second(self.first(x).relu())
        return self.first(x) if self.more else x


def test_every_call_of_a_layer_is_a_release(rng):
    net, images = Twice(), torch.randn(20, 4, generator=rng)
    guarantee = Guarantee(1.0, 1e-6, 1.0)
    away = offload.offload(net, images, guarantee, generator=rng)
    (layer,) = offload.remote_layers(away)
    heard = []
    layer.observer = lambda *seen: heard.append(seen)
    torch.testing.assert_close(away(images), net(images), atol=1e-3, rtol=1e-3)
    assert len(heard) == len(layer.calls) == away.accountant.releases == 2
    assert layer.freedom == privacy.freedom_for(1.0, 1e-6, 1.0, releases=2)
    assert layer.freedom > privacy.freedom_for(1.0, 1e-6, 1.0)
    assert away.accountant.get_delta(1.0) <= 1e-6
    once = offload.cost_per_query(layer, 20)
    layer.calls = layer.calls[:1]
    assert once.traffic == 2 * offload.cost_per_query(layer, 20).traffic


def test_a_call_that_was_not_counted_is_refused_before_it_sends_anything(rng):
    net, images = Twice(), torch.randn(20, 4, generator=rng)
    away = offload.offload(net, images, PRESETS["private"], generator=rng)
    away.network.more = True
    heard = []
    offload.remote_layers(away)[0].observer = lambda *seen: heard.append(seen)
    with pytest.raises(InputError, match="called more often"):
        away(images)
    assert len(heard) == 2


def test_a_single_layer_is_offloaded(rng):
    net, images = nn.Linear(6, 3), torch.randn(20, 6, generator=rng)
    away = offload.offload(net, images, PRESETS["private"], generator=rng)
    assert len(offload.remote_layers(away)) == 1
    torch.testing.assert_close(away(images), net(images), atol=1e-3, rtol=1e-3)


def test_a_layer_that_the_forward_pass_goes_around_stays_on_the_device(rng):
    """Attention reads the weights of its output layer, and never calls it."""

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix, self.head = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(12, 2)

        def forward(self, x):
            return self.head(self.mix(x, x, x)[0].flatten(1))

    net, images = Attention().eval(), torch.randn(20, 3, 4, generator=rng)
    away = offload.offload(net, images, PRESETS["private"], generator=rng)
    torch.testing.assert_close(away(images), net(images), atol=1e-3, rtol=1e-3)
    assert away.accountant.releases == 1


def test_a_layer_that_is_more_than_its_weights_stays_on_the_device(rng):
    class Twice(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    net = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), Twice(5, 4)).double().eval()
    images = torch.randn(8, 6, generator=rng, dtype=torch.float64)
    server = offload.offload(net, images, PRESETS["private"], generator=rng)
    assert len(offload.remote_layers(server)) == 1
    torch.testing.assert_close(server(images), net(images), atol=1e-6, rtol=1e-6)


def test_tokens_of_a_query_are_one_part(rng):
    """Inputs (B, T, N) move one part each; (B T, N) would move T of them."""
    net, images = nn.Sequential(nn.Linear(4, 3)), torch.randn(20, 3, 4, generator=rng)
    away = offload.offload(net, images, PRESETS["private"], generator=rng)
    assert offload.remote_layers(away)[0].calls == [(12, 9)]
    torch.testing.assert_close(away(images), net(images), atol=1e-3, rtol=1e-3)
    flat = nn.Sequential(nn.Flatten(0, 1), nn.Linear(4, 3))
    with pytest.raises(InputError, match="gets 60 inputs for 20 queries"):
        offload.offload(flat, images, PRESETS["private"])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_broken_query_is_refused_by_its_index(value, rng):
    net, images = network(), torch.randn(20, 2, 4, 4, dtype=torch.float64, generator=rng)
    away = offload.offload(net, images, PRESETS["private"], generator=rng)
    heard = []
    offload.remote_layers(away)[0].observer = lambda *seen: heard.append(seen)
    broken = images.clone()
    broken[[3, 7], 0, 1, 1] = value
    with pytest.raises(InputError, match=r"NaN or infinity in query 3, 7 of 20"):
        away(broken)
    assert not heard
    with pytest.raises(InputError, match=r"NaN or infinity in image of the calibration 3, 7 of 20"):
        offload.offload(net, broken, PRESETS["private"])


def test_a_query_that_overflows_inside_is_refused_there(rng):
    net, images = network(torch.float32), torch.randn(20, 2, 4, 4, generator=rng)
    away = offload.offload(net, images, PRESETS["private"], generator=rng)
    away.network[1] = nn.Softplus(threshold=1e9)  # exp overflows
    away.network[0].layer.bias.data.fill_(1e6)
    with pytest.raises(InputError, match=r"the input of Linear\(.*\) for query 0, 1, 2"):
        away(images)


def test_training_mode_is_refused(rng):
    net, images = network(), torch.randn(20, 2, 4, 4, dtype=torch.float64, generator=rng)
    away = offload.offload(net, images, PRESETS["private"], generator=rng)
    with pytest.raises(InputError, match="call eval"):
        away.train()(images)


def test_autocast_rounds_neither_key_nor_decoys(rng):
    net, images = network(torch.float32), torch.randn(20, 2, 4, 4, generator=rng)
    away = offload.offload(net, images, PRESETS["private"], generator=rng)
    heard = []
    for layer in offload.remote_layers(away):
        layer.observer = lambda sent, *_: heard.append(sent)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        answers = away(images)
    torch.testing.assert_close(answers.float(), net(images), atol=0.05, rtol=0.05)
    for sent in heard:
        assert sent.dtype == torch.float32
        assert (sent.bfloat16().float() != sent).float().mean() > 0.9


def test_deployment_draws_keys_and_decoys_from_the_operating_system(monkeypatch, rng):
    net, images = network(), torch.randn(20, 2, 4, 4, dtype=torch.float64, generator=rng)
    away = offload.offload(net, images, PRESETS["private"])
    asked, heard = [], []
    source = offload.cF.os.urandom
    monkeypatch.setattr(offload.cF.os, "urandom", lambda n: asked.append(n) or source(n))
    first = offload.remote_layers(away)[0]
    first.observer = lambda sent, *_: heard.append(sent)
    for _ in range(2):
        torch.manual_seed(0)
        away(images)
    assert not torch.allclose(heard[0], heard[1])
    n, parts = 32, 20 + first.decoys(32)
    assert asked[:2] == [8 * first.decoys(32) * n, 8 * parts * parts]


def test_no_layer_to_offload_is_refused():
    with pytest.raises(InputError, match="no linear layer"):
        offload.offload(nn.ReLU(), torch.zeros(2, 3), PRESETS["private"])


def audited(ratio, freedom, rng, groups=40):
    """An audit of one layer with N = 6 numbers and 30 queries of full norm."""
    calls = [offload.CallSize(6, 2)]
    linear = nn.Linear(6, 2).double()
    layer = offload.RemoteLayer(linear, freedom, ratio, rng, bound=1.0, calls=calls)
    gallery = nn.functional.normalize(torch.randn(50, 6, generator=rng).double(), dim=1)
    audit = Audit([gallery])
    layer.observer = audit.observe
    for _ in range(groups):
        layer(nn.functional.normalize(torch.randn(30, 6, generator=rng).double(), dim=1))
        audit.finish_group()
    return torch.cat(audit.present), torch.cat(audit.absent), torch.cat(audit.ranks)


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
    assert app.run(measure.offload, ["--victim", str(victim), "--group-size", "100"]) == 0
    shown = capsys.readouterr().out
    assert "same answer as without, %     100.00" in shown
    (row,) = [r for r in results.read_rows(victim / "results.jsonl") if r["name"] == "offload"]
    measured = row["metrics"]
    error = measured["error"]
    assert error["value"] == error["plain"]
    wilson = metrics.share_interval(error["value"], row["images"])
    assert [error["low"], error["high"]] == pytest.approx(wilson, rel=1e-6)
    assert measured["delta"]["value"] <= 1e-6
    assert measured["delta"]["releases"] == 7
    assert "allowed: 1.0e-06, 7 releases" in shown
    freedom = privacy.freedom_for(1.0, 1e-6, 1e-3, releases=7)
    assert measured["degrees_of_freedom"]["value"] == freedom
    # k = N + m - 1 decoys beside 100 queries, N from 16 to 256
    assert (100 + 16 + freedom - 1) / 100 < measured["server_work"]["value"]
    assert measured["server_work"]["value"] < (100 + 256 + freedom - 1) / 100
    asked = remote_network.OffloadConfig(victim, group_size=100)
    assert results.measured(asked, "offload")
    assert not results.measured(dataclasses.replace(asked, preset="strict"), "offload")
    assert measured["identified"]["value"] < 0.02
    assert measured["detected_at_1_fpr"]["value"] < 0.05


def test_the_command_refuses_what_it_cannot_offload(trained_run, tmp_path, capsys):
    victim = trained_run(tmp_path / "rotated", arch="thin4", **{"adversarial-weight": 0})
    assert app.run(measure.offload, ["--victim", str(victim)]) == 2
    assert "offload a network without rotation" in capsys.readouterr().err
    for words, message in (
        (["--epsilon", "0"], "epsilon must be positive"),
        (["--group-size", "0"], "group_size must be at least 1"),
        (["--delta", "1e-300"], "delta must be at least 1e-290 and below 1"),
    ):
        assert app.run(measure.offload, ["--victim", str(victim), *words]) == 2
        assert message in capsys.readouterr().err


def test_presets_and_their_changes():
    config = remote_network.OffloadConfig("victim", preset="strict", ratio=0.5)
    assert config.guarantee == (0.1, 1e-9, 0.5)
    assert remote_network.OffloadConfig("victim").guarantee == PRESETS["private"]
