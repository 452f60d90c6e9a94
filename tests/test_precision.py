"""Half precision and compilation."""

import pytest
import torch

import complexnn
from complexnn import cli, layers
from complexnn import functional as cF
from complexnn.results import read_rows

TINY = ["--limit-train", "300", "--device", "cpu", "--epochs", "15", "--groups", "parity"]


@pytest.mark.parametrize("kind", ["original", "complex"])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains(tmp_path, kind, precision):
    arguments = [*TINY, "--kind", kind, "--precision", precision]
    arguments += ["--output-dir", str(tmp_path / "r")]
    assert cli.run(cli.train_main, arguments) == 0
    first, *_, last = read_rows(tmp_path / "r" / "log.jsonl")
    assert last["train_loss"] < 0.8 * first["train_loss"]


@pytest.mark.parametrize("value", [0.0, 300.0])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_keeps_a_whole_server_finite(dtype, value):
    net = complexnn.build("resnet20", image_size=8)
    x = torch.full((4, 2, 16, 8, 8), value, requires_grad=True)
    with torch.autocast("cpu", dtype=dtype):
        y = net.processing(x)
    y.float().square().mean().backward()
    assert y.isfinite().all()
    assert x.grad.isfinite().all()


def test_autocast_keeps_norms_and_moduli_in_float32():
    x = torch.full((2, 2, 3, 4, 4), 300.0, dtype=torch.float16)
    with torch.autocast("cpu", dtype=torch.float16):
        assert cF.modulus(x).dtype == torch.float32
        assert cF.mean_square(x).dtype == torch.float32
        assert layers.BatchNorm(3)(x).dtype == torch.float16


@pytest.mark.parametrize("arch", ["lenet", "lenet5", "resnet20"])
@pytest.mark.parametrize("settings", [{}, {"dim": 3, "group": "packed"}, {"weights": "complex"}])
@pytest.mark.parametrize("training", [True, False])
def test_compiles_as_one_graph_with_the_same_results(arch, settings, training):
    net = complexnn.build(arch, image_size=16, **settings).train(training)
    images, rng = torch.rand(6, 3, 16, 16), torch.Generator().manual_seed(0)
    released, key = net.encode(images, generator=rng)
    hidden = net.process(released)
    answers = cF.rotate(hidden, key.directions).flatten(0, 1).detach()
    steps = ((net.encoder, images), (net.processing, released.detach()), (net.decoder, answers))
    for module, x in steps:
        torch._dynamo.reset()
        x = x.clone().requires_grad_()
        plain = module(x)
        (gradient,) = torch.autograd.grad(plain.square().sum(), x)
        compiled = torch.compile(module, fullgraph=True, backend="aot_eager")(x)
        (other,) = torch.autograd.grad(compiled.square().sum(), x)
        torch.testing.assert_close(compiled, plain, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(other, gradient, atol=1e-4, rtol=1e-3)
