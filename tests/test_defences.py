"""Defences to compare with: each does what it states, trains, and is attacked like any victim."""

import itertools
import math

import pytest
import torch

import complexnn
from complexnn import metrics
from complexnn.commands import app
from complexnn.commands import attack as attack_command
from complexnn.commands import train as train_command
from complexnn.config import InputError, NetConfig, TrainConfig
from complexnn.networks import defences
from complexnn.networks.registry import build
from complexnn.runs.results import read_rows
from complexnn.training import terms

PERTURBING = ("laplace", "dropout", "quantise")


def features(count=6):
    return 0.3 * torch.randn(count, 4, 10, 10)


def test_gaussian_noise_has_the_stated_strength(rng):
    a = features(200) * torch.logspace(-2, 2, 200).view(-1, 1, 1, 1)
    noise = defences.gaussian(a, 0.5, rng) - a
    strength = noise.square().mean((1, 2, 3)).sqrt() / a.square().mean((1, 2, 3)).sqrt()
    assert strength.mean() == pytest.approx(0.5, rel=0.01)
    assert noise.mean() / noise.std() == pytest.approx(0, abs=0.01)


def test_laplace_noise_has_the_scale_that_epsilon_asks_for(rng):
    a, epsilon = features(500), 4000.0
    noise = defences.laplace(a, epsilon, rng) - a
    scale = 2 * 400 / epsilon
    assert noise.abs().mean() == pytest.approx(scale, rel=0.01)
    assert noise.std() == pytest.approx(math.sqrt(2) * scale, rel=0.01)
    # P(|noise| > t) = exp(-t / b)
    assert (noise.abs() > 3 * scale).double().mean() == pytest.approx(math.exp(-3), rel=0.05)


@pytest.mark.parametrize("factor", [0.1, 1.0, 100.0])
def test_laplace_bounds_what_one_query_can_change(factor):
    """No two queries differ by more than 2N before the noise, so that the likelihood ratio of a
    release is at most exp(2N / b) = exp(epsilon)."""
    a = defences.laplace(factor * features(20), 1e12, torch.Generator())  # the noise is nothing
    lengths = a.abs().sum((1, 2, 3))
    assert lengths.max() <= 400 * (1 + 1e-4)
    if factor < 1:
        torch.testing.assert_close(a, factor * features_again(20), atol=1e-6, rtol=0)


def features_again(count):
    torch.manual_seed(0)
    return features(count)


def test_likelihood_ratios_of_laplace_releases_stay_below_epsilon():
    """Sampled on one number per query: N = 1, clipped to [-1, 1], neighbours at -1 and 1."""
    epsilon, count = 1.5, 200_000
    shape = (count, 1, 1, 1)
    one, other = (
        defences.laplace(torch.full(shape, v), epsilon, torch.Generator().manual_seed(i)).flatten()
        for i, v in enumerate((5.0, -5.0))
    )
    bins = torch.linspace(-4, 4, 17)
    p, q = (torch.histogram(x, bins).hist / count for x in (one, other))
    error = 4 / (count * torch.minimum(p, q)).sqrt()
    assert ((p / q).log().abs() <= epsilon + error).all()
    assert (p / q).log().abs().max() > 0.9 * epsilon  # the bound is tight


def test_dropped_entries_are_zero_and_the_mean_is_kept(rng):
    a = torch.ones(50, 4, 10, 10)
    released = defences.drop(a, 0.75, rng)
    assert sorted(released.unique().tolist()) == [0, 4]
    assert released.mean() == pytest.approx(1, rel=0.03)
    assert (released[0] != released[1]).any()


@pytest.mark.parametrize("bits", [1, 3, 8])
def test_quantised_entries_have_the_nearest_of_so_many_levels(bits):
    a = features().requires_grad_()
    released = defences.quantise(a, bits)
    for before, after in zip(a.detach(), released.detach(), strict=True):
        levels = torch.linspace(before.min().item(), before.max().item(), 2**bits)
        nearest = levels[(before.unsqueeze(-1) - levels).abs().argmin(-1)]
        torch.testing.assert_close(after, nearest, atol=1e-5, rtol=0)
    released.sum().backward()
    assert torch.equal(a.grad, torch.ones_like(a))


def test_a_constant_feature_is_quantised_to_itself():
    a = torch.full((2, 1, 3, 3), 0.7)
    assert torch.equal(defences.quantise(a, 4), a)


