"""The paper's tables with this project's rows in the same lines: known answers from made rows."""

import dataclasses
import json
import re

import pytest
from made_rows import CIFAR, angle, find, hidden, inversion, numbers, release, rows_of

from complexnn.commands import app, report
from complexnn.config import DataConfig, NetConfig, TrainConfig
from complexnn.config_io import command, from_dict, to_dict
from complexnn.report import paper
from complexnn.report.published import read_published
from complexnn.report.rows import collect
from complexnn.runs.tables import Table

NET = {"arch": "resnet20"}
ERRORS, NOISY, ANGLES, ROTATED, PLAIN, PROPERTIES, VERDICTS, FURTHER, RUNS = range(9)
COMPLEX = "complex: paper / 2021 / ours"


def tables_of(folder):
    return paper.tables(collect([folder]))


@pytest.fixture
def runs(tmp_path):
    for seed, error in enumerate((0.10, 0.12, 0.14)):
        rows_of(tmp_path / f"complex{seed}", seed=seed, error=error, net=NET,
                attacks=[angle(0.02 + 0.01 * seed)])  # fmt: skip
    rows_of(tmp_path / "additional", net=NET | {"kind": "additional"},
            attacks=[inversion(0.0712, 23.04)])  # fmt: skip
    rows_of(tmp_path / "packed", net=NET | {"group": "packed", "dim": 4})
    rows_of(tmp_path / "beta", net=NET | {"variant": "beta"}, error=0.5)
    rows_of(tmp_path / "short", net=NET, epochs=3, error=0.6)
    return tmp_path


def test_every_published_number_is_in_the_line_of_its_network_and_data(runs):
    """A slow look at the file: each number stands in one cell of the one line with a number."""
    tables, given = tables_of(runs), read_published()
    places = {
        "paper": {"original": (ERRORS, "original"), "additional_layers": (ERRORS, "additional"),
                  "complex": (ERRORS, "complex"), "noisy_0_2": (NOISY, "noisy γ=0.2"),
                  "noisy_0_5": (NOISY, "noisy γ=0.5"), "noisy_1_0": (NOISY, "noisy γ=1")},
    }  # fmt: skip
    looked = 0

    def holds(table, row, head, value, digits):
        nonlocal looked
        place = row["arch"], row["dataset"]
        (line, *_) = [r for r in tables[table].rows if (r[0], r[1].partition(" (")[0]) == place]
        (cell,) = [c for h, c in zip(tables[table].head, line, strict=True) if h.startswith(head)]
        shown = [" ".join(part.split()) for part in cell.split(" / ")]
        at = 0 if row["source"] == "paper" or len(shown) == 2 else 1
        assert shown[at] == f"{value:.{digits}f}", (place, head)
        looked += 1

    for row in given["classification_error_percent"]:
        for key, (table, head) in places["paper"].items():
            if row[key] is not None:
                holds(table, row, head, row[key], 2)
    for row in given["angle_error_radian"]["rows"]:
        for source in ("paper", "reproduction"):
            if row[source] is not None:
                holds(ANGLES, row | {"source": source}, "paper / 2021", row[source], 4)
    heads = {"complex_dec_a": (ROTATED, "dec(a*)"), "complex_dec_x": (ROTATED, "dec(x)"),
             "original": (PLAIN, "original"), "additional_layers": (PLAIN, "additional"),
             "noisy_0_2": (PLAIN, "noisy γ=0.2"), "noisy_0_5": (PLAIN, "noisy γ=0.5"),
             "noisy_1_0": (PLAIN, "noisy γ=1")}  # fmt: skip
    for row in given["reconstruction_error"]["rows"]:
        for key, (table, head) in heads.items():
            if row.get(key) is not None:
                holds(table, row, head, row[key], 4)
    assert looked > 150


def test_one_line_for_each_network_and_data_set_of_the_paper(tmp_path):
    rows_of(tmp_path / "other", data=DataConfig())  # digits: none of the paper's
    tables = tables_of(tmp_path)
    for table in (ERRORS, ANGLES):
        assert len({row[:2] for row in tables[table].rows}) == len(tables[table].rows) == 16
    assert len(tables[ROTATED].rows) == len(tables[PLAIN].rows) == 13
    assert {row[1] for row in tables[PROPERTIES].rows} == {"cifar100 by superclasses", "celeba"}
    assert [row[:2] for row in tables[FURTHER].rows] == [("lenet", "digits")]


