"""What a rotated server's answer owes to the query: its matrix on queries that it has not seen."""

import math

import pytest
import torch

import complexnn
from complexnn.commands import app, measure
from complexnn.measurements import linearity
from complexnn.measurements.linearity import under_others
from complexnn.rotation import functional as cF
from complexnn.runs import results

SERVERS = [
    {"arch": "lenet", "image_size": 16},
    {"arch": "resnet20"},
    {"arch": "thin4", "gate": "mixing"},
    {"arch": "thin4", "group": "packed", "dim": 5},
]


@pytest.fixture(params=SERVERS, ids=str)
def net(request):
    torch.manual_seed(0)
    settings = dict(request.param)
    net = complexnn.build(settings.pop("arch"), **settings)
    size = net.config.image_size
    with torch.no_grad():  # a step in train mode, so that norms have seen something
        net.train()(torch.rand(4 * net.config.dim, 3, *size))
    return net.eval()


@torch.no_grad()
def test_members_of_the_group_get_their_own_answers(net, rng):
    group = net.features(torch.rand(net.config.dim, 3, *net.config.image_size, generator=rng))
    torch.testing.assert_close(
        under_others(net.processing, group, group), net.processing(group.unsqueeze(0))[0],
        rtol=1e-4, atol=1e-6,
    )  # fmt: skip


@torch.no_grad()
def test_it_is_one_matrix_for_all_queries(net, rng):
    images = torch.rand(net.config.dim + 2, 3, *net.config.image_size, generator=rng)
    *group, one, other = net.features(images)
    group = torch.stack(group)
    mixed = torch.stack([one, other, 3 * one - other])
    first, second, both = under_others(net.processing, group, mixed)
    torch.testing.assert_close(both, 3 * first - second, rtol=1e-3, atol=1e-4)
    # The server itself is none: what it makes of a query depends on the query.
    alone = net.processing(one.unsqueeze(0).unsqueeze(0).expand(1, len(group), *one.shape))[0, 0]
    assert (alone - first).norm() > 0.01 * first.norm()


@pytest.mark.parametrize("dim", [2, 8, 128])
def test_a_query_moves_a_gate_by_the_root_of_what_is_left_without_it_at_most(dim, rng):
    parts = torch.randn(1, dim, 3, 40, 40, generator=rng, dtype=torch.float64)
    without = parts[:, 1:]
    share = parts[:, :1].square() / cF.modulus(parts).square()

    def gate(x):
        return cF.soft_gate(x, math.sqrt(dim))[:, -1] / x[:, -1]

    ratio = gate(without) / gate(parts)
    assert (ratio <= 1 + 1e-9).all()
    assert (ratio >= (1 - share[:, 0]).sqrt() - 1e-9).all()
    assert torch.isclose(ratio, (1 - share[:, 0]).sqrt()).any()  # below c the bound is reached


@torch.no_grad()
def test_the_key_does_not_change_the_matrix(net, rng):
    images = torch.rand(net.config.dim + 3, 3, *net.config.image_size, generator=rng)
    features = net.features(images)
    group, queries = features[: net.config.dim], features[net.config.dim :]
    key = cF.draw_rotations(1, net.config.dim, rng).float()
    turned = cF.rotate(group.unsqueeze(0), key)[0]
    torch.testing.assert_close(
        under_others(net.processing, turned, queries), under_others(net.processing, group, queries),
        rtol=1e-3, atol=1e-4,
    )  # fmt: skip


def test_the_command_measures_a_rotated_network(trained_run, tmp_path, capsys):
    victim = trained_run(tmp_path / "complex", **{"adversarial-weight": 0})
    words = ["--victim", str(victim), "--maps", "3"]
    assert app.run(measure.linearity, words) == 0
    assert "3 groups of validation images" in capsys.readouterr().out
    task, row = results.read_rows(victim / "results.jsonl")
    assert row["name"] == "linearity"
    assert row["victim"] == task["victim"]
    # One draw of keys instead of three, on 360 images.
    found = row["metrics"]
    assert found["error"]["value"] == pytest.approx(task["metrics"]["error"]["value"], abs=0.03)
    for error in found.values():
        assert error["low"] <= error["value"] <= error["high"]
    config = app.parse(linearity.LinearityConfig, words, "")
    assert results.measured(config, "linearity")
    assert not results.measured(app.parse(linearity.LinearityConfig, words[:2], ""), "linearity")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"kind": "additional"}, "is additional: measure a network of kind complex"),
        ({"weights": "complex", "adversarial-weight": 0}, "whose weights are real"),
    ],
)
def test_networks_without_such_a_matrix_are_refused(trained_run, flags, said, tmp_path, capsys):
    victim = trained_run(tmp_path / "run", arch="thin1", **flags)
    assert app.run(measure.linearity, ["--victim", str(victim)]) == 2
    assert said in capsys.readouterr().err


def test_more_groups_than_validation_images_fill_are_refused(trained_run, tmp_path, capsys):
    victim = trained_run(tmp_path / "run", arch="thin1", **{"adversarial-weight": 0})
    assert app.run(measure.linearity, ["--victim", str(victim), "--maps", "1000"]) == 2
    assert "at most" in capsys.readouterr().err
