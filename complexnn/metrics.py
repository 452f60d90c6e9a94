"""Measures: angles, images, classification, and the intervals around them."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import numpy as np
import torch
from scipy import special
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure as _ssim

NO_FLOAT64 = {"mps"}  # types of devices whose tensors cannot hold float64
# Measures that are shares of 0/1 outcomes, by their names in the rows of attacks.
SHARES = {"error", "top1", "top1_jpeg", "top5"}
LEAST_GROUPS = 16  # fewer clusters do not tell how much they differ
_Z = special.ndtri(0.975)  # half the width of a 95 % interval, in standard deviations


def double(x: Tensor) -> Tensor:
    """``x`` in float64: on its device, or on the CPU where the device has no float64."""
    return x.cpu().double() if x.device.type in NO_FLOAT64 else x.double()


def angle_between(estimate: Tensor, truth: Tensor) -> Tensor:
    r"""Angle in [0, π] between unit vectors along the last axis.

    For :math:`(\cos\theta, \sin\theta)` this is the circular error
    :math:`|\hat\theta - \theta|` with wrap-around. The two-argument form keeps full precision
    near 0 and π, where the arc cosine loses half the digits.
    """
    apart, along = (estimate - truth).norm(dim=-1), (estimate + truth).norm(dim=-1)
    return 2 * torch.atan2(apart, along)


def rmse(estimate: Tensor, truth: Tensor) -> Tensor:
    """Root mean square error per image, pixels in [0, 1]: ``(B, C, H, W) -> (B,)``."""
    return (estimate - truth).square().flatten(1).mean(dim=1).sqrt()


def psnr(estimate: Tensor, truth: Tensor) -> Tensor:
    """Peak signal-to-noise ratio per image in dB, pixels in [0, 1]; 100 dB at most."""
    return -20 * rmse(estimate, truth).clamp(min=1e-5).log10()  # 1e-5 is 100 dB


def ssim(estimate: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity per image (Wang et al. 2004), pixels in [0, 1].

    The usual 11x11 Gaussian window; images under 16 pixels get a uniform window of 3x3, since
    the usual one would leave no position.
    """
    window = {} if min(truth.shape[-2:]) >= 16 else {"gaussian_kernel": False, "kernel_size": 3}
    return _ssim(estimate, truth, data_range=1.0, reduction="none", **window).reshape(-1)


def lpips_weights() -> Path:
    """Where torch keeps AlexNet's weights, which LPIPS needs; they are never downloaded here."""
    return Path(torch.hub.get_dir()) / "checkpoints" / "alexnet-owt-7be5be79.pth"


def lpips(estimate: Tensor, truth: Tensor) -> Tensor:
    """Learned perceptual distance per image (Zhang et al. 2018), AlexNet, pixels in [0, 1]; needs
    :func:`lpips_weights` and images of 32 pixels or more."""
    net = _lpips_net().to(truth.device)
    with torch.no_grad():
        return net(_colour(estimate), _colour(truth), normalize=True).flatten()


@cache
def _lpips_net() -> torch.nn.Module:
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    return LearnedPerceptualImagePatchSimilarity(net_type="alex").net


def _colour(images: Tensor) -> Tensor:
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images


def tpr_at_fpr(scores: Tensor, truth: Tensor, rate: float = 0.01) -> float:
    """True-positive rate of the threshold that lets at most ``rate`` of the negatives pass;
    NaN without positives or negatives. ``(N,), (N,)`` bool."""
    positive, negative = scores[truth], scores[~truth]
    if not len(positive) or not len(negative):
        return math.nan
    allowed = int(rate * len(negative))  # negatives that may lie above the threshold
    threshold = negative.sort(descending=True).values[allowed]
    return double(positive > threshold).mean().item()


def distance_correlation(x: Tensor, y: Tensor) -> Tensor:
    r"""Distance correlation of n paired samples (Székely, Rizzo and Bakirov 2007), in [0, 1].

    :math:`\sqrt{V(x, y) / \sqrt{V(x, x) V(y, y)}}` with :math:`V(x, y) = \sum_{ij} A_{ij} B_{ij}`
    of the doubly centred matrices of Euclidean distances. 0 in the limit only for independent x
    and y; a few samples of independent ones give more. Differentiable.

    Shape: ``(n, p), (n, q) -> ()``.
    """
    a, b = _centred_distances(x), _centred_distances(y)
    shared = (a * b).sum().clamp(min=0)
    scale = ((a * a).sum() * (b * b).sum()).sqrt()
    # The root's gradient is infinite at 0, where independent samples lie.
    return (shared / scale.clamp(min=1e-12) + 1e-12).sqrt()


