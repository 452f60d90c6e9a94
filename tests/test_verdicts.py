"""Verdicts follow from rows by a rule: hand-made rows on every side of every threshold."""

import hashlib
import io
import json
import re
import sys
from pathlib import Path

import pytest

from complexnn.attacks import worst
from complexnn.attacks.roster import ROSTER, applicable
from complexnn.commands import app, report
from complexnn.commands import attack as attack_command
from complexnn.config import NetConfig, TrainConfig
from complexnn.config_io import to_dict
from complexnn.report import attack_tables, ranking, verdicts
from complexnn.runs.results import read_rows

ROOT = Path(__file__).parent.parent


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


def inversion(psnr, *, control=22.0, top1=0.001, width=0.01, images=10_000):
    metrics = {
        "psnr": numbers(psnr, width, floor=12.0, control=control),
        "top1": numbers(top1, 0.0005, chance=0.001),
    }
    return rows(row("inversion dec(x)", metrics, images=images))


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
        # Nothing is known from a few images, whatever their own numbers are.
        (inversion(12.5, top1=0, images=8), "undecided"),
        (inversion(12.5, top1=0, images=500), "undecided"),
        (inversion(12.5, top1=0.001, images=2000), "undecided"),
        (inversion(12.5, width=2), "undecided"),
        (inversion(14, width=0.5), "weakened"),
        ({}, "undecided"),
    ],
)
def test_the_input_is_judged_against_mean_image_and_unprotected_network(found, verdict):
    assert verdicts.input_verdict(found)[0] == verdict


def test_the_span_alone_can_break_the_input():
    spanned = row("span", {"top1": numbers(1.0, 0.0, chance=0.001)})
    verdict, why = verdicts.input_verdict(inversion(12.0) | rows(spanned))
    assert verdict == "FAILS"
    assert "100.0 [96.3, 100.0] % identified, chance 0.1 %" in why


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
    found = rows(row("property features", metrics, images=2000))
    assert verdicts.property_verdict(found)[0] == verdict


@pytest.mark.parametrize(
    ("error", "left_out", "verdict"),
    [
        (1.5, None, "withstood these attacks"),
        (1.5, "angle critic-search", "undecided"),
        (1.2, None, "weakened"),
        (1.2, "angle ica", "undecided"),
        (1.2, "release", "undecided"),
        (0.1, "angle ica", "FAILS"),  # one strong attack is enough
    ],
)
def test_who_withstood_some_attacks_only_is_undecided(error, left_out, verdict):
    net = NetConfig()
    task = {"name": "task", "config": to_dict(TrainConfig(net=net))}
    families = verdicts.FAMILIES["angle"]
    every = [a.name for a in ROSTER if a.family in families and applicable(a, net)]
    assert {"angle critic-search", "release"} <= set(every)
    made = [
        row(name, {"angle_error": numbers(error, chance=1.57)})
        for name in every
        if name != left_out
    ]
    found, why = verdicts.decide("angle", rows(task, *made))
    assert found == verdict
    assert why.endswith(f"not run: {left_out}") == (found == "undecided")


@pytest.mark.parametrize(("error", "verdict"), [(1.05, "undecided"), (0.1, "FAILS")])
def test_an_attack_that_became_stronger_has_not_been_withstood(error, verdict):
    net = NetConfig(group="packed", dim=8)
    task = {"name": "task", "config": to_dict(TrainConfig(net=net))}
    every = [a for a in ROSTER if a.family in ("angle", "release") and applicable(a, net)]
    assert any(a.name == "angle dss" and a.version > 1 for a in every)
    now = [
        row(a.name, {"angle_error": numbers(error, chance=1.08)}, version=a.version, images=1000)
        for a in every
    ]
    then = [r | {"version": 1} for r in now]
    assert verdicts.decide("angle", rows(task, *now))[0] in ("withstood these attacks", "FAILS")
    found, why = verdicts.decide("angle", rows(task, *then))
    assert found == verdict
    assert why.endswith("not run: angle dss as it is now") == (found == "undecided")


def test_a_few_wrong_guesses_do_not_withstand_the_property():
    metrics = {"error": numbers(0.8, chance=0.9, given_label=0.8, control=0.1)}
    found = rows(row("property features", metrics, images=30))
    verdict, why = verdicts.property_verdict(found)
    assert verdict == "undecided"
    assert "too few images" in why


