"""Which rows count, and which attack is the strongest: one rule each, in one place."""

import hashlib
import json
from pathlib import Path

import pytest
from made_rows import angle, find, inversion, numbers, rows_of

from complexnn.commands import app, report
from complexnn.config import InputError
from complexnn.config_attack import AttackConfig
from complexnn.config_io import to_dict
from complexnn.report import budgets, ranking
from complexnn.report.rows import collect, newest, of_attacked_run, of_run

REPORT = Path(__file__).parent.parent / "complexnn" / "report"


def test_rows_are_read_in_one_place():
    """So that no table has its own rule of which of them count."""
    for word in ("results.jsonl", "read_rows("):
        holders = [path.name for path in REPORT.rglob("*.py") if word in path.read_text()]
        assert holders == ["rows.py"], word


@pytest.mark.parametrize(
    ("first", "second", "counts"),
    [
        ({}, {}, "second"),  # as they were read
        ({"time": "2026-02-01"}, {"time": "2026-01-01"}, "first"),
        ({"time": "2026-01-01"}, {"time": "2026-01-01"}, "second"),
        ({"time": "2026-01-01"}, {}, "first"),  # rows without a time are old ones
        ({"version": 2}, {"time": "2026-01-01"}, "first"),  # of an earlier attack of that name
        ({"version": 1}, {"version": 2}, "second"),
    ],
)
def test_of_several_rows_of_one_name_the_newest_counts(first, second, counts):
    made = [
        {"name": "span", "which": "first"} | first,
        {"name": "span", "which": "second"} | second,
    ]
    (row,) = newest(made).values()
    assert row["which"] == counts
    assert len(newest([*made, {"name": "task"}])) == 2


def test_only_rows_about_the_present_weights_count(tmp_path):
    """In the folder, and where other attacks on it put theirs."""
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    rows_of(run, attacks=[angle(0.5)])
    victim = str(run)
    with pytest.raises(InputError, match="is no finished run"):
        of_run(tmp_path / "nowhere")
    assert set(of_run(run)) == {"task", "angle ica"}  # only rows were published

    (run / "model.safetensors").write_bytes(b"weights")
    with pytest.raises(InputError, match="about its present weights"):
        of_run(run)
    text = (run / "results.jsonl").read_text()
    present = hashlib.sha256(b"weights").hexdigest()
    task = json.loads(text.splitlines()[0]) | {"victim": present}
    (run / "results.jsonl").write_text(text + json.dumps(task) + "\n")
    assert set(of_run(run)) == {"task"}
    with pytest.raises(InputError, match="was not attacked"):
        of_attacked_run(run)
    elsewhere.mkdir()
    rows = [{"name": "span", "victim": present}, {"name": "release", "victim": victim}]
    (elsewhere / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert set(of_attacked_run(run, elsewhere)) == {"task", "span"}


def test_the_strongest_attack_is_the_same_in_every_measure(tmp_path):
    """By PSNR, though another one has the smaller RMSE; attacks without the measure are none."""
    attacks = [inversion(0.11, 20.0), inversion(0.10, 19.0, "dec(a*)"),
               ("inversion query-free", {"psnr": numbers(25.0, floor=12.0)})]  # fmt: skip
    rows_of(tmp_path / "a", attacks=attacks)
    rows = of_run(tmp_path / "a")
    assert ranking.strongest(rows, "inversion")[0] == "query-free"
    name, rmse = ranking.strongest(rows, "inversion", "rmse")
    assert (name, rmse["value"], rmse["floor"]) == ("dec(x)", 0.11, 0.25)
    (runs,) = collect([tmp_path])
    assert runs.strongest("inversion", "rmse") == [(name, rmse)]


def test_runs_stand_side_by_side_whether_attacked_or_not(tmp_path, capsys):
    rows_of(tmp_path / "plain", net={"kind": "additional"}, attacks=[inversion(0.1, 20.0)])
    rows_of(tmp_path / "rotated", error=0.25)
    page = tmp_path / "page.html"
    argv = ["runs", *(str(tmp_path / name) for name in ("plain", "rotated")), "--html", str(page)]
    assert app.run(report.main, argv) == 0
    shown = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert (
        "lenet additional 9.00 % (90) no key not run no key no key 20 dB (12) by dec(x) not run"
        in shown
    )
    assert f"lenet complex d=2 decoy 25.00 % (90){6 * ' not run'}" in shown


def test_networks_of_one_name_have_their_own_budgets(tmp_path):
    """Two victims called `complex`, one under two budgets: nothing grows from one to another."""
    for place, steps, error in (("a", 100, 0.8), ("a", 200, 0.4), ("b", 200, 0.1)):
        config = AttackConfig("angle", victim=Path(place) / "complex", steps=steps)
        name, measured = angle(error)
        row = {"name": name, "family": "angle", "metrics": measured, "victim": place,
               "config": to_dict(config)}  # fmt: skip
        folder = tmp_path / place / str(steps)
        folder.mkdir(parents=True)
        (folder / "results.jsonl").write_text(json.dumps(row) + "\n")
    table = budgets.budget_table([tmp_path])
    assert table.head[2:4] == ("100 steps", "200 steps")
    first = find(table, "angle ica (a/complex)")
    assert (first["100 steps"], first["200 steps"]) == ("0.8", "0.4")
    assert first["last doubling of steps"] == "-50.0 %"
    second = find(table, "angle ica (b/complex)")
    assert (second["100 steps"], second["last doubling of steps"]) == ("not run", "")
    (alone,) = budgets.budget_table([tmp_path / "b"]).rows
    assert alone[0] == "angle ica"
