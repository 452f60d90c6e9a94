"""Cost along each axis: the fit has a known answer, and the commands end in what they promise."""

import pytest

from complexnn.commands import app
from complexnn.commands import scaling as scaling_command
from complexnn.speed import scaling


def test_a_straight_line_is_found_exactly():
    slope, start, share = scaling.straight([1.0, 2.0, 4.0], [5.0, 7.0, 11.0])
    assert (slope, start, share) == pytest.approx((2, 3, 1))
    assert scaling.straight([1, 2, 3, 4], [1, 4, 9, 16])[2] < 0.97


def test_every_axis_grows_only_what_it_names():
    for axis in scaling.AXES:
        sizes, nets, batches = zip(*scaling.networks(axis), strict=True)
        assert list(sizes) == sorted(sizes)
        varied = {
            "batch": len(set(batches)) > 1,
            "net": len(set(nets)) > 1,
        }
        assert varied == {"batch": axis == "images per step", "net": axis != "images per step"}


def test_curves_end_in_a_table_and_a_picture(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(scaling, "AXES", {"images per step": (4, 6), "pixels": (12, 16)})
    picture = tmp_path / "scaling.png"
    words = ["curves", "--rounds", "1", "--device", "cpu", "--picture", str(picture)]
    assert app.run(scaling_command.main, words) == 0
    out = capsys.readouterr().out
    assert "images per step" in out and "144 to 256" in out
    assert picture.stat().st_size > 1000


def test_throughput_is_one_line(capsys):
    words = ["throughput", "--rounds", "1", "--batch-size", "4", "--device", "cpu"]
    assert app.run(scaling_command.main, words) == 0
    assert capsys.readouterr().out.startswith("1 processes of ")


@pytest.mark.parametrize(
    "words", [["curves", "--batch-size", "64"], ["throughput", "--picture", "no.png"]]
)
def test_flags_that_would_be_ignored_are_refused(words, capsys):
    assert app.run(scaling_command.main, words) == 2
    assert "does not apply to" in capsys.readouterr().err
