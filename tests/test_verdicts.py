"""Verdicts follow from rows by a rule: hand-made rows on every side of every threshold."""

import hashlib
import json
import re

import pytest

from complexnn import cli, verdicts
from complexnn.attacks.roster import ROSTER, applicable
from complexnn.config import NetConfig, TrainConfig, to_dict


def row(name, metrics, **more):
    family = name.split()[0]
    return {
        "name": name, "family": family, "metrics": metrics, "flags": [], "images": 100,
        "draws": 5, "config": {"budget": "standard"}, **more,
    }  # fmt: skip


def numbers(value, width=0.01, **beside):
    return {"value": value, "low": value - width, "high": value + width, **beside}


def rows(*every):
    return {r["name"]: r for r in every}


@pytest.mark.parametrize(
    ("error", "verdict"),
    [(0.05, "FAILS"), (0.77, "FAILS"), (0.79, "weakened"), (1.40, "weakened"),
     (1.45, "withstood these attacks")],
)  # fmt: skip
def test_the_angle_is_judged_against_blind_guessing(error, verdict):
    weak = row("angle phase", {"angle_error": numbers(1.57, chance=1.57)})
    strong = row("angle ica", {"angle_error": numbers(error, chance=1.57)})
    assert verdicts.angle_verdict(rows(weak, strong))[0] == verdict


def test_no_key_no_verdict():
    assert verdicts.angle_verdict({})[0] == "undecided"


def inversion(psnr, *, control=22.0, top1=0.001, width=0.01):
    metrics = {
        "psnr": numbers(psnr, width, floor=12.0, control=control),
        "top1": numbers(top1, 0.0005, chance=0.001),
    }
    return rows(row("inversion dec(x)", metrics))


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (inversion(18), "FAILS"),  # 6 of 10 dB
        (inversion(16), "weakened"),
        (inversion(12.5), "withstood these attacks"),
        (inversion(12.5, top1=0.005), "weakened"),
        (inversion(12.5, top1=0.02), "FAILS"),
        (inversion(18, control=14.0), "undecided"),  # the attack does not work without protection
        (inversion(18, control=None), "undecided"),
        ({}, "undecided"),
    ],
)
def test_the_input_is_judged_against_mean_image_and_unprotected_network(found, verdict):
    assert verdicts.input_verdict(found)[0] == verdict


def test_the_span_alone_can_break_the_input():
    spanned = row("span", {"top1": numbers(1.0, 0.0, chance=0.001)})
    verdict, why = verdicts.input_verdict(inversion(12.0) | rows(spanned))
    assert verdict == "FAILS"
    assert "100.0 % identified, chance 0.1 %" in why


@pytest.mark.parametrize(
    ("error", "control", "verdict"),
    [
        (0.2, 0.1, "FAILS"),
        (0.7, 0.1, "weakened"),
        (0.8, 0.1, "withstood these attacks"),  # known from the victim's label anyway
        (0.2, 0.79, "undecided"),
        (0.2, None, "undecided"),
    ],
)
def test_the_property_is_judged_against_what_the_label_tells(error, control, verdict):
    metrics = {"error": numbers(error, chance=0.9, given_label=0.8, control=control)}
    assert verdicts.property_verdict(rows(row("property features", metrics)))[0] == verdict


@pytest.mark.parametrize(
    ("error", "left_out", "verdict"),
    [
        (1.5, None, "withstood these attacks"),
        (1.5, "angle critic-search", "undecided"),
        (1.2, None, "weakened"),
        (1.2, "angle ica", "undecided"),
        (0.1, "angle ica", "FAILS"),  # one strong attack is enough
    ],
)
def test_who_withstood_some_attacks_only_is_undecided(error, left_out, verdict):
    net = NetConfig()
    task = {"name": "task", "config": to_dict(TrainConfig(net=net))}
    every = [a.name for a in ROSTER if a.family == "angle" and applicable(a, net)]
    assert "angle critic-search" in every
    made = [
        row(name, {"angle_error": numbers(error, chance=1.57)})
        for name in every
        if name != left_out
    ]
    found, why = verdicts.judge("angle", rows(task, *made))
    assert found == verdict
    assert why.endswith(f"not run: {left_out}") == (found == "undecided")


def test_a_quick_budget_is_called_a_preview():
    quick = row("angle ica", {"angle_error": numbers(0.1, chance=1.57)})
    quick["config"] = {"budget": "quick"}
    assert "FAILS (budget quick: a preview)" in verdicts.verdicts(rows(quick))[0]


def test_a_costlier_attack_that_is_weaker_is_flagged():
    found = rows(
        row("angle ica", {"angle_error": numbers(0.1, chance=1.57)}),
        row("angle critic-search", {"angle_error": numbers(0.5, chance=1.57)}),
    )
    table = verdicts.attack_table(found, "t")
    assert [line[-1] for line in table.rows] == ["", "weaker than the cheaper angle ica"]


