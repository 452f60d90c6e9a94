"""Half precision and compilation."""

import functools
import shutil

import pytest
import torch

import complexnn
from complexnn.commands import app
from complexnn.commands import bench as bench_command
from complexnn.commands import train as train_command
from complexnn.rotation import functional as cF
from complexnn.rotation import layers
from complexnn.runs.results import read_rows
from complexnn.speed import bench

TINY = ["--limit-train", "300", "--device", "cpu", "--epochs", "15", "--groups", "parity"]


@pytest.mark.parametrize("kind", ["original", "complex"])
def test_half_precision_trains(tmp_path, kind):
    arguments = [*TINY, "--kind", kind, "--precision", "bf16"]
    arguments += ["--output-dir", str(tmp_path / "r")]
    assert app.run(train_command.main, arguments) == 0
    first, *_, last = read_rows(tmp_path / "r" / "log.jsonl")
    assert last["train_loss"] < 0.8 * first["train_loss"]


def test_fp16_on_a_cpu_is_refused_as_it_would_train_in_fp32(tmp_path, capsys):
    words = ["--device", "cpu", "--precision", "fp16", "--output-dir", str(tmp_path / "run")]
    assert app.run(train_command.main, words) == 2
    assert "precision fp16 needs a GPU" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("group", ["decoy", "packed"])
def test_autocast_rounds_neither_key_nor_decoys(group):
    """In eval mode: what is released is the exact rotation of features and Gaussian noise."""
    torch.manual_seed(0)
    net = complexnn.build("thin4", image_size=8, dim=3, group=group, gaussian_decoys=40).eval()
    images = torch.rand(6, 3, 8, 8)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        generator = torch.Generator().manual_seed(0)
        released, key, parts = net.release(images, generator=generator)
        assert net.decode(net.process(released), key).shape == (6, 10)
    assert released.dtype == parts.dtype == key.rotation.dtype == torch.float32
    noise = parts[:, 3:]
    assert not torch.equal(noise, noise.bfloat16().float())
    exact = cF.rotate(parts.double(), key.rotation.double())
    torch.testing.assert_close(released.double(), exact, atol=1e-5, rtol=0)


def test_a_network_in_bf16_releases_bf16_of_an_exact_rotation():
    net = complexnn.build("thin4", image_size=8, dim=4).bfloat16().eval()
    images = torch.rand(8, 3, 8, 8).bfloat16()
    released, key, parts = net.release(images, generator=torch.Generator().manual_seed(0))
    exact = cF.rotate(parts.float(), key.rotation)
    assert torch.equal(released, exact.bfloat16())
    assert net.decode(net.process(released), key).dtype == torch.bfloat16


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
        assert layers.BatchNorm(3)(x).dtype == torch.float16


@pytest.mark.parametrize("arch", ["lenet", "resnet20"])
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


# The compiler looks at gradients of what is no leaf.
quiet = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")


@pytest.fixture
def graphs(monkeypatch):
    """Compiles without a C++ compiler, and keeps the shapes of each graph's inputs."""
    found = []

    def backend(graph, inputs):
        found.append([tuple(x.shape) for x in inputs if isinstance(x, torch.Tensor)])
        return graph.forward

    compile_with = functools.partial(torch.compile, backend=backend)
    monkeypatch.setattr(torch, "compile", compile_with)
    monkeypatch.setattr(shutil, "which", lambda name: name)
    torch._dynamo.reset()
    return found


@quiet
def test_training_compiles_each_part_once_and_evaluation_nothing(graphs, tmp_path):
    argv = ["--epochs", "2", "--limit-train", "200", "--seed", "1", "--output-dir"]
    assert app.run(train_command.main, [*argv, str(tmp_path / "eager")]) == 0
    assert not graphs
    assert app.run(train_command.main, [*argv, str(tmp_path / "compiled"), "--compile"]) == 0
    assert len(graphs) == 2  # LeNet's decoder has no layers
    assert all(isinstance(size, int) for shapes in graphs for shape in shapes for size in shape)
    eager, compiled = (
        complexnn.load(tmp_path / name).state_dict() for name in ("eager", "compiled")
    )
    torch.testing.assert_close(compiled, eager, atol=1e-4, rtol=1e-3)


def test_the_bench_compiles_more_networks_than_the_compiler_would(graphs):
    config = bench.BenchConfig(dims=(2, 3, 4, 5, 6), image_size=12, rounds=1, device="cpu")
    bench.compare(config, bench.Comparison("inference", 60, "fp32", compiled=True))
    servers = {shapes[0][:3] for shapes in graphs if len(shapes[0]) == 5}
    assert servers == {(60 // p, d, 16) for d in config.dims for p in (1, d)}


def test_compiling_without_a_compiler_is_refused(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert (
        app.run(
            train_command.main,
            ["--compile", "--device", "cpu", "--output-dir", str(tmp_path / "run")],
        )
        == 2
    )
    assert "leave --compile out" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert app.run(bench_command.main, ["--device", "cpu"]) == 2
    assert "--no-compiled" in capsys.readouterr().err


@pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")
@pytest.mark.slow
@quiet
def test_compiled_training_runs(tmp_path):
    torch._dynamo.reset()
    argv = ["--epochs", "1", "--compile", "--output-dir", str(tmp_path)]
    assert app.run(train_command.main, argv) == 0
