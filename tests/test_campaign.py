"""Campaigns: checked before they start, skipping what is finished, going on where they stopped."""

import dataclasses
import functools
import io
import itertools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from complexnn.attacks import roster
from complexnn.commands import app, campaign, measure, plan
from complexnn.commands.jobs import looked_at, resolve, together, waits
from complexnn.config import DataConfig, TrainConfig
from complexnn.config_attack import AttackConfig
from complexnn.config_io import MAY_CHANGE, command, from_dict
from complexnn.runs.results import read_rows

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted(
    p
    for p in (ROOT / "scripts").glob("*.sh")
    if p.name not in ("environment.sh", "budget.sh", "test.sh", "quickstart.sh", "gpu_campaign.sh")
)
TINY = "--epochs 1 --limit-train 100 --groups parity"


@pytest.fixture(autouse=True)
def logs(tmp_path_factory, monkeypatch):
    """Where commands' logs go, away from the runs."""
    monkeypatch.setattr(campaign, "LOGS", tmp_path_factory.mktemp("logs"))


def start(monkeypatch, lines, *flags):
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    try:
        return app.run(campaign.main, [*flags, "--device", "cpu"])
    except SystemExit as end:
        return end.code


@pytest.fixture
def commands(tmp_path):
    run = tmp_path / "run"
    return [
        "# a comment",
        f"train.py {TINY} --output-dir {run}",
        f"attack.py angle --victim {run} --steps 2 --limit-test 20",
        f"gaussianity --victim {run}",
        f"report tables {run}",
    ]


def test_a_campaign_runs_and_is_not_run_again(commands, tmp_path, monkeypatch, capfd):
    assert start(monkeypatch, commands) == 0
    out = capfd.readouterr().out
    assert "[1/4] start: train.py" in out
    assert "4 commands: 4 done" in out
    assert "Classification error in %" in out
    rows = read_rows(tmp_path / "run" / "results.jsonl")
    assert {"task", "angle phase", "angle ica"} <= {r["name"] for r in rows}

    assert start(monkeypatch, commands) == 0
    out = capfd.readouterr().out
    assert "[1/4] finished: train.py" in out
    assert "[2/4] finished: attack.py" in out
    assert "[3/4] finished: gaussianity" in out
    assert read_rows(tmp_path / "run" / "results.jsonl") == rows

    more = [line.replace("--epochs 1", "--epochs 2") for line in commands]  # goes on
    assert start(monkeypatch, more) == 0
    after = read_rows(tmp_path / "run" / "results.jsonl")
    assert len(after) == 2 * len(rows)  # other weights, so the attacks were made again
    assert len({row["victim"] for row in after}) == 2


def test_a_dry_run_shows_everything_and_writes_nothing(commands, tmp_path, monkeypatch, capsys):
    assert start(monkeypatch, commands, "--dry-run") == 0
    out = capsys.readouterr().out
    for line in commands[1:]:
        assert line.split(" --device")[0] in out
    assert re.search(r"in all about \d+ (s|min).* and [\d,]+ MB", out)
    assert re.search(r"^about \d+ s .*train.py", out, re.MULTILINE)
    assert re.search(r"^minutes .*gaussianity", out, re.MULTILINE)
    assert re.search(r"^always .*report", out, re.MULTILINE)
    assert "digits    part of an installed library" in out
    assert not list(tmp_path.iterdir())


def test_equal_commands_run_once(commands, monkeypatch, capsys):
    assert start(monkeypatch, [*commands, *commands], "--dry-run") == 0
    assert capsys.readouterr().out.count("train.py") == 1


def test_list_passes_the_commands_on(commands, monkeypatch, capsys):
    assert start(monkeypatch, commands, "--list") == 0
    assert capsys.readouterr().out.splitlines() == commands


