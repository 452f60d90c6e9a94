"""A stand-in for a device without float64, such as Apple's MPS, on any machine.

Its tensors say that they are elsewhere and keep their numbers on the CPU. Every operation on them
is refused if it would make a float64 tensor there, or mix tensors of two devices, as on the real
one. PyTorch can differentiate only on devices that it was built for, so ``meta`` lends its name: a
device without numbers, which training and attacks have no other use for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import torch
from accelerate.state import PartialState
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from complexnn import metrics

DEVICE = torch.device("meta")
aten = torch.ops.aten
# These take tensors of the CPU beside their own.
MIXING = {
    aten.copy_.default, aten._to_copy.default, aten.index.Tensor, aten.index_put_.default,
    aten._index_put_impl_.default,
}  # fmt: skip


class OnDevice(Tensor):
    """A tensor on the device, and its numbers on the CPU."""

    numbers: Tensor

    @staticmethod
    def __new__(cls, numbers: Tensor) -> OnDevice:
        if numbers.dtype in (torch.float64, torch.complex128):
            raise TypeError(f"the device has no {numbers.dtype}")
        made = Tensor._make_wrapper_subclass(
            cls, numbers.shape, strides=numbers.stride(), dtype=numbers.dtype, device=DEVICE,
            storage_offset=numbers.storage_offset(),
        )  # fmt: skip
        made.numbers = numbers
        return made

    def __repr__(self) -> str:
        return f"OnDevice({self.numbers})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return dispatch(func, args, kwargs or {})


def numbers_of(x):
    return x.numbers if isinstance(x, OnDevice) else x


def dispatch(func, args, kwargs):
    """Run one operation on the numbers, and put what comes out where it belongs."""
    every = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    here = [x for x in every if isinstance(x, OnDevice)]
    if here and func not in MIXING and any(x.dim() for x in every if x not in Identity(here)):
        raise RuntimeError(f"{func}: expected all tensors to be on the same device")
    device, there = kwargs.get("device"), bool(here)
    if device is not None:
        there = torch.device(device) == DEVICE
        kwargs = kwargs | {"device": torch.device("cpu")}
    elif func is aten.copy_.default:
        there = isinstance(args[0], OnDevice)
    if there and kwargs.get("generator") is not None:
        raise RuntimeError(f"{func}: expected a generator of the device, found one of the CPU")
    out = func(*tree_map(numbers_of, args), **tree_map(numbers_of, kwargs))
    known = {id(x.numbers): x for x in here}  # what is changed in place stays itself

    def put(x):
        if not isinstance(x, Tensor):
            return x
        return known[id(x)] if id(x) in known else OnDevice(x)

    return tree_map(put, out) if there else out


class Identity(list):
    """Membership by identity, since tensors compare by element."""

    def __contains__(self, x: object) -> bool:
        return any(x is y for y in self)


class Operations(TorchDispatchMode):
    """Also sees what makes tensors from nothing."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return dispatch(func, args, kwargs or {})


class Functions(TorchFunctionMode):
    """What no operation shows: ``tolist``, which PyTorch refuses for any subclass, and tensors of
    given numbers."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is Tensor.tolist:
            args = tree_map(numbers_of, args)
        if (
            func in (torch.tensor, torch.as_tensor)
            and torch.device(kwargs.get("device") or "cpu") == DEVICE
        ):
            return func(*args, **kwargs | {"device": "cpu"}).to(DEVICE)
        return func(*args, **kwargs)


@contextlib.contextmanager
def float32_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """Within it, :data:`DEVICE` is such a device, and what commands choose by themselves."""
    monkeypatch.setattr(metrics, "NO_FLOAT64", {DEVICE.type})
    monkeypatch.setattr(PartialState, "default_device", property(lambda state: DEVICE))
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        with Functions(), Operations():
            yield DEVICE
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
