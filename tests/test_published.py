"""The paper's tables with this project's rows: known answers from hand-made rows."""

import json

import pytest

from complexnn import cli, published, report
from complexnn.config import NetConfig, TrainConfig, command, from_dict, to_dict
from complexnn.tables import Table


def rows_of(folder, *, seed=0, error=0.09, angle=None, net=None, **settings):
    """A finished run as train.py and attack.py write it."""
    config = TrainConfig(net=NetConfig(**(net or {})), seed=seed, **settings)
    victim = f"{folder.name}-{seed}"
    about = {"victim": victim, "seconds": 60.0, "device": "cpu"}
    task = {"name": "task", "metrics": {"error": {"value": error}}, "config": to_dict(config)}
    rows = [task | about]
    if angle is not None:
        measured = {"angle_error": {"value": angle, "low": angle, "high": angle, "chance": 1.5708}}
        attack = {"name": "angle ica", "family": "angle", "metrics": measured, "images": 100}
        rows.append(attack | {"config": {}} | about)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "results.jsonl").open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


CIFAR = {"arch": "resnet20"}


@pytest.fixture
def runs(tmp_path):
    from complexnn.config import DataConfig

    data = DataConfig(dataset="cifar10")
    for seed, error in enumerate((0.10, 0.12, 0.14)):
        rows_of(tmp_path / f"complex{seed}", seed=seed, error=error, angle=0.02 + 0.01 * seed,
                net=CIFAR, data=data)  # fmt: skip
    rows_of(tmp_path / "additional", net=CIFAR | {"kind": "additional"}, data=data)
    rows_of(tmp_path / "packed", net=CIFAR | {"group": "packed", "dim": 4}, data=data)
    rows_of(tmp_path / "beta", net=CIFAR | {"variant": "beta"}, data=data, error=0.5)
    rows_of(tmp_path / "short", net=CIFAR, data=data, epochs=3, error=0.6)
    return tmp_path


def find(table, *cells):
    (row,) = [r for r in table.rows if r[: len(cells)] == cells]
    return dict(zip(table.head, row, strict=True))


def test_every_published_number_is_in_its_cell(runs):
    errors, angles, pictures, properties, *_ = published.tables([runs])
    paper = find(errors, "resnet20-alpha", "cifar10", "paper")
    assert (paper["original"], paper["additional"], paper["complex d=2 decoy"]) == (
        "11.56", "9.68", "10.91",
    )  # fmt: skip
    assert paper["noisy γ=0.2"] == "n.p."
    assert find(errors, "lenet", "cifar10", "2021")["noisy γ=1"] == "34.98"
    assert find(angles, "vgg16", "cub200")["paper"] == "1.5572"
    assert find(pictures, "resnet32-beta", "cifar10", "2021")["complex dec(x)"] == "0.2678"
    assert len([r for r in properties.rows if r[2] == "2021"]) == 3


def test_ours_are_mean_and_deviation_over_seeds_with_their_command(runs):
    errors, angles, *_, commands = published.tables([runs])
    ours = find(errors, "resnet20-alpha", "cifar10", "ours: all images, 20 epochs")
    value, number = ours["complex d=2 decoy"].rsplit(" ", 1)
    assert value == "12.00 ± 2.00"
    assert ours["original"] == "not run"
    assert ours["additional"].startswith("9.00 [")
    (angle,) = [r for r in angles.rows if r[0] == "resnet20-alpha" and r[4].startswith("0.")]
    assert angle[4].startswith(f"0.0300 ± 0.0100 {number}")
    (line,) = [r for r in commands.rows if r[0] == number]
    assert line[1] == "python train.py --arch resnet20 --dataset cifar10"
    assert line[2] == "0, 1, 2"
    assert line[3] == "12.00 ± 2.00"


def test_other_variants_budgets_and_kinds_stay_apart(runs):
    errors, *_, further, _ = published.tables([runs])
    short = find(errors, "resnet20-alpha", "cifar10", "ours: all images, 3 epochs")
    assert short["complex d=2 decoy"].startswith("60.00 [")
    beta = find(errors, "resnet20-beta", "cifar10", "ours: all images, 20 epochs")
    assert beta["complex d=2 decoy"].startswith("50.00 [")
    assert [row[3] for row in further.rows] == ["complex d=4 packed"]


