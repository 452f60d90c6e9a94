"""The worst case over attacks: known answers, one set of images, and no stronger row beside it."""

import pytest
import torch

from complexnn import metrics
from complexnn.attacks import worst
from complexnn.runs.results import append_row, read_rows


def make(folder, name, psnr, *, floor=12.0, family="inversion"):
    """An attack's table and row, as suite.py leaves them; the row by its name."""
    psnr = torch.as_tensor(psnr, dtype=torch.float64)
    table = {"rmse": 10 ** (-psnr / 20), "psnr": psnr, "ssim": psnr / 100, "top1": psnr > 20}
    (folder / "examples").mkdir(parents=True, exist_ok=True)
    worst.write_table(worst.table_path(folder, name), table)
    measured = {}
    for measure, values in table.items():
        low, high = metrics.interval(measure, values)
        beside = {"floor": floor + 1 / len(psnr), "blend": floor}
        measured[measure] = {
            "value": values.double().mean().item(), "low": low, "high": high, **beside,
        }  # fmt: skip
    row = {
        "name": name, "family": family, "metrics": measured, "flags": ["its own"], "draws": 2,
        "images": len(psnr), "config": {"budget": "standard", "only": None}, "victim": "v",
        "control": None, "seconds": 7.0, "device": "cpu", "time": "now",
    }  # fmt: skip
    append_row(folder / "results.jsonl", row)
    return {name: row}


def stronger(row, other):
    """Whether ``row`` is the stronger of two in some measure, beyond what tables round."""
    pairs = ((m, *(r["metrics"][m]["value"] for r in (row, other))) for m in worst.MEASURES)
    return any(
        mine < (1 - 1e-6) * theirs if m == "rmse" else mine > (1 + 1e-6) * theirs
        for m, mine, theirs in pairs
    )


@pytest.fixture
def runs(tmp_path):
    """A victim and its control: three attacks, one of which saw three images of eight only."""
    victim, control = tmp_path / "victim", tmp_path / "control"
    rows = make(victim, "inversion dec(x)", [20, 21, 22, 30, 30, 30, 30, 30])
    rows |= make(victim, "inversion dec(a*)", [24, 10, 10, 31, 31, 31, 31, 31])
    rows |= make(victim, "inversion optimised with key", [23, 23, 11])
    rows |= make(victim, "angle ica", [99, 99], family="angle")
    beside = make(control, "inversion dec(x)", [25, 25, 25, 40, 40, 40, 40, 40])
    beside |= make(control, "inversion optimised with key", [40, 24, 24])
    return victim, rows, control, beside


def test_the_worst_case_is_over_the_images_that_every_attack_saw(runs):
    victim, rows, control, beside = runs
    row = worst.append(victim, rows, control, beside)
    found = row["metrics"]["psnr"]
    assert found["value"] == pytest.approx((24 + 23 + 22) / 3)
    assert found["low"] <= found["value"] <= found["high"]
    assert found["control"] == pytest.approx((40 + 25 + 25) / 3)
    assert found["floor"] == pytest.approx(12 + 1 / 3), "not that of the same three images"
    assert (row["images"], row["rule"], row["flags"]) == (3, worst.RULE, [])
    assert row["attacks"] == [name for name in rows if name.startswith("inversion")]
    assert sorted(worst.read_table(worst.table_path(victim, worst.NAME))) == [0, 1, 2]
    assert read_rows(victim / "results.jsonl")[-1] == row


def test_no_attack_on_the_same_images_is_stronger(tmp_path):
    """Whatever the attacks are good at, in every measure."""
    generator = torch.Generator().manual_seed(0)
    for trial in range(3):
        folder = tmp_path / str(trial)
        rows = {}
        for number in range(5):
            psnr = 20 + 5 * torch.randn(30, generator=generator)
            rows |= make(folder, f"inversion {number}", psnr)
        row = worst.append(folder, rows, None, {})
        assert row["metrics"]["psnr"]["control"] is None
        assert not any(stronger(other, row) for other in rows.values())
        assert any(stronger(row, other) for other in rows.values())


def test_the_row_is_written_once_and_again_when_an_attack_is_added(runs):
    victim, rows, control, beside = runs
    assert worst.append(victim, rows, control, beside) is not None
    count = len(read_rows(victim / "results.jsonl"))
    known = {row["name"]: row for row in read_rows(victim / "results.jsonl")}
    assert worst.append(victim, known, control, beside) is None
    assert len(read_rows(victim / "results.jsonl")) == count
    known |= make(victim, "inversion dss", [50, 50])
    row = worst.append(victim, known, control, beside)
    assert (row["images"], row["metrics"]["psnr"]["value"]) == (2, 50)


def test_a_row_of_the_old_rule_is_replaced(runs):
    victim, rows, control, beside = runs
    old = {**rows["inversion dec(x)"], "name": worst.NAME}
    append_row(victim / "results.jsonl", old)
    row = worst.append(victim, rows | {worst.NAME: old}, control, beside)
    assert row["rule"] == worst.RULE
    assert worst.NAME not in row["attacks"]


@pytest.mark.parametrize("fault", ["missing", "of other images", "none"])
def test_without_every_table_there_is_no_worst_case(runs, fault):
    """Published runs hold rows, not every image; and a table may be that of another budget."""
    victim, rows, control, beside = runs
    path = worst.table_path(victim, "inversion dec(a*)")
    if fault == "missing":
        path.unlink()
    elif fault == "of other images":
        worst.write_table(path, {name: torch.ones(5) for name in worst.MEASURES})
    before = (victim / "results.jsonl").read_text()
    assert (worst.append(victim, rows, control, beside) is None) == (fault != "none")
    if fault != "none":
        assert (victim / "results.jsonl").read_text() == before
        worst.table_path(control, "inversion dec(x)").unlink()


def test_a_control_without_the_same_images_is_none(runs):
    victim, rows, control, beside = runs
    beside |= make(control, "inversion dss", [50, 50])  # not the third
    assert worst.append(victim, rows, control, beside)["metrics"]["psnr"]["control"] is None
