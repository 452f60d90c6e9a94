r"""The intersection attack: an image is sent several times. No training but for a sign.

Every release that holds the image spans its feature, :math:`a \in \operatorname{span}(X_r)`, under
whatever keys and among whatever counterparts. In general position spans of other company have
nothing else in common while :math:`R (d - 1) \le (R - 1)(N - 1)` for R releases of d parts of N
numbers: two suffice for :math:`2 d \le N`. So a is found up to its sign and, as rows of a key have
length 1, its norm, too.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 32  # images whose spans are compared at a time
Release = tuple[Tensor, Tensor]  # groups (G, d, C, H, W), and which of them holds each image (B,)


@torch.no_grad()
def meet(first: Release, others: Sequence[Release]) -> Tensor:
    r"""The unit vector :math:`\hat u` whose view :math:`\hat u \cdot x` of the first release the
    others' spans hold most of, up to its sign: the leading eigenvector of
    :math:`\sum_r B B_r^T B_r B^T` with orthonormal bases B of the first group and B_r of the rest.

    Args:
        first: a release of the images.
        others: at least one more release of the same images.

    Returns:
        One direction for each image: ``(B, d)``.
    """
    (released, place), (base, scale) = first, _basis(first[0])
    bases = [(_basis(groups)[0], where) for groups, where in others]
    found = []
    for chunk in torch.arange(len(place)).split(CHUNK):
        mine = base[place[chunk]]
        overlaps = [mine @ theirs[where[chunk]].mT for theirs, where in bases]
        shared = sum(overlap @ overlap.mT for overlap in overlaps)
        leading = torch.linalg.eigh(shared).eigenvectors[..., -1:]
        found.append(F.normalize((scale[place[chunk]] @ leading).squeeze(-1), dim=-1))
    return torch.cat(found).to(released)


def _basis(released: Tensor) -> tuple[Tensor, Tensor]:
    """Orthonormal rows that span each group's parts, ``(G, d, N)``, and the symmetric matrix that
    made them of the parts, ``(G, d, d)``; in double precision, since spans have much in common."""
    flat = released.flatten(2).double()
    values, vectors = torch.linalg.eigh(flat @ flat.mT)
    floor = 1e-12 * values.amax(dim=1, keepdim=True).clamp(min=1e-30)
    root = torch.where(values > floor, values.clamp(min=floor).rsqrt(), 0.0)
    scale = vectors * root.unsqueeze(1) @ vectors.mT
    return scale @ flat, scale
