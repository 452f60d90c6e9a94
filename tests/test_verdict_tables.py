"""Verdicts by row, and the sentence over all rows: made rows on every side."""

import re

import pytest
from made_rows import CIFAR, angle, find, hidden, inversion, numbers, release, rows_of

from complexnn.attacks.roster import ROSTER, applicable
from complexnn.config import DataConfig, NetConfig
from complexnn.report import verdict_tables, verdicts
from complexnn.report.notes import Abbreviations
from complexnn.report.rows import collect
from complexnn.report.verdict_tables import by_network, network_verdicts, sentence

NET = {"arch": "resnet20"}
PAPER = (("resnet20-alpha", "cifar10"), ("resnet20-beta", "cifar10"), ("vgg16", "cub200"))


def table_of(folder):
    return by_network(collect([folder]), Abbreviations(), PAPER)


def plain(folder, *, errors=(0.10, 0.10, 0.30), **settings):
    """Original, additional and local: the server is worth 20 points."""
    for kind, error in zip(("original", "additional", "local"), errors, strict=True):
        net = settings.get("net", NET) | {"kind": kind}
        rows_of(folder / kind, **settings | {"net": net}, error=error)


def test_a_row_says_what_every_claim_s_verdict_rests_on(tmp_path):
    plain(tmp_path)
    attacks = [angle(0.04), inversion(0.05, 27.0), hidden(0.3),
               ("linearity", {"error_of_the_mean_matrix": numbers(0.2)})]  # fmt: skip
    rows_of(tmp_path / "complex", net=NET, error=0.15, attacks=attacks)
    row = find(table_of(tmp_path), "resnet20-alpha")
    assert row["complex / local / matrix"] == "15.00 / 30.00 / 20.00"
    assert row["accuracy kept"].startswith("holds in part: 75 % [")
    assert row["angle hidden"] == "FAILS: 0.040 rad"
    assert row["input hidden"] == "FAILS: +15.0 dB, 90 % found"
    assert row["property hidden"] == "FAILS: 30.0 %, blind 80.0"


def test_the_matrix_s_error_is_one_number_in_the_cell_and_in_the_reason(tmp_path):
    for seed, error in enumerate((0.2, 0.3)):
        measured = ("linearity", {"error_of_the_mean_matrix": numbers(error)})
        rows_of(tmp_path / str(seed), net=NET, seed=seed, attacks=[measured])
    (row,) = network_verdicts(collect([tmp_path]))
    assert find(table_of(tmp_path), "resnet20-alpha")["complex / local / matrix"].endswith("25.00")
    assert "; 25.0 % error with one fixed matrix" in row.verdicts["accuracy"][1]


def test_verdicts_are_those_of_the_written_rules(tmp_path):
    """The same as attack.py prints, whatever the rows are."""
    for number, error in enumerate((0.1, 1.0, 1.5)):
        rows_of(tmp_path / str(number), net=NET, lr=0.1 + number,
                attacks=[angle(error), inversion(0.05, 20.0 - 3 * number)])  # fmt: skip
    for row in network_verdicts(collect([tmp_path])):
        for claim in ("angle", "input"):
            assert row.verdicts[claim] == verdicts.marked(claim, row.runs.attacked)
        assert row.verdicts["property"] is None