@pytest.mark.parametrize(
    ("error", "width", "verdict"),
    [(1.2, 0.1, "weakened"), (1.2, 0.5, "undecided"), (1.5, 0.5, "undecided")],
)
def test_an_angle_that_may_be_guessed_blindly_is_not_weakened(error, width, verdict):
    found = rows(row("angle ica", {"angle_error": numbers(error, width, chance=1.57)}))
    assert verdicts.angle_verdict(found)[0] == verdict


def task_of(**net):
    return {"name": "task", "config": to_dict(TrainConfig(net=NetConfig(**net)))}


@pytest.mark.parametrize(
    ("error", "images", "verdict"),
    [
        (1.5, 8 * 16, "withstood these attacks"),
        (1.5, 8 * 15, "undecided"),  # fifteen groups
        (0.1, 8 * 16, "FAILS"),
        (0.1, 8 * 2, "weakened"),  # two groups, by Student's t, say little
    ],
)
def test_images_that_share_a_key_count_as_one(error, images, verdict):
    metrics = {"angle_error": numbers(error, 0.01 if error > 1 else 0.05, chance=1.57)}
    packed = task_of(group="packed", dim=8)
    found = rows(packed, row("angle dss", metrics, images=images))
    assert verdicts.angle_verdict(found)[0] == verdict
    # A row that tells its groups has its interval over them.
    told = rows(packed, row("angle dss", metrics, images=images, groups=images))
    expected = {"undecided": "withstood these attacks", "weakened": "FAILS"}
    assert verdicts.angle_verdict(told)[0] == expected.get(verdict, verdict)


def test_shares_of_old_rows_get_wilson_intervals():
    """Bootstrap intervals of nothing found are [0, 0]."""
    old = row("span", {"top1": numbers(0.0, 0.0, chance=0.001)}, images=8)
    seen = ranking.identified(rows(old))
    assert (seen["low"], seen["high"]) == pytest.approx((0, 0.3244), abs=1e-4)
    new = row("span", {"top1": numbers(0.0, 0.0, chance=0.001)}, images=8, groups=4)
    assert ranking.identified(rows(new))["high"] == 0  # as the row says


def test_no_attack_wins_by_the_images_that_it_happened_to_get():
    def made(name, psnr, width, images, floor=12.0):
        return row(name, {"psnr": numbers(psnr, width, floor=floor)}, images=images)

    many = made("inversion dec(x)", 20, 0.1, 2000)
    lucky = made("inversion optimised with key", 21, 1.5, 50)
    clear = made("inversion optimised without key", 24, 1.5, 50)
    easy = made("inversion dss", 24, 1.5, 60, floor=17.0)  # on images that any answer fits
    assert ranking.strongest(rows(many, lucky), "inversion")[0] == "dec(x)"
    assert ranking.strongest(rows(many, lucky, easy), "inversion")[0] == "dec(x)"
    assert ranking.strongest(rows(many, lucky, clear, easy), "inversion")[0] == (
        "optimised without key"
    )
    # On the same images the mean decides, however wide the interval is.
    wide = made("inversion query-free", 20.5, 3, 2000)
    assert ranking.strongest(rows(many, wide), "inversion")[0] == "query-free"


def test_what_the_truth_chose_among_several_answers_makes_no_attack_the_strongest():
    """Eight blind images in the best order reach more than one: so does an attack with eight."""
    chosen = row("inversion dec(x)", {"psnr": numbers(14.0, floor=13.8, control=22.0)})
    shown = row("inversion dss", {"psnr": numbers(13.9, floor=12.0, control=22.0)})
    for found in (rows(chosen, shown), rows(shown, chosen)):
        name, best = ranking.strongest(found, "inversion")
        assert (name, best["floor"]) == ("dss", 12.0)
        assert verdicts.input_verdict(found)[0] == "weakened"
        flags = {line[0]: line[-1] for line in attack_tables.attack_table(found, "t").rows}
        assert flags["inversion dss"] == ""


def test_the_worst_case_is_no_attack_and_none_by_the_old_rule_is_shown():
    one = row("inversion dec(x)", {"psnr": numbers(20, floor=12.0)})
    old = row(worst.NAME, {"psnr": numbers(25, floor=12.0)})
    new = old | {"rule": worst.RULE}
    for found, shown in ((old, 1), (new, 2)):
        every = rows(one, found)
        assert ranking.strongest(every, "inversion")[0] == "dec(x)"
        assert len(attack_tables.attack_table(every, "t").rows) == shown


