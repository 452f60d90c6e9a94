"""Encoder, server and decoder as graphs for other runtimes: any number of images, the same numbers,
no way in for a key."""

import pytest
import torch

import complexnn

SIZES = {"alexnet": 63}  # the smallest it takes
PACKED, DOUBLE = {"dim": 4, "group": "packed"}, {"weights": "complex"}
EVERY = [(arch, {}) for arch in complexnn.names()]
EVERY += [(arch, form) for arch in ("lenet", "resnet20") for form in (PACKED, DOUBLE)]


def pieces(arch, **settings):
    """Each piece of a network, and something that it takes."""
    size = SIZES.get(arch, 32)
    net = complexnn.build(arch, image_size=size, **settings).eval()
    images, rng = torch.rand(8, 3, size, size), torch.Generator().manual_seed(0)
    with torch.no_grad():
        released, _ = net.encode(images, generator=rng)
        answers = net.process(released).flatten(0, 1)[:8]
    return [(net.encoder, images), (net.processing, released), (net.decoder, answers)]


def agree(found, expected):
    """Equal up to rounding, in units of the largest number: untrained servers shrink theirs."""
    largest = expected.abs().max()
    assert largest > 0
    torch.testing.assert_close(found / largest, expected / largest, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("arch", "settings"), EVERY)
def test_every_piece_is_one_graph_for_any_number_of_images(arch, settings):
    for module, x in pieces(arch, **settings):
        any_number = ({0: torch.export.Dim("count")},)
        graph = torch.export.export(module, (x,), dynamic_shapes=any_number).module()
        for count in (1, 2, 7):
            some = x.repeat(7, *[1] * (x.dim() - 1))[:count]
            agree(graph(some), module(some))


@pytest.mark.parametrize(("arch", "settings"), [("resnet20", {}), ("lenet", PACKED)])
def test_onnx_runtime_gives_the_same_numbers(tmp_path, arch, settings):
    import onnx
    import onnxruntime

    for module, x in pieces(arch, **settings):
        any_number = ({0: torch.export.Dim("count")},)
        file = tmp_path / "piece.onnx"
        torch.onnx.export(module, (x,), file, dynamo=True, dynamic_shapes=any_number)
        onnx.checker.check_model(file)
        session = onnxruntime.InferenceSession(file)
        (entry,) = session.get_inputs()
        for count in (1, 3):
            (found,) = session.run(None, {entry.name: x[:count].numpy()})
            agree(torch.from_numpy(found), module(x[:count]))
