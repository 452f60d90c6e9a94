"""``python -m complexnn.bench``: print the comparisons of speed."""

from __future__ import annotations

import dataclasses
import json

import torch

from complexnn.commands.app import parse
from complexnn.runs.checkpoint import write_text
from complexnn.runs.devices import make_accelerator
from complexnn.runs.results import device_name
from complexnn.speed.bench import (
    QUICK,
    REFERENCE,
    BenchConfig,
    compare,
    comparisons,
    data_share,
    table,
)
from complexnn.training.compiling import check_compiler


def main(argv: list[str]) -> None:
    """Print the comparisons; write Markdown and JSON where asked."""
    config = parse(BenchConfig, argv, "python -m complexnn.bench")
    quick = config.quick
    if quick:
        config = dataclasses.replace(config, quick=False, **QUICK)
    if config.compiled:
        check_compiler(make_accelerator(config.device).device, "give --no-compiled")
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    tables, rows = [], []
    for comparison in comparisons(config):
        compared = compare(config, comparison)
        rows += compared
        tables.append(table(comparison, compared))
        print(tables[-1].as_text(), end="\n\n", flush=True)
    share = None if quick else data_share(config)
    lines = [
        f"{config.arch}-{config.variant}, {device_name(make_accelerator(config.device).device)}, "
        f"torch {torch.__version__}; ratio: to {REFERENCE}, median over {config.rounds} rounds",
    ]
    if share is not None:
        lines.append(
            f"data pipeline: {100 * share:.1f} % of an epoch of original is not spent in the "
            "network"
        )
    print("\n".join(lines))
    if config.markdown is not None:
        text = "\n".join([*(t.as_markdown() for t in tables), *(f"- {line}" for line in lines)])
        write_text(config.markdown, text + "\n")
    if config.json is not None:
        about = {"rows": rows, "data_share": share, "about": lines}
        write_text(config.json, json.dumps(about, indent=2) + "\n")
