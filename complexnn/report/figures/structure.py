"""The picture of the method."""

from __future__ import annotations

from pathlib import Path

from complexnn.report.figures.drawing import GREEN, RED, plt, save


def structure(path: Path) -> str:
    """Who computes what, who sees what: the split network."""
    figure, axis = plt.subplots(figsize=(8.4, 2.7))
    axis.set_axis_off()
    axis.set_xlim(0, 10.2)
    axis.set_ylim(0, 3)
    for left, width, title, colour in (
        (0.1, 4.0, "your device", GREEN), (4.4, 2.2, "server, not trusted", RED),
        (6.9, 3.2, "your device", GREEN),
    ):  # fmt: skip
        axis.add_patch(
            plt.Rectangle((left, 0.25), width, 2.3, facecolor=colour, alpha=0.10, linewidth=0)
        )
        axis.text(left + width / 2, 2.66, title, ha="center", fontsize=9, color=colour)
    boxes = (
        (0.9, "encoder\n$a = g(I)$"),
        (3.0, "rotate\n$x = R\\,(a, b, …)$"),
        (5.5, "processing module\n$h = \\Phi(x)$"),
        (7.75, "rotate back\n$R^T h$"),
        (9.35, "decoder\n$d(\\cdot)$"),
    )
    for x, words in boxes:
        axis.text(
            x, 1.45, words, ha="center", va="center", fontsize=9,
            bbox={"boxstyle": "round,pad=0.4", "facecolor": "white", "edgecolor": "#555555"},
        )  # fmt: skip
    arrow = {"arrowstyle": "->", "color": "#555555"}
    for a, b in ((1.5, 2.2), (3.85, 4.55), (6.45, 7.1), (8.4, 8.85)):
        axis.annotate("", (b, 1.45), (a, 1.45), arrowprops=arrow)
    axis.text(3.0, 0.55, "secret key $R$, decoys $b$", ha="center", fontsize=9, color=GREEN)
    axis.text(5.5, 0.55, "sees $x$ and $h$", ha="center", fontsize=9, color=RED)
    # Around the server, which never gets the key.
    axis.plot([3.0, 3.0, 7.75], [0.45, 0.1, 0.1], color=GREEN, linestyle="--", linewidth=1)
    axis.annotate("", (7.75, 1.0), (7.75, 0.1), arrowprops=arrow | {"color": GREEN, "ls": "--"})
    save(figure, path)
    return (
        "The classifier cut in three. The processing module Φ commutes with every orthogonal "
        "matrix over the parts, Φ(R x) = R Φ(x), so rotating its answer back gives the answer to "
        "the unrotated features. What attacks are given: Φ, the encoder, and x."
    )