def test_published_worst_cases_enter_no_table_and_no_row_beats_the_strongest():
    """Of the runs that were attacked: on the images of the strongest attack no other is stronger,
    and no row of the old rule is told as the worst case."""
    attacked = 0
    for file in sorted((ROOT / "checkpoints").rglob("results.jsonl")):
        every = {r["name"]: r for r in read_rows(file)}
        told = [line[0] for line in attack_tables.attack_table(every, "").rows]
        made_so = every.get(worst.NAME, {}).get("rule") == worst.RULE
        assert (worst.NAME in told) == made_so, file
        for family, measure in ranking.MEASURE.items():
            found = ranking.strongest(every, family)
            if found is None:
                continue
            attacked += 1
            name, best = found
            for other in every.values():
                same = other.get("family") == family and other["images"] == best["row"]["images"]
                if same and other["name"] != worst.NAME and measure in other["metrics"]:
                    value = other["metrics"][measure]["value"]
                    weaker = (
                        value >= best["value"]
                        if measure in ranking.SMALL
                        else value <= best["value"]
                    )
                    assert weaker, f"{file.parent}: {other['name']} beats {name}"
    assert attacked > 100


@pytest.mark.parametrize(
    ("error", "verdict"), [(0.0003, "FAILS"), (0.6, "FAILS"), (1.4, "weakened")]
)
def test_one_batch_breaks_angle_and_input(error, verdict):
    metrics = {"angle_error": numbers(error, chance=1.57), "share": numbers(0.75)}
    found = inversion(16) | rows(
        row("angle ica", {"angle_error": numbers(1.2, chance=1.57)}),
        row("release members", metrics),
    )
    for claim in ("angle", "input"):
        got, why = verdicts.CLAIMS[claim](found)
        assert got == verdict
        told = ("one batch suffices", "in 75.0 % of the groups", "; group by group ")
        assert all(part in why for part in told) == (verdict == "FAILS")


def test_blind_guessing_of_a_property_is_one_number_everywhere(runs):
    """That of whoever knows the network's label."""
    hidden = {"error": numbers(0.3, chance=0.914, given_label=0.819, control=0.2)}
    found = row("property features", hidden, images=2000)
    assert ranking.blind(hidden["error"]) == 0.819
    assert "blind 81.9 %" in verdicts.property_verdict(rows(found))[1]
    (line,) = attack_tables.attack_table(rows(found), "t").rows
    assert line[3] == "0.819"
    path = runs / "a" / "results.jsonl"
    victim = json.loads(path.read_text().splitlines()[0])["victim"]
    with path.open("a") as file:
        file.write(json.dumps(found | {"victim": victim}) + "\n")
    table = attack_tables.compare((runs / "a",))
    assert dict(zip(table.head, table.rows[0], strict=True))["property error"] == (
        "30 % (81.9) by features"
    )


@pytest.mark.parametrize(
    ("error", "quick", "preview"),
    [
        (0.1, "angle ica", True),
        (0.1, "angle phase", False),  # the attack that breaks it had its budget
        (1.5, "angle phase", True),  # to withstand takes every attack
    ],
)
def test_a_verdict_is_a_preview_if_it_rests_on_a_quick_budget(error, quick, preview):
    every = [a.name for a in ROSTER if a.family == "angle" and applicable(a, NetConfig())]
    made = [
        row(name, {"angle_error": numbers(error if name == "angle ica" else 1.55, chance=1.57)})
        for name in every
    ]
    for r in made:
        r["config"] = {"budget": "quick" if r["name"] == quick else "standard"}
    found = verdicts.marked("angle", rows(task_of(), *made))[0]
    assert ("preview" in found) == preview


def test_a_quick_budget_is_called_a_preview():
    quick = row("angle ica", {"angle_error": numbers(0.1, chance=1.57)})
    quick["config"] = {"budget": "quick"}
    assert verdicts.marked("angle", rows(quick))[0] == "FAILS (budget quick: a preview)"


def test_a_costlier_attack_that_is_weaker_is_flagged():
    found = rows(
        row("angle ica", {"angle_error": numbers(0.1, chance=1.57)}),
        row("angle critic-search", {"angle_error": numbers(0.5, chance=1.57)}),
    )
    table = attack_tables.attack_table(found, "t")
    assert [line[-1] for line in table.rows] == ["", "weaker than the cheaper angle ica"]


