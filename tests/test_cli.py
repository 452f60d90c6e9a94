"""The commands as a user types them: the whole way on tiny runs, and every wrong word."""

import csv
import errno
import importlib
import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import complexnn
from complexnn.attacks import evaluation
from complexnn.attacks.roster import ROSTER
from complexnn.commands import app, report
from complexnn.commands import attack as attack_command
from complexnn.commands import train as train_command
from complexnn.config import InputError, TrainConfig
from complexnn.config_attack import AttackConfig
from complexnn.config_io import from_dict
from complexnn.data import datasets
from complexnn.measurements.gaussianity import GaussianityConfig
from complexnn.runs import checkpoint, progress, results
from complexnn.runs.checkpoint import sha256
from complexnn.runs.results import read_rows
from complexnn.training import checks, loop
from complexnn.training.evaluation import evaluate

ROOT = Path(__file__).parent.parent
TINY = ["--epochs", "1", "--limit-train", "100", "--device", "cpu", "--groups", "parity"]


def train(*args):
    return app.run(train_command.main, [*map(str, args)])


def attack(*args):
    return app.run(attack_command.main, [*map(str, args), "--device", "cpu"])


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    for kind in ("additional", "complex"):
        assert train(*TINY, "--kind", kind, "--output-dir", root / kind) == 0
    return root


