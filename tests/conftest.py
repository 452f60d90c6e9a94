import os
import subprocess
from pathlib import Path

import pytest
import torch

from complexnn.commands import app
from complexnn.commands import train as train_command


@pytest.fixture(scope="module", autouse=True)
def on_the_cpu(request):
    """Only test_cuda.py sees a GPU: elsewhere numbers repeat to the bit, child processes too."""
    with pytest.MonkeyPatch.context() as patch:
        if request.module.__name__ != "test_cuda":
            patch.setattr(torch.cuda, "is_available", lambda: False)
            patch.setenv("CUDA_VISIBLE_DEVICES", "")
        yield


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def threads():
    """No test leaves the next ones more threads, which would fight for the cores."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def trained_run():
    """A function that trains a run for an epoch on digits: ``trained_run(folder, **flags)``."""

    def train(folder, **flags):
        settings = {"epochs": 1, "output-dir": folder} | flags
        words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
        assert app.run(train_command.main, words) == 0
        return folder

    return train


@pytest.fixture
def small_disk(tmp_path):
    """A function that mounts a disk of so many megabytes, or skips: ``small_disk(9)``."""
    disk = tmp_path / "disk"

    def mount(megabytes):
        if os.geteuid() != 0 or not Path("/proc/mounts").exists():
            pytest.skip("needs mount")
        disk.mkdir()
        words = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(disk)]
        if subprocess.run(words, check=False, capture_output=True).returncode:
            pytest.skip("cannot mount a tmpfs here")
        return disk

    yield mount
    if os.path.ismount(disk):
        subprocess.run(["umount", str(disk)], check=True)
