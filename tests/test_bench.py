"""The bench: every network takes its turns, and its measures have known answers."""

import json
import re
from pathlib import Path

import pytest
import torch

from complexnn.commands import app
from complexnn.commands import bench as bench_command
from complexnn.config import NetConfig
from complexnn.speed import competitors, memory

ROOT = Path(__file__).parent.parent
TINY = ["--batch-sizes", "8", "--dims", "2", "--image-size", "12", "--rounds", "2"]


def test_a_bench_ends_in_tables_markdown_and_json(tmp_path, capsys):
    argv = [*TINY, "--precisions", "fp32", "--no-compiled", "--device", "cpu"]
    argv += ["--markdown", str(tmp_path / "b.md"), "--json", str(tmp_path / "b.json")]
    assert app.run(bench_command.main, argv) == 0
    out = capsys.readouterr().out
    about = json.loads((tmp_path / "b.json").read_text())
    rows = {(row["phase"], row["network"]): row for row in about["rows"]}
    names = {name for _, name in rows}
    wanted = {"original", "additional", "noisy", "complex decoy d=2", "complex packed d=2"}
    assert wanted | {"plain PyTorch (original)", "complex decoy d=2, with critic"} <= names
    for row in rows.values():
        assert row["milliseconds"] > 0
        assert row["images_per_second"] == pytest.approx(8000 / row["milliseconds"])
    reference = rows["training step", "additional"]
    assert reference["ratio"] == reference["flop_ratio"] == reference["memory_ratio"] == 1
    assert rows["inference", "complex packed d=2"]["flop_ratio"] == pytest.approx(1)
    assert rows["training step", "complex decoy d=2"]["memory_ratio"] > 1
    assert 0 < about["data_share"] < 1
    for text in (out, (tmp_path / "b.md").read_text()):
        assert "training step, batch 8, fp32, eager" in text
        assert "data pipeline" in text


def test_peak_memory_is_that_of_the_tensors_alive_at_once():
    def step():
        a = torch.zeros(1000)  # 4,000 bytes
        b = a + 1  # 8,000
        del a
        c = b * 2  # 8,000
        del b
        return c.view(10, 100).sum()  # a view is no memory; 4 bytes more

    assert memory.peak_bytes(step, torch.device("cpu")) == 8000


def test_the_plain_network_is_the_original():
    """Same parameters, same function: the bench compares like with like."""
    import complexnn

    plain = competitors.PlainResNet(20, 10).eval()
    ours = complexnn.build("resnet20", kind="original").eval()
    mine = [p for p in ours.parameters() if p.dim()]
    theirs = list(plain.parameters())
    assert [p.shape for p in mine] == [p.shape for p in theirs]
    with torch.no_grad():
        for a, b in zip(mine, theirs, strict=True):
            b.copy_(a)
    images = torch.rand(2, 3, 32, 32)
    normalised = (images - 0.5) / 0.25
    torch.testing.assert_close(ours(images), plain(normalised), atol=1e-4, rtol=0)


def test_libraries_that_are_not_there_are_left_out(monkeypatch):
    def missing():
        raise ImportError

    monkeypatch.setitem(competitors.LIBRARIES, "torchcvnn", missing)
    assert competitors.with_library("torchcvnn", NetConfig("resnet20")) is None


@pytest.mark.parametrize(
    "flag",
    [
        ("--rounds", "0"),
        ("--dims", "1"),
        ("--batch-sizes", "0"),
        ("--quick", "--rounds", "3"),
    ],
)
def test_senseless_settings_are_refused(flag, capsys):
    assert app.run(bench_command.main, [*flag]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_readme_says_what_was_measured_on_a_gpu():
    text = (ROOT / "assets" / "bench_h100.md").read_text()
    wanted = re.compile(r"### training step.*?, (fp32|bf16), eager(.*?)\n### ", re.S)
    ratios = {}
    for precision, body in wanted.findall(text + "\n### "):
        (line,) = [x for x in body.splitlines() if x.startswith("| complex packed d=8 |")]
        ratios[precision] = float(line.split("|")[4])
    page = " ".join((ROOT / "README.md").read_text().split())
    said = "{fp32:.1f} times as long as that of `additional` in fp32 and {bf16:.1f} times in bf16"
    assert said.format(**ratios) in page