def test_without_a_flag_it_trains_the_default(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert train() == 0
    (folder,) = (p.parent for p in tmp_path.rglob("results.jsonl"))
    assert json.loads((folder / "config.json").read_text())["config"]["net"]["arch"] == "lenet"


def test_a_run_writes_its_files(runs):
    folder = runs / "complex"
    about = json.loads((folder / "config.json").read_text())
    assert about["config"]["net"]["kind"] == "complex"
    assert about["config"]["net"]["num_classes"] == 2
    assert {"command", "versions", "git_commit"} <= about.keys()
    assert (folder / "model.safetensors").is_file()
    (epoch,) = read_rows(folder / "log.jsonl")
    assert {"epoch", "train_loss", "val_error", "critic_gap"} <= epoch.keys()
    row = read_rows(folder / "results.jsonl")[0]
    assert row["name"] == "task"
    error = row["metrics"]["error"]
    assert error["low"] <= error["value"] <= error["high"]
    assert len(error["draws"]) == 3


def test_attacks_end_in_rows_pictures_and_a_report(runs, capsys):
    victim, control = runs / "complex", runs / "additional"
    steps = ("--steps", 3, "--limit-test", 40)
    before = (victim / "model.safetensors").read_bytes()
    assert attack("all", "--victim", control, *steps) == 0
    assert attack("all", "--victim", victim, "--control", control, *steps) == 0
    assert (victim / "model.safetensors").read_bytes() == before

    rows = {row["name"]: row for row in read_rows(victim / "results.jsonl")}
    names = {attack.name for attack in ROSTER if not attack.several}
    assert rows.keys() == names | {"task", "inversion worst case"}
    angle = rows["angle angle-regressor"]["metrics"]["angle_error"]
    assert angle["chance"] == pytest.approx(1.5708, abs=1e-4)
    assert angle["negative"] == pytest.approx(angle["chance"], rel=0.3)
    assert rows["span"]["metrics"]["top1"]["value"] == 1
    assert rows["span"]["metrics"]["top1"]["chance"] == 1 / (40 + 90)  # test and training images
    worst = rows["inversion worst case"]["metrics"]["rmse"]["value"]
    assert worst <= min(
        r["metrics"]["rmse"]["value"] for n, r in rows.items() if n.startswith("inversion dec")
    )
    for name, row in rows.items():
        if name.startswith("inversion"):
            keys = {"value", "low", "high", "floor", "blend", "control"}
            assert keys <= row["metrics"]["psnr"].keys()
        if name.startswith("property"):
            assert row["metrics"]["error"]["control"] is not None
            assert row["metrics"]["balanced_accuracy"]["chance"] == pytest.approx(0.1)
        assert row["victim"] == rows["task"]["victim"]

    for name in ("inversion-dec-x", "angle-ica", "property-released", "span"):
        with (victim / "examples" / f"{name}.csv").open() as file:
            assert len(list(csv.reader(file))) == 1 + 40
    with Image.open(victim / "examples" / "inversion.png") as grid:
        assert grid.width > 300

    said = capsys.readouterr().out
    for claim in ("angle", "input", "property"):
        assert f"claim '{claim} hidden': " in said
    assert "data:image/png;base64," in (victim / "report.html").read_text()

    page, picture = runs / "report.html", runs / "picture.png"
    arguments = ["runs", str(control), str(victim), "--html", str(page), "--picture", str(picture)]
    assert app.run(report.main, arguments) == 0
    table = capsys.readouterr().out
    assert "lenet complex" in table
    assert "no key" in table
    assert page.read_text().count("data:image/png;base64,") == 2
    assert picture.is_file()


def test_an_attacker_that_was_trained_is_not_trained_again(runs, caplog):
    arguments = ("angle", "--victim", runs / "complex", "--steps", 2, "--limit-test", 40)
    assert attack(*arguments) == 0
    caplog.clear()
    assert attack(*arguments) == 0
    assert "angle angle-regressor: already done" in caplog.text
    caplog.clear()
    assert attack(*arguments, "--draws", 2) == 0  # judged anew by the attacker that is there
    assert "already trained" in caplog.text
    caplog.clear()
    assert attack(*arguments, "--seed", 1) == 0
    assert "already" not in caplog.text


def test_one_attack_by_name_under_two_budgets(runs, tmp_path, capsys):
    measured = []
    for steps in (2, 4):
        arguments = ("angle", "--victim", runs / "complex", "--limit-test", 40, "--steps", steps)
        folder = tmp_path / str(steps)
        assert attack(*arguments, "--only", "regressor", "--output-dir", folder) == 0
        (row,) = read_rows(folder / "results.jsonl")
        assert row["name"] == "angle angle-regressor"
        measured.append(row["metrics"]["angle_error"])
    capsys.readouterr()
    assert app.run(report.main, ["budgets", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "2 steps" in out
    assert "4 steps" in out
    few, many = (m["value"] for m in measured)
    chance = measured[0]["chance"]
    (line,) = [line for line in out.splitlines() if line.startswith("angle angle-regressor")]
    assert f"{100 * (many / few - 1):+.1f} %" in line
    assert line.endswith(f"{100 * ((chance - many) / (chance - few) - 1):+.1f} %")
    assert attack(*arguments, "--only", "magic", "--output-dir", tmp_path / "no") == 2
    assert "there are: angle mean, angle phase, angle ica" in capsys.readouterr().err
    assert app.run(report.main, ["budgets", str(tmp_path / "no")]) == 2


def test_one_attack_alone_is_kept_and_is_not_all_of_them(runs, tmp_path):
    folder, victim = tmp_path / "attacks", runs / "complex"
    arguments = ("angle", "--victim", victim, "--steps", 2, "--limit-test", 40)
    config = AttackConfig("angle", victim, steps=2, limit_test=40, output_dir=folder, device="cpu")
    net, weights = complexnn.load(victim).config, sha256(victim / "model.safetensors")
    for only, done in (("ica", False), (None, True)):
        flags = ["--only", only] if only else []
        assert attack(*arguments, *flags, "--output-dir", folder) == 0
        assert evaluation.done(config, net, weights, hidden=True) == done
    names = [row["name"] for row in read_rows(folder / "results.jsonl")]
    assert len(names) == len(set(names)) == 6


def test_one_attack_alone_stands_beside_its_control(runs, tmp_path):
    """Which has another name there: features that need no recovering."""
    folder = tmp_path / "attacks"
    arguments = ("inversion", "--victim", runs / "complex", "--control", runs / "additional")
    arguments += ("--steps", 2, "--limit-test", 40, "--output-dir", folder)
    assert attack(*arguments, "--only", "dec(a*)") == 0
    (beside,) = read_rows(folder / "control" / "results.jsonl")
    (row,) = read_rows(folder / "results.jsonl")
    assert (row["name"], beside["name"]) == ("inversion dec(a*)", "inversion dec(x)")
    for name, numbers in row["metrics"].items():
        assert numbers["control"] == beside["metrics"][name]["value"]


def test_rows_without_numbers_per_image_make_no_worst_case(runs, tmp_path):
    """As in a published folder, which an attack goes on from."""
    folder, victim = tmp_path / "attacks", runs / "additional"
    arguments = ("inversion", "--victim", victim, "--steps", 2, "--limit-test", 40)
    arguments += ("--output-dir", folder)
    assert attack(*arguments, "--only", "dec(x)") == 0
    (folder / "examples" / "inversion-dec-x.csv").unlink()
    assert attack(*arguments) == 0
    names = [row["name"] for row in read_rows(folder / "results.jsonl")]
    assert "inversion optimised with key" in names
    assert "inversion worst case" not in names


def test_a_control_that_is_given_later_is_put_beside_the_attacks(runs, tmp_path):
    arguments = ("span", "--victim", runs / "complex", "--steps", 2, "--limit-test", 40)
    folder = tmp_path / "attacks"
    assert attack(*arguments, "--output-dir", folder) == 0
    assert attack(*arguments, "--output-dir", folder, "--control", runs / "additional") == 0
    first, second = read_rows(folder / "results.jsonl")
    assert first["metrics"]["top1"]["control"] is None
    assert second["metrics"]["top1"]["control"] == 1


def test_dry_run_writes_nothing(tmp_path, capsys):
    assert train(*TINY, "--output-dir", tmp_path / "run", "--dry-run") == 0
    assert not (tmp_path / "run").exists()


def test_overwriting_leaves_nothing_of_the_run_before(tmp_path):
    run = tmp_path / "run"
    assert train(*TINY, "--kind", "original", "--output-dir", run) == 0
    made = [run / name for name in ("examples", "attackers", "control")]
    for folder in made:
        folder.mkdir()
        (folder / "inversion.safetensors").write_text("of the first run")
    (run / "report.html").write_text("of the first run")
    (run / "notes.txt").write_text("the user's")
    assert train(*TINY, "--kind", "original", "--overwrite", "--output-dir", run) == 0
    assert not [path for path in (*made, run / "report.html") if path.exists()]
    assert (run / "notes.txt").is_file()
    # In a folder that holds no run, nothing is taken for what attacks made of one.
    (tmp_path / "mine" / "examples").mkdir(parents=True)
    assert train(*TINY, "--overwrite", "--output-dir", tmp_path / "mine") == 0
    assert (tmp_path / "mine" / "examples").is_dir()


def test_a_run_that_died_at_once_leaves_its_folder_to_the_advised_retry(tmp_path, capsys):
    words = ("--kind", "original", "--epochs", 1, "--device", "cpu", "--output-dir", tmp_path)
    assert train(*words, "--lr", 1e18) == 2
    assert "lower --lr" in (told := capsys.readouterr().err)
    assert "the same folder can be used again" in told
    assert train(*words) == 0
    assert train(*words, "--lr", 1e18, "--epochs", 2, "--overwrite") == 2


def test_a_run_that_died_with_a_state_says_how_to_start_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loop, "SAVE_SECONDS", -1.0)
    words = ("--kind", "original", "--epochs", 1, "--device", "cpu", "--output-dir", tmp_path)
    assert train(*words, "--lr", 1e18) == 2
    told = capsys.readouterr().err
    assert "the last good state is in" in told
    assert "to start again with other settings, give --overwrite" in told
    assert train(*words, "--overwrite") == 0


def test_what_cannot_be_trained_takes_no_folder(tmp_path, monkeypatch, capsys):
    def refuse(*args):
        raise InputError("groups of 32 need at least 32 images")

    monkeypatch.setattr(checks, "check_groups", refuse)
    assert train(*TINY, "--output-dir", tmp_path / "run") == 2
    assert not (tmp_path / "run").exists()
    # A folder that is taken is seen before images are read.
    (tmp_path / "log.jsonl").write_text("")
    monkeypatch.setattr(datasets, "load", refuse)
    assert train(*TINY, "--output-dir", tmp_path) == 2
    assert "already holds a run (log.jsonl)" in capsys.readouterr().err


def test_a_finished_run_is_not_lost(runs, capsys):
    before = (runs / "complex" / "model.safetensors").read_bytes()
    assert train(*TINY, "--output-dir", runs / "complex") == 2
    assert "--overwrite" in capsys.readouterr().err
    assert (runs / "complex" / "model.safetensors").read_bytes() == before


def test_output_folder_is_printed_first_and_last(tmp_path, capsys):
    assert train(*TINY, "--kind", "original", "--output-dir", tmp_path / "run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == lines[-1] == f"output: {tmp_path / 'run'}"


def test_weights_in_half_precision_are_tested_as_they_are_saved(runs, tmp_path):
    whole, half = runs / "complex", tmp_path / "half"
    assert train(*TINY, "--kind", "complex", "--save-as", "fp16", "--output-dir", half) == 0
    files = [folder / "model.safetensors" for folder in (whole, half)]
    assert files[1].stat().st_size < 0.55 * files[0].stat().st_size
    states = [checkpoint.read(file)[0] for file in files]
    for name, tensor in states[0].items():
        assert torch.equal(states[1][name], tensor.half() if tensor.dim() > 1 else tensor)

    config = from_dict(TrainConfig, results.read_config(half))
    images = datasets.load(config.data).test
    draws = {"draws": config.draws, "seed": config.seed}
    found = evaluate(complexnn.load(half), images, torch.device("cpu"), **draws)
    (row,) = read_rows(half / "results.jsonl")
    assert row["victim"] == sha256(files[1])
    assert row["metrics"]["error"]["value"] == found["error"]

    # A finished run can be saved otherwise without being trained again.
    assert train("--resume", "--output-dir", half, "--save-as", "fp32") == 0
    assert len(read_rows(half / "log.jsonl")) == 1
    assert [r["victim"] for r in read_rows(half / "results.jsonl")] == [
        row["victim"], sha256(files[0]),
    ]  # fmt: skip


def test_same_seed_same_log(tmp_path):
    for name in ("a", "b"):
        assert train(*TINY, "--output-dir", tmp_path / name) == 0
    logs = [(tmp_path / name / "log.jsonl").read_bytes() for name in ("a", "b")]
    assert logs[0] == logs[1]


def test_resume_goes_on_with_the_saved_settings(tmp_path, capsys):
    short, long = tmp_path / "short", tmp_path / "long"
    assert train(*TINY, "--output-dir", short, "--adversarial-weight", 0.5) == 0
    saved = (short / "model.safetensors").read_bytes()
    assert train("--resume", "--output-dir", short) == 0  # nothing left to do
    assert (short / "model.safetensors").read_bytes() == saved
    assert len([r for r in read_rows(short / "results.jsonl") if r["name"] == "task"]) == 1

    assert train("--resume", "--output-dir", short, "--epochs", 3, "--workers", 0) == 0
    assert [row["epoch"] for row in read_rows(short / "log.jsonl")] == [1, 2, 3]
    about = json.loads((short / "config.json").read_text())["config"]
    assert about["adversarial_weight"] == 0.5
    assert about["data"]["limit_train"] == 100
    capsys.readouterr()
    assert train("--resume", "--output-dir", short, "--lr", 0.01, "--dim", 4) == 2
    err = capsys.readouterr().err
    assert "lr (0.003 -> 0.01)" in err
    assert "dim (2 -> 4)" in err
    assert train("--resume", "--output-dir", tmp_path / "nowhere") == 2
    assert train(*TINY, "--resume", "auto", "--output-dir", long) == 0
    assert train(*TINY, "--resume", "auto", "--output-dir", long) == 0


def test_a_damaged_newest_state_costs_an_epoch_not_the_run(tmp_path, caplog):
    run, again = tmp_path / "run", tmp_path / "again"
    assert train(*TINY, "--epochs", 2, "--output-dir", run) == 0
    assert train(*TINY, "--epochs", 2, "--output-dir", again) == 0
    state = again / "state" / "latest.safetensors"
    state.write_bytes(state.read_bytes()[:100])
    (again / "model.safetensors").unlink()
    assert train("--resume", "--output-dir", again) == 0
    assert "going back to the state before it" in caplog.text
    for name in ("model.safetensors", "log.jsonl"):
        assert (run / name).read_bytes() == (again / name).read_bytes()


@pytest.mark.parametrize("command", [train_command.main, attack_command.main, report.main])
def test_help_names_every_flag(command, capsys):
    with pytest.raises(SystemExit) as end:
        app.run(command, ["--help"])
    assert end.value.code == 0
    assert "usage:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--dataset", "imagenet"],
            "known: digits, fashion-mnist, cifar10, cifar100, celeba, cub200, folder",
        ),
        (["--arch", "vgg99"], "known: lenet, resnet20, resnet32"),
        (["--colour", "red"], "--colour, red; known: --arch --variant --kind"),
        (["--epochs", "many"], "--epochs"),
        (["--epochs"], "--epochs"),
        (["--kind", "quaternion"], "'original', 'additional', 'noisy', 'complex', 'local'"),
        (["--dim", "1"], "dim must be at least 2"),
        (["--dataset", "folder", "--data-dir", "nowhere"], "lay your images out as"),
        (["--device", "cuda:99"], "device 'cuda:99' is not available here"),
        (["--device", "quantum"], "device 'quantum' is not available here"),
        (["--groups", "colours"], "built-in groupings of digits: parity"),
        (["--limit-train", "1"], "limit_train must be at least 2"),
        (["--resize", "4000"], "resize applies to celeba, cub200, folder only, not to digits"),
        (
            ["--dim", "200", "--batch-size", "999"],
            "the validation set has 144: lower --dim, or give",
        ),
        (["--lr", "nan"], "error: lr must be a finite number"),
        (["--seed", "-1"], "seed must be at least 0"),
        (["--output-dir", "/proc/nowhere"], "cannot write to"),
        (["--dim", "200", "--batch-size", "64"], "groups of 200 need at least 200 images"),
        (["--limit-train", "1438"], "limit_train is 1438, and there are 1437 training images"),
        (["--output-dir", ""], "the value of --output-dir is empty"),
        (["--output-dir="], "the value of --output-dir is empty"),
    ],
)
def test_wrong_words_are_one_line_and_leave_nothing(
    arguments, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    given = [] if "--output-dir" in arguments[0] else ["--output-dir", "out"]
    assert train(*given, *arguments) == 2
    err = capsys.readouterr().err.strip().splitlines()
    errors = [line for line in err if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert err[-1] == errors[0]
    written = list(tmp_path.rglob("*.safetensors")) + list(tmp_path.rglob("*.json"))
    assert not written


def broken_run(folder, how):
    assert train(*TINY, "--output-dir", folder) == 0
    if how == "no run":
        (folder / "config.json").unlink()
    elif how == "unfinished":
        (folder / "model.safetensors").unlink()
    elif how == "html weights":
        (folder / "model.safetensors").write_text("<html>")
    elif how == "damaged config":
        (folder / "config.json").write_text("{")
    elif how == "data gone":
        about = json.loads((folder / "config.json").read_text())
        about["config"]["data"] |= {"dataset": "folder", "data_dir": "gone", "groups": None}
        (folder / "config.json").write_text(json.dumps(about))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("no run", "is no run (no config.json)"),
        ("unfinished", "is no finished run (no model.safetensors)"),
        ("html weights", "not a whole safetensors file"),
        ("damaged config", "is damaged"),
        ("data gone", "lay your images out as"),
    ],
)
def test_a_victim_that_is_no_run_is_named(tmp_path, capsys, how, message):
    broken_run(tmp_path / "run", how)
    capsys.readouterr()
    assert attack("angle", "--victim", tmp_path / "run") == 2
    err = capsys.readouterr().err.strip().splitlines()
    assert len(err) == 1
    assert message in err[0]


