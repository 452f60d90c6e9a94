"""What each stretch of a split network costs: parameters, FLOPs, activations, bytes released."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from complexnn.config import NetConfig
from complexnn.networks.registry import build, topology

STRETCHES = ("encoder", "processing", "decoder")
_WEIGHTED = (nn.modules.conv._ConvNd, nn.Linear)


@dataclass(frozen=True)
class Anatomy:
    """Counts per stretch; all but the parameters are per real query."""

    parameters: dict[str, int]
    flops: dict[str, float]  # two for each multiplication with its addition
    activations: dict[str, float]  # numbers that convolutions and linear layers put out
    released: float  # numbers sent to the server

    @property
    def server_share(self) -> float:
        """Share of the FLOPs that the server does."""
        return self.flops["processing"] / sum(self.flops.values())

    def bytes_released(self, dtype: torch.dtype) -> float:
        return self.released * dtype.itemsize


@cache
def dissect(config: NetConfig) -> Anatomy:
    """Count on the meta device, where nothing is computed.

    A decoy group costs the server d parts for one query, a packed group one part for each.
    """
    with torch.device("meta"):
        net = build(config).eval()
        plan = topology(config)
        parts = config.parts
        released = (1, parts, *plan.released) if parts > 1 else (1, *plan.released)
        inputs = {
            "encoder": torch.empty(1, config.in_channels, *config.image_size),
            "processing": torch.empty(released),
            "decoder": torch.empty(1, *plan.answer),
        }
    # Outside the block, which would look at every call of every layer for tensors to be made.
    queries = config.queries
    per_query = {"encoder": 1, "processing": queries, "decoder": 1}
    flops, activations = {}, {}
    for name in STRETCHES:
        module, outputs = getattr(net, name), []
        hooks = [
            layer.register_forward_hook(
                lambda _, args, output, outputs=outputs: outputs.append(output.numel())
            )
            for layer in module.modules()
            if isinstance(layer, _WEIGHTED) or hasattr(layer, "imag")  # ComplexConv2d, -Linear
        ]
        with FlopCounterMode(display=False) as counter:
            module(inputs[name])
        for hook in hooks:
            hook.remove()
        flops[name] = counter.get_total_flops() / per_query[name]
        activations[name] = sum(outputs) / per_query[name]
    return Anatomy(
        {name: sum(p.numel() for p in getattr(net, name).parameters()) for name in STRETCHES},
        flops,
        activations,
        math.prod(released) / queries,
    )
