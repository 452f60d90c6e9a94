"""Membership in a group with Gaussian decoys, by the strongest attacker there is."""

from __future__ import annotations

import torch
from torch import Tensor

from complexnn import metrics
from complexnn.privacy.offload import RemoteLayer


class Audit:
    r"""The strongest attacker there is: it knows the network and every other query of the group,
    and asks by likelihood ratio, over all calls of layers, whether a candidate was there.

    With the others' outer products taken from :math:`X^T X`, a call leaves
    :math:`S = W + a a^T`, and the log-likelihood ratio of a candidate c is
    :math:`\frac{k - N - 1}{2} \log(1 - c^T S^{-1} c) + \|c\|^2 / 2\sigma^2` (docs/beyond.md, "One
    number decides").

    Args:
        gallery: each call's clipped inputs of the candidates, ``(candidates, N)``.
    """

    def __init__(self, gallery: list[Tensor]) -> None:
        self.gallery = gallery
        self.present: list[Tensor] = []  # scores of the queries themselves, per group (d,)
        self.absent: list[Tensor] = []  # the same, had they not been there
        self.ranks: list[Tensor] = []  # the query's place among it and the candidates, from 1
        self._scores: Tensor | None = None  # summed over calls: (d, present, absent, candidates)
        self._call = 0

    def observe(self, sent: Tensor, inputs: Tensor, layer: RemoteLayer) -> None:
        """Take in what one call sent, ``(d + k, N)``, with the inputs ``(d, N)`` behind it."""
        targets, wide = metrics.double(inputs), metrics.double(sent)
        # Without the group's own queries: W, the decoys alone.
        noise = wide.mT @ wide - targets.mT @ targets
        inverse = torch.linalg.inv(noise)
        candidates = metrics.double(self.gallery[self._call])
        own = (targets @ inverse * targets).sum(1)  # aᵀW⁻¹a
        across = candidates @ inverse @ targets.mT  # cᵀW⁻¹a, (candidates, targets)
        alone = (candidates @ inverse * candidates).sum(1, keepdim=True)  # cᵀW⁻¹c
        # With S = W + aaᵀ, cᵀS⁻¹c by Sherman and Morrison, instead of an inverse for each a.
        beside = alone - across.square() / (1 + own)
        present, absent = (self._ratio(q, targets, layer) for q in (own / (1 + own), own))
        others = self._ratio(beside.mT, candidates, layer)  # (targets, candidates)
        scores = torch.cat([present.unsqueeze(1), absent.unsqueeze(1), others], dim=1)
        self._scores = scores if self._scores is None else self._scores + scores
        self._call += 1

    def _ratio(self, form: Tensor, candidates: Tensor, layer: RemoteLayer) -> Tensor:
        """The log-likelihood ratio, from ``form`` = cᵀS⁻¹c; k - N - 1 is ``freedom`` - 2."""
        squared = candidates.square().sum(1)
        return (layer.freedom - 2) / 2 * torch.log((1 - form).clamp(min=1e-300)) + squared / (
            2 * layer.variance
        )

    def finish_group(self) -> None:
        """Note the scores over all calls, and be ready for the next group."""
        present, absent, others = self._scores.split([1, 1, len(self.gallery[0])], dim=1)
        self.present.append(present.squeeze(1))
        self.absent.append(absent.squeeze(1))
        self.ranks.append(1 + (others >= present).sum(1))
        self._scores, self._call = None, 0
