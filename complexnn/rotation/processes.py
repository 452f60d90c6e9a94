"""Several processes that train together, as under ``torchrun``: how many, and means over them."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def processes() -> int:
    """How many processes train together."""
    distributed = torch.distributed
    return distributed.get_world_size() if distributed.is_initialized() else 1


def all_reduced(x: Tensor) -> Tensor:
    """Mean of ``x`` over all processes, without gradient."""
    if processes() == 1:
        return x
    total = x.clone(memory_format=torch.contiguous_format)
    torch.distributed.all_reduce(total)
    return total.div_(processes())


def average_gradients(module: nn.Module) -> None:
    """Replace the gradients by their means over all processes, in one exchange."""
    if processes() == 1:
        return
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    mean = all_reduced(torch.cat([g.flatten() for g in gradients]))
    for gradient, part in zip(gradients, mean.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))
