"""Weights on disk: what is written comes back, what is broken is refused, nothing is executed."""

import ast
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import complexnn
from complexnn.config import InputError
from complexnn.config_io import to_dict
from complexnn.runs import checkpoint


def small(**settings):
    return complexnn.build("lenet", image_size=8, **settings)


def test_round_trip(tmp_path):
    net, other = small(), small()
    checkpoint.save(tmp_path / "w.safetensors", net, {"arch": "lenet"})
    state, about = checkpoint.read(tmp_path / "w.safetensors")
    assert about == {"arch": "lenet"}
    checkpoint.restore(other, state, "w")
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))
    assert os.listdir(tmp_path) == ["w.safetensors"]


@pytest.mark.parametrize(
    "wrap",
    [
        nn.DataParallel,
        torch.compile,
        lambda net: torch.compile(nn.DataParallel(net)),
        lambda net: nn.DataParallel(torch.compile(net)),
    ],
)
def test_wrappers_leave_no_trace(tmp_path, wrap):
    net, other = small(), small()
    checkpoint.save(tmp_path / "w", wrap(net), {})
    state, _ = checkpoint.read(tmp_path / "w")
    assert state.keys() == net.state_dict().keys()
    checkpoint.restore(wrap(other), state, "w")
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))


def test_a_wrong_network_is_refused_by_name(tmp_path):
    checkpoint.save(tmp_path / "w", small(), {})
    state, _ = checkpoint.read(tmp_path / "w")
    with pytest.raises(InputError, match=r"missing .*; unexpected .*"):
        checkpoint.restore(complexnn.build("resnet20"), state, "w")
    with pytest.raises(InputError, match=r"wrong shape processing.7.weight \(10, 128\) instead"):
        checkpoint.restore(small(num_classes=7), state, "w")


class Tied(nn.Module):
    """Two names of one weight."""

    def __init__(self, tied=True):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        if tied:
            self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(self.first(x))


def test_tied_weights_come_back_tied(tmp_path):
    net, other, untied = Tied(), Tied(), Tied(tied=False)
    checkpoint.save(tmp_path / "w", net, {})
    state, _ = checkpoint.read(tmp_path / "w")
    x = torch.randn(3, 4)
    for target in (other, untied):
        checkpoint.restore(target, state, "w")
        assert torch.equal(target(x), net(x))
    assert other.first.weight is other.second.weight
    assert untied.first.weight is not untied.second.weight
    wrong = Tied(tied=False).state_dict()
    with pytest.raises(InputError, match=r"first.weight and second.weight are tied here"):
        checkpoint.restore(other, wrong, "w")


