"""Devices and precisions, checked before any work."""

from __future__ import annotations

import os

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from complexnn.config import InputError


def make_accelerator(device: str, precision: str = "fp32") -> Accelerator:
    """Device and precision; the device is checked before any work.

    Raises:
        InputError: a device that this machine does not have, or a precision that it has not.
    """
    if device != "auto":
        try:
            torch.empty(1, device=device)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(f"device {device!r} is not available here ({reason})") from error
    if device.startswith("cuda:"):
        torch.cuda.set_device(device)
    torch.backends.cudnn.allow_tf32 = False  # fp32 means 24 bits, not 11, on every device
    AcceleratorState._reset_state(reset_partial_state=True)  # one process may run several commands
    # Without being told, processes of torchrun on CPUs would not find each other.
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    cpu = device == "cpu" or (device == "auto" and not alone and not torch.cuda.is_available())
    accelerator = Accelerator(cpu=cpu, mixed_precision={"fp32": "no"}.get(precision, precision))
    if precision == "fp16" and accelerator.device.type == "cpu":  # it would train in fp32
        raise InputError("precision fp16 needs a GPU: use bf16 or fp32 on a CPU")
    return accelerator
