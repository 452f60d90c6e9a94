"""Every network: counts, splits, gradients; the way from images to answers."""

import math
import pickle

import pytest
import torch

import complexnn
from complexnn.config import NetConfig
from complexnn.networks import defences, splitnet
from complexnn.networks.critic import Critic
from complexnn.networks.registry import topology
from complexnn.rotation import functional as cF
from complexnn.rotation import layers

KINDS = ("original", "additional", "noisy", "complex", "local")
SIZES = {"vgg16": 32, "alexnet": 63}  # the smallest they take
RESNETS = {20: 269_722, 32: 464_154, 44: 658_586, 56: 853_018, 110: 1_727_962}


def count(module):
    return sum(p.numel() for p in module.parameters())


def small(arch, **settings):
    return complexnn.build(arch, image_size=SIZES.get(arch, 16), **settings)


@pytest.mark.parametrize(("depth", "total"), RESNETS.items())
def test_original_resnets_have_the_published_size(depth, total):
    nets = {v: small(f"resnet{depth}", variant=v, kind="original") for v in ("alpha", "beta")}
    assert count(nets["alpha"]) == count(nets["beta"]) == total
    assert count(nets["alpha"].encoder) == count(nets["beta"].encoder)
    assert count(nets["alpha"].processing) < count(nets["beta"].processing)


@pytest.mark.parametrize(("arch", "total"), [("vgg16", 138_357_544), ("alexnet", 61_100_840)])
def test_classic_networks_have_the_published_size(arch, total):
    net = complexnn.build(arch, kind="original", num_classes=1000, image_size=224)
    assert count(net) == total
    assert topology(net.config).released == {"vgg16": (256, 56, 56), "alexnet": (384, 13, 13)}[arch]


@pytest.mark.parametrize(("arch", "sizes"), [("vgg16", (32, 45)), ("alexnet", (63, 80))])
@pytest.mark.parametrize("kind", KINDS)
def test_classic_networks_know_their_shapes_at_any_size(arch, sizes, kind, rng):
    net = complexnn.build(arch, kind=kind, image_size=sizes, num_classes=3).eval()
    released, key = net.encode(torch.rand(2, 3, *sizes), generator=rng)
    hidden = net.process(released)
    assert tuple(released.shape[2:]) == topology(net.config).released
    assert tuple(hidden.shape[2:]) == topology(net.config).answer
    assert net.decode(hidden, key).shape == (2, 3)


@pytest.mark.parametrize("depth", RESNETS)
@pytest.mark.parametrize("kind", KINDS[:-1])  # local has no blocks on the server
def test_alpha_and_beta_place_the_blocks_as_the_paper_does(depth, kind):
    n = (depth - 2) // 6
    for variant, server in (("alpha", n + 1), ("beta", 2 * n - 1)):
        net = small(f"resnet{depth}", variant=variant, kind=kind)
        assert len(net.processing) == server
        blocks = [m for m in net.decoder.modules() if type(m).__name__ == "BasicBlock"]
        assert server + len(blocks) == 2 * n


@pytest.mark.parametrize("arch", complexnn.names())
def test_complex_differs_from_additional_by_biases_and_shifts_only(arch):
    plain, rotated = small(arch, kind="additional"), small(arch, kind="complex")
    biases = sum(p.numel() for name, p in plain.processing.named_parameters() if "bias" in name)
    assert biases > 0
    assert count(plain) - count(rotated) == biases
    assert count(plain.encoder) == count(rotated.encoder)
    assert count(plain.decoder) == count(rotated.decoder)


@pytest.mark.parametrize("arch", ["lenet", "resnet20"])
def test_complex_weights_double_the_server(arch):
    real, double = (small(arch, weights=w) for w in ("real", "complex"))
    weights = sum(p.numel() for p in real.processing.parameters() if p.dim() > 1)
    assert count(double.processing) == count(real.processing) + weights


