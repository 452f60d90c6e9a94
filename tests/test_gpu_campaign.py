"""Some minutes of a GPU at a time: what is unpacked, run and packed; with a stand-in for the
campaign, which takes no time."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CAMPAIGN = """
import json, pathlib, sys
told = {"argv": sys.argv[1:], "lines": sys.stdin.read().splitlines()}
told["there"] = sorted(str(p) for d in ("runs", "data") for p in pathlib.Path(d).rglob("*.*"))
pathlib.Path("told.json").write_text(json.dumps(told))
exec(pathlib.Path("does.py").read_text())
"""
WORK = """
def write(name, content):
    path = pathlib.Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
for run, rows in (("done", '{"name": "task"}'), ("begun", "")):
    write(f"runs/x/{run}/config.json", "{}")
    write(f"runs/x/{run}/results.jsonl", rows)
    write(f"runs/x/{run}/state/latest.safetensors", "new")
    write(f"runs/x/{run}/state/previous.safetensors", "old")
    write(f"runs/x/{run}/attackers/dec.safetensors", "large")
write("runs/x/done/model.safetensors", bytes(20_000))
write("logs/train-done.log", "epoch 1")
"""


def clone(folder, does=""):
    (folder / "complexnn").mkdir(parents=True)
    (folder / "complexnn" / "campaign.py").write_text(CAMPAIGN)
    (folder / "does.py").write_text(does)
    (folder / "commands").write_text("train.py --epochs 1\n")
    (folder / "scripts").mkdir()
    for path in (ROOT / "scripts").glob("*.sh"):
        (folder / "scripts" / path.name).write_bytes(path.read_bytes())
        (folder / "scripts" / path.name).chmod(0o755)
    return folder


def surroundings(environment):
    names = ("DATA_ARCHIVE", "RUNS_ARCHIVE", "OUT", "OUT_MB", "SPARE", "COMMANDS")
    kept = {name: value for name, value in os.environ.items() if name not in names}
    return kept | {"AS_IT_IS": "1", "PYTHON": sys.executable, "COMMANDS": "commands"} | environment


def start(folder, *flags, **environment):
    return subprocess.run(
        ["bash", "scripts/gpu_campaign.sh", *flags], cwd=folder, env=surroundings(environment),
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def told(folder):
    return json.loads((folder / "told.json").read_text())


def packed(out):
    pieces = sorted(out.glob("runs.tar.*"))
    whole = io.BytesIO(b"".join(piece.read_bytes() for piece in pieces))
    with tarfile.open(fileobj=whole) as archive:
        return {m.name: archive.extractfile(m).read() for m in archive.getmembers() if m.isfile()}


def test_what_was_done_goes_on_elsewhere(tmp_path):
    first = clone(tmp_path / "first", WORK)
    done = start(first, "--minutes", "10", "--jobs", "2", "--device", "cpu", OUT="out")
    assert done.returncode == 0, done.stderr
    argv = told(first)["argv"]
    hours = float(argv[argv.index("--hours") + 1])
    assert 8.5 / 60 < hours <= 9 / 60  # a minute is for packing
    assert argv[argv.index("--jobs") + 1] == "2"
    assert argv[-2:] == ["--device", "cpu"]
    assert told(first)["lines"] == ["train.py --epochs 1"]
    found = packed(first / "out")
    assert found.pop("runs/x/begun/state/latest.safetensors") == b"new"
    assert set(found) == {
        "runs/x/done/config.json", "runs/x/done/results.jsonl", "runs/x/done/model.safetensors",
        "runs/x/begun/config.json", "runs/x/begun/results.jsonl", "logs/train-done.log",
    }  # fmt: skip

    second = clone(tmp_path / "second")
    archive = str(first / "out" / "runs.tar")
    done = start(second, "--minutes", "3", "--jobs", "1", RUNS_ARCHIVE=archive)
    assert done.returncode == 0, done.stderr
    assert "runs/x/begun/state/latest.safetensors" in told(second)["there"]
    again = packed(second / "runs" / "gpu-out")
    assert again == packed(first / "out")


def test_what_is_there_is_newer_than_what_was_packed(tmp_path):
    folder = clone(tmp_path / "here", WORK)
    assert start(folder, "--minutes", "3", "--jobs", "1").returncode == 0
    state = folder / "runs/x/begun/state/latest.safetensors"
    state.write_text("newer")
    (folder / "does.py").write_text("")
    assert start(folder, "--minutes", "3", "--jobs", "1").returncode == 0
    assert state.read_text() == "newer"
    found = packed(folder / "runs" / "gpu-out")
    assert found["runs/x/begun/state/latest.safetensors"] == b"newer"


def test_data_come_from_whole_and_from_split_archives_once(tmp_path):
    folder = clone(tmp_path / "here")
    for name, kind in (("cifar10", "xz"), ("celeba", "gz")):
        with tarfile.open(tmp_path / f"{name}.tar.{kind}", f"w:{kind}") as archive:
            entry = tarfile.TarInfo(f"{name}/image.webp")
            entry.size = 4096
            archive.addfile(entry, io.BytesIO(os.urandom(4096)))
    whole = tmp_path / "cifar10.tar.xz"
    content = whole.read_bytes()
    (tmp_path / "cifar10.tar.xz.aa").write_bytes(content[:2000])
    (tmp_path / "cifar10.tar.xz.ab").write_bytes(content[2000:])
    whole.unlink()
    archives = f"{whole}:{tmp_path / 'celeba.tar.gz'}"
    done = start(folder, "--minutes", "3", "--jobs", "1", DATA_ARCHIVE=archives, COMMANDS="")
    assert done.returncode == 0, done.stderr
    assert told(folder)["there"] == ["data/celeba/image.webp", "data/cifar10/image.webp"]
    lines = told(folder)["lines"]
    trained = {line.split("--dataset ")[1].split()[0] for line in lines if "--dataset" in line}
    assert trained == {"cifar10", "celeba"}
    assert not [line for line in lines if "cifar100" in line or "cub200" in line]

    (folder / "data/celeba/image.webp").write_text("mine")
    archives = f"{tmp_path / 'celeba.tar.gz'}"
    assert start(folder, "--minutes", "3", "--jobs", "1", DATA_ARCHIVE=archives).returncode == 0
    assert (folder / "data/celeba/image.webp").read_text() == "mine"
    done = start(folder, "--minutes", "3", "--jobs", "1", DATA_ARCHIVE="nowhere.tar")
    assert done.returncode == 2
    assert done.stderr == "error: no archive nowhere.tar, nor pieces nowhere.tar.aa, ...\n"


def test_what_has_no_room_is_named_the_least_precious_first(tmp_path):
    more = 'write("runs/x/large/model.safetensors", os.urandom(1_000_000))\n'
    more += 'write("runs/x/begun/state/latest.safetensors", os.urandom(900_000))\n'
    folder = clone(tmp_path / "here", "import os\n" + WORK + more)
    done = start(folder, "--minutes", "3", "--jobs", "1", OUT_MB="1")
    assert done.returncode == 0
    assert done.stderr.splitlines() == ["no room for runs/x/large/model.safetensors: OUT_MB is 1"]
    found = packed(folder / "runs" / "gpu-out")
    assert len(found["runs/x/begun/state/latest.safetensors"]) == 900_000
    assert sum(map(len, found.values())) < 1_000_000


def test_pieces_are_no_larger_than_sixteen_megabytes(tmp_path):
    more = 'write("runs/x/done/model.safetensors", bytes(20_000_000))\n'
    folder = clone(tmp_path / "here", "import os\n" + WORK + more)
    assert start(folder, "--minutes", "3", "--jobs", "1").returncode == 0
    pieces = sorted((folder / "runs" / "gpu-out").glob("runs.tar.*"))
    assert [piece.stat().st_size <= 16_000_000 for piece in pieces] == [True, True]


def test_a_failed_command_is_told_and_all_is_packed(tmp_path):
    folder = clone(tmp_path / "here", WORK + "sys.exit(1)\n")
    assert start(folder, "--minutes", "3", "--jobs", "1").returncode == 1
    assert "runs/x/done/config.json" in packed(folder / "runs" / "gpu-out")


def test_without_any_data_it_is_told_what_to_do(tmp_path):
    folder = clone(tmp_path / "here")
    done = start(folder, "--minutes", "3", "--jobs", "1", COMMANDS="")
    assert done.returncode == 2
    assert done.stderr.startswith("error: none of cifar10, cifar100, celeba is in data/: ")
    assert not (folder / "told.json").exists()


@pytest.mark.parametrize("flags", [[], ["--minutes"], ["--minutes", "2"], ["--minutes", "soon"]])
def test_the_minutes_must_be_said(tmp_path, flags):
    folder = clone(tmp_path / "here")
    done = start(folder, *flags)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert not (folder / "told.json").exists()


WAITS = (
    WORK
    + """
