r"""``python -m complexnn.gaussianity --victim RUN``: how Gaussian the features of a rotated network
are.

Independent components whose joint density no rotation changes are Gaussian (Herschel and Maxwell),
and a rotation of independent non-Gaussian components can be undone (Comon 1994): how far from a
Gaussian the features of one image are is what ``ica`` works with, and it loses what the rotation
mixes away. Measured on the features as that attack sees them: channels whitened, the direction of
the mean feature dropped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from complexnn import metrics
from complexnn.attacks.fitting import Knowledge
from complexnn.attacks.whitening import measure_channels
from complexnn.config import InputError, NetConfig, at_least, check_numbers
from complexnn.data.images import Dataset
from complexnn.networks.splitnet import SplitNet
from complexnn.rotation import functional as cF
from complexnn.runs.progress import track
from complexnn.runs.seeds import random_for
from complexnn.runs.tables import Table
from complexnn.training.evaluation import eval_batch

NODES = 32  # of the quadrature over t; chosen by hand
SHOWN = {"features": "an image's features", "released": "a released part"}
MEASURES = {"kurtosis": "excess kurtosis", "epps_pulley": "Epps-Pulley distance"}


@dataclass(frozen=True)
class GaussianityConfig:
    """Measure how Gaussian a rotated network's features are, before and after the rotation.

    The victim must be of kind complex.
    """

    victim: Path
    """Run folder of the network."""
    images: int = 2000
    """Test images, drawn at random."""
    data_dir: Path | None = None
    """Where the data set lies now; None: where it was."""
    device: str = "auto"
    """auto, cpu, cuda, mps; keys are drawn on the CPU."""
    seed: int = 0
    """Seed of the images and keys."""

    def __post_init__(self) -> None:
        check_numbers(self)
        at_least(self, 2, "images")

    @property
    def measured_as(self) -> tuple[Any, ...]:
        """What its numbers depend on."""
        return self.images, self.seed


def check(victim: Path, net: NetConfig) -> None:
    """Refuse a network that rotates nothing.

    Raises:
        InputError: a network without parts.
    """
    if net.parts == 1:
        raise InputError(f"{victim} is {net.label}: measure a network of kind complex")


def standardised(samples: Tensor) -> Tensor:
    """Mean 0 and variance 1 along the last axis; constant rows are zero."""
    centred = samples - samples.mean(dim=-1, keepdim=True)
    return centred / centred.square().mean(dim=-1, keepdim=True).sqrt().clamp(min=1e-12)


def excess_kurtosis(samples: Tensor) -> Tensor:
    """Fourth moment of the standardised samples less a Gaussian's 3: ``(..., n) -> (...)``."""
    return standardised(samples).square().square().mean(dim=-1) - 3


def unshared(kurtosis: float, dim: int) -> float:
    r"""Mean excess kurtosis of a rotated part if the d parts were independent and alike.

    Cumulants add up, :math:`\kappa_4(\sum_j u_j a_j) = \sum_j u_j^4 \kappa_4(a_j)`, and on the
    sphere :math:`E \sum_j u_j^4 = 3 / (d + 2)`. More than this remains where features are large
    in the same places, which no rotation changes and no ICA can use.
    """
    return kurtosis * 3 / (dim + 2)


def epps_pulley(samples: Tensor) -> Tensor:
    r"""Distance from a Gaussian by characteristic functions (Epps and Pulley 1983).

    :math:`T / n = \int |\varphi_n(t) - e^{-t^2/2}|^2 \, d\Phi(t)` of the standardised samples,
    with :math:`\varphi_n` their empirical characteristic function. The published statistic is
    T; without the factor n it means the same for any number of samples.

    Shape: ``(..., n) -> (...)``.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    z = standardised(samples)
    total = torch.zeros_like(z[..., 0])
    for t, weight in zip(nodes.tolist(), weights.tolist(), strict=True):
        real = (t * z).cos().mean(dim=-1) - math.exp(-t * t / 2)
        imaginary = (t * z).sin().mean(dim=-1)
        total += weight / math.sqrt(2 * math.pi) * (real.square() + imaginary.square())
    return total


@torch.no_grad()
def evaluate(
    config: GaussianityConfig, net: SplitNet, dataset: Dataset, device: torch.device
) -> dict[str, dict]:
    """Both measures of queries' features and of released parts, as a row's metrics: means over
    images and parts, beside as many independent Gaussian numbers."""
    rng = random_for("evaluation", config.seed)
    knowledge = Knowledge(net.eval(), dataset.train, dataset.validation, device)
    known = measure_channels(knowledge, rng)
    chosen = torch.randperm(len(dataset.test), generator=rng)[: config.images]
    test, size = dataset.test.subset(chosen), eval_batch(net.config.dim)
    each: dict[str, list[Tensor]] = {}  # a number for every image or part, by measure and what of
    for batch in track(test.batches(size, device), -(-len(test) // size), "batches"):
        released, key, parts = net.release(batch.images, generator=rng, closed=False)
        queries = cF.first_parts(parts, net.config.queries)[: key.queries]
        features = known.apply(queries.unsqueeze(1)).squeeze(1)
        samples = {
            "features": features,
            "released": known.apply(released).flatten(0, 1),
            "gaussian": cF.normal(tuple(features.shape), rng).to(features),
        }
        for what, values in samples.items():
            each.setdefault(f"kurtosis_{what}", []).append(excess_kurtosis(values).cpu())
            each.setdefault(f"epps_pulley_{what}", []).append(epps_pulley(values).cpu())
    measured = {}
    for name, chunks in each.items():
        values = torch.cat(chunks).double()
        low, high = metrics.mean_interval(values)
        measured[name] = {"value": values.mean().item(), "low": low, "high": high}
    return measured


def table(measured: dict[str, dict], images: int, dim: int) -> Table:
    """What a user wants to know, in rows."""
    kinds = SHOWN | {"gaussian": "Gaussian numbers"}
    rows = [
        (shown, *(f"{measured[f'{measure}_{what}']['value']:.4f}" for measure in MEASURES))
        for what, shown in kinds.items()
    ]
    independent = unshared(measured["kurtosis_features"]["value"], dim)
    rows.insert(2, ("if parts were independent", f"{independent:.4f}", ""))
    note = (
        f"Means over {images:,} test images or the parts that were released for them, channels "
        "whitened and the mean feature dropped as `ica` does. 0 is Gaussian, but for the number of "
        "entries: the last row has as many."
    )
    return Table("How Gaussian the features are", ("of", *MEASURES.values()), rows, note)
