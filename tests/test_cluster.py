"""Campaigns on a cluster: one array, whose elements go on where they were stopped."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from complexnn.commands import app, campaign, cluster
from complexnn.config import InputError

submitit = pytest.importorskip("submitit")


def test_a_group_runs_in_order(tmp_path, monkeypatch):
    """On submitit's local executor, with the shell in place of a campaign."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
    folder, lines = tmp_path / "slurm", ["echo one > a", "echo two >> a"]
    (element,) = cluster.submit([lines], ["sh"], ["time=5"], folder=folder, engine="local")
    element.result()
    assert (tmp_path / "a").read_text() == "one\ntwo\n"


def test_an_element_fails_with_its_campaign():
    with pytest.raises(RuntimeError, match="status 3"):
        cluster.Element(["sh"], ["exit 3", "exit 0"])()


def test_an_element_that_loses_its_node_saves_and_goes_on(tmp_path):
    """The engine's signal arrives while the element waits for its campaign."""
    saves = f"trap 'echo saved >> {tmp_path}/said; exit 143' TERM; echo > {tmp_path}/up"
    element = cluster.Element(["sh"], [saves, "for i in $(seq 600); do sleep 0.05; done"])
    after = []

    def leave(number, frame):
        after.append(element.checkpoint())
        raise SystemExit(-1)

    def interrupt():
        while not (tmp_path / "up").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGUSR2)

    before = signal.signal(signal.SIGUSR2, leave)
    try:
        threading.Thread(target=interrupt, daemon=True).start()
        with pytest.raises(SystemExit):
            element()
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert (tmp_path / "said").read_text() == "saved\n"
    again = after[0].function
    assert (again.argv, again.lines) == (element.argv, element.lines)
    assert element.process.wait() == 143


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Commands of Slurm that keep what is submitted; returns where."""
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    for name, does in (("srun", ""), ("sbatch", f'cat "$1" > {tmp_path}/submitted; echo job 42')):
        (bin_dir / name).write_text(f"#!/bin/sh\n{does}\n")
        (bin_dir / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_dir}:{os.environ['PATH']}")
    monkeypatch.setattr(campaign, "LOGS", tmp_path / "logs")
    return tmp_path / "submitted"


def submit(monkeypatch, tmp_path, *settings):
    runs = [tmp_path / name for name in ("a", "b")]
    lines = [f"train.py --groups parity --output-dir {run}" for run in runs]
    lines += [f"attack.py angle --victim {runs[1]}", f"report tables {tmp_path}"]
    (tmp_path / "lines").write_text("\n".join(lines))
    with (tmp_path / "lines").open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        return app.run(campaign.main, ["--jobs", "2", "--device", "cpu", "--slurm", *settings])


def test_a_campaign_is_one_array_of_groups(slurm, tmp_path, monkeypatch, capsys):
    assert submit(monkeypatch, tmp_path, "partition=gpu", "gres=gpu:1", "time=240") == 0
    settings = [w for w in slurm.read_text().splitlines() if w.startswith("#SBATCH")]
    for name in ("array=0-1%2", "partition=gpu", "gres=gpu:1", "time=240", "requeue"):
        assert f"#SBATCH --{name}" in settings
    out = capsys.readouterr().out
    assert "42_0: 1 commands from train.py" in out
    assert "42_1: 2 commands from train.py" in out
    assert f"when they are done: python -m complexnn.report tables {tmp_path}" in out
    assert not (tmp_path / "a").exists()
    pickles = sorted((tmp_path / "logs" / "slurm").rglob("*_1_submitted.pkl"))
    element = submitit.core.utils.DelayedSubmission.load(pickles[0]).function
    assert [line.split()[0] for line in element.lines] == ["train.py", "attack.py"]
    assert element.argv[1:] == ("-m", "complexnn.campaign", "--jobs", "2")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["partition=gpu"], "how many minutes a group of commands may take"),
        (["time=04:00:00"], "time=240, got 04:00:00"),
        (["time=60", "gpu"], "settings of sbatch are name=value, got gpu"),
    ],
)
def test_wrong_settings_are_refused(slurm, tmp_path, monkeypatch, capsys, settings, message):
    assert submit(monkeypatch, tmp_path, *settings) == 2
    assert message in capsys.readouterr().err
    assert not slurm.exists()


def test_without_slurm_or_submitit_nothing_is_submitted(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"nothing was submitted: .*srun"):
        cluster.submit([["exit 0"]], ["sh"], ["time=5"], folder=tmp_path / "slurm")
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(InputError, match="pip install submitit"):
        cluster.submit([["exit 0"]], ["sh"], ["time=5"], folder=tmp_path / "slurm")