def test_ours_are_mean_and_deviation_over_seeds_with_their_command(runs):
    tables = tables_of(runs)
    ours = find(tables[ERRORS], "resnet20-alpha", "cifar10")
    assert ours[COMPLEX] == "10.91 / 11.88 / 12.00 ± 2.00"
    assert ours["original: paper / 2021 / ours"] == "11.56 / 7.77 / not trained yet"
    assert ours["additional: paper / 2021 / ours"] == "9.68 / 9.06 / 9.00"
    found = find(tables[ANGLES], "resnet20-alpha", "cifar10")
    said = "paper / 2021 / ours, strongest attack"
    assert found[said] == "0.7890 / 0.0842 / 0.0300 ± 0.0100 by ica"
    number = re.search(r"\[(\d+)\]", found["ours"])[1]
    line = find(tables[RUNS], f"[{number}]")
    assert line["command"] == "python train.py --arch resnet20 --dataset cifar10"
    assert (line["seeds"], line["error in %"]) == ("0, 1, 2", "12.00 ± 2.00")


def test_the_largest_budget_stands_in_the_line_and_others_below_it(runs):
    rows_of(runs / "long", net=NET, epochs=100, error=0.08)
    rows_of(runs / "part", net=NET, epochs=500, error=0.3,
            data=dataclasses.replace(CIFAR, limit_train=1000))  # fmt: skip
    table = tables_of(runs)[ERRORS]
    lines = [find(table, "resnet20-alpha", "cifar10", at=k) for k in range(4)]
    told = [(line["ours"].partition(" [")[0], line[COMPLEX]) for line in lines]
    assert told == [
        ("100 epochs", "10.91 / 11.88 / 8.00"), ("20 epochs", '" / " / 12.00 ± 2.00'),
        ("3 epochs", '" / " / 60.00'), ("500 epochs, 1,000 images", '" / " / 30.00'),
    ]  # fmt: skip


def test_runs_that_were_trained_otherwise_do_not_share_a_line(runs):
    rows_of(runs / "slow", net=NET, lr=1e-4, error=0.7)
    table = tables_of(runs)[ERRORS]
    lines = [find(table, "resnet20-alpha", "cifar10", at=k) for k in range(3)]
    told = {line["ours"].partition(" [")[0]: line[COMPLEX] for line in lines}
    assert told["20 epochs"].endswith("12.00 ± 2.00")
    assert told["20 epochs, A"].endswith("70.00")
    assert "A: `--lr 0.0001`" in table.note


def test_decoys_of_early_versions_and_from_blocks_do_not_share_a_line(runs):
    """Which is hidden in no label; networks without decoys stand beside both."""
    rows_of(runs / "early", net=NET | {"counterparts": "batch"}, error=0.3,
            attacks=[release(8e-10, 0.75)])  # fmt: skip
    tables = tables_of(runs)
    lines = [find(tables[ERRORS], "resnet20-alpha", "cifar10", at=k) for k in range(2)]
    assert [line[COMPLEX].rpartition("/ ")[2] for line in lines] == ["12.00 ± 2.00", "30.00"]
    assert {line["additional: paper / 2021 / ours"][-4:] for line in lines} == {"9.00"}
    assert lines[1]["ours"].startswith("20 epochs, A [")
    assert "A: `--counterparts batch`" in tables[ERRORS].note
    found = find(tables[ANGLES], "resnet20-alpha", "cifar10", at=1)
    assert found["ours, whole release"] == "8.0e-10 (75.0 % found)"


def test_a_release_that_gives_nothing_says_so(tmp_path):
    rows_of(tmp_path / "a", net=NET, attacks=[angle(0.5), release(1.5708, 0.0)])
    found = find(tables_of(tmp_path)[ANGLES], "resnet20-alpha", "cifar10")
    assert found["ours, whole release"] == "finds nothing"


def test_a_missing_cell_says_why(runs):
    tables = tables_of(runs)
    beta = find(tables[ANGLES], "resnet20-beta", "cifar10")
    assert beta["paper / 2021 / ours, strongest attack"] == "0.7859 / 0.0884 / not attacked"
    assert beta["ours"] == "20 epochs"
    deep = find(tables[ANGLES], "resnet110-beta", "cifar10")
    assert deep["paper / 2021 / ours, strongest attack"] == "0.7818 / n.p. / not trained yet"
    birds = find(tables[ERRORS], "vgg16", "cub200")
    assert birds[COMPLEX] == "78.50 / n.p. / data: not available"
    assert find(tables[PLAIN], "resnet20-beta", "cifar10")["noisy γ=1: 2021 / ours"] == "–"