def test_views_of_one_tensor_are_saved(tmp_path):
    whole = torch.randn(4, 6)
    tensors = {"left": whole[:, :3], "right": whole[:, 3:], "turned": whole.T, "none": whole[:0]}
    checkpoint.save_tensors(tmp_path / "w", tensors, {})
    assert same(checkpoint.read(tmp_path / "w")[0], tensors)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, value):
    net = small()
    with torch.no_grad():
        net.encoder[1][0].bias[0] = value
    checkpoint.save(tmp_path / "model.safetensors", net, to_dict(net.config))
    with pytest.raises(InputError, match=r"NaN or infinity in encoder\.1\.0\.bias: .*train"):
        complexnn.load(tmp_path)


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o007, 0o660)])
def test_files_have_the_mode_of_any_new_file(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        checkpoint.save(tmp_path / "weights", small(), {})
        checkpoint.save_state(tmp_path / "state", {"epoch": 1})
        checkpoint.write_text(tmp_path / "report", "text")
    finally:
        os.umask(before)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 3
    assert {path.stat().st_mode & 0o777 for path in files} == {mode}


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


def broken(path, how):
    checkpoint.save(path, small(), {})
    whole = path.read_bytes()
    if how == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "html":
        path.write_text("<!doctype html><title>Quota exceeded</title>")
    elif how == "pickle":
        torch.save(Bomb(), path)
    elif how == "missing":
        path.unlink()
    elif how == "other version":
        header = json.dumps({"format": 99, "about": {}})
        save_file({"a": torch.zeros(1)}, path, {"complexnn": header})
    elif how == "foreign":
        save_file({"a": torch.zeros(1)}, path)


@pytest.mark.parametrize(
    "how", ["truncated", "empty", "html", "pickle", "missing", "other version", "foreign"]
)
def test_broken_files_are_refused_and_never_executed(tmp_path, monkeypatch, how):
    monkeypatch.chdir(tmp_path)
    broken(tmp_path / "w", how)
    with pytest.raises(InputError, match="w"):
        checkpoint.read(tmp_path / "w")
    assert not (tmp_path / "exploded").exists()


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def write_and_fail():
        with checkpoint.replacing(path) as temporary:
            temporary.write_text("half")
            raise OSError("disk full")

    with pytest.raises(InputError, match=r"disk full.*what was there is untouched"):
        write_and_fail()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


TREE = {
    "numbers": [1, 2.5, None, "text", True],
    3: {"weights": torch.randn(2, 3).T, "same": torch.ones(2)},
}


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b and type(a) is type(b)


def test_state_comes_back_and_the_one_before_is_kept(tmp_path):
    assert checkpoint.load_state(tmp_path) is None
    checkpoint.save_state(tmp_path, {"epoch": 1})
    checkpoint.save_state(tmp_path, TREE)
    assert same(checkpoint.load_state(tmp_path), TREE)
    assert sorted(os.listdir(tmp_path)) == ["latest.safetensors", "previous.safetensors"]


@pytest.mark.parametrize("how", ["truncated", "empty", "html", "pickle", "missing", "foreign"])
def test_a_damaged_state_falls_back_with_a_warning(tmp_path, caplog, how, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for epoch in (1, 2):
        checkpoint.save_state(tmp_path, {"epoch": epoch})
    path = tmp_path / "latest.safetensors"
    broken(path, how)
    assert checkpoint.load_state(tmp_path) == {"epoch": 1}
    assert ("going back to the state before it" in caplog.text) == (how != "missing")
    assert not (tmp_path / "exploded").exists()


def test_equal_networks_are_equal_files(tmp_path):
    net = small()
    for i in range(6):
        checkpoint.save(tmp_path / str(i), net, to_dict(net.config))
    assert len({checkpoint.sha256(tmp_path / str(i)) for i in range(6)}) == 1


def test_leftovers_of_a_killed_save_are_removed(tmp_path):
    checkpoint.save_state(tmp_path, {"epoch": 1})
    (tmp_path / ".latest.safetensors.1234.tmp").write_text("half")
    assert checkpoint.load_state(tmp_path) == {"epoch": 1}
    assert os.listdir(tmp_path) == ["latest.safetensors"]


@pytest.mark.parametrize("how", ["folder", "file"])
def test_load_gives_a_ready_network_in_one_line(tmp_path, how):
    net = small(num_classes=3).eval()
    path = tmp_path / "model.safetensors"
    checkpoint.save(path, net, to_dict(net.config))
    loaded = complexnn.load(tmp_path if how == "folder" else path, num_classes=3)
    images = torch.rand(4, 3, 8, 8)
    a, b = (n(images, generator=torch.Generator().manual_seed(0)) for n in (net, loaded))
    assert torch.equal(a, b)
    assert not loaded.training
    with pytest.raises(InputError, match="has num_classes 3, expected 10"):
        complexnn.load(path, num_classes=10)
    with pytest.raises(InputError, match="has arch lenet, expected resnet20"):
        complexnn.load(path, arch="resnet20")


def test_no_pickle_on_the_loading_path():
    """What complexnn imports and calls: neither torch.load nor pickle."""
    for path in Path(complexnn.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = [a.name for a in node.names] + [getattr(node, "module", "") or ""]
                assert "pickle" not in names, path
            if isinstance(node, ast.Attribute):
                assert ast.unparse(node) not in ("torch.load", "torch.save", "np.load"), path
