"""Membership in a group with Gaussian decoys, by the strongest attacker there is."""

from __future__ import annotations

import torch
from torch import Tensor

from complexnn import metrics
from complexnn.privacy.offload import Layer


class Audit:
    r"""The strongest attacker there is: it knows the network and every other query of the group,
    and asks by likelihood ratio, over all calls of layers, whether a candidate was there.

    With the others' outer products taken from :math:`X^T X`, a call leaves
    :math:`S = W + a a^T`, and the log-likelihood ratio of a candidate c is
    :math:`\frac{k - N - 1}{2} \log(1 - c^T S^{-1} c) + \|c\|^2 / 2\sigma^2`.
    """

    def __init__(self, gallery: list[Tensor]) -> None:
        self.gallery = gallery  # each call's clipped inputs of the candidates, (1000, N)
        self.there: list[Tensor] = []  # scores of the queries themselves, per group (d,)
        self.absent: list[Tensor] = []  # the same, had they not been there
        self.ranks: list[Tensor] = []
        self._sum: Tensor | None = None
        self._call = 0

    def hear(self, sent: Tensor, rows: Tensor, layer: Layer) -> None:
        """Take in what one call sent, ``(d + k, N)``, with the inputs ``(d, N)`` behind it."""
        targets, wide = metrics.double(rows), metrics.double(sent)
        # Without the group's own queries: W, the decoys alone.
        noise = wide.mT @ wide - targets.mT @ targets
        inverse = torch.linalg.inv(noise)
        candidates = metrics.double(self.gallery[self._call])
        own = (targets @ inverse * targets).sum(1)  # aᵀW⁻¹a
        across = candidates @ inverse @ targets.mT  # (candidates, targets)
        alone = (candidates @ inverse * candidates).sum(1, keepdim=True)
        beside = alone - across.square() / (1 + own)  # cᵀS⁻¹c with S = W + aaᵀ
        there, absent = (self._ratio(q, targets, layer) for q in (own / (1 + own), own))
        others = self._ratio(beside.mT, candidates, layer)  # (targets, candidates)
        found = torch.cat([there.unsqueeze(1), absent.unsqueeze(1), others], dim=1)
        self._sum = found if self._sum is None else self._sum + found
        self._call += 1

    def _ratio(self, form: Tensor, candidates: Tensor, layer: Layer) -> Tensor:
        squared = candidates.square().sum(1)
        return (layer.freedom - 2) / 2 * torch.log((1 - form).clamp(min=1e-300)) + squared / (
            2 * layer.variance
        )

    def finish_group(self) -> None:
        """Note the scores over all calls, and be ready for the next group."""
        there, absent, others = self._sum.split([1, 1, len(self.gallery[0])], dim=1)
        self.there.append(there.squeeze(1))
        self.absent.append(absent.squeeze(1))
        self.ranks.append(1 + (others >= there).sum(1))
        self._sum, self._call = None, 0