def test_what_both_cuts_share_stands_in_the_lines_of_both(runs):
    tables = tables_of(runs)
    beta = find(tables[ERRORS], "resnet20-beta", "cifar10")
    assert beta["additional: paper / 2021 / ours"] == "9.79 / 8.30 / 9.00 (α)"
    assert beta[COMPLEX] == "12.28 / 13.13 / 50.00"
    shown = find(tables[PLAIN], "resnet20-beta", "cifar10")
    assert shown["additional: 2021 / ours"] == "0.1009 / 0.071 (23.0) (α)"
    rows_of(runs / "own", net=NET | {"kind": "additional", "variant": "beta"}, error=0.07)
    beta = find(tables_of(runs)[ERRORS], "resnet20-beta", "cifar10")
    assert beta["additional: paper / 2021 / ours"] == "9.79 / 8.30 / 7.00"


def test_another_budget_or_control_is_not_shared_between_cuts(runs):
    rows_of(runs / "long", net=NET | {"kind": "original"}, epochs=100)
    rows_of(runs / "local", net=NET | {"kind": "local"})
    beta = find(tables_of(runs)[ERRORS], "resnet20-beta", "cifar10")
    assert beta["ours"].startswith("20 epochs")
    assert beta["original: paper / 2021 / ours"] == "11.99 / 8.03 / not trained yet"
    assert beta["local: ours"] == "not trained yet"


def test_reconstructions_have_rmse_and_psnr_and_the_attack_with_a_key(tmp_path):
    attacks = [inversion(0.0612, 24.26, "dec(a*)"), inversion(0.11, 19.2),
               inversion(0.03, 31.7, "optimised with key")]  # fmt: skip
    rows_of(tmp_path / "c", net={"arch": "resnet32"}, attacks=attacks)
    shown = find(tables_of(tmp_path)[ROTATED], "resnet32-alpha", "cifar10")
    assert shown["dec(a*): paper / 2021 / ours"] == "0.2569 / 0.1931 / 0.061 (24.3)"
    assert shown["dec(x): paper / 2021 / ours"] == "0.2412 / 0.2544 / 0.110 (19.2)"
    assert shown["optimised with key: ours"] == "0.030 (31.7)"
    assert shown["mean image"] == "0.250 (12.0)"


def test_properties_stand_beside_the_reproduction_s(tmp_path):
    data = DataConfig(dataset="cifar100", groups="superclasses")
    rows_of(tmp_path / "c", net={"arch": "resnet56"}, data=data,
            attacks=[hidden(0.3), hidden(0.4, "1-nn"), hidden(0.5, "released")])  # fmt: skip
    table = tables_of(tmp_path)[PROPERTIES]
    found = {row[3]: [" ".join(c.split()) for c in row[4:]] for row in table.rows
             if row[0].startswith("resnet")}  # fmt: skip
    assert found["classifier trained on recovered features a*"] == [
        "0.332 / not trained yet", "0.414 / 0.300", "0.800",
    ]  # fmt: skip
    assert found["classifier trained on reconstructions"][1] == "0.432 / not attacked"
    assert found["1 nearest neighbour of a*"][1] == "n.p. / 0.400"
    assert found["ours: classifier trained on all released parts"][1] == "n.p. / 0.500"
    assert "ours: classifier trained on denoised views" not in found


def test_attacks_of_a_quick_budget_are_marked(tmp_path):
    attacks = [angle(0.5), inversion(0.05, 26.0)]
    rows_of(tmp_path / "c", net={"arch": "lenet"}, attacks=attacks, budget="quick")
    tables = tables_of(tmp_path)
    found = find(tables[ANGLES], "lenet", "cifar10")
    assert found["paper / 2021 / ours, strongest attack"].endswith("by ica (quick)")
    found = find(tables[ROTATED], "lenet", "cifar10")
    assert found["dec(x): paper / 2021 / ours"].endswith("0.050 (26.0) (quick)")


def test_what_is_unofficial_about_data_stands_under_every_table_with_such_a_number(tmp_path):
    folder = "image folder {}, in its own split into training and test images"
    counts = {"train": 45_000, "validation": 5_000, "test": 10_000}
    for name in ("cifar10", "cifar100"):
        rows_of(tmp_path / name, data=DataConfig(dataset=name), attacks=[angle(0.1)],
                about=counts | {"source": folder.format(name)})  # fmt: skip
    faces = "subset: 5 of the listed images are not there"
    rows_of(tmp_path / "faces", net={"arch": "alexnet"}, data=DataConfig(dataset="celeba"),
            about=counts | {"source": faces}, attacks=[angle(0.1), hidden(0.3)])  # fmt: skip
    tables = tables_of(tmp_path)
    told = {"cifar10": "173 of the 10,000", "cifar100": "NOT the official split", "celeba": faces}
    for table in (ERRORS, ANGLES, PROPERTIES, VERDICTS):
        with_numbers = {row[1].partition(" (")[0] for row in tables[table].rows if row[2]}
        assert with_numbers, table
        for name, words in told.items():
            assert (words in tables[table].note) == (name in with_numbers), (table, name)
    assert "trained on 45,000, validated on 5,000" in tables[ERRORS].note
    row = find(tables[ERRORS], "lenet", "cifar100 (b)")
    assert row[COMPLEX].endswith(" / 9.00")


