"""Counted costs against published ones, and the ratios that the arithmetic demands."""

import pytest
import torch

from complexnn.commands import app, report
from complexnn.config import NetConfig
from complexnn.networks.costs import STRETCHES, dissect
from complexnn.networks.registry import ARCHITECTURES


def config(arch, size, **settings):
    return NetConfig(arch, image_size=(size, size), **settings)


@pytest.mark.parametrize(
    ("arch", "size", "classes", "giga_multiply_adds"),
    [("resnet20", 32, 10, 0.0405), ("resnet110", 32, 10, 0.2529), ("vgg16", 224, 1000, 15.47)],
)
def test_published_work(arch, size, classes, giga_multiply_adds):
    found = dissect(config(arch, size, kind="original", num_classes=classes))
    assert sum(found.flops.values()) / 2e9 == pytest.approx(giga_multiply_adds, rel=0.003)


@pytest.mark.parametrize(("arch", "size"), [("lenet", 28), ("resnet20", 32), ("alexnet", 64)])
@pytest.mark.parametrize("dim", [2, 5])
def test_decoys_cost_the_server_d_times_and_packing_nothing(arch, size, dim):
    plain = dissect(config(arch, size, kind="additional"))
    decoy = dissect(config(arch, size, dim=dim))
    packed = dissect(config(arch, size, dim=dim, group="packed"))
    for stretch in STRETCHES:
        factor = dim if stretch == "processing" else 1
        assert decoy.flops[stretch] == pytest.approx(factor * plain.flops[stretch])
        assert packed.flops[stretch] == pytest.approx(plain.flops[stretch])
        assert decoy.activations[stretch] == pytest.approx(factor * plain.activations[stretch])
    assert decoy.released == dim * plain.released == dim * packed.released
    assert plain.bytes_released(torch.float32) == 2 * plain.bytes_released(torch.bfloat16)


def test_complex_weights_cost_four_multiplications():
    real, double = (dissect(config("lenet", 32, weights=w)) for w in ("real", "complex"))
    assert double.flops["processing"] == pytest.approx(2 * real.flops["processing"])
    assert double.parameters["processing"] == 2 * real.parameters["processing"]


def test_the_table_has_a_line_for_every_network(capsys):
    assert app.run(report.main, ["networks"]) == 0
    lines = capsys.readouterr().out.splitlines()
    variants = sum(len(entry.variants) for entry in ARCHITECTURES.values())
    assert len(lines) == 2 + 5 * variants + 1  # title, head, networks, note
    assert app.run(report.main, ["networks", "runs/x"]) == 2