@pytest.mark.parametrize("defence", PERTURBING)
@pytest.mark.parametrize("kind", ["original", "additional", "complex"])
def test_perturbations_act_before_the_release_and_repeat_with_the_generator(defence, kind):
    net = complexnn.build("lenet", kind=kind, defence=defence, image_size=16).eval()
    images = torch.rand(4, 3, 16, 16)
    plain = net.features(images)
    released = [net.encode(images, generator=torch.Generator().manual_seed(1)) for _ in range(2)]
    assert torch.equal(released[0][0], released[1][0])
    (x, key), hidden = released[0], released[0][0]
    if kind == "complex":
        hidden = complexnn.rotation.functional.rotate(x, key.rotation.mT)
    assert not torch.allclose(hidden[:, 0], plain, atol=1e-3)
    again, _ = net.encode(images)  # without a generator: fresh entropy, never the same twice
    if defence != "quantise":
        assert not torch.equal(again, net.encode(images)[0])


DRAWS = {
    "gaussian": lambda a, rng: defences.gaussian(a, 1.0, rng),
    "laplace": lambda a, rng: defences.laplace(a, 1.0, rng),
    "dropout": lambda a, rng: defences.drop(a, 0.5, rng),
}


@pytest.mark.parametrize("name", DRAWS)
def test_noise_of_deployment_comes_from_the_operating_system(name, monkeypatch):
    """With the operating system's numbers known, so is the noise; torch's generator has no part."""
    count, a = [], features()

    def urandom(size):
        count.append(size)
        return bytes(i % 251 for i in range(size))

    fresh = [DRAWS[name](a, None) for _ in range(2)]
    assert not torch.equal(*fresh)
    monkeypatch.setattr("os.urandom", urandom)
    repeated = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        repeated.append(DRAWS[name](a, None))
    assert torch.equal(*repeated)
    assert count == [8 * a.numel()] * 2, "64 bits for every number"


def test_noise_of_deployment_has_the_stated_law():
    a, ones = features(500), torch.ones(500, 4, 10, 10)
    noise = defences.gaussian(a, 0.5, None) - a
    strength = noise.square().mean((1, 2, 3)).sqrt() / a.square().mean((1, 2, 3)).sqrt()
    assert strength.mean() == pytest.approx(0.5, rel=0.01)
    noise = defences.laplace(a, 4000.0, None) - a
    assert noise.abs().mean() == pytest.approx(0.2, rel=0.01)
    assert noise.std() == pytest.approx(0.2 * math.sqrt(2), rel=0.01)
    assert defences.drop(ones, 0.75, None).eq(0).double().mean() == pytest.approx(0.75, abs=0.01)


# ------------------------------------------------------------------------ distance correlation


def slow_distance_correlation(x, y):
    """The definition, term by term."""
    n = len(x)

    def centred(z):
        d = [[math.dist(z[i], z[j]) for j in range(n)] for i in range(n)]
        row = [sum(r) / n for r in d]
        every = sum(row) / n
        return [[d[i][j] - row[i] - row[j] + every for j in range(n)] for i in range(n)]

    a, b = centred(x.tolist()), centred(y.tolist())

    def v(p, q):
        return sum(p[i][j] * q[i][j] for i, j in itertools.product(range(n), repeat=2))

    return math.sqrt(v(a, b) / math.sqrt(v(a, a) * v(b, b)))


def test_distance_correlation_is_its_definition():
    x, y = torch.randn(9, 3, dtype=torch.float64), torch.randn(9, 5, dtype=torch.float64)
    y[:, :2] += x[:, 1:]
    got = metrics.distance_correlation(x, y).item()
    assert got == pytest.approx(slow_distance_correlation(x, y), abs=1e-4)


def test_distance_correlation_of_equal_shifted_and_independent_samples():
    x = torch.randn(300, 1, dtype=torch.float64)
    assert metrics.distance_correlation(x, 3 - 2 * x).item() == pytest.approx(1, abs=1e-4)
    assert metrics.distance_correlation(x, torch.randn_like(x)) < 0.2
    assert metrics.distance_correlation(x, x.square()) > 0.3  # uncorrelated, not independent


def test_distance_correlation_has_a_finite_gradient_at_equal_samples():
    x = torch.zeros(5, 3, requires_grad=True)
    metrics.distance_correlation(x, torch.randn(5, 2)).backward()
    assert torch.isfinite(x.grad).all()