def test_runs_that_were_trained_otherwise_do_not_share_a_line(runs):
    from complexnn.config import DataConfig

    rows_of(runs / "slow", net=CIFAR, data=DataConfig(dataset="cifar10"), lr=1e-4, error=0.7)
    errors = published.tables([runs])[0]
    slow = find(errors, "resnet20-alpha", "cifar10", "ours: all images, 20 epochs --lr 0.0001")
    assert slow["complex d=2 decoy"].startswith("70.00 [")
    usual = find(errors, "resnet20-alpha", "cifar10", "ours: all images, 20 epochs")
    assert usual["complex d=2 decoy"].startswith("12.00 ± 2.00 [")


def test_decoys_of_early_versions_and_from_blocks_do_not_share_a_line(runs):
    """Which is hidden in no label; networks without decoys stand beside both."""
    from complexnn.config import DataConfig

    data = DataConfig(dataset="cifar10")
    rows_of(runs / "early", net=CIFAR | {"counterparts": "batch"}, data=data, error=0.3)
    errors = published.tables([runs])[0]
    source = "ours: all images, 20 epochs --counterparts"
    for how, expected in (("blocks", "12.00 ± 2.00 ["), ("batch", "30.00 [")):
        line = find(errors, "resnet20-alpha", "cifar10", f"{source} {how}")
        assert line["complex d=2 decoy"].startswith(expected)
        assert line["additional"].startswith("9.00 [")


def test_attacks_in_another_folder_find_their_victim(runs, tmp_path):
    row = {
        "name": "inversion dec(x)", "victim": "additional-0", "config": {}, "seconds": 1.0,
        "device": "cpu", "metrics": {"rmse": {"value": 0.0712, "floor": 0.25}},
    }  # fmt: skip
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "results.jsonl").write_text(json.dumps(row) + "\n")
    pictures = published.tables([runs])[2]
    ours = find(pictures, "resnet20-alpha", "cifar10", "ours: all images, 20 epochs")
    assert ours["additional"].startswith("0.071 [")
    assert ours["mean image"] == "0.250"


def test_text_markdown_and_page(runs, tmp_path, capsys):
    argv = ["tables", str(runs), "--markdown", str(tmp_path / "t.md")]
    assert cli.run(report.main, [*argv, "--html", str(tmp_path / "t.html")]) == 0
    text, markdown, page = (
        capsys.readouterr().out, (tmp_path / "t.md").read_text(), (tmp_path / "t.html").read_text()
    )  # fmt: skip
    for written in (text, markdown, page):
        assert "12.00 ± 2.00 [" in written
        assert "not published" in written
    assert "| resnet20-alpha | cifar10 | paper | 11.56 |" in markdown
    assert "<td>11.56</td>" in page


def test_cells_cannot_break_a_table():
    table = Table("a & b", ("x|y",), [("<script>|",)])
    assert "| x\\|y |" in table.as_markdown()
    assert "<script>" not in table.as_html()
    assert "<td><code>a &lt; b</code></td>" in Table("t", ("x",), [("`a < b`",)]).as_html()


def test_no_results_are_refused(tmp_path, capsys):
    assert cli.run(report.main, ["tables", str(tmp_path)]) == 2
    assert "no results.jsonl in or below" in capsys.readouterr().err


def test_a_command_gives_its_configuration_back():
    import shlex

    from complexnn.cli import parse

    config = TrainConfig(
        net=NetConfig("resnet20", kind="noisy", gamma=0.5), epochs=7, compile=True, seed=3
    )
    words = shlex.split(command(config))
    assert words[:2] == ["python", "train.py"]
    assert parse(TrainConfig, words[2:], "train.py") == config
    assert command(TrainConfig()) == "python train.py"


def test_idle_settings_of_old_runs_do_not_matter():
    saved = to_dict(TrainConfig()) | {"nopeek_weight": 7.0}
    saved["net"]["gamma"] = 0.9  # the default once, perhaps
    assert from_dict(TrainConfig, saved) == TrainConfig()
