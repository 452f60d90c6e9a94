"""Weights on disk: what is written comes back, what is broken is refused, nothing is executed."""

import os

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import complexnn
from complexnn import checkpoint
from complexnn.config import InputError


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
        save_file({"a": torch.zeros(1)}, path, {"format": "99", "about": "{}"})
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

    with pytest.raises(OSError, match="disk full"):
        write_and_fail()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]
