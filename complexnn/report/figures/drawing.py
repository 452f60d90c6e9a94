"""What the figures share: colours, files, and how a notebook shows them.

Colours are those of Okabe and Ito, told apart by most colour-blind readers; shapes repeat what
colours say.
"""

from __future__ import annotations

import html
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from complexnn.runs.checkpoint import replacing

BLUE, ORANGE, GREEN, RED, SKY, BLACK = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#000000",
)  # fmt: skip
# Colour and shape of each kind of network.
LOOKS = {
    "original": (BLACK, "s"),
    "additional": (GREEN, "D"),
    "local": (SKY, "v"),
    "noisy": (ORANGE, "^"),
    "complex": (BLUE, "o"),
}


def save(figure: Figure, path: Path) -> None:
    """SVG if the name ends so, else PNG; two runs give the same bytes."""
    kind = "svg" if path.suffix == ".svg" else "png"
    path.parent.mkdir(parents=True, exist_ok=True)
    undated = {"Date": None} if kind == "svg" else {}
    with plt.rc_context({"svg.hashsalt": "complexnn"}), replacing(path) as temporary:
        figure.savefig(temporary, dpi=160, format=kind, metadata=undated, bbox_inches="tight")
    plt.close(figure)


def show(draw: Callable[..., str], path: Path, *args: Any) -> None:
    """Draw to ``path`` and show the picture with its caption, in a notebook."""
    from IPython.display import HTML, SVG, Image, display

    caption = draw(*args, path)
    picture = SVG(filename=path) if path.suffix == ".svg" else Image(filename=path, width=760)
    display(picture, HTML(f"<p><em>{html.escape(caption)}</em></p>"))


def bare(axis: Axes) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)
