"""``--compile``: the three parts of a network through ``torch.compile``, each in one mode."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from types import FunctionType

import torch
from torch import Tensor, nn

from complexnn.config import InputError
from complexnn.networks.splitnet import SplitNet


def check_compiler(device: torch.device, instead: str) -> None:
    """Refuse, before any work, to compile for a CPU where there is no C++ compiler.

    Raises:
        InputError: says what to install, or what to do ``instead``.
    """
    compilers = (os.environ.get("CXX", "c++"), "g++", "clang++")
    if device.type == "cpu" and not any(map(shutil.which, compilers)):
        raise InputError(f"compiling needs a C++ compiler; install g++ or {instead}")


def compile_parts(net: SplitNet, *, training: bool = True) -> None:
    """Compile encoder, server and decoder for train mode, or else for eval mode.

    Each shape is compiled anew. Training has one, of full batches; evaluation, which ends with odd
    ones, stays eager beside it.
    """
    for module in (net.encoder, net.processing, net.decoder):
        module.forward = _compiled(module, training=training)


def _compiled(module: nn.Module, *, training: bool) -> Callable[..., Tensor]:
    """A ``forward`` that is compiled in one mode and eager in the other."""
    eager = module.forward

    def call(*args: Tensor) -> Tensor:
        return eager(*args)

    # The compiler counts and finds what it has compiled by code object: a copy for each module, so
    # that no module's shapes, limits or empty graph touch another's.
    own = FunctionType(call.__code__.replace(), globals(), closure=call.__closure__)
    compiled = torch.compile(own, dynamic=False)

    def forward(*args: Tensor) -> Tensor:
        return (compiled if module.training is training else eager)(*args)

    return forward
