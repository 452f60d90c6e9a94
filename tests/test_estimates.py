"""Estimates against what published attacks took."""

import statistics
import time
from pathlib import Path

import pytest
import torch

from complexnn.attacks import roster
from complexnn.commands import estimates
from complexnn.config import InputError, NetConfig, TrainConfig
from complexnn.config_attack import AttackConfig
from complexnn.config_io import from_dict
from complexnn.data import datasets
from complexnn.data.images import Batch
from complexnn.networks.registry import build
from complexnn.runs import results
from complexnn.runs.devices import make_accelerator
from complexnn.training import loop

PUBLISHED = Path(__file__).parent.parent / "checkpoints"


def whole_attacks():
    """Settings, victim, whether a property is hidden, and seconds of every published `all` that
    ran on a CPU and went through in one command."""
    for folder in sorted(p.parent for p in PUBLISHED.rglob("results.jsonl")):
        victim = from_dict(TrainConfig, results.read_config(folder))
        runs = {}
        for row in results.read_rows(folder / "results.jsonl"):
            if row["config"].get("attack") == "all" and row["device"].startswith("cpu"):
                runs.setdefault(row["config"]["budget"], []).append(row)
        for rows in runs.values():
            config = from_dict(AttackConfig, rows[0]["config"])
            hidden = datasets.hides(victim.data)
            expected = roster.chosen(config, victim.net, hidden=hidden)
            if {a.name for a in expected} <= {row["name"] for row in rows}:
                yield config, victim.net, hidden, sum(row["seconds"] for row in rows)


def test_published_attacks_took_about_the_estimated_time():
    """One speed explains four fifths of them within a factor of three either way. (All ran on
    shared cores, and other work held up one or another for long.)"""
    speeds = []
    for config, net, hidden, seconds in whole_attacks():
        flops, _ = estimates.attacking(config, net, hidden=hidden)
        speeds.append(flops / seconds)
    assert len(speeds) > 10
    low, *_, high = statistics.quantiles(speeds, n=10)
    middle = statistics.median(speeds)
    assert middle / 3 < low
    assert high < 3 * middle


def test_a_part_of_the_attacks_takes_less():
    net = NetConfig("lenet", kind="complex", dim=8, group="packed")
    config = {"attack": "all", "victim": Path("run"), "budget": "quick"}
    whole, size = estimates.attacking(AttackConfig(**config), net, hidden=True)
    part, part_size = estimates.attacking(AttackConfig(**config, only="dec(x)"), net, hidden=True)
    assert 0 < part < whole / 4
    assert part_size < size
    wider, wider_size = estimates.attacking(AttackConfig(**config, capacity=2), net, hidden=True)
    assert wider > 2 * whole
    assert wider_size > 2 * size


def test_several_attacks_by_name_are_what_each_name_asks_for():
    net = NetConfig("lenet", kind="complex")
    config = {"attack": "all", "victim": Path("run")}

    def asked(only):
        chosen = roster.chosen(AttackConfig(**config, only=only), net, hidden=True)
        return {attack.name for attack in chosen}

    one, other = asked("dec(a*)"), asked("angle-regressor")
    assert one == {"inversion dec(a*)"}
    assert asked("dec(a*)|angle-regressor") == one | other
    for slip in ("angle-regresor", ""):  # would be left out in silence, or ask for everything
        with pytest.raises(InputError, match=f"^'{slip}' is in no attack's name; there are: angle"):
            asked(f"dec(a*)|{slip}")
    plain = roster.chosen(
        AttackConfig("inversion", Path("run"), only="dec(x)|dec(a*)"),
        NetConfig("lenet", kind="original"), hidden=False,
    )  # fmt: skip
    assert "inversion dec(x)" in {attack.name for attack in plain}  # the same flags for every kind


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_throughput_is_measured_once(precision):
    first = estimates.throughput(torch.device("cpu"), precision)
    assert first > 0
    assert estimates.throughput(torch.device("cpu"), precision) == first


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["resnet20", "lenet"])
@pytest.mark.parametrize("kind", ["original", "complex"])
def test_a_training_takes_about_the_estimated_time(arch, kind, monkeypatch):
    """In this process's own time, on one thread, so that other work here does not matter."""
    monkeypatch.setattr(estimates.time, "monotonic", time.process_time)
    monkeypatch.setattr(estimates, "throughput", estimates.throughput.__wrapped__)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        speed = estimates.throughput(torch.device("cpu"), "bf16")
        net = build(arch, kind=kind).train()
        config = TrainConfig(net=net.config, optimizer="sgd", lr=0.01)
        run = loop.Training(net, config, make_accelerator("cpu", "bf16"), 100)
        labels = torch.arange(config.batch_size) % 10
        batch = Batch(torch.rand(len(labels), 3, 32, 32), labels, labels)
        loop.train_step(run, batch)
        started = time.process_time()
        for _ in range(3):
            loop.train_step(run, batch)
        took = time.process_time() - started
    finally:
        torch.set_num_threads(threads)
    flops, _ = estimates.training(config, net.config, 3 * len(labels))
    estimated = flops / config.epochs / speed
    assert took / 2.5 < estimated < 2.5 * took


def test_a_network_without_an_estimate_of_its_own_is_taken_for_a_decoder(monkeypatch):
    """What a new attack needs must not stop a campaign that is only planned."""
    net, config = NetConfig("lenet", kind="complex"), AttackConfig("all", Path("run"), only="new")

    def estimated(network):
        attack = roster.Attack("inversion new", roster.answers.decoded, (network,))
        monkeypatch.setattr(roster, "ROSTER", (attack,))
        return estimates._pass(network, *shapes), estimates.attacking(config, net, hidden=True)

    shapes = estimates._shapes(net), estimates._released(net), 24, 1.0
    of_new, (flops, size) = estimated("foo_net")
    assert of_new == estimated("denoiser")[0]
    assert (flops, size) == estimated("denoiser")[1]


def test_networks_of_equal_cost_are_counted_once():
    """What makes a dry run of a hundred runs quick: seeds, kinds and strengths share a count."""
    attack = AttackConfig("all", Path("run"), budget="quick")

    def spent(**settings):
        return estimates.attacking(attack, NetConfig("thin4", **settings), hidden=True)

    known = spent(kind="noisy")
    before = [f.cache_info().misses for f in (estimates.dissect, estimates._pass)]
    assert spent(kind="noisy", gamma=2.0) == known
    assert spent(kind="noisy", mean=(0.1, 0.2, 0.3)) == known
    assert [f.cache_info().misses for f in (estimates.dissect, estimates._pass)] == before
    spent(kind="original")  # another device part, the same attackers
    after = [f.cache_info().misses for f in (estimates.dissect, estimates._pass)]
    assert after == [before[0] + 1, before[1]]