@pytest.mark.parametrize("arch", complexnn.names())
@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_gets_a_gradient(arch, kind, rng):
    net = small(arch, kind=kind)
    side = SIZES.get(arch, 16)
    logits = net(torch.rand(6, 3, side, side), generator=rng)
    assert logits.shape == (6, 10)
    logits.square().sum().backward()
    without = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert not without


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(8, 8), (28, 28), (19, 33)])
def test_images_of_any_size_and_channels(kind, size, rng):
    for arch in ("lenet", "thin4", "resnet20"):
        net = complexnn.build(arch, kind=kind, in_channels=1, image_size=size, num_classes=3)
        assert net(torch.rand(4, 1, *size), generator=rng).shape == (4, 3)


def test_released_and_key_have_the_contract_shapes(rng):
    images = torch.rand(6, 3, 16, 16)
    released, key = small("resnet20", dim=3).encode(images, generator=rng)
    assert released.shape == (6, 3, 16, 16, 16)
    assert key.rotation.shape == (6, 3, 3)
    released, key = small("resnet20", dim=3, group="packed").encode(images, generator=rng)
    assert released.shape == (2, 3, 16, 16, 16)
    assert key.directions.shape == (2, 3, 3)
    released, _ = small("resnet20", kind="additional").encode(images, generator=rng)
    assert released.shape == (6, 1, 16, 16, 16)


def test_forward_is_encode_process_decode():
    net = small("lenet", dim=4).eval()
    images = torch.rand(8, 3, 16, 16)
    together = net(images, generator=torch.Generator().manual_seed(3))
    released, key = net.encode(images, generator=torch.Generator().manual_seed(3))
    assert torch.equal(together, net.decode(net.process(released), key))


@pytest.mark.parametrize("group", ["decoy", "packed"])
@pytest.mark.parametrize("defence", ["none", "dropout"])
def test_a_release_is_what_encode_sends_and_the_groups_behind_it(group, defence):
    net = small("lenet", dim=4, group=group, defence=defence).eval()
    images = torch.rand(8, 3, 16, 16)

    def seeded():
        return torch.Generator().manual_seed(3)

    released, key = net.encode(images, generator=seeded())
    release = net.release(images, generator=seeded())
    assert torch.equal(release.released, released)
    assert torch.equal(release.key.rotation, key.rotation)
    assert torch.equal(release.key.members, key.members)
    assert release.key.queries == key.queries == 8
    torch.testing.assert_close(cF.rotate(release.parts, key.rotation), released)
    groups = net.unrotated_groups(net.features(images), generator=seeded())
    assert torch.equal(release.parts, groups)
    queried = cF.first_parts(release.parts, net.config.queries)
    assert torch.equal(queried, net.unrotated_queries(images, generator=seeded()))
    assert release.without_parts() == (release.released, release.key, None)


@pytest.mark.parametrize("group", ["decoy", "packed"])
@pytest.mark.parametrize("dim", [2, 4])
def test_the_answer_does_not_depend_on_the_key_but_needs_it(group, dim, rng):
    net = small("resnet20", dim=dim, group=group).double()
    images = torch.rand(8, 3, 16, 16, dtype=torch.float64)
    for _ in range(20):  # statistics of fresh norms would let the signal fade to nothing
        net(images, generator=rng)
    net.eval()
    release = net.release(images, generator=rng)
    released, key, _ = release
    other, other_key, _ = net.release_again(release, generator=rng)
    plain = net.decode(net.process(released), key)
    torch.testing.assert_close(plain, net.decode(net.process(other), other_key), atol=1e-10, rtol=0)

    # At d = 2 this is the angle plus π.
    opposite = complexnn.Key(-key.rotation, key.group, key.members, key.queries)
    wrong = net.decode(net.process(released), opposite)
    assert (plain - wrong).abs().max() > 1e-3


