r"""The intersection attack: an image is sent several times. No training but for a sign.

Every release that holds the image spans its feature, :math:`a \in \operatorname{span}(X_r)`, under
whatever keys and among whatever counterparts. In general position spans of other company have
nothing else in common while :math:`R (d - 1) \le (R - 1)(N - 1)` for R releases of d parts of N
numbers: two suffice for :math:`2 d \le N`. So a is found up to its sign and, as rows of a key have
length 1, its norm, too.

Spans of more parts hold everything, but :math:`\sum_r X_r^T X_r` still has a in it R times and
every other part once: the spike of a spiked covariance (Johnstone 2001), which its leading
eigenvector shows the better the more releases there are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from complexnn.metrics import double

CHUNK = 32  # images whose releases are compared at a time
RIDGE = 0.1  # of a group's mean power, against the errors of a spike
Release = tuple[Tensor, Tensor]  # groups (G, d, C, H, W), and which of them holds each image (B,)


@torch.no_grad()
def directions(first: Release, others: Sequence[Release]) -> Tensor:
    r"""Unit vectors :math:`\hat u` whose views :math:`\hat u \cdot x` of the first release show
    what all releases hold, up to their signs.

    Args:
        first: a release of the images.
        others: at least one more release of the same images.

    Returns:
        One direction for each image: ``(B, d)``.
    """
    parts, numbers = first[0].shape[1], first[0][0, 0].numel()
    releases = 1 + len(others)
    exact = releases * (parts - 1) <= (releases - 1) * (numbers - 1)
    found = (_meet if exact else _spike)(first, others)
    return F.normalize(found, dim=-1).to(first[0])


def _meet(first: Release, others: Sequence[Release]) -> Tensor:
    """The view that the others' spans hold most of: the leading eigenvector of
    :math:`\\sum_r B B_r^T B_r B^T` with orthonormal bases B of the first group, B_r of the rest."""
    place, (base, scale) = first[1], _basis(first[0])
    bases = [(_basis(groups)[0], where) for groups, where in others]
    found = []
    for chunk in torch.arange(len(place)).split(CHUNK):
        mine = base[place[chunk]]
        overlaps = [mine @ theirs[where[chunk]].mT for theirs, where in bases]
        shared = sum(overlap @ overlap.mT for overlap in overlaps)
        leading = torch.linalg.eigh(shared).eigenvectors[..., -1:]
        found.append((scale[place[chunk]] @ leading).squeeze(-1))
    return torch.cat(found)


def _basis(released: Tensor) -> tuple[Tensor, Tensor]:
    """Orthonormal rows that span each group's parts, ``(G, d, N)``, and the symmetric matrix that
    made them of the parts, ``(G, d, d)``; in double precision, since spans have much in common."""
    flat = double(released.flatten(2))
    scale = _inverse_root(flat @ flat.mT)
    return scale @ flat, scale


def _spike(first: Release, others: Sequence[Release]) -> Tensor:
    """The view that is nearest to the leading eigenvector of the releases' second moments, in
    numbers that are white over all groups seen."""
    releases = [first, *others]
    every = double(torch.cat([groups.flatten(0, 1) for groups, _ in releases]).flatten(1))
    whiten = _inverse_root(every.mT @ every / len(every))
    white = [(double(groups.flatten(2)) @ whiten, place) for groups, place in releases]
    parts, numbers = white[0][0].shape[1:]
    ridge = RIDGE * parts * torch.eye(numbers).to(whiten)
    found = []
    for chunk in torch.arange(len(first[1])).split(CHUNK):
        groups = [maps[place[chunk]] for maps, place in white]
        moments = [maps.mT @ maps for maps in groups]
        leading = torch.linalg.eigh(sum(moments)).eigenvectors[..., -1:]
        nearest = groups[0] @ torch.linalg.solve(moments[0] + ridge, leading)
        found.append(nearest.squeeze(-1))
    return torch.cat(found)


def _inverse_root(matrices: Tensor) -> Tensor:
    """Symmetric inverse square roots of semi-definite matrices, on their ranges."""
    values, vectors = torch.linalg.eigh(matrices)
    floor = 1e-12 * values.amax(dim=-1, keepdim=True).clamp(min=1e-30)
    root = torch.where(values > floor, values.clamp(min=floor).rsqrt(), 0.0)
    return vectors * root.unsqueeze(-2) @ vectors.mT