def test_no_verdict_says_why(tmp_path):
    rows_of(tmp_path / "a", net=NET, attacks=[angle(1.2)])  # weakened, were it every attack
    row = find(table_of(tmp_path), "resnet20-alpha")
    assert row["accuracy kept"] == "undecided (without additional, local, original)"
    assert row["angle hidden"] == "undecided (attacks not run)"
    assert row["input hidden"] == "not attacked"
    assert row["property hidden"] == "–"
    plain(tmp_path, errors=(0.1, 0.1, 0.105))
    row = find(table_of(tmp_path), "resnet20-alpha")
    assert row["accuracy kept"] == "undecided (server worth too little)"
    data = DataConfig(dataset="cifar100", groups="superclasses")
    rows_of(tmp_path / "b", net=NET, data=data, attacks=[hidden(0.3, control=None)])
    rows_of(tmp_path / "c", net=NET | {"variant": "beta"}, data=data)
    assert find(table_of(tmp_path), "resnet20-beta")["property hidden"] == "not attacked"
    row = find(table_of(tmp_path), "resnet20-alpha", "cifar100 by superclasses")
    assert row["property hidden"] == "undecided (no control)"
    measured = ("linearity", {"error_of_the_mean_matrix": numbers(0.2)})
    rows_of(tmp_path / "d", net={"arch": "resnet32"}, attacks=[measured])
    row = find(table_of(tmp_path), "resnet32-alpha")
    assert row["accuracy kept"] == "undecided (without additional, local, original)"


def test_every_reason_of_the_rules_has_short_words():
    """Each reason for no verdict that the rules can give, as they give it."""
    from test_verdicts import inversion as judged_images
    from test_verdicts import row
    from test_verdicts import rows as rows_by_name

    angles = row("angle ica", {"angle_error": numbers(1.5, chance=1.57)}, images=8)
    wide = row("angle ica", {"angle_error": numbers(1.2, 0.5, chance=1.57)})
    blind = {"chance": 0.9, "given_label": 0.8, "control": 0.79}
    weak = row("property features", {"error": numbers(0.5, **blind)})
    found = [
        verdicts.angle_verdict(rows_by_name(angles)),
        verdicts.angle_verdict(rows_by_name(wide)),
        verdicts.input_verdict(judged_images(18, control=14.0)),
        verdicts.input_verdict(judged_images(18, control=None)),
        verdicts.property_verdict(rows_by_name(weak)),
    ]
    assert {verdict for verdict, _ in found} == {"undecided"}
    assert [verdict_tables._reason(why) for _, why in found] == [
        "too few groups", "too few images", "attack fails without rotation, too", "no control",
        "attack fails without rotation, too",
    ]  # fmt: skip


def test_what_rests_on_a_quick_budget_is_a_preview(tmp_path):
    rows_of(tmp_path / "a", net=NET, attacks=[angle(0.1)], budget="quick")
    table = table_of(tmp_path)
    assert find(table, "resnet20-alpha")["angle hidden"] == "FAILS (preview): 0.100 rad"
    assert "among these verdicts: 1." in table.note


def test_one_batch_is_named(tmp_path):
    rows_of(tmp_path / "a", net=NET | {"counterparts": "batch"},
            attacks=[angle(1.5), release(8e-10, 1.0)])  # fmt: skip
    row = find(table_of(tmp_path), "resnet20-alpha")
    assert row["input hidden"] == "FAILS: one batch 8e-10 rad"
    # What one group gives away is not hidden behind it.
    assert row["angle hidden"] == "FAILS: 1.500 rad, one batch 8e-10 rad"


def test_the_other_cut_lends_its_plain_networks_to_the_verdict_on_accuracy(tmp_path):
    plain(tmp_path)
    beta = NET | {"variant": "beta"}
    rows_of(tmp_path / "beta", net=beta, error=0.1)
    (row,) = network_verdicts(collect([tmp_path]))
    assert row.verdicts["accuracy"] == ("undecided", "not trained: local")
    rows_of(tmp_path / "beta-local", net=beta | {"kind": "local"}, error=0.4)
    (row,) = network_verdicts(collect([tmp_path]))
    assert row.verdicts["accuracy"][0] == "holds"


def test_the_paper_s_rows_stand_first_and_short_runs_nowhere(tmp_path):
    rows_of(tmp_path / "a", data=DataConfig())
    rows_of(tmp_path / "b", net=NET | {"variant": "beta"})
    rows_of(tmp_path / "c", net=NET)
    rows_of(tmp_path / "d", net=NET, data=DataConfig(dataset="cifar10", limit_train=50))
    table = table_of(tmp_path)
    assert [row[:2] for row in table.rows] == [*PAPER[:2], ("lenet", "digits")]
    assert table.note.startswith("Over 3 rows (2 of the paper's 3), each claim ")