def test_attacks_that_make_no_sense_are_refused(tmp_path, runs, capsys):
    assert attack("angle", "--victim", runs / "additional") == 2
    assert "has no key" in capsys.readouterr().err
    plain = tmp_path / "plain"
    assert train(*TINY[:-2], "--kind", "original", "--output-dir", plain) == 0
    assert attack("property", "--victim", plain) == 2
    assert "train it with --groups" in capsys.readouterr().err
    assert attack("inversion", "--victim", runs / "complex", "--control", plain) == 2
    assert "another task" in capsys.readouterr().err
    assert attack("angle", "--victim", runs / "complex", "--auxiliary-limit", 10) == 2
    told = capsys.readouterr().err
    assert "groups of 2 need 2 validation images or more, and there are 1" in told
    assert "give the attacker more (--auxiliary, --auxiliary-limit)" in told
    assert attack("angle", "--victim", tmp_path / "nowhere") == 2


def image_folder(root, *, test=("cat", "dog")):
    for part, names in (("train", ("cat", "dog")), ("test", test)):
        for name in names:
            (root / part / name).mkdir(parents=True)
            for i in range(20):
                Image.new("L", (8, 8), 10 * i).save(root / part / name / f"{i}.png")
    return ("--dataset", "folder", "--data-dir", root)


