"""``python -m complexnn.scaling``: how time and memory grow."""

from __future__ import annotations

import torch

from complexnn.commands.app import parse
from complexnn.speed.scaling import ScalingConfig, curves, draw, table, throughput


def main(argv: list[str]) -> None:
    """Print the table of the curves, or the throughput."""
    config = parse(ScalingConfig, argv, "python -m complexnn.scaling")
    if config.what == "throughput":
        line = throughput(config)
        if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
            print(line)
        return
    points = curves(config)
    print(table(points).as_text())
    if config.picture is not None:
        draw(points, config.picture)
        print(f"picture: {config.picture}")
