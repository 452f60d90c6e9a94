"""Measures: angles, images, classification, and the intervals around them."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure as _ssim

NO_FLOAT64 = {"mps"}  # types of devices that have no float64


def double(x: Tensor) -> Tensor:
    """``x`` in float64, on the CPU where its device has none."""
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
    return -20 * rmse(estimate, truth).clamp(min=1e-5).log10()


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
    return (positive > threshold).double().mean().item()


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
    """95 % bootstrap interval of the mean of per-sample ``values`` (percentile method).

    Several draws of one image are not independent: average them first. Nor are samples of one
    group, ``groups`` naming each sample's: then whole groups are resampled.
    """
    array = values.double().cpu().numpy()
    rng = np.random.default_rng(seed)
    if groups is None:
        means = [rng.choice(array, array.size).mean() for _ in range(resamples)]
    else:
        _, owner = np.unique(groups.cpu().numpy(), return_inverse=True)
        sums, sizes = np.bincount(owner, array), np.bincount(owner)
        drawn = rng.integers(len(sizes), size=(resamples, len(sizes)))
        means = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def share_interval(share: float, count: int) -> tuple[float, float]:
    """95 % Wilson interval of a share out of ``count`` independent trials."""
    z = 1.959963984540054
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = (
        z
        / (1 + z * z / count)
        * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    )
    return max(0.0, centre - half), min(1.0, centre + half)