# ------------------------------------------------------------------------------------- sentence


def every_angle_attack(error):
    found = [a for a in ROSTER if a.family == "angle" and applicable(a, NetConfig(**NET))]
    return [angle(error, attack.name.removeprefix("angle ")) for attack in found]


@pytest.mark.parametrize(
    ("errors", "said"),
    [
        ((0.1, 0.1, 0.1), "the angle is found in 3 of 3 attacked;"),
        ((0.1, 1.2, None), "the angle is found in 1 of 2 attacked (weakened in 1);"),
        ((1.5, 1.2, 0.1), "1 of 3 attacked (weakened in 1, withstood the attacks in 1);"),
        ((None, None, None), "the angle is found in 0 of 0 attacked;"),
    ],
)
def test_the_sentence_counts_rows(tmp_path, errors, said):
    for number, error in enumerate(errors):
        attacks = [] if error is None else [*every_angle_attack(error), release(1.57, 0.0)]
        data = DataConfig(dataset=("digits", "cifar10", "fashion-mnist")[number])
        rows_of(tmp_path / str(number), net=NET, data=data, attacks=attacks)
    found = sentence(network_verdicts(collect([tmp_path])))
    assert found.startswith("Over 3 rows, each claim ")
    assert said in found


def test_the_sentence_counts_a_row_once_for_each_claim_at_its_largest_budget(tmp_path):
    """A large budget that was not attacked, or lacks a `local`, does not hide what a small one
    shows."""
    plain(tmp_path)
    rows_of(tmp_path / "small", net=NET, error=0.1, attacks=[angle(0.1), inversion(0.05, 27.0)])
    rows_of(tmp_path / "early", net=NET | {"counterparts": "batch"}, error=0.1,
            attacks=[angle(0.1)])  # fmt: skip
    rows_of(tmp_path / "large", net=NET, error=0.3, epochs=100, attacks=every_angle_attack(1.2))
    found = sentence(network_verdicts(collect([tmp_path])))
    assert found.startswith("Over 1 row, ")
    assert "the angle is found in 0 of 1 attacked (undecided in 1)" in found  # without release
    assert "the input is recovered in 1 of 1 attacked;" in found
    assert "accuracy is kept in 1 of 1 that have a `local` beside them." in found


def test_the_sentence_agrees_with_a_count_of_the_cells(tmp_path):
    """A slow oracle: the table's cells, counted."""
    for number, error in enumerate((0.1, 0.15, 0.25, 0.102)):
        data = DataConfig(dataset=("digits", "cifar10", "fashion-mnist", "cifar100")[number])
        plain(tmp_path / str(number), data=data)
        rows_of(tmp_path / str(number) / "complex", net=NET, data=data, error=error,
                attacks=[angle(0.1 + 0.3 * number), hidden(0.2 + 0.2 * number)])  # fmt: skip
    table = table_of(tmp_path)
    told = table.note.split("\n")[0]
    heads = dict(zip(table.head, zip(*table.rows, strict=True), strict=True))
    for claim, words in (("angle hidden", "angle is found"), ("property hidden", "inferred")):
        fails = sum(cell.startswith("FAILS") for cell in heads[claim])
        assert re.search(rf"{words} in (\d+) of 4", told)[1] == str(fails)
    cells = [cell.partition(":")[0] for cell in heads["accuracy kept"]]
    kept, partly, lost = (cells.count(v) for v in ("holds", "holds in part", "FAILS"))
    assert (kept, partly, lost) == (2, 1, 1)
    assert f"kept in {kept} of 4 that have a `local` beside them (in part in {partly}, " in told
    assert f"not in {lost})" in told
    assert CIFAR.dataset in heads["data"]
