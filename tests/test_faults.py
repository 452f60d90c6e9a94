"""Runs that are killed, stopped, or run out of disk, in processes of their own."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from complexnn.runs import checkpoint

ROOT = Path(__file__).parent.parent
# Saves at every step, so that kills hit saves too.
EAGER = (
    "import sys; from complexnn.commands import app, train; from complexnn.training import loop; "
    "loop.SAVE_SECONDS = 0; sys.exit(app.run(train.main))"
)
FLAGS = ("--epochs", "6", "--limit-train", "700", "--batch-size", "32", "--device", "cpu")


def start(*words):
    return subprocess.Popen(
        [sys.executable, "-c", EAGER, *map(str, words)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(process):
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def digests(run):
    names = ("model.safetensors", "log.jsonl")
    return [hashlib.sha256((run / name).read_bytes()).hexdigest() for name in names]


@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.slow)])
@pytest.mark.parametrize("adversarial", ["0", "0.1"])
def test_killed_at_random_and_resumed_ends_with_the_same_bits(tmp_path, kills, adversarial):
    flags = (*FLAGS, "--epochs", 4 + 2 * kills, "--adversarial-weight", adversarial)
    assert finish(start(*flags, "--output-dir", tmp_path / "whole"))[0] == 0
    broken, rng = tmp_path / "broken", random.Random(kills)
    for _ in range(kills):
        process = start(*flags, "--resume", "auto", "--output-dir", broken)
        process.stdout.readline()  # the output folder: the run has begun
        time.sleep(rng.uniform(0, 1.5))
        process.send_signal(signal.SIGKILL)
        code, _, err = finish(process)
        assert code == -signal.SIGKILL, err  # it was not done yet
    code, _, err = finish(start(*flags, "--resume", "auto", "--output-dir", broken))
    assert code == 0, err
    assert digests(broken) == digests(tmp_path / "whole")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_save_and_say_where(tmp_path, number, status):
    run = tmp_path / "run"
    process = start(*FLAGS, "--epochs", "500", "--output-dir", run)
    while not (run / "log.jsonl").exists():
        time.sleep(0.05)
    process.send_signal(number)
    code, _, err = finish(process)
    assert code == status
    assert err.strip().splitlines()[-1].endswith(f"go on with --resume --output-dir {run}")
    assert (run / "state" / "latest.safetensors").is_file()


def test_a_full_disk_is_one_line_and_loses_nothing(small_disk):
    disk = small_disk(9)
    run = disk / "run"
    # Optimiser, critic and weights are about 4 MB: two states fit, a third does not.
    code, _, err = finish(start(*FLAGS, "--output-dir", run))
    assert code == 2, err
    last = err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert "untouched" in last or "No space left" in last
    subprocess.run(["mount", "-o", "remount,size=60m", str(disk)], check=True)
    code, _, err = finish(start("--resume", "--output-dir", run))
    assert code == 0, err
    assert finish(start(*FLAGS, "--output-dir", disk / "whole"))[0] == 0
    assert digests(run) == digests(disk / "whole")


def test_processes_that_clear_up_at_once_do_not_trip(tmp_path, monkeypatch):
    """Each removes what a killed save left; another may have been quicker."""
    tree = {"step": 3}
    checkpoint.save_state(tmp_path, tree)
    (tmp_path / ".latest.safetensors.1.tmp").write_text("half")
    unlink = Path.unlink

    def raced(path, *args, **kwargs):
        unlink(path)
        unlink(path, *args, **kwargs)

    monkeypatch.setattr(Path, "unlink", raced)
    assert checkpoint.load_state(tmp_path) == tree
    assert [p.name for p in tmp_path.iterdir()] == ["latest.safetensors"]


def test_a_diverging_run_names_the_last_good_state(tmp_path):
    words = (*FLAGS, "--lr", "1e18", "--output-dir", tmp_path / "run")
    code, _, err = finish(start(*words))
    assert code == 2
    last = err.strip().splitlines()[-1]
    assert "the loss is" in last
    assert "at step" in last
    assert "saved" in last or "last good state" in last
