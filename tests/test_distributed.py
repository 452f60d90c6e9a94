"""Several processes: what two of them compute together is what one computes alone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from complexnn import cli
from complexnn.results import read_rows

ROOT = Path(__file__).parent.parent


def torchrun(processes, *words):
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone",
        f"--nproc_per_node={processes}", *map(str, words),
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done


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
    words = ["--epochs", "1", "--limit-train", "200", "--batch-size", "64", "--device", "cpu"]
    done = torchrun(2, ROOT / "train.py", *words, "--output-dir", run)
    assert done.stdout.count(f"output: {run}") == 2
    assert len(read_rows(run / "log.jsonl")) == 1
    assert [row["name"] for row in read_rows(run / "results.jsonl")] == ["task"]
    arguments = ["--resume", "--epochs", "2", "--output-dir", str(run)]
    assert cli.run(cli.train_main, arguments) == 0
    assert [row["epoch"] for row in read_rows(run / "log.jsonl")] == [1, 2]


def test_each_process_draws_its_own_keys():
    from complexnn.training import random_for

    first, second = (random_for("keys", 0, 1, 0, rank).initial_seed() for rank in (0, 1))
    assert first != second