def test_a_class_without_test_images_is_refused(tmp_path, capsys):
    words = image_folder(tmp_path / "images", test=("cat",))
    assert train(*words, "--output-dir", tmp_path / "run") == 2
    assert "whose test error would leave them out: ['dog']" in capsys.readouterr().err


def test_images_too_large_for_the_memory_are_refused_before_they_are_read(
    tmp_path, monkeypatch, capsys
):
    words = image_folder(tmp_path / "images")
    monkeypatch.setattr(checks, "memory_free", lambda device: 1e9)
    monkeypatch.setattr(datasets, "load", None)
    assert train(*words, "--resize", 2000, "--output-dir", tmp_path / "run") == 2
    told = capsys.readouterr().err
    assert "steps of 128 images of 2000x2000 need more than" in told
    assert "1.0 GB are free: lower --batch-size or --resize" in told


def test_weights_of_another_run_are_named(tmp_path, runs, capsys, caplog):
    run = tmp_path / "run"
    shutil.copytree(runs / "complex", run)
    shutil.copyfile(runs / "additional" / "model.safetensors", run / "model.safetensors")
    assert attack("span", "--victim", run) == 2
    told = capsys.readouterr().err
    assert "is another network than config.json says (kind complex -> additional)" in told
    # The same settings from another seed: told, as no setting can tell them apart.
    other = tmp_path / "other"
    assert train(*TINY, "--seed", 1, "--output-dir", other) == 0
    shutil.copyfile(other / "model.safetensors", run / "model.safetensors")
    app.open_run(run, None, torch.device("cpu"))
    assert "is not what this run trained and tested" in caplog.text
    caplog.clear()
    app.open_run(other, None, torch.device("cpu"))
    assert not caplog.text