def test_data_that_are_not_there_are_refused_or_left_out(tmp_path, monkeypatch, capsys):
    there = f"train.py {TINY} --output-dir {tmp_path / 'a'}"
    gone = f"train.py --dataset cub200 --arch vgg16 --output-dir {tmp_path / 'b'}"
    attack = f"attack.py inversion --victim {tmp_path / 'b'}"
    flags = ("--dry-run", "--data-dir", str(tmp_path))
    assert start(monkeypatch, [there, gone, attack], *flags) == 2
    captured = capsys.readouterr()
    assert captured.out.count("data missing") == 2
    assert re.search(r"^error: cub200 needs .*--available$", captured.err, re.MULTILINE)
    assert start(monkeypatch, [there, gone, attack], *flags, "--available") == 0
    out = capsys.readouterr().out
    assert "left out 2 of 3 commands: cub200 needs" in out
    assert "vgg16" not in out


def test_a_full_disk_is_seen_before_the_start(commands, tmp_path, monkeypatch, capsys):
    nearly = type("Usage", (), {"free": 1e6})
    monkeypatch.setattr(plan.shutil, "disk_usage", lambda path: nearly)
    assert start(monkeypatch, commands) == 2
    assert re.search(r"needs about \d+ MB, and 1 MB are free", capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--jobs", "0"], "jobs must be at least 1, got 0"),
        (["--hours", "-1"], "hours must be positive, got -1"),
        (["--devices", "cuda:0,cuda:1"], "give --device, or --devices for several, not both"),
    ],
)
def test_wrong_limits_are_refused(commands, monkeypatch, capsys, flags, message):
    assert start(monkeypatch, commands, *flags) == 2
    assert message in capsys.readouterr().err


def test_a_device_that_is_not_there_is_refused(commands, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(commands)))
    assert app.run(campaign.main, ["--devices", "cpu,cuda:7"]) == 2
    assert "device 'cuda:7' is not available here" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_what_is_to_be_downloaded_is_downloaded_once_and_first(tmp_path, monkeypatch, capsys):
    """Commands that run at once would write to one folder."""
    places = ("--dataset", "cifar10", "--data-dir", str(tmp_path / "data"))
    lines = [
        shlex.join(["train.py", *places, "--kind", kind, "--output-dir", str(tmp_path / kind)])
        for kind in ("original", "local")
    ]
    lines.append(lines[0].replace("cifar10", "cifar100").replace("/original", "/other"))
    lines.append(f"{lines[0]}-few --limit-train 500")
    done = []
    monkeypatch.setattr(campaign.datasets, "load", lambda config: done.append(config.dataset))
    monkeypatch.setattr(campaign, "run_all", lambda commands, limits: done.append(len(commands)))
    assert start(monkeypatch, lines, "--jobs", "2") == 0
    assert sorted(done[:-1]) == ["cifar10", "cifar100"]
    assert done[-1] == 4