# ------------------------------------------------------------------------------- whole runs


@pytest.mark.parametrize("kind", ["additional", "complex"])
@pytest.mark.parametrize("defence", [*PERTURBING, "nopeek", "decoder"])
def test_every_defence_trains_and_is_attacked(tmp_path, defence, kind):
    argv = ["--kind", kind, "--defence", defence, "--epochs", "1", "--limit-train", "100"]
    argv += ["--device", "cpu", "--output-dir", str(tmp_path), "--groups", "parity"]
    assert app.run(train_command.main, argv) == 0
    argv = ["inversion", "--victim", str(tmp_path), "--steps", "2", "--limit-test", "20"]
    assert app.run(attack_command.main, [*argv, "--device", "cpu", "--draws", "1"]) == 0
    (epoch,) = read_rows(tmp_path / "log.jsonl")
    name = {"nopeek": "distance_correlation", "decoder": "decoder_fit"}.get(defence)
    assert name is None or name in epoch
    assert ("critic_gap" in epoch) == (kind == "complex")


@pytest.mark.parametrize(
    ("defence", "number"), [("nopeek", "distance_correlation"), ("decoder", "decoder_fit")]
)
def test_training_defences_push_their_number_down(tmp_path, defence, number):
    """With the term's weight at 0 and at a large value: the same seed, another feature."""
    last = {}
    for strength in ("0", "30"):
        folder = tmp_path / strength
        argv = ["--kind", "additional", "--defence", defence, "--epochs", "4", "--device", "cpu"]
        argv += [f"--{defence}-weight", strength, "--output-dir", str(folder)]
        assert app.run(train_command.main, argv) == 0
        last[strength] = read_rows(folder / "log.jsonl")[-1][number]
    assert last["30"] < last["0"] - 0.01


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "noisy", "defence": "laplace"}, "defence applies to kind original and"),
        ({"kind": "additional", "epsilon": 1.0}, "epsilon applies to defence laplace only"),
        ({"defence": "laplace", "epsilon": 0.0}, "epsilon must be positive"),
        ({"defence": "dropout", "drop_rate": 1.0}, "drop_rate must be at least 0 and below 1"),
        ({"defence": "quantise", "bits": 0}, "bits must be 1 to 16"),
        ({"defence": "magic"}, "unknown defence 'magic'; known: none, laplace"),
    ],
)
def test_senseless_defences_are_named(settings, message):
    with pytest.raises(InputError, match=message):
        NetConfig(**settings)


def test_weights_of_a_defence_that_is_not_there_are_refused():
    with pytest.raises(InputError, match="nopeek_weight applies to defence nopeek only"):
        TrainConfig(nopeek_weight=2.0)


def test_packed_groups_train_against_the_denoiser_that_separates_them(tmp_path):
    """The encoder makes it err more; weight 0 trains the same denoiser beside the task alone."""
    last = {}
    for strength in ("0", "30"):
        folder = tmp_path / strength
        argv = ["--group", "packed", "--dim", "4", "--defence", "decoder", "--epochs", "4"]
        argv += ["--adversarial-weight", "0", "--decoder-weight", strength, "--device", "cpu"]
        assert app.run(train_command.main, [*argv, "--output-dir", str(folder)]) == 0
        last[strength] = read_rows(folder / "log.jsonl")[-1]["decoder_fit"]
    assert last["30"] < last["0"] - 0.01


def test_the_packed_denoiser_sees_views_beside_their_own_images(rng, monkeypatch):
    """At angle 0 a view is the feature of the image that it stands beside."""
    monkeypatch.setattr(terms, "WIDEST", 0.0)
    image = {"in_channels": 1, "image_size": (8, 8), "mean": (0.5,), "std": (0.5,)}
    config = TrainConfig(net=NetConfig(**image, group="packed", dim=3, defence="decoder"))
    term = terms.DecoderTerm(config, torch.device("cpu"))
    net = build(config.net).eval()
    images = torch.rand(10, 1, 8, 8, generator=rng)
    release = net.release(images, generator=rng, closed=False)
    step = terms.Step(0, images, release)
    views, beside = term._shown(step, rng)
    assert len(views) == 12
    torch.testing.assert_close(views, net.features(beside))
    assert {tuple(i.flatten().tolist()) for i in beside} == {
        tuple(i.flatten().tolist()) for i in images
    }