def test_a_control_that_is_protected_itself_is_refused(tmp_path, runs, capsys):
    noisy = tmp_path / "noisy"
    assert train(*TINY, "--kind", "noisy", "--output-dir", noisy) == 0
    for control, label in ((runs / "complex", "complex d=2 decoy"), (noisy, "noisy γ=0.2")):
        assert attack("inversion", "--victim", runs / "complex", "--control", control) == 2
        assert f"is protected itself ({label})" in capsys.readouterr().err


@pytest.fixture
def published(runs, tmp_path, monkeypatch):
    """A run and its control with rows of `inversion`, published below a manifest, and a working
    folder in which nothing was run."""
    words = ("inversion", "--victim", "runs/complex", "--control", "runs/additional", "--draws", 1)
    words = (*words, "--steps", 2, "--limit-test", 20, "--budget", "quick")
    for kind in ("complex", "additional"):
        shutil.copytree(runs / kind, tmp_path / "runs" / kind)
        rows = tmp_path / "runs" / kind / "results.jsonl"
        (task, *_) = read_rows(rows)
        rows.write_text(json.dumps(task) + "\n")
        for name in ("attackers", "examples"):
            shutil.rmtree(tmp_path / "runs" / kind / name, ignore_errors=True)
    monkeypatch.chdir(tmp_path)
    assert attack(*words) == 0
    (tmp_path / "runs").rename(tmp_path / "checkpoints")
    (tmp_path / "checkpoints" / "MANIFEST.json").write_text('{"checkpoints": {}}')
    shutil.rmtree(tmp_path / "checkpoints/additional/attackers")
    return [
        word.replace("runs", "checkpoints") if isinstance(word, str) else word for word in words
    ]