def _centred_distances(x: Tensor) -> Tensor:
    # The shift under the root keeps the gradient finite where two samples are equal.
    square = x.square().sum(dim=1)
    distances = (square[:, None] + square - 2 * x @ x.T).clamp(min=0).add(1e-8).sqrt()
    rows = distances.mean(dim=1)
    return distances - rows[:, None] - rows + rows.mean()


def mean_interval(
    values: Tensor, *, groups: Tensor | None = None, resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """95 % bootstrap interval of the mean of per-image ``values``: percentiles, expanded for few
    samples as by Hesterberg (2015, The American Statistician 69, section 4.2). scipy's bootstrap
    makes the same draws and gives the same up to rounding, in more time and memory.

    Images with one number in ``groups`` are not independent, as where they share a key: groups are
    drawn, not images. Fewer than :data:`LEAST_GROUPS` are too few to trust the interval. Several
    draws of one image are not independent either: average them first. Values in {0, 1} need
    :func:`share_interval_of`: all zeros would give (0, 0).

    Shape: ``(N,)``, ``groups`` ``(N,)`` int.
    """
    sums, counts = _clusters(values, groups)
    size = len(sums)
    rng = np.random.default_rng(seed)
    means = []
    for _ in range(resamples):
        drawn = rng.integers(size, size=size)
        means.append(sums[drawn].sum() / counts[drawn].sum())
    # Plain percentiles are too narrow for few samples: the bootstrap's variance is divided by n
    # instead of n - 1, and its tails are those of a normal distribution instead of Student's.
    tail = 50.0
    if size > 1:
        tail = 100 * special.ndtr(-((size / (size - 1)) ** 0.5) * special.stdtrit(size - 1, 0.975))
    low, high = np.percentile(means, [tail, 100 - tail])
    return float(low), float(high)


def _clusters(values: Tensor, groups: Tensor | None) -> tuple[np.ndarray, np.ndarray]:
    """Sum and number of the values of each group; without groups each value is its own."""
    array = values.detach().cpu().double().numpy()
    if groups is None:
        return array, np.ones(len(array))
    _, places = np.unique(groups.cpu().numpy(), return_inverse=True)
    return np.bincount(places, weights=array), np.bincount(places).astype(float)


def share_interval(share: float, count: float) -> tuple[float, float]:
    """95 % interval of a share out of ``count`` independent trials (Wilson 1927).

    scipy's takes whole numbers of trials only; :func:`effective_count` is none.
    """
    if count <= 0:
        return 0.0, 1.0
    centre = (share + _Z * _Z / (2 * count)) / (1 + _Z * _Z / count)
    half = (
        _Z
        / (1 + _Z * _Z / count)
        * math.sqrt(share * (1 - share) / count + _Z * _Z / (4 * count * count))
    )
    # At 0 and 1 an end is the share itself, which rounding may miss on either side.
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def share_interval_of(
    values: Tensor, groups: Tensor | None = None, *, trials: int = 1
) -> tuple[float, float]:
    """95 % interval of the mean of per-image shares of 0/1 outcomes: Wilson's, at
    :func:`effective_count` trials. Several draws of one image are averaged first: they are one
    trial, not several."""
    return share_interval(double(values).mean().item(), effective_count(values, groups, trials))


def effective_count(values: Tensor, groups: Tensor | None = None, trials: int = 1) -> float:
    r"""How many independent 0/1 trials tell as much about a share as these values do.

    :math:`p (1 - p) / V` with V the variance of the mean between clusters, times
    :math:`(z / t_{G-1})^2` for the few clusters that V rests on (Korn and Graubard 1998, Survey
    Methodology 24). At least the G clusters, each of which may be one trial repeated; at most
    ``trials`` independent ones for each value, such as the attributes of an image. Where every
    outcome is the same, nothing tells how much clusters differ: G.
    """
    sums, counts = _clusters(values, groups)
    clusters, share = len(sums), sums.sum() / counts.sum()
    if clusters < 2 or share in (0, 1):
        return clusters
    spread = np.square(sums - share * counts).sum() * clusters / (clusters - 1)
    variance = spread / counts.sum() ** 2
    most = trials * len(values)
    if variance == 0:
        return most
    few = (_Z / special.stdtrit(clusters - 1, 0.975)) ** 2
    return float(np.clip(share * (1 - share) / variance * few, clusters, most))


def interval(measure: str, values: Tensor, groups: Tensor | None = None) -> tuple[float, float]:
    """The 95 % interval that suits a measure: :func:`share_interval_of` for :data:`SHARES`,
    :func:`mean_interval` for all others."""
    if measure in SHARES:
        return share_interval_of(values, groups)
    return mean_interval(values, groups=groups)