def test_at_two_parts_released_is_the_paper_formula(rng):
    net = small("resnet20").eval()
    images = torch.rand(6, 3, 16, 16)
    features = net.features(images)
    released, key = net.encode(images, generator=rng)
    a, b = features, features[key.members[:, 1]]
    theta = torch.atan2(key.directions[:, 0, 1], key.directions[:, 0, 0])
    x = torch.polar(torch.ones(6), theta).view(6, 1, 1, 1) * torch.complex(a, b)
    torch.testing.assert_close(released[:, 0], x.real, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(released[:, 1], x.imag, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("group", ["decoy", "packed"])
@pytest.mark.parametrize("count", [4, 8, 16, 128])
def test_every_query_gets_its_answer(group, count, rng):
    net = small("lenet", dim=4, group=group).eval()
    images = torch.rand(count, 3, 16, 16)
    released, key = net.encode(images, generator=rng)
    assert net.decode(net.process(released), key).shape == (count, 10)
    first = key.members if group == "packed" else key.members[:, :1]
    assert torch.equal(first.flatten()[:count], torch.arange(count))
    assert all(len(row.unique()) == 4 for row in key.members)


@pytest.mark.parametrize("group", ["decoy", "packed"])
def test_gaussian_decoys_are_released_with_the_group_and_dropped_from_the_answer(group, rng):
    net = small("thin4", dim=3, group=group, gaussian_decoys=200, decoy_scale=5.0).eval()
    images = torch.rand(9, 3, 16, 16)
    released, key, parts = net.release(images, generator=rng)
    count = 3 if group == "packed" else 9
    assert released.shape == (count, 203, 4, 4, 4)
    assert key.directions.shape == (count, 3 if group == "packed" else 1, 203)
    behind = cF.rotate(released, key.rotation.mT)
    torch.testing.assert_close(behind, parts, atol=1e-4, rtol=1e-4)

    noise = behind[:, 3:].double()
    assert noise.std().item() == pytest.approx(5, rel=0.02)
    assert noise.mean().item() == pytest.approx(0, abs=0.1)
    assert len(noise.flatten(0, 1)[:, 0, 0, 0].unique()) == 200 * count

    answers = net.decode(net.process(released), key)
    kept = cF.first_parts(net.process(parts), 3 if group == "packed" else 1)
    torch.testing.assert_close(answers, net.decoder(kept), atol=1e-4, rtol=1e-4)


def test_features_beside_gaussian_decoys_have_a_bounded_norm(rng):
    features = (
        torch.randn(5, 4, 4, 4, generator=rng)
        * torch.tensor([0.1, 0.5, 1, 3, 10])[:, None, None, None]
    )
    clipped = defences.clip(features)
    power = features.square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(clipped.square().mean(dim=(1, 2, 3)), power.clamp(max=1))
    short = power <= 1
    assert 0 < short.sum() < 5
    assert torch.equal(clipped[short], features[short])

    net = small("thin4", gaussian_decoys=3).eval()
    loud = net.features(torch.rand(4, 3, 16, 16)) * 100
    bounded = net.release_features(loud, generator=rng).parts[:, :2]
    assert bounded.square().mean(dim=(2, 3, 4)).amax() <= 1 + 1e-5


def test_a_pool_serves_a_single_query(rng):
    pool = complexnn.Pool(torch.rand(8, 3, 16, 16))
    query = torch.rand(1, 3, 16, 16)
    for group in ("decoy", "packed"):
        net = small("lenet", dim=3, group=group).eval()
        _, key = net.encode(query, generator=rng, pool=pool)
        assert key.members[0, 0] == 0
        assert (key.members[0, 1:] >= 1).all()
        assert net(query, generator=rng, pool=pool).shape == (1, 10)


@pytest.mark.parametrize("group", ["decoy", "packed"])
@pytest.mark.parametrize("images", [1, 2])
def test_a_group_that_cannot_be_filled_is_refused_in_training_too(group, images, rng):
    net = small("lenet", dim=3, group=group)
    with pytest.raises(complexnn.InputError, match="pass more images, or pool="):
        net.encode(torch.rand(images, 3, 16, 16), generator=rng)


def test_the_key_is_hard_to_leak_by_accident(rng):
    net = small("lenet")
    released, key = net.encode(torch.rand(4, 3, 16, 16), generator=rng)
    value = f"{key.rotation[0, 0, 0].item():.3f}"
    assert value not in repr(key)
    assert "hidden" in f"{key}"
    for secret in (key, {"released": released, "key": key}):
        with pytest.raises(TypeError, match="secret"):
            pickle.dumps(secret)


def test_without_a_generator_keys_are_fresh_and_not_torchs():
    net = small("lenet").eval()
    images = torch.rand(4, 3, 16, 16)
    torch.manual_seed(0)
    first = net.encode(images)[1].rotation
    torch.manual_seed(0)
    assert not torch.equal(first, net.encode(images)[1].rotation)


def test_noise_has_the_stated_strength(rng):
    net = small("resnet20", kind="noisy", gamma=0.5).eval()
    images = torch.rand(8, 3, 16, 16)
    features = net.features(images)
    released, _ = net.encode(images, generator=rng)
    noise = released[:, 0] - features
    ratio = noise.square().mean((1, 2, 3)).sqrt() / features.square().mean((1, 2, 3)).sqrt()
    torch.testing.assert_close(ratio, torch.full((8,), 0.5), rtol=0.05, atol=0)


def test_fixed_gates_scale_with_the_number_of_parts():
    gates = [m for m in small("resnet20", dim=9).modules() if isinstance(m, layers.SoftGate)]
    assert gates
    assert {gate.c for gate in gates} == {3.0}
    assert any(isinstance(m, layers.MeanGate) for m in small("lenet").modules())


def test_the_norms_deviation_passes_what_the_papers_gate_passes():
    """Mean over parts with c = sqrt(d) equals the paper's sum over parts with c = 1, times
    sqrt(d)."""
    x = torch.randn(16, 2, 4, 6, 6, dtype=torch.float64)
    ours = cF.soft_gate(x * x.square().mean((0, 1, 3, 4)).rsqrt().view(-1, 1, 1), math.sqrt(2))
    squared = x.square().sum(1, keepdim=True).mean((0, 1, 3, 4), keepdim=True)
    paper = cF.soft_gate(x / squared.sqrt(), 1.0)
    torch.testing.assert_close(ours, math.sqrt(2) * paper)


def test_generator_ends_signed_unless_asked(rng):
    images = torch.rand(8, 3, 16, 16)
    assert small("resnet20").features(images).min() < 0
    assert small("resnet20", relu_end=True).features(images).min() == 0
    wide = small("resnet20", generator_width=24)
    assert wide.features(images).shape == (8, 16, 16, 16)
    assert count(wide.encoder) > count(small("resnet20").encoder)


def test_the_control_has_no_server_to_speak_of():
    net = small("resnet20", kind="local")
    convs = [m for m in net.processing.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [c.kernel_size for c in convs] == [(1, 1)]
    assert not any(isinstance(m, torch.nn.ReLU) for m in net.processing.modules())


def test_the_control_of_a_small_release_is_any_linear_map(rng):
    net = small("thin4", kind="local")
    linear = [m for m in net.processing.modules() if list(m.parameters(recurse=False))]
    assert [tuple(m.weight.shape) for m in linear] == [(128, 4 * 4 * 4)]


@pytest.mark.parametrize("size", [(4, 4), (14, 14), (7, 32)])
def test_critic_scores_maps_of_any_size(size):
    critic = Critic(8, size)
    critic(torch.randn(3, 8, *size)).sum().backward()
    assert all(p.grad is not None for p in critic.parameters())
    assert critic(torch.randn(3, 8, *size)).shape == (3,)


@pytest.mark.parametrize(
    ("arch", "settings", "message"),
    [
        ("resnet21", {}, "unknown architecture 'resnet21'; known: lenet, resnet20, resnet32"),
        ("resnet20", {"kind": "quaternion"}, "unknown kind .*known: original, additional"),
        ("resnet20", {"variant": "gamma"}, "unknown variant"),
        ("resnet20", {"colour": 3}, "unknown setting 'colour'"),
        ("lenet", {"variant": "beta"}, "lenet has no variant 'beta'; known: alpha"),
        ("lenet", {"dim": 1}, "dim must be at least 2"),
        ("lenet", {"dim": 3, "weights": "complex"}, "complex weights need 2 parts"),
        ("lenet", {"gaussian_decoys": 1, "weights": "complex"}, "complex weights need 2 parts"),
        ("lenet", {"gate": "mixing"}, "lenet has no norms"),
        ("lenet", {"gate": "mixed"}, "unknown gate 'mixed'; known: paper, mixing"),
        ("resnet20", {"kind": "local", "gate": "mixing"}, "gate applies to kind complex only"),
        ("lenet", {"gaussian_decoys": -1}, "gaussian_decoys must be at least 0"),
        ("lenet", {"decoy_scale": 2.0}, "decoy_scale applies to gaussian_decoys above 0"),
        ("lenet", {"gaussian_decoys": 1, "decoy_scale": 0.0}, "decoy_scale must be positive"),
        ("lenet", {"kind": "noisy", "gaussian_decoys": 3}, "gaussian_decoys applies to kind"),
        ("lenet", {"kind": "original", "dim": 3}, "dim applies to kind complex only"),
        ("lenet", {"kind": "complex", "gamma": 0.5}, "gamma applies to kind noisy only"),
        ("lenet", {"kind": "noisy", "gamma": -1.0}, "gamma must be at least 0"),
        ("lenet", {"num_classes": 1}, "at least 2 classes"),
        ("lenet", {"image_size": 4}, "too small"),
        ("vgg16", {"image_size": 31}, "needs images of 32x32"),
        ("alexnet", {"image_size": 62}, "needs images of 63x63"),
        ("lenet", {"mean": (0.5,)}, "one number per channel"),
    ],
)
def test_wrong_settings_are_named(arch, settings, message):
    with pytest.raises(complexnn.InputError, match=message):
        complexnn.build(arch, **settings)


def test_images_of_the_wrong_shape_are_refused():
    with pytest.raises(complexnn.InputError, match=r"images must be \(B, 3, H, W\)"):
        small("lenet").encode(torch.rand(4, 1, 16, 16))
    with pytest.raises(complexnn.InputError, match="divide bytes by 255"):
        small("lenet").encode(torch.zeros(4, 3, 16, 16, dtype=torch.uint8))


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_of_another_release_is_refused(kind, rng):
    net = small("lenet", kind=kind).eval()
    released, _ = net.encode(torch.rand(4, 3, 16, 16), generator=rng)
    _, other = net.encode(torch.rand(6, 3, 16, 16), generator=rng)
    with pytest.raises(complexnn.InputError, match=r"4 groups of \d, the key is for 6 of \d"):
        net.decode(net.process(released), other)


def test_config_round_trip():
    from complexnn.config_io import from_dict, to_dict

    config = small("resnet20", dim=3, group="packed").config
    assert from_dict(NetConfig, to_dict(config)) == config


@pytest.mark.parametrize("kind", ["complex", "additional"])
def test_a_server_in_blocks_answers_as_in_one_piece(kind, rng, monkeypatch):
    net = complexnn.build("resnet20", kind=kind, image_size=16).double().eval()
    released, _ = net.encode(torch.rand(10, 3, 16, 16, dtype=torch.float64), generator=rng)
    calls = []
    net.processing.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        whole = net.process(released)
        assert len(calls) == 1
        monkeypatch.setattr(splitnet, "BLOCK", 3 * released[0].numel())
        torch.testing.assert_close(net.process(released), whole, atol=1e-12, rtol=0)
        assert len(calls) == 1 + 4
    net.process(released.requires_grad_()).sum().backward()
    assert len(calls) == 1 + 4 + 1, "with gradient the server works in one piece"