def test_a_published_folder_is_gone_on_from_and_never_written_to(published, caplog, capsys):
    def whole():
        return {p: p.read_bytes() for p in Path("checkpoints").rglob("*") if p.is_file()}

    before = whole()
    without = [*published[:3], *published[5:]]  # no control: its numbers are there all the same
    for words in (published, without):
        assert attack(*words) == 0
        assert "attack 1 of" not in caplog.text
        assert "training" not in caplog.text
    assert "output: runs/published/complex" in capsys.readouterr().out
    assert whole() == before
    # A row that is missing is made, by the attackers that were published; no picture needs others.
    rows = read_rows(Path("checkpoints/complex/results.jsonl"))
    kept = [row for row in rows if row["name"] != "inversion dec(x)"]
    lines = "".join(json.dumps(row) + "\n" for row in kept)
    Path("checkpoints/complex/results.jsonl").write_text(lines)
    before = whole()
    assert attack(*published) == 0
    assert "dec_x: already trained, runs/published/complex/attackers" in caplog.text
    (row,) = read_rows(Path("runs/published/complex/results.jsonl"))
    assert row["name"] == "inversion dec(x)"
    assert Path("runs/published/complex/examples/inversion.png").is_file()
    assert not Path("runs/published/additional/attackers").exists()
    assert whole() == before