@pytest.fixture
def runs(tmp_path):
    for name, psnr in (("a", 20.0), ("b", 14.0)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(name.encode())
        victim = hashlib.sha256(name.encode()).hexdigest()
        error = numbers(0.1, chance=0.9)
        config = TrainConfig(net=NetConfig(kind="additional" if name == "a" else "complex"))
        task = {"name": "task", "metrics": {"error": error}, "config": to_dict(config)}
        attack = row("inversion dec(x)", {"psnr": numbers(psnr, floor=12.0, control=20.0)})
        foreign = row("angle ica", {"angle_error": numbers(0.0, chance=1.57)}, victim="other")
        lines = [task | {"victim": victim}, attack | {"victim": victim}, foreign]
        (folder / "results.jsonl").write_text("".join(json.dumps(r) + "\n" for r in lines))
    return tmp_path


def test_runs_are_compared_in_a_table_and_a_picture(runs, capsys):
    picture = runs / "compare.png"
    argv = ["compare", str(runs / "a"), str(runs / "b"), "--picture", str(picture)]
    assert cli.run(cli.attack_main, argv) == 0
    out = capsys.readouterr().out
    assert "lenet additional" in out
    assert "20 dB (12) by dec(x)" in out
    assert "0 rad" not in out, "an attack on other weights was counted"
    assert picture.stat().st_size > 1000


@pytest.mark.parametrize(
    ("folder", "message"), [("nowhere", "is no finished run"), ("c", "was not attacked")]
)
def test_what_cannot_be_compared_is_named(runs, capsys, folder, message):
    (runs / "c").mkdir()
    (runs / "c" / "model.safetensors").write_bytes(b"c")
    assert cli.run(cli.attack_main, ["compare", str(runs / folder)]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("truth", "flagged"), [("another query's", True), ("nobody's", False)])
def test_an_evaluation_that_leaks_is_flagged(truth, flagged):
    """Answers that fit another query's truth better than blind ones do; and blind answers."""
    import torch

    from complexnn.attacks import roster, suite

    attack = next(a for a in roster.ROSTER if a.name == "angle phase")
    centre = 0.8 if flagged else 1.5708
    others = {"angle_error": centre + 0.9 * torch.randn(1, 200)}
    measured = {"angle_error": numbers(0.1, chance=1.5708)}
    assert bool(suite._flags({}, attack, measured, others)) == flagged


@pytest.mark.parametrize("name", ["property features", "inversion dec(x)", "angle ica"])
def test_a_network_that_did_not_learn_is_flagged(name):
    """Under the name that it is kept under."""
    from complexnn.attacks import roster, suite
    from complexnn.attacks.fitting import FitLog

    attack = next(a for a in roster.ROSTER if a.name == name)
    kept = ("property_features", "dec_x", "judge")
    flat = {file: FitLog(first=1.0, last=1.0, validation=1.0) for file in kept}
    assert len(suite._flags(flat, attack, {}, {})) == 1


def errors(original, additional, local, rotated, width=0.005):
    kinds = {"original": original, "additional": additional, "local": local, "complex": rotated}
    return {kind: [numbers(value, width)] for kind, value in kinds.items()}


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (errors(0.10, 0.10, 0.30, 0.10), "holds"),
        (errors(0.10, 0.10, 0.30, 0.15), "holds in part"),  # 75 % of 20 points
        (errors(0.10, 0.10, 0.30, 0.115), "holds in part"),  # 92.5 %, but the interval reaches 90
        (errors(0.10, 0.10, 0.30, 0.25), "FAILS"),
        (errors(0.10, 0.10, 0.105, 0.10), "undecided"),  # half a point of worth
        (errors(0.10, 0.10, 0.14, 0.10, width=0.05), "undecided"),  # noise could be the worth
        (errors(0.10, 0.10, 0.30, 0.10) | {"local": []}, "undecided"),
    ],
)
def test_accuracy_is_judged_by_what_the_server_is_worth(found, verdict):
    assert verdicts.accuracy_verdict(found)[0] == verdict


def test_the_interval_of_what_is_kept_agrees_with_sampling():
    import random

    draw = random.Random(0).gauss
    deviation = 0.004
    found = errors(0.10, 0.10, 0.30, 0.16, width=1.96 * deviation)
    low, high = re.search(
        r"\[(\d+), (\d+)\] are kept", verdicts.accuracy_verdict(found)[1]
    ).groups()
    kept = []
    for _ in range(20_000):
        local, rotated, additional = (draw(v, deviation) for v in (0.30, 0.16, 0.10))
        kept.append(100 * (local - rotated) / (local - additional))
    kept.sort()
    assert abs(kept[500] - int(low)) < 1
    assert abs(kept[-500] - int(high)) < 1


def test_more_seeds_narrow_the_interval():
    one = verdicts.accuracy_verdict(errors(0.10, 0.10, 0.30, 0.115))[0]
    each = errors(0.10, 0.10, 0.30, 0.115)
    many = verdicts.accuracy_verdict({kind: 9 * numbers for kind, numbers in each.items()})[0]
    assert (one, many) == ("holds in part", "holds")


def test_seeds_that_disagree_widen_the_interval():
    """The deviation of a share whose controls are known exactly is the seeds' over the worth."""
    exact = [[numbers(0.1, 1e-9)], [numbers(0.3, 1e-9)]]
    alike = [numbers(0.16, 0.0196)] * 3
    apart = [numbers(value, 0.0196) for value in (0.14, 0.16, 0.18)]
    widths = []
    for seeds in (alike, apart):
        share, low, high = verdicts.kept(*exact, seeds)
        assert share == pytest.approx(0.7)
        widths.append((high - low) / 2 / 1.96 * 0.2)
    assert widths[0] == pytest.approx(0.01 / 3**0.5)
    assert widths[1] == pytest.approx(((0.01**2 + 0.02**2) / 3) ** 0.5)