def test_official_data_and_another_split_are_two_lines(tmp_path):
    data = DataConfig(dataset="cifar100")
    counts = {"train": 45_000, "validation": 5_000, "test": 10_000}
    rows_of(tmp_path / "a", data=data, error=0.5, about=counts)
    rows_of(tmp_path / "b", data=data, error=0.6, seed=1, about=counts | {"source": "image folder"})
    table = tables_of(tmp_path)[ERRORS]
    lines = {row[1]: row[5].split()[-1] for row in table.rows if row[:1] == ("lenet",)}
    assert lines == {"cifar10": "yet", "cifar100": "50.00", "cifar100 (a)": "60.00"}


def test_a_folder_that_is_called_like_a_data_set_is_not_taken_for_it(tmp_path):
    data = DataConfig(dataset="folder", data_dir=tmp_path / "cifar10")
    rows_of(tmp_path / "a", net=NET, data=data)
    tables = tables_of(tmp_path)
    assert find(tables[ERRORS], "resnet20-alpha", "cifar10")["ours"] == ""
    assert [row[1] for row in tables[FURTHER].rows] == ["folder cifar10"]


def test_what_has_no_place_in_the_paper_s_tables_stands_behind_them(runs):
    rows_of(runs / "no-critic", net=NET, adversarial_weight=0.0, error=0.2, attacks=[angle(0.4)])
    rows_of(runs / "jpeg", net=NET, data=DataConfig(dataset="folder", data_dir=runs / "jpeg"))
    table = tables_of(runs)[FURTHER]
    assert [row[1:4] for row in table.rows] == [
        ("cifar10", "20 epochs", "complex d=4 packed"),
        ("cifar10", "20 epochs", "complex d=2 decoy, no critic"),
        ("jpeg", "20 epochs", "complex d=2 decoy"),
    ]
    assert table.rows[1][4].startswith("20.00 [")
    assert table.rows[1][5].startswith("0.400 [")


def test_attacks_in_another_folder_find_their_victim(runs, tmp_path):
    row = {
        "name": "inversion dec(x)", "victim": str(runs / "beta"), "config": {}, "seconds": 1.0,
        "device": "cpu", "metrics": {"rmse": numbers(0.0712, floor=0.25)}, "images": 10,
    }  # fmt: skip
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "results.jsonl").write_text(json.dumps(row) + "\n")
    shown = find(tables_of(runs)[ROTATED], "resnet20-beta", "cifar10")
    assert shown["dec(x): paper / 2021 / ours"] == "n.p. / 0.2865 / 0.071"
    assert shown["mean image"] == "0.250"


def test_text_markdown_and_page(runs, tmp_path, capsys):
    argv = ["tables", str(runs), "--markdown", str(tmp_path / "t.md")]
    assert app.run(report.main, [*argv, "--html", str(tmp_path / "t.html")]) == 0
    text, markdown, page = (
        capsys.readouterr().out, (tmp_path / "t.md").read_text(), (tmp_path / "t.html").read_text()
    )  # fmt: skip
    for written in (text, markdown, page):
        assert "10.91 / 11.88 / 12.00 ± 2.00" in written
        assert "not published" in written
    paper = text[: text.index("Further networks")]
    assert max(map(len, paper.splitlines())) <= 190


def test_notes_of_several_paragraphs():
    table = Table("t", ("x",), [("y",)], "one\ntwo " + 40 * "words ")
    assert "<p>one</p><p>two words" in table.as_html()
    assert "\n\none\n\ntwo words" in table.as_markdown()
    assert max(map(len, table.as_text().splitlines())) <= 120


def test_cells_cannot_break_a_table():
    table = Table("a & b", ("x|y",), [("<script>|",)])
    assert "| x\\|y |" in table.as_markdown()
    assert "<script>" not in table.as_html()
    assert "<td><code>a &lt; b</code></td>" in Table("t", ("x",), [("`a < b`",)]).as_html()


def test_no_results_are_refused(tmp_path, capsys):
    assert app.run(report.main, ["tables", str(tmp_path)]) == 2
    assert "no results.jsonl in or below" in capsys.readouterr().err


def test_a_command_gives_its_configuration_back():
    import shlex

    from complexnn.commands.app import parse

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
