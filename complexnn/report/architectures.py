"""What every architecture, variant and kind costs: ``python -m complexnn.report networks``."""

from __future__ import annotations

import torch

from complexnn.config import NetConfig
from complexnn.networks.costs import Anatomy, dissect
from complexnn.networks.registry import ARCHITECTURES
from complexnn.runs.tables import Table

KINDS = {
    "original": {"kind": "original"},
    "additional": {"kind": "additional"},
    "complex, decoy d=2": {"kind": "complex"},
    "complex, packed d=2": {"kind": "complex", "group": "packed"},
    "local": {"kind": "local"},
}


def network_table() -> Table:
    """Every architecture, variant and kind: what device and server compute, keep and send."""
    head = ("network", "kind", "parameters (device + server)", "MFLOPs (device + server)",
            "server's work", "activations", "released, fp32", "bf16")  # fmt: skip
    lines = []
    for arch, entry in ARCHITECTURES.items():
        for variant in entry.variants:
            for kind, settings in KINDS.items():
                size = (entry.image_size,) * 2
                costs = dissect(NetConfig(arch, variant, image_size=size, **settings))
                lines.append((f"{arch}-{variant}", kind, *_cells(costs)))
    note = "Per query, 10 classes, images as in the paper. FLOPs: 2 for a multiply-add."
    return Table("Networks", head, lines, note)


def _cells(costs: Anatomy) -> list[str]:
    def pair(counts: dict[str, float], unit: float, digits: int = 0) -> str:
        server = counts["processing"]
        return f"{(sum(counts.values()) - server) / unit:,.{digits}f} + {server / unit:,.{digits}f}"

    kib = [f"{costs.bytes_released(t) / 1024:,.0f} KiB" for t in (torch.float32, torch.bfloat16)]
    return [
        pair(costs.parameters, 1),
        pair(costs.flops, 1e6, 1),
        f"{100 * costs.server_share:.0f} %",
        f"{sum(costs.activations.values()):,.0f}",
        *kib,
    ]