import signal, time
def stop(number, frame):
    write("runs/x/begun/state/latest.safetensors", "saved at the end")
    sys.exit(128 + number)
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, stop)
pathlib.Path("ready").touch()
time.sleep(50)
"""
)


@pytest.mark.parametrize(
    ("number", "send"),
    [(signal.SIGTERM, os.kill), (signal.SIGTERM, os.killpg), (signal.SIGINT, os.killpg)],
    ids=["the end of a lease", "a scheduler's", "Ctrl-C"],
)
def test_a_signal_ends_the_campaign_and_all_is_packed(tmp_path, number, send):
    folder = clone(tmp_path / "here", WAITS)
    running = subprocess.Popen(
        ["bash", "scripts/gpu_campaign.sh", "--minutes", "3", "--jobs", "1"], cwd=folder,
        env=surroundings({}), start_new_session=True,
    )  # fmt: skip
    while not (folder / "ready").exists():
        assert running.poll() is None
        time.sleep(0.02)
    send(running.pid, number)
    assert running.wait(timeout=30) == 128 + number
    found = packed(folder / "runs" / "gpu-out")
    assert found["runs/x/begun/state/latest.safetensors"] == b"saved at the end"


def test_a_damaged_archive_leaves_nothing_by_halves(tmp_path):
    """What it held half of would stay as it is when the whole archive comes."""
    more = 'write("runs/x/done/model.safetensors", os.urandom(100_000))\n'
    first = clone(tmp_path / "first", "import os\n" + WORK + more)
    assert start(first, "--minutes", "3", "--jobs", "1").returncode == 0
    whole = (first / "runs" / "gpu-out" / "runs.tar.aa").read_bytes()
    second = clone(tmp_path / "second")
    (second / "came.tar").write_bytes(whole[:60_000])
    done = start(second, "--minutes", "3", "--jobs", "1", RUNS_ARCHIVE="came.tar")
    assert done.returncode == 2
    assert done.stderr.startswith("error: came.tar is damaged, or a piece of it is missing: ")
    assert done.stderr.count("\n") == 1
    assert not (second / "told.json").exists()
    (second / "came.tar").write_bytes(whole)
    assert start(second, "--minutes", "3", "--jobs", "1", RUNS_ARCHIVE="came.tar").returncode == 0
    name = "runs/x/done/model.safetensors"
    assert (second / name).read_bytes() == (first / name).read_bytes()


def test_packing_that_fails_leaves_what_was_packed_before(tmp_path):
    folder = clone(tmp_path / "here", WORK)
    assert start(folder, "--minutes", "3", "--jobs", "1").returncode == 0
    before = packed(folder / "runs" / "gpu-out")
    (tmp_path / "bin").mkdir()
    full = tmp_path / "bin" / "split"  # as on a full disk
    full.write_text('#!/bin/sh\nhead -c 1000 >"$4aa"\nexit 1\n')
    full.chmod(0o755)
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    assert start(folder, "--minutes", "3", "--jobs", "1", PATH=path).returncode != 0
    assert packed(folder / "runs" / "gpu-out") == before


def test_an_archive_of_data_may_have_any_name(tmp_path):
    """Another than the folder in it, and one with spaces; again, it changes nothing."""
    folder = clone(tmp_path / "here")
    archive = tmp_path / "ten classes.tar"
    with tarfile.open(archive, "w") as content:
        entry = tarfile.TarInfo("cifar10/image.webp")
        entry.size = 5
        content.addfile(entry, io.BytesIO(b"image"))
    for _ in range(2):
        done = start(folder, "--minutes", "3", "--jobs", "1", DATA_ARCHIVE=str(archive))
        assert (done.returncode, done.stderr) == (0, "")
        there = [name for name in told(folder)["there"] if name.startswith("data/")]
        assert there == ["data/cifar10/image.webp"]
        (folder / "told.json").unlink()


def test_one_budget_at_a_time():
    done = subprocess.run(
        ["bash", "scripts/table1_resnet_cifar10.sh", "--cpu", "--gpu", "--list"], cwd=ROOT,
        env=surroundings({}), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: say --cpu or --gpu, not both\n"
