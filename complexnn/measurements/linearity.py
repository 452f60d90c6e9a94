r"""``python -m complexnn.linearity --victim RUN``: what a rotated server makes of a query beyond a
matrix that has never seen it.

The layers of a rotated server multiply by a matrix: fixed weights, and gates and pools that see the
Gram matrix :math:`G` of a group. A query's answer is :math:`B(G)^T a` (docs/beyond.md). With the
:math:`B` of a group that does not hold the query, the same server is one fixed matrix, and a device
that is given that matrix needs no server.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from complexnn.config import InputError, NetConfig, at_least, check_numbers
from complexnn.data import tasks
from complexnn.data.images import Dataset
from complexnn.networks.splitnet import SplitNet
from complexnn.runs.progress import track
from complexnn.runs.seeds import random_for
from complexnn.runs.tables import Table, percent
from complexnn.training import evaluation

# The amplitude of a query beside a group that must not notice it. A power of two, so that scaling
# is exact; its square, by which a gate moves, is 2^-32, below a float's rounding of 2^-24.
WHISPER = 2.0**-16
BATCH = 256  # queries that whisper to one group
ERRORS = {
    "error": "its own group",
    "error_under_another_group": "another group",
    "error_of_the_mean_matrix": "mean matrix",
}


@dataclass(frozen=True)
class LinearityConfig:
    """Measure a rotated server against matrices that have never seen the query.

    The victim must be of kind complex, with real weights.
    """

    victim: Path
    """Run folder of the network."""
    maps: int = 8
    """Groups of validation images whose matrices are tried, and averaged."""
    data_dir: Path | None = None
    """Where the data set lies now; None: where it was."""
    device: str = "auto"
    """auto, cpu, cuda, mps; keys are drawn on the CPU."""
    seed: int = 0
    """Seed of the groups."""

    def __post_init__(self) -> None:
        check_numbers(self)
        at_least(self, 1, "maps")

    @property
    def measured_as(self) -> tuple[Any, ...]:
        """What its numbers depend on."""
        return self.maps, self.seed


def check(victim: Path, net: NetConfig) -> None:
    """Refuse a network whose server has no matrix to be measured by.

    Raises:
        InputError: a network that is not rotated, or one with complex weights.
    """
    if net.kind != "complex" or net.weights != "real":
        raise InputError(
            f"{victim} is {net.label}: measure a network of kind complex whose weights are real"
        )


def under_others(processing: nn.Module, group: Tensor, queries: Tensor) -> Tensor:
    r"""The answers :math:`B(G)^T a` to ``queries`` with the matrix :math:`B(G)` of ``group``.

    The queries stand beside the group at an amplitude that changes no gate, and are scaled up
    again behind the server. For members of the group this is the server's own answer.

    Args:
        processing: an equivariant server in eval mode; its layers treat all parts alike and do
            not count them (complex weights pair them, so they must be real).
        group: the parts of one group, ``(d, C, *)``, under any key.
        queries: features, ``(Q, C, *)``.

    Returns:
        Hidden answers ``(Q, C', *)``.
    """
    parts = torch.cat([group, WHISPER * queries]).unsqueeze(0)
    return processing(parts)[0, len(group) :] / WHISPER


@torch.no_grad()
def evaluate(
    config: LinearityConfig, net: SplitNet, dataset: Dataset, device: torch.device
) -> dict[str, dict]:
    """Errors on the test images: under each query's own group, under other groups, and under the
    mean of their matrices, as a row's metrics."""
    test = dataset.test
    rng = random_for("evaluation", config.seed)
    net.eval()
    known = dataset.validation.subset(
        torch.randperm(len(dataset.validation), generator=rng)[: config.maps * net.config.dim]
    )
    features = torch.cat([net.features(b.images) for b in known.batches(BATCH, device)])
    groups = net.unrotated_groups(features, generator=rng)[: config.maps]
    if len(groups) < config.maps:
        raise InputError(
            f"the {len(dataset.validation)} validation images fill {len(groups)} groups of "
            f"{net.config.dim}: ask for that many --maps at most"
        )
    own = evaluation.evaluate(net, test, device, draws=1, seed=config.seed)
    single, mean = [], []
    for batch in track(test.batches(BATCH, device), -(-len(test) // BATCH), "batches"):
        queries = net.unrotated_queries(batch.images, generator=rng)
        hidden = torch.stack([under_others(net.processing, g, queries) for g in groups])
        wrong = [_wrong(net.decoder(answers), batch.labels) for answers in hidden]
        single.append(torch.stack(wrong).mean(dim=0))
        mean.append(_wrong(net.decoder(hidden.mean(dim=0)), batch.labels))
    low, high = own["interval"]
    metrics = {
        "error": {"value": own["error"], "low": low, "high": high},
        "error_under_another_group": _mean(torch.cat(single), test.labels),
        "error_of_the_mean_matrix": _mean(torch.cat(mean), test.labels),
    }
    return {name: numbers | {"chance": own["chance"]} for name, numbers in metrics.items()}


def _wrong(logits: Tensor, labels: Tensor) -> Tensor:
    """The error of each image."""
    return tasks.errors(tasks.answers(logits.float(), labels), labels).cpu()


def _mean(errors: Tensor, labels: Tensor) -> dict[str, float]:
    """Their mean, as a row's metric."""
    low, high = evaluation.error_interval(errors, labels)
    return {"value": errors.mean().item(), "low": low, "high": high}


def table(measured: dict[str, dict], maps: int) -> Table:
    """What a user wants to know, in rows."""
    rows = [(shown, percent(measured[name])) for name, shown in ERRORS.items()]
    note = (
        f"{maps} groups of validation images, that is matrices which have never seen the query: "
        "the mean of their errors, and the error of the mean of the matrices, a fixed linear map."
    )
    return Table("What an answer owes to its own query", ("matrix of", "error in %"), rows, note)