def test_measurements_of_a_published_run_stand_beside_it(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    victim = Path("checkpoints/complex")
    shutil.copytree(runs / "complex", victim)
    (victim.parent / "MANIFEST.json").write_text("{}")
    before = (victim / "results.jsonl").read_bytes()
    config = GaussianityConfig(victim=victim)
    results.append_measurement(config, "gaussianity", {}, 2, {})
    assert (victim / "results.jsonl").read_bytes() == before
    (row,) = read_rows(Path("runs/published/complex/results.jsonl"))
    assert row["victim"] == sha256(victim / "model.safetensors")
    assert results.measured(config, "gaussianity")


def test_help_into_a_pager_that_ends_early_is_quiet(monkeypatch, capfd):
    """As in `train.py --help | head -1`: nobody reads the pipe any more."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert app.run(train_command.main, ["--help"]) == 128 + signal.SIGPIPE
        monkeypatch.undo()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("main", "advice"),
    [
        (train_command.main, "go on with --resume"),
        (attack_command.main, "start the command again"),
    ],
)
def test_a_full_disk_is_told_with_what_the_command_has(main, advice, monkeypatch, capsys):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(f"{main.__module__}.parse", full)
    assert app.run(main, []) == 2
    assert capsys.readouterr().err.strip().endswith(advice)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib")
def test_what_an_installation_depends_on():
    """The package needs no notebook; requirements.txt is for the repository, which has one."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    everything = (ROOT / "requirements.txt").read_text().split()
    notebook = project["optional-dependencies"]["notebook"]
    assert sorted(everything) == sorted(project["dependencies"] + notebook)
    for place in project["scripts"].values():
        module, name = place.split(":")
        assert callable(getattr(importlib.import_module(module), name))


def test_a_report_of_no_run_is_refused(tmp_path, capsys):
    assert app.run(report.main, ["runs", str(tmp_path)]) == 2
    assert "no finished run" in capsys.readouterr().err


def test_the_time_left_leaves_out_what_the_first_item_prepared(monkeypatch, caplog):
    clock = {"now": 0.0}
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock["now"])
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: False, raising=False)
    with caplog.at_level("INFO", logger="complexnn"):
        for item in progress.track(range(8), 8, "batches"):
            clock["now"] += 1200 if item == 0 else 30
    assert [r.getMessage() for r in caplog.records][:3] == [
        "batches: 1 of 8",
        "batches: 2 of 8, 3 min 0 s left",
        "batches: 3 of 8, 2 min 30 s left",
    ]
