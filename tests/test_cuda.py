"""On a GPU, where there is one: the CPU's numbers, equivariance, and every command end to end."""

import pytest
import torch

import complexnn
from complexnn.commands import app, measure
from complexnn.commands import attack as attack_command
from complexnn.commands import train as train_command
from complexnn.config import NetConfig
from complexnn.networks.defences import perturb
from complexnn.networks.registry import ARCHITECTURES
from complexnn.rotation import functional as cF
from complexnn.runs import devices
from complexnn.runs.results import read_rows
from complexnn.training import evaluation

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
SIZES = {"vgg16": 32, "alexnet": 63}  # the smallest they take
FORMS = {
    "complex": {},
    "complex weights": {"weights": "complex"},
    "packed": {"group": "packed", "dim": 3},
    "gaussian decoys": {"gaussian_decoys": 2},
}


def relative(found, expected):
    found, expected = found.double().cpu(), expected.double().cpu()
    return ((found - expected).norm() / expected.norm().clamp(min=1e-12)).item()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("arch", "variant"), [(a, v) for a, entry in ARCHITECTURES.items() for v in entry.variants]
)
def test_servers_turn_with_their_input_and_answer_as_on_the_cpu(arch, variant, form):
    device = devices.make_accelerator("cuda").device  # which also keeps fp32 at 24 bits
    size = SIZES.get(arch, 12)
    net = complexnn.build(NetConfig(arch, variant, image_size=(size, size), **FORMS[form])).eval()
    images = torch.rand(6, 3, size, size)

    def answer(where):
        rng = torch.Generator().manual_seed(0)
        with torch.no_grad():
            return net.to(where)(images.to(where), generator=rng)

    on_cpu = answer("cpu")
    assert relative(answer(device), on_cpu) < 1e-4
    with torch.no_grad():
        released, _ = net.encode(images.to(device), generator=torch.Generator().manual_seed(1))
        turn = cF.draw_rotations(*released.shape[:2], torch.Generator().manual_seed(2))
        turn = turn.to(device, torch.float32)
        turned = net.process(cF.rotate(released, turn))
        assert relative(turned, cF.rotate(net.process(released), turn)) < 1e-5


@pytest.mark.parametrize("settings", [{"kind": "noisy"}, {"defence": "laplace"}])
def test_noise_is_drawn_where_the_features_are(settings):
    features = torch.randn(8, 16, 16, 16)
    net = NetConfig(**settings)
    noise = {}
    for name in ("cpu", "cuda", "cuda again"):
        here = features.to(name.split()[0])
        noise[name] = perturb(here, net, torch.Generator().manual_seed(0)) - here
    assert torch.equal(noise["cuda"], noise["cuda again"])
    assert noise["cuda"].std().item() == pytest.approx(noise["cpu"].std().item(), rel=0.05)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Networks that were trained on the GPU: folders by kind."""
    root = tmp_path_factory.mktemp("runs")
    for kind in ("additional", "complex"):
        flags = ["--kind", kind, "--groups", "parity", "--epochs", "15", "--device", "cuda"]
        flags += ["--output-dir", str(root / kind)]
        assert app.run(train_command.main, flags) == 0
    flags = ["--group", "packed", "--dim", "4", "--groups", "parity", "--epochs", "2"]
    flags += ["--device", "cuda", "--output-dir", str(root / "packed")]
    assert app.run(train_command.main, flags) == 0
    return root


def test_training_learns_and_says_on_what(runs):
    (row,) = read_rows(runs / "complex" / "results.jsonl")[:1]
    assert row["metrics"]["error"]["value"] < 0.1
    assert row["device"] == torch.cuda.get_device_name()


def test_what_was_trained_on_the_gpu_is_the_same_on_the_cpu(runs):
    found = []
    for name in ("cuda", "cpu"):
        device = devices.make_accelerator(name).device
        net, dataset = app.open_run(runs / "complex", None, device)
        found.append(evaluation.evaluate(net, dataset.test.to(device), device, draws=1, seed=0))
    assert found[0]["error"] == pytest.approx(found[1]["error"], abs=0.003)
    assert found[0]["loss"] == pytest.approx(found[1]["loss"], rel=1e-3)


# The compiler looks at gradients of what is no leaf.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("compiled", [False, True])
def test_half_precision_and_compilation(tmp_path, precision, compiled):
    flags = ["--precision", precision, "--epochs", "3", "--device", "cuda"]
    flags += ["--output-dir", str(tmp_path)] + (["--compile"] if compiled else [])
    assert app.run(train_command.main, flags) == 0
    first, *_, last = read_rows(tmp_path / "log.jsonl")
    assert last["train_loss"] < first["train_loss"]


def test_goes_on_with_more_epochs(tmp_path):
    flags = ["--device", "cuda", "--output-dir", str(tmp_path)]
    assert app.run(train_command.main, ["--epochs", "1", *flags]) == 0
    assert app.run(train_command.main, ["--epochs", "2", "--resume", *flags]) == 0
    assert [row["epoch"] for row in read_rows(tmp_path / "log.jsonl")] == [1, 2]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("victim", ["complex", "packed"])
@pytest.mark.parametrize("attack", ["angle", "span", "intersection", "inversion", "property"])
def test_every_attack_runs(runs, tmp_path, attack, victim, precision):
    flags = [attack, "--victim", str(runs / victim), "--control", str(runs / "additional")]
    flags += ["--budget", "quick", "--steps", "20", "--limit-test", "40", "--device", "cuda"]
    flags += ["--precision", precision, "--output-dir", str(tmp_path / attack)]
    assert app.run(attack_command.main, flags) == 0
    assert read_rows(tmp_path / attack / "results.jsonl")


@pytest.mark.parametrize("command", [measure.linearity, measure.gaussianity, measure.offload])
def test_every_measurement_runs(runs, command):
    kind = "additional" if command is measure.offload else "complex"
    flags = ["--victim", str(runs / kind), "--device", "cuda"]
    assert app.run(command, flags) == 0
