"""Every architecture, variant and kind: two steps of training, evaluation, disk, equivariance."""

import pytest
import torch

import complexnn
from complexnn.config import NetConfig, TrainConfig
from complexnn.config_io import to_dict
from complexnn.data.images import ImageSet
from complexnn.networks.registry import ARCHITECTURES
from complexnn.runs import checkpoint
from complexnn.runs.devices import make_accelerator
from complexnn.training import evaluation, loop

SIZES = {"vgg16": 32, "alexnet": 63}  # the smallest they take
FORMS = {
    "original": {"kind": "original"},
    "additional": {"kind": "additional"},
    "noisy": {"kind": "noisy"},
    "local": {"kind": "local"},
    "complex": {"kind": "complex"},
    "complex weights": {"kind": "complex", "weights": "complex"},
    "packed": {"kind": "complex", "group": "packed", "dim": 3},
    "mixing gates": {"kind": "complex", "gate": "mixing"},
    "gaussian decoys": {"kind": "complex", "gaussian_decoys": 2},
}
EVERY = [
    (arch, variant, form)
    for arch, entry in ARCHITECTURES.items()
    for variant in entry.variants
    for form in FORMS
    if form != "mixing gates" or entry.gate == "fixed"
]


@pytest.mark.parametrize(("arch", "variant", "form"), EVERY)
def test_trains_evaluates_saves_loads_and_is_equivariant(tmp_path, arch, variant, form):
    size = SIZES.get(arch, 12)
    net = NetConfig(arch, variant, image_size=(size, size), **FORMS[form])
    config = TrainConfig(net=net, epochs=1, batch_size=6)
    pixels = torch.randint(0, 256, (12, 3, size, size), dtype=torch.uint8)
    labels = torch.arange(12) % 10
    images = ImageSet(pixels, labels, labels)
    built = complexnn.build(net)
    before = {name: p.clone() for name, p in built.named_parameters()}

    run = loop.Training(built, config, make_accelerator("cpu"), images.steps(6))
    loop.train_one_epoch(run, images, None, loop.Stop(), lambda: None)
    assert run.step == 2
    still = [name for name, p in built.named_parameters() if torch.equal(p, before[name])]
    assert not still
    tested = evaluation.evaluate(built, images, torch.device("cpu"), draws=1, seed=0)
    assert 0 <= tested["error"] <= 1

    checkpoint.save(tmp_path / "model.safetensors", built, to_dict(net))
    loaded = complexnn.load(tmp_path)
    again = evaluation.evaluate(loaded, images, torch.device("cpu"), draws=1, seed=0)
    assert again == tested

    if net.kind == "complex":
        released, _ = loaded.encode(pixels[:12] / 255, generator=torch.Generator().manual_seed(0))
        error = complexnn.check_equivariance(loaded.processing, (2, *released.shape[1:]))
        assert error <= 1e-10