def test_commands_have_what_the_campaign_says(commands, monkeypatch):
    """Threads shared out, the hours in seconds, logs that differ, and a device if none is named."""
    given = []
    monkeypatch.setattr(campaign, "run_all", lambda *what: given.append(what))
    monkeypatch.setattr(campaign.torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(campaign.torch, "set_num_threads", lambda threads: None)  # would be real
    lines = [*commands, commands[1].replace("/run", "/other") + " --device cpu"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    flags = ["--jobs", "3", "--hours", "0.5", "--devices", "cpu,cpu"]
    started = time.monotonic()
    assert app.run(campaign.main, flags) == 0
    ((made, limits),) = given
    assert (limits.slots, limits.threads) == (3, 2)
    assert 0 <= limits.end - started - 1800 < 60
    assert limits.devices == ("cpu", "cpu")
    assert [c.anywhere for c in made] == [True, True, True, False, False]
    assert [c.loud for c in made] == [False, False, False, True, False]
    assert [c.goes_on for c in made] == [True, False, False, False, True]  # trainings
    assert len({c.log for c in made}) == len(made)
    assert made[1].needs == {0} and made[3].after == {0, 1, 2}


def test_the_epochs_that_an_interrupted_training_has_behind_it_take_no_time(tmp_path):
    (tmp_path / "run" / "state").mkdir(parents=True)
    (tmp_path / "run" / "log.jsonl").write_text('{"epoch": 0}\n' * 3)
    config = TrainConfig(output_dir=tmp_path / "run", epochs=4)
    assert plan.begun(config) == 0.75
    assert plan.begun(dataclasses.replace(config, epochs=6)) == 0.5
    assert plan.begun(dataclasses.replace(config, output_dir=tmp_path)) == 0


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("rm -rf /", "expected train.py, attack.py, offload, linearity, gaussianity or report"),
        ("train.py --archh lenet", "nrecognized"),
        ("train.py --kind original --dim 3", "dim applies to kind complex only"),
        ("attack.py all --victim nowhere", "no command trains nowhere"),
        ("", "no commands on standard input"),
    ],
)
def test_a_wrong_line_is_refused_before_anything_runs(line, message, monkeypatch, capsys):
    assert start(monkeypatch, [line]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert message in err


@pytest.mark.parametrize("own", ["--data-dir mine", "--data-dir=mine"])
def test_what_a_line_says_itself_is_not_overruled(own, tmp_path):
    line = f"train.py {TINY} {own} --output-dir {tmp_path / 'run'}"
    (job,) = resolve([line], data_dir=Path("ours"))
    assert job.data.data_dir == Path("mine")


def test_a_control_that_is_rotated_is_refused_before_anything_runs(tmp_path, monkeypatch, capsys):
    lines = [f"train.py {TINY} --output-dir {tmp_path / name}" for name in ("a", "b")]
    lines.append(f"attack.py all --victim {tmp_path / 'a'} --control {tmp_path / 'b'}")
    assert start(monkeypatch, lines) == 2
    assert "is protected itself (complex d=2 decoy)" in capsys.readouterr().err
    lines[-1] = lines[-1].replace(str(tmp_path / "b"), str(tmp_path / "c"))
    assert start(monkeypatch, lines) == 2
    assert f"{tmp_path / 'c'} is no run" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_plan_lists_a_folder_once_for_all_its_groupings(monkeypatch):
    listed = []

    def planned(config):
        listed.append(config)
        return 50_000, (3, 32, 32), 10

    monkeypatch.setattr("complexnn.commands.jobs._planned", functools.cache(planned))
    seen = [
        looked_at(DataConfig("folder", groups=groups, limit_train=limit))[0]
        for groups in (None, "kinds.json")
        for limit in (None, 15_000)
    ]
    assert seen == [50_000, 15_000] * 2
    assert len(listed) == 1


def test_a_folder_with_another_run_is_refused(commands, monkeypatch, capsys):
    assert start(monkeypatch, commands[:2]) == 0
    other = commands[1].replace("train.py", "train.py --lr 0.001")
    assert start(monkeypatch, [other]) == 2
    assert "holds another run (python train.py" in capsys.readouterr().err


def test_what_a_failed_command_said_last_is_told(tmp_path, monkeypatch, capfd):
    (tmp_path / "file").write_text("in the way")
    assert start(monkeypatch, [f"train.py {TINY} --output-dir {tmp_path / 'file'}"]) == 2
    captured = capfd.readouterr()
    assert "[1/1] failed: train.py" in captured.err
    assert "error: cannot write to" in captured.err
    assert "1 command: 1 failed" in captured.out


def test_an_interrupted_campaign_goes_on(tmp_path):
    """SIGTERM to the campaign reaches the training, which saves its state."""
    run = tmp_path / "run"
    lines = f"train.py --epochs 400 --limit-train 300 --kind original --output-dir {run}\n"
    with (tmp_path / "lines").open("w+") as stdin, (tmp_path / "said").open("w") as stderr:
        stdin.write(lines)
        stdin.seek(0)
        process = subprocess.Popen(
            [sys.executable, "-m", "complexnn.campaign", "--device", "cpu"],
            cwd=tmp_path, stdin=stdin, stdout=stderr, stderr=stderr,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        deadline = time.monotonic() + 120
        while not (run / "state").is_dir():
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 128 + signal.SIGTERM
    said = (tmp_path / "said").read_text()
    assert "go on with --resume" in said
    assert "Traceback" not in said
    epochs = [row["epoch"] for row in read_rows(run / "log.jsonl")]
    assert epochs == list(range(1, len(epochs) + 1))
    assert len(epochs) < 400


def timed(folder, lines, *flags, **environment):
    """Seconds of a campaign in a folder of its own."""
    folder.mkdir(exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    started = time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "complexnn.campaign", "--device", "cpu", *flags], cwd=folder,
        input="\n".join(lines), text=True, check=True, stdout=subprocess.DEVNULL,
        env=kept | {"PYTHONPATH": str(ROOT)} | environment,
    )  # fmt: skip
    return time.monotonic() - started


SEVERAL = [
    *(f"train.py --groups parity --kind {k} --output-dir {k}" for k in ("additional", "complex")),
    *(f"train.py --groups parity --kind {k} --output-dir {k}" for k in ("original", "local")),
    "attack.py angle --victim complex --budget quick",
    "attack.py inversion --victim additional --budget quick",
    "attack.py inversion --victim local --budget quick",
    "attack.py property --victim original --budget quick",
]


@pytest.mark.slow  # on two idle cores
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_two_at_once_take_at_most_three_fifths_of_the_time(tmp_path):
    """One thread each, beside one at a time that has every core. The first of the two reads its
    libraries from a cold disk."""
    both = timed(tmp_path / "2", SEVERAL, "--jobs", "2")
    alone = timed(tmp_path / "1", SEVERAL, "--jobs", "1")
    assert both <= 0.6 * alone, f"{both:.0f} s beside {alone:.0f} s"


@pytest.mark.slow
def test_what_comes_out_does_not_depend_on_how_many_run_at_once(tmp_path):
    """With one thread each: the same weights and the same measures, to the bit."""
    found = []
    for jobs in ("1", "3"):
        timed(tmp_path / jobs, SEVERAL, "--jobs", jobs, OMP_NUM_THREADS="1")
        rows = {}
        for path in sorted((tmp_path / jobs).glob("*/results.jsonl")):
            for row in read_rows(path):
                rows[path.parent.name, row["name"]] = (row["victim"], row["metrics"])
        found.append(rows)
    assert len(found[0]) > 12
    assert found[0] == found[1]


@pytest.mark.slow
def test_two_that_are_interrupted_at_once_go_on_to_the_same_bits(tmp_path):
    lines = [
        f"train.py --epochs 60 --limit-train 300 --kind {kind} --output-dir {kind}"
        for kind in ("original", "complex")
    ]
    timed(tmp_path / "whole", lines, "--jobs", "2", OMP_NUM_THREADS="1")
    broken = tmp_path / "broken"
    broken.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "complexnn.campaign", "--device", "cpu", "--jobs", "2"],
        cwd=broken, stdin=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    process.stdin.write("\n".join(lines))
    process.stdin.close()
    logs = [broken / line.split()[-1] / "log.jsonl" for line in lines]
    while not all(log.exists() for log in logs):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) == 128 + signal.SIGTERM
    assert not (broken / "complex" / "model.safetensors").exists()  # it was not done yet
    timed(broken, lines, "--jobs", "2", OMP_NUM_THREADS="1")
    for line in lines:
        name = Path(line.split()[-1]) / "model.safetensors"
        assert (broken / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


# ------------------------------------------------------------------------------- the scripts


def variants(script):
    """The flags by which one script has several lists of commands, each command in one of them at
    least."""
    if script.name == "reproduce.sh":
        return [["--full"], ["--paper", "--gpu"]]
    return [["--cpu"]] if script.name.startswith("table") else [[]]


CAMPAIGNS = [(script, flags) for script in SCRIPTS for flags in variants(script)]


@pytest.mark.parametrize(
    ("script", "flags"), CAMPAIGNS, ids=lambda v: v.stem if isinstance(v, Path) else "".join(v)
)
def test_every_line_of_a_script_is_a_valid_command(script, flags, tmp_path, monkeypatch):
    """Their flags parse, nothing is written to one folder twice, every victim is trained."""
    lines = listed(script, tmp_path, *flags)
    monkeypatch.chdir(tmp_path)  # where no run is finished
    jobs = resolve(lines)
    trained = [job.config.run_dir for job in jobs if job.words[0] == "train.py"]
    assert trained
    assert len(trained) == len(set(trained))
    check_order(jobs)
    # Only flags that differ from their defaults, at least in some line of the script.
    training = [job for job in jobs if job.words[0] == "train.py"]
    given = {w for job in training for w in job.words[1:-2] if w.startswith("--")}
    needed = {w for job in training for w in command(job.config).split()}
    # Table 3 picks the lines of one kind; a budget says its epochs, and one has the default's.
    assert given - {"--kind", "--epochs"} <= needed


def check_order(jobs):
    """However many run at once: no two that may meet use one folder, unless both only read it;
    what is attacked, compared with or measured is trained; a report is the last. Groups for
    machines of their own share nothing."""
    trained = {job.config.run_dir: n for n, job in enumerate(jobs) if job.words[0] == "train.py"}
    waiting = waits(jobs)
    first = []  # for each, all that have ended before it starts
    for number, job in enumerate(jobs):
        after, needs = waiting[number]
        first.append(set().union(after, needs, *(first[n] for n in after | needs)))
        if job.words[0] == "report":
            assert first[number] == set(range(number))
            continue
        assert {trained[folder] for folder in job.reads if folder in trained} == needs
        for other in set(range(number)) - first[number]:
            met = (job.writes & (jobs[other].reads | jobs[other].writes)) | (
                job.reads & jobs[other].writes
            )
            assert not met, f"{job.name} may run beside {jobs[other].name}"
    groups = together(jobs)
    grouped = sorted(number for group in groups for number in group)
    assert grouped == [n for n, job in enumerate(jobs) if job.words[0] != "report"]
    for group in groups:
        assert group == sorted(group)
        assert set().union(*(first[n] for n in group)) <= set(group)


def test_commands_wait_for_those_that_use_the_same_runs(tmp_path):
    """For reading what was written, for writing what was read or written, and for nothing else."""
    run, other = tmp_path / "run", tmp_path / "other"
    train = f"train.py {TINY} --kind additional"
    lines = [
        f"{train} --output-dir {run}",
        f"{train} --seed 1 --output-dir {other}",
        f"attack.py property --victim {run} --output-dir {tmp_path / 'a'}",  # reads run
        f"attack.py property --victim {run}",  # reads and writes run
        f"attack.py property --victim {other} --control {run} --output-dir {tmp_path / 'b'}",
        f"attack.py inversion --victim {other} --control {run}",  # writes both
        f"offload --victim {run / '..' / 'other'}",
        f"{train.replace('--epochs 1', '--epochs 2')} --output-dir {run}",
        f"report tables {tmp_path}",
    ]
    waiting = waits(resolve(lines))
    assert [set(after) for after, _ in waiting] == [
        set(), set(), {0}, {0, 2}, {0, 1, 3}, {0, 1, 2, 3, 4}, {1, 4, 5}, {0, 2, 3, 4, 5},
        set(range(8)),
    ]  # fmt: skip
    needs = [set(), set(), {0}, {0}, {0, 1}, {0, 1}, {1}, set(), set()]
    assert [set(needed) for _, needed in waiting] == needs


def test_commands_share_a_control_that_was_attacked(tmp_path):
    """They read its rows, so they do not wait for each other; with other settings they do."""
    runs = [tmp_path / name for name in ("control", "a", "b")]
    lines = [f"train.py {TINY} --kind additional --output-dir {run}" for run in runs]
    lines.append(f"attack.py all --victim {runs[0]} --budget quick")
    beside = [f"--victim {run} --control {runs[0]} --budget quick" for run in runs[1:]]
    lines += [f"attack.py inversion {beside[0]}", f"attack.py all {beside[1]}"]
    lines += [f"attack.py span {flags} --seed 1" for flags in beside]
    waiting = [set(after) for after, _ in waits(resolve(lines))]
    assert waiting[4:] == [{0, 1, 3}, {0, 2, 3}, {0, 1, 3, 4, 5}, {0, 2, 3, 4, 5, 6}]


@pytest.fixture(params=["cpu", "gpu"], scope="module")
def paper(request, tmp_path_factory):
    """A budget, what it trains, by folder, what it attacks, as pairs of family and folder, and all
    its commands."""
    folder = tmp_path_factory.mktemp("paper")
    lines = listed(ROOT / "scripts" / "reproduce.sh", folder, "--paper", f"--{request.param}")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # where no run is finished
        found = resolve(lines)
    root = Path("runs/paper") / request.param
    configs = [job.config for job in found if job.config]
    trained = {
        str(c.run_dir.relative_to(root)): c
        for c in configs
        if isinstance(c, TrainConfig) and root in c.run_dir.parents
    }
    attacked = {
        (c.attack, str(c.victim.relative_to(root)))
        for c in configs
        if isinstance(c, AttackConfig) and root in c.victim.parents
    }
    return request.param, trained, attacked, lines


def test_every_published_number_has_a_run_in_both_budgets(paper):
    _, trained, attacked, _ = paper
    published = json.loads((ROOT / "complexnn" / "report" / "published_results.json").read_text())
    kinds = {"original": "original", "additional_layers": "additional", "complex": "complex"}
    kinds |= {f"noisy_{g.replace('.', '_')}": f"noisy-{g}" for g in ("0.2", "0.5", "1.0")}

    def folder(row, kind):
        arch = row["arch"] if kind == "complex" else row["arch"].replace("-beta", "-alpha")
        return f"{row['dataset']}/{arch}-{kind}"

    for row in published["classification_error_percent"]:
        for column, kind in kinds.items():
            if row[column] is not None:
                config = trained[folder(row, kind)]
                assert (config.net.kind, config.data.dataset) == (
                    kind.split("-")[0], row["dataset"],
                )  # fmt: skip
                name, _, variant = row["arch"].partition("-")
                assert config.net.arch == name
                assert config.net.variant == (variant if kind == "complex" and variant else "alpha")
    for row in published["angle_error_radian"]["rows"]:
        assert {("angle", folder(row, "complex")), ("release", folder(row, "complex"))} <= attacked
    for row in published["reconstruction_error"]["rows"]:
        for column, kind in kinds.items():
            if row.get(column if kind != "complex" else "complex_dec_x") is not None:
                assert ("inversion", folder(row, kind)) in attacked
    for network in ("cifar100-superclasses/resnet56-alpha", "celeba/alexnet"):
        assert {("property", f"{network}-{kind}") for kind in ("additional", "complex")} <= attacked


def test_a_budget_says_how_long_and_all_its_resnets_have_one_recipe(paper):
    budget, trained, _, _ = paper
    recipes = set()
    for folder, config in trained.items():
        short = 10 if config.net.arch == "resnet110" else 20
        assert config.epochs == (100 if budget == "gpu" else short), folder
        assert config.save_as == "fp16"
        if config.net.arch.startswith("resnet"):
            recipes.add((config.optimizer, config.lr, config.weight_decay, config.batch_size))
    assert len(recipes) == 1
    seeds = {folder.rpartition("-seed")[0] for folder in trained if "-seed" in folder}
    assert {
        f"cifar10/resnet20-alpha-{kind}" for kind in ("original", "additional", "complex")
    } < seeds
    for folder in seeds:
        runs = [trained[name] for name in (folder, f"{folder}-seed1", f"{folder}-seed2")]
        assert [run.seed for run in runs] == [0, 1, 2]
        assert len({command(run, leave_out={"seed", "output_dir"}) for run in runs}) == 1


def test_small_networks_come_first_with_their_attacks(paper):
    """No attack on one network of the tables waits for the training of a deeper one."""
    *_, lines = paper
    order = ["cifar10/resnet20-alpha-complex", "cifar10/lenet-complex", "cifar100-superclasses/"]
    order += [f"cifar10/resnet{depth}-" for depth in (32, 44, 56)] + ["cifar10/resnet110-"]
    places = [[n for n, line in enumerate(lines) if name in line] for name in order]
    places[0] = [n for n in places[0] if "-seed" not in lines[n]]
    places[1] = [n for n in places[1] if "-seed" not in lines[n]]
    for earlier, later in itertools.pairwise(places):
        assert max(earlier) < min(later)


def test_the_quick_start_refuses_flags():
    script = ["bash", ROOT / "scripts" / "quickstart.sh", "--help"]
    done = subprocess.run(script, capture_output=True, text=True, timeout=10, check=False)
    assert done.returncode == 2
    assert "takes no flags, got --help" in done.stderr


def test_the_quick_reproduction_needs_no_download(tmp_path, monkeypatch):
    lines = listed(ROOT / "scripts" / "reproduce.sh", tmp_path, "--quick")
    monkeypatch.chdir(tmp_path)
    jobs = resolve(lines)
    assert {job.data.dataset for job in jobs if job.config} == {"digits"}
    assert jobs[-1].words[:2] == ("report", "tables")


def test_the_full_reproduction_lists_exactly_the_runs_behind_every_published_row(
    tmp_path, monkeypatch
):
    folders = [p.parent for p in (ROOT / "checkpoints").rglob("results.jsonl")]
    names = [folder.relative_to(ROOT / "checkpoints") for folder in folders]
    lines = listed(ROOT / "scripts" / "reproduce.sh", tmp_path, "--full")
    for budget in sorted({name.parts[1] for name in names if name.parts[0] == "paper"}):
        lines += listed(ROOT / "scripts" / "reproduce.sh", tmp_path, "--paper", f"--{budget}")
    monkeypatch.chdir(tmp_path)
    jobs = resolve(lines)
    trained = {j.config.run_dir: j.config for j in jobs if j.words[0] == "train.py"}
    attacks = [j.config for j in jobs if j.words[0] == "attack.py"]
    measured = {
        name: [app.parse(made.config, list(j.words[1:]), "") for j in jobs if j.words[0] == name]
        for name, made in measure.MEASUREMENTS.items()
    }
    for folder, name in zip(folders, names, strict=True):
        run = Path("runs" if name.parts[0] == "paper" else "runs/reproduction") / name
        for row in read_rows(folder / "results.jsonl"):
            if row["name"] == "task":
                made, listed_as = from_dict(TrainConfig, row["config"]), [trained[run]]
            elif row["name"] in measured:
                listed_as = [c for c in measured[row["name"]] if c.victim == run]
                settings = measure.MEASUREMENTS[row["name"]].config
                made = from_dict(settings, row["config"]).measured_as
                assert made in [c.measured_as for c in listed_as], (run, row["name"])
                continue
            else:
                # A row does not depend on which other attacks were asked for with it.
                alike = {"attack": "all", "only": None}
                made = dataclasses.replace(from_dict(AttackConfig, row["config"]), **alike)
                listed_as = [
                    dataclasses.replace(c, **alike)
                    for c in attacks
                    if run in (c.victim, c.control)
                    and c.attack in ("all", row["family"])
                    and (c.only is None or row["name"] in asked(c.only, control=run == c.control))
                ]
            ignored = {*MAY_CHANGE, "attack", "victim", "control"}
            assert command(made, leave_out=ignored) in [
                command(c, leave_out=ignored) for c in listed_as
            ], (run, row["name"])


def asked(only, *, control):
    """Attacks with ``only`` in their names, or what they are compared with."""
    parts = only.split("|")
    attacks = [a for a in roster.ROSTER if any(part in a.name for part in parts)]
    return roster.compared_with(attacks) if control else {attack.name for attack in attacks}


def listed(script, tmp_path, *flags):
    """A script's commands, with an interpreter that is already there."""
    copy = tmp_path / "clone"
    (copy / "scripts").mkdir(parents=True, exist_ok=True)
    for path in (ROOT / "scripts").glob("*.sh"):
        text = path.read_text()
        if path.name == "environment.sh":
            text = 'cd "$(dirname "${BASH_SOURCE[0]}")/.."\ncampaign() { cat; }\n'
        (copy / "scripts" / path.name).write_text(text)
        (copy / "scripts" / path.name).chmod(0o755)
    done = subprocess.run(
        ["bash", copy / "scripts" / script.name, *flags], capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()
