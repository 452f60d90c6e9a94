"""The commands on a device that has no float64: every step, every measure and every attack."""

import contextlib
import dataclasses

import pytest
import torch
from float32_device import DEVICE, OnDevice, float32_device

from complexnn import metrics
from complexnn.attacks.roster import ROSTER, applicable
from complexnn.commands import app
from complexnn.commands import attack as attack_command
from complexnn.commands import train as train_command
from complexnn.config import NetConfig
from complexnn.config_attack import BUDGETS
from complexnn.data import tasks
from complexnn.runs.results import read_rows
from complexnn.training import evaluation


@pytest.fixture
def device(monkeypatch):
    with float32_device(monkeypatch) as found:
        yield found


def test_the_stand_in_refuses_what_the_device_would(device):
    x = torch.rand(3, 4).to(device)
    assert isinstance(x, OnDevice)
    assert x.device == DEVICE
    assert isinstance(x @ x.T, OnDevice)
    for refused in (
        lambda: x.double(),
        lambda: x.to(torch.float64),
        lambda: torch.zeros(2, dtype=torch.float64, device=device),
        lambda: torch.rand(2, dtype=torch.float64).to(device),
        lambda: (x > 0).double().mean(),
    ):
        with pytest.raises(TypeError, match=r"no torch\.float64"):
            refused()
    with pytest.raises(RuntimeError, match="same device"):
        x + torch.rand(3, 4)
    with pytest.raises(RuntimeError, match="generator"):
        torch.rand(3, device=device, generator=torch.Generator())
    assert (x + 1).cpu().allclose(x.cpu() + 1)


def test_double_leaves_such_a_device_for_the_cpu(device):
    x = torch.rand(5).to(device)
    wide = metrics.double(x)
    assert (wide.dtype, wide.device.type) == (torch.float64, "cpu")
    assert torch.equal(wide, x.cpu().double())


@pytest.mark.parametrize("attributes", [False, True])
def test_measures_of_answers(device, attributes):
    logits = torch.randn(20, 3)
    labels = (logits.sum(1) > 0).long() if not attributes else torch.rand(20, 3) > 0.5
    there, truth = logits.to(device), labels.to(device)
    given, answered = tasks.answers(logits, labels), tasks.answers(there, truth)
    assert torch.equal(tasks.errors(answered, truth).cpu(), tasks.errors(given, labels))
    assert tasks.blind_error(truth) == tasks.blind_error(labels)
    assert tasks.blind_error(truth, seen=labels) == tasks.blind_error(labels)
    found = tasks.balanced_accuracy(answered, truth)
    assert found == tasks.balanced_accuracy(given, labels)
    scores, positive = there[:, 0], there[:, 1] > 0
    rate = metrics.tpr_at_fpr(scores, positive, 0.2)
    assert rate == metrics.tpr_at_fpr(logits[:, 0], logits[:, 1] > 0, 0.2)
    wrong = tasks.errors(answered, truth)
    assert metrics.mean_interval(wrong) == metrics.mean_interval(wrong.cpu())
    assert evaluation.error_interval(wrong, truth)[0] >= 0


# Not noise: PyTorch draws it on the device, by a generator that the stand-in has not.
@pytest.mark.parametrize(
    "kind",
    ["--kind complex", "--kind complex --group packed --dim 4 --defence decoder",
     "--kind additional --defence nopeek", "--kind additional --defence quantise"],
)  # fmt: skip
def test_training_runs_and_learns_the_same(tmp_path, monkeypatch, kind):
    words = [*kind.split(), "--epochs", "1", "--limit-train", "128", "--draws", "1"]
    rows = []
    for name in ("cpu", DEVICE.type):
        folder = tmp_path / name
        with float32_device(monkeypatch) if name == DEVICE.type else contextlib.nullcontext():
            given = [*words, "--device", name, "--output-dir", str(folder)]
            assert app.run(train_command.main, given) == 0
        (row,) = read_rows(folder / "results.jsonl")
        assert row["device"].startswith(name)
        (epoch,) = read_rows(folder / "log.jsonl")
        rows.append([row["metrics"]["error"]["value"], *epoch.values()])
    assert rows[0] == pytest.approx(rows[1], abs=0.02)


@pytest.mark.parametrize(
    "groups", ["--dim 2", pytest.param("--dim 4 --group packed", marks=pytest.mark.slow)]
)
def test_every_attack_runs(tmp_path, device, monkeypatch, groups):
    least = dataclasses.replace(BUDGETS["quick"], steps=2, iterations=2, images=16)
    monkeypatch.setitem(BUDGETS, "quick", least)
    words = ["--groups", "parity", "--epochs", "1", "--limit-train", "128", "--draws", "1"]
    words += ["--device", DEVICE.type, "--output-dir", str(tmp_path / "victim")]
    assert app.run(train_command.main, [*groups.split(), *words]) == 0
    words = ["all", "--victim", str(tmp_path / "victim"), "--device", DEVICE.type]
    words += ["--budget", "quick", "--draws", "1"]
    assert app.run(attack_command.main, words) == 0
    made = {row["name"] for row in read_rows(tmp_path / "victim" / "results.jsonl")}
    net = NetConfig(dim=4, group="packed") if "packed" in groups else NetConfig()
    assert made >= {attack.name for attack in ROSTER if applicable(attack, net)}