def test_an_attacker_with_fewer_images_is_compared_with_its_like():
    few = {"budget": "quick", "auxiliary_limit": 100}
    found = rows(
        task_of(),
        row("angle ica", {"angle_error": numbers(1.50, chance=1.57)}),
        row("angle angle-regressor", {"angle_error": numbers(1.40, chance=1.57)}),
        row("angle ica, 100 training images", {"angle_error": numbers(1.50, chance=1.57)},
            config=few),
        row("angle angle-regressor, 100 training images",
            {"angle_error": numbers(1.60, 0.001, chance=1.57)}, config=few),
    )  # fmt: skip
    table = attack_tables.attack_table(found, "t")
    flags = [line[-1] for line in table.rows]
    assert flags == ["", "", "", "weaker than the cheaper angle ica, 100 training images"]
    assert "preview" not in verdicts.marked("angle", found)[0]


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
    assert app.run(attack_command.main, argv) == 0
    out = capsys.readouterr().out
    assert "lenet additional" in out
    assert "20 dB (12) by dec(x)" in out
    assert "0 rad" not in out, "an attack on other weights was counted"
    assert picture.stat().st_size > 1000


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])  # a terminal's; a C locale's
def test_where_the_system_is_not_utf8_tables_are_shown_and_files_keep_their_letters(
    runs, monkeypatch, errors
):
    """A label of noise has a γ: escaped on the terminal, not a traceback at the end."""
    path = runs / "a" / "results.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[0]["config"]["net"] |= {"kind": "noisy"}
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    page, readme = runs / "page.html", runs / "page.md"
    readme.write_text("γ\n<!-- results -->\n<!-- end of results -->\n", encoding="utf-8")

    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding="ascii", errors=errors))
    monkeypatch.setattr(io, "text_encoding", lambda encoding, level=2: encoding or "ascii")
    assert app.run(attack_command.main, ["compare", str(runs / "a")]) == 0
    words = ["summary", runs, "--html", page, "--markdown", runs / "t.md", "--into", readme]
    assert app.run(report.main, list(map(str, words))) == 0
    sys.stdout.flush()
    told = shown.getvalue().decode("ascii")
    assert "noisy \\u03b3=0.2" in told
    assert "seeds 0, 1, \\u2026" in told
    for file in (page, runs / "t.md", readme):
        assert "seeds 0, 1, …" in file.read_text(encoding="utf-8")
    assert readme.read_text(encoding="utf-8").startswith("γ")


@pytest.mark.parametrize(
    ("folder", "message"), [("nowhere", "is no finished run"), ("c", "was not attacked")]
)
def test_what_cannot_be_compared_is_named(runs, capsys, folder, message):
    (runs / "c").mkdir()
    (runs / "c" / "model.safetensors").write_bytes(b"c")
    tested = {"name": "task", "victim": hashlib.sha256(b"c").hexdigest()}
    (runs / "c" / "results.jsonl").write_text(json.dumps(tested) + "\n")
    assert app.run(attack_command.main, ["compare", str(runs / folder)]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("truth", "flagged"), [("another query's", True), ("nobody's", False)])
def test_an_evaluation_that_leaks_is_flagged(truth, flagged):
    """Answers that fit another query's truth better than blind ones do; and blind answers."""
    import torch

    from complexnn.attacks import roster, trial

    attack = next(a for a in roster.ROSTER if a.name == "angle phase")
    centre = 0.8 if flagged else 1.5708
    others = {"angle_error": centre + 0.9 * torch.randn(1, 200)}
    measured = {"angle_error": numbers(0.1, chance=1.5708)}
    assert bool(trial.flags({}, attack, measured, others)) == flagged
    # Two groups say nothing, and so no more than that they are two.
    two = torch.arange(200).view(1, -1) // 100
    assert len(trial.flags({}, attack, measured, others, two)) == 1


@pytest.mark.parametrize("name", ["property features", "inversion dec(x)", "angle ica"])
def test_a_network_that_did_not_learn_is_flagged(name):
    """Under the name that it is kept under."""
    from complexnn.attacks import roster, trial
    from complexnn.attacks.fitting import FitLog

    attack = next(a for a in roster.ROSTER if a.name == name)
    kept = ("property_features", "dec_x", "judge")
    flat = {file: FitLog(first=1.0, last=1.0, validation=1.0) for file in kept}
    assert len(trial.flags(flat, attack, {}, {})) == 1


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
