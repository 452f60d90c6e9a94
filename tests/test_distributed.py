"""Several processes: what two of them compute together is what one computes alone."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from complexnn.commands import app
from complexnn.commands import attack as attack_command
from complexnn.commands import train as train_command
from complexnn.runs.results import read_rows

ROOT = Path(__file__).parent.parent


def start(processes, *words):
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone",
        f"--nproc_per_node={processes}", *map(str, words),
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def torchrun(processes, *words):
    process = start(processes, *words)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err[-3000:]
    return out, err


@pytest.mark.parametrize(("arch", "group"), [("lenet", "decoy"), ("resnet20", "packed")])
def test_two_processes_agree_with_one(tmp_path, arch, group):
    losses = []
    for processes in (1, 2):
        path = tmp_path / f"{processes}.json"
        torchrun(processes, ROOT / "tests" / "distributed_worker.py", path, arch, group)
        losses.append(json.loads(path.read_text()))
    assert len(losses[0]) == 20
    assert losses[0][-1] < losses[0][0]
    assert losses[1] == pytest.approx(losses[0], abs=1e-9)


def test_one_writer_and_resume_with_another_number(tmp_path):
    run = tmp_path / "run"
    words = ["--epochs", "1", "--limit-train", "200", "--batch-size", "64"]
    out, err = torchrun(2, ROOT / "train.py", *words, "--output-dir", run)
    assert out.count(f"output: {run}") == 2
    assert err.count("lenet alpha complex") == err.count("epoch 1/1") == 1  # one process tells
    assert len(read_rows(run / "log.jsonl")) == 1
    assert [row["name"] for row in read_rows(run / "results.jsonl")] == ["task"]
    arguments = ["--resume", "--epochs", "2", "--output-dir", str(run)]
    assert app.run(train_command.main, arguments) == 0
    assert [row["epoch"] for row in read_rows(run / "log.jsonl")] == [1, 2]

    process = start(2, ROOT / "train.py", *words, "--output-dir", run)  # taken
    _, err = process.communicate(timeout=60)
    assert process.returncode != 0
    assert err.count("already holds a run") == 1
    assert [row["epoch"] for row in read_rows(run / "log.jsonl")] == [1, 2]


def test_a_signal_stops_all_processes_at_one_step(tmp_path):
    run = tmp_path / "run"
    words = ["--epochs", "5000", "--limit-train", "200", "--batch-size", "64", "--device", "cpu"]
    process = start(2, ROOT / "train.py", *words, "--output-dir", run)
    while not (run / "log.jsonl").exists() and process.poll() is None:
        time.sleep(0.1)
    process.terminate()
    _, err = process.communicate(timeout=60)
    told = [line for line in err.splitlines() if "stopped in epoch" in line]
    assert len(told) == 2, err[-3000:]
    assert len({line.removeprefix("process 1: ") for line in told}) == 1
    assert (run / "state" / "latest.safetensors").is_file()


def test_an_epoch_that_was_stopped_in_two_processes_counts_every_image_once(tmp_path):
    """The row of a resumed epoch is that of an unbroken one, whichever process was stopped."""
    torchrun(2, ROOT / "tests" / "distributed_resume.py", tmp_path)
    for rank in range(2):
        (whole, resumed), saves = json.loads((tmp_path / f"{rank}.json").read_text())
        assert saves == [3, "interrupted"]
        assert resumed == whole


def test_attacks_of_several_processes_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert app.run(attack_command.main, ["all", "--victim", str(tmp_path)]) == 2
    assert "start it without torchrun" in capsys.readouterr().err


def test_each_process_draws_its_own_keys():
    from complexnn.runs.seeds import random_for

    first, second = (random_for("keys", 0, 1, 0, rank).initial_seed() for rank in (0, 1))
    assert first != second
