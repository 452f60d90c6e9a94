"""The objective, the loop, and what two runs with one seed have in common."""

import ast
import dataclasses
import json
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

import complexnn
from complexnn import data, training
from complexnn.config import AttackConfig, DataConfig, InputError, NetConfig, TrainConfig
from complexnn.networks.modules import Critic

CPU = torch.device("cpu")


def config(**settings):
    net = NetConfig(
        arch="lenet", image_size=(8, 8), in_channels=1, mean=(0.3,), std=(0.4,),
        **settings.pop("net", {}),
    )  # fmt: skip
    return TrainConfig(net=net, epochs=2, batch_size=64, **settings)


def adversary_and_parts(settings):
    torch.manual_seed(0)
    net = complexnn.build(settings.net).train()
    rng = torch.Generator().manual_seed(0)
    adversary = training.make_adversary(settings, rng, CPU)
    groups = net.group(net.features(torch.rand(16, 1, 8, 8)), generator=rng)
    return net, adversary, groups


@pytest.mark.parametrize("constraint", ["gradient-penalty", "weight-clipping"])
@pytest.mark.parametrize("net", [{}, {"dim": 4}, {"dim": 4, "group": "packed"}])
def test_the_adversarial_term_reaches_the_encoder_and_only_it(net, constraint):
    net, adversary, groups = adversary_and_parts(config(net=net, critic_constraint=constraint))
    before = [p.clone() for p in adversary.critic.parameters()]
    gap = adversary.loss(groups.parts, step=0)
    assert any(
        not torch.equal(a, b) for a, b in zip(before, adversary.critic.parameters(), strict=True)
    ), "the critic did not learn"

    for parameter in adversary.critic.parameters():
        parameter.grad = None
    gap.backward()
    silent = [n for n, p in net.encoder.named_parameters() if p.grad is None or not p.grad.any()]
    # The norm behind a 1x1 convolution shifts a and a' alike at first order, not exactly.
    assert not silent
    assert all(p.grad is None for p in net.processing.parameters())
    assert all(p.grad is None for p in adversary.critic.parameters())


def test_switching_the_term_off_removes_it():
    assert training.make_adversary(config(adversarial_weight=0.0), None, CPU) is None
    assert training.make_adversary(config(net={"kind": "additional"}), None, CPU) is None


def test_every_nth_step_has_the_term():
    _, adversary, groups = adversary_and_parts(config(critic_every=3))
    on = [adversary.loss(groups.parts, step) is not None for step in range(7)]
    assert on == [True, False, False, True, False, False, True]


def test_weight_clipping_clips():
    settings = config(critic_constraint="weight-clipping", clip_value=0.02)
    _, adversary, groups = adversary_and_parts(settings)
    adversary.loss(groups.parts, 0)
    assert max(p.abs().max().item() for p in adversary.critic.parameters()) <= 0.02 + 1e-9


def test_true_and_wrong_features_are_what_keys_would_show(rng):
    parts = torch.randn(6, 2, 3, 4, 4)
    true, wrong = training.true_and_wrong(parts, 1, 5, rng)
    assert torch.equal(true, parts[:, 0])
    assert wrong.shape == (30, 3, 4, 4)
    for i, feature in enumerate(wrong):  # in the plane of its own group's a and b, unit weights
        basis = parts[i // 5].flatten(1)
        weights = torch.linalg.lstsq(basis.T, feature.flatten()).solution
        torch.testing.assert_close(weights.norm(), torch.tensor(1.0), atol=1e-4, rtol=0)
        torch.testing.assert_close(weights @ basis, feature.flatten(), atol=1e-4, rtol=0)


def test_gradient_penalty_of_a_linear_critic_is_known(rng):
    class Linear(Critic):
        def forward(self, feature):
            return 3 * feature.flatten(1).sum(1)

    true, wrong = torch.randn(2, 8, 3, 4, 4)
    penalty = training.gradient_penalty(Linear(3, (4, 4)), true, wrong, rng)
    torch.testing.assert_close(penalty, torch.tensor((3 * 48**0.5 - 1) ** 2), rtol=1e-4, atol=0)


def test_a_critic_learns_to_tell_true_from_wrong(rng):
    """Positive features beside their signed mixtures: the gap must open."""
    settings = config(critic_lr=2e-3)
    adversary = training.make_adversary(settings, rng, CPU)
    for _ in range(150):
        gap = adversary.loss(torch.rand(32, 2, 32, 4, 4), 0)
    assert gap > 0.5


def fit(settings, epochs_rows):
    torch.manual_seed(settings.seed)
    dataset = data.load(DataConfig(limit_train=300))
    net = complexnn.build(settings.net)
    training.fit(net, dataset, settings, Accelerator(cpu=True), epochs_rows.append)
    return net


@pytest.mark.parametrize("net", [{"kind": "original"}, {}, {"dim": 3, "group": "packed"}])
def test_one_seed_gives_one_run_to_the_bit(net):
    rows = [[], []]
    nets = [fit(config(net=net), r) for r in rows]
    assert json.dumps(rows[0]) == json.dumps(rows[1])
    a, b = (n.state_dict() for n in nets)
    assert all(torch.equal(a[k], b[k]) for k in a)
    other = []
    fit(config(net=net, seed=1), other)
    assert other[0]["train_loss"] != rows[0][0]["train_loss"]


def test_training_learns():
    rows = []
    fit(dataclasses.replace(config(net={"kind": "complex"}), epochs=12), rows)
    assert rows[-1]["train_loss"] < 0.5 * rows[0]["train_loss"]


def test_a_diverging_loss_stops_the_run_and_names_the_step():
    with pytest.raises(InputError, match=r"loss is (nan|inf) at step \d+ of epoch \d+: lower --lr"):
        fit(dataclasses.replace(config(), lr=1e20), [])


def test_evaluation_changes_nothing_and_repeats(rng):
    net = complexnn.build(config().net).train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    dataset = data.load(DataConfig())
    first, second = (training.evaluate(net, dataset.test, CPU, draws=2, seed=5) for _ in range(2))
    assert first == second
    assert net.training
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    most_common = dataset.test.labels.bincount().max().item()
    assert first["chance"] == pytest.approx(1 - most_common / 360)


def test_norm_scales_and_biases_are_not_decayed():
    net = complexnn.build("resnet20", kind="original")
    decayed, others = training.weight_groups(net, 0.1)
    assert decayed["weight_decay"] == 0.1
    assert others["weight_decay"] == 0
    assert all(p.dim() <= 1 for p in others["params"])
    assert len(decayed["params"]) + len(others["params"]) == len(list(net.parameters()))


@pytest.mark.parametrize("cls", [NetConfig, DataConfig, TrainConfig, AttackConfig])
def test_every_setting_is_read_somewhere(cls):
    read = set()
    for path in (Path(complexnn.__file__).parent).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                read.add(node.attr)
    unread = {f.name for f in dataclasses.fields(cls)} - read
    # Attackers read these through getattr, in attacks/attacker.py.
    assert unread <= set()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"lr": 0.0}, "lr must be positive"),
        ({"adversarial_weight": -1.0}, "adversarial_weight must be at least 0"),
        ({"wrong_keys": 0}, "wrong_keys must be at least 1"),
    ],
)
def test_senseless_settings_are_named(settings, message):
    with pytest.raises(InputError, match=message):
        TrainConfig(**settings)
