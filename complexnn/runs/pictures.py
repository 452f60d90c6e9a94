"""Grids of reconstructions: randomly drawn images in columns, one attack per row; drawn, and kept
as pixels, so that grids of several victims can be put together."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from torch import Tensor

from complexnn.runs import checkpoint


def save_grid(path: Path, rows: dict[str, Tensor], title: str) -> None:
    """Draw ``rows`` (name to ``(N, C, H, W)``, pixels in [0, 1]) as a labelled PNG."""
    columns = max(len(images) for images in rows.values())
    beside = 0.4 + 0.085 * max(map(len, rows))  # inches that the longest name takes
    size = (0.9 * columns + beside, 0.9 * len(rows) + 0.5)
    figure, axes = plt.subplots(len(rows), columns, figsize=size, squeeze=False)
    for line, (name, images) in zip(axes, rows.items(), strict=True):
        for axis in line:
            axis.set_axis_off()
        for axis, image in zip(line, images, strict=False):
            pixels = image.clamp(0, 1).movedim(0, -1).squeeze(-1).numpy()
            axis.imshow(pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        line[0].text(
            -0.15, 0.5, name, transform=line[0].transAxes, ha="right", va="center", fontsize=10
        )
    figure.suptitle(title, fontsize=9)
    figure.subplots_adjust(beside / size[0], 0.01, 0.99, 0.99 - 0.3 / size[1], 0.05, 0.05)
    with checkpoint.replacing(path) as temporary:
        figure.savefig(temporary, dpi=160, format="png")
    plt.close(figure)


def keep_pixels(path: Path, rows: dict[str, Tensor], victim: str | None = None) -> None:
    """Save ``rows``, as of :func:`save_grid`, in 8 bits a pixel, with the victim's hash."""
    pixels = torch.stack([images.clamp(0, 1).mul(255).round().byte() for images in rows.values()])
    checkpoint.save_tensors(path, {"pixels": pixels}, {"rows": list(rows), "victim": victim})


def read_pixels(path: Path) -> dict[str, Tensor]:
    """What :func:`keep_pixels` saved, in [0, 1]."""
    state, about = checkpoint.read(path)
    return dict(zip(about["rows"], state["pixels"].float() / 255, strict=True))
