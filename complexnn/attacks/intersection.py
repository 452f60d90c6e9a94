r"""The intersection attack: an image is sent several times. No training but for a sign.

Every release that holds the image spans its feature, :math:`a \in \operatorname{span}(X_r)`, under
whatever keys and among whatever co-members. In general position spans with other co-members have
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

from complexnn.attacks.bases import basis, inverse_root
from complexnn.metrics import double

CHUNK = 32  # images whose releases are compared at a time
RIDGE = 0.1  # of a group's mean power, against the errors of a spike; chosen by hand
RANK = 1e-12  # of a Gram matrix's largest eigenvalue: less is none
Sending = tuple[Tensor, Tensor]  # groups (G, d, C, H, W), and which of them holds each image (B,)


@torch.no_grad()
def directions(first: Sending, others: Sequence[Sending]) -> Tensor:
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
    views = (_meet if exact else _spike)(first, others)
    return F.normalize(views, dim=-1).to(first[0])


def _meet(first: Sending, others: Sequence[Sending]) -> Tensor:
    r"""The view that the others' spans hold most of: the leading eigenvector of
    :math:`\sum_r B B_r^T B_r B^T` with orthonormal bases B of the first group, B_r of the rest.

    For a unit vector w in the coordinates of B, :math:`\|w B B_r^T\|` is the cosine of its angle
    to the span of release r. What all spans hold has the cosine 1 in each, so the sum of squares is
    largest there, and R - 1 if nothing was rounded.
    """
    place, (base, scale) = first[1], basis(_flat(first[0]), rtol=RANK)
    bases = [(basis(_flat(groups), rtol=RANK)[0], where) for groups, where in others]
    views = []
    for chunk in torch.arange(len(place)).split(CHUNK):
        mine = base[place[chunk]]
        overlaps = [mine @ theirs[where[chunk]].mT for theirs, where in bases]
        shared = sum(overlap @ overlap.mT for overlap in overlaps)
        leading = torch.linalg.eigh(shared).eigenvectors[..., -1:]
        # From coordinates in the basis to coefficients of the parts.
        views.append((scale[place[chunk]] @ leading).squeeze(-1))
    return torch.cat(views)


def _flat(released: Tensor) -> Tensor:
    return double(released.flatten(2))


def _spike(first: Sending, others: Sequence[Sending]) -> Tensor:
    """The view that is nearest to the leading eigenvector of the releases' second moments, in
    numbers that are white over all groups seen.

    Its coefficients are those of a ridge regression of that eigenvector on the parts: where parts
    are about as many as numbers they could explain anything, errors of the eigenvector included.
    """
    releases = [first, *others]
    every = double(torch.cat([groups.flatten(0, 1) for groups, _ in releases]).flatten(1))
    whiten = inverse_root(every.mT @ every / len(every), rtol=RANK)
    white = [(_flat(groups) @ whiten, place) for groups, place in releases]
    parts, numbers = white[0][0].shape[1:]
    ridge = RIDGE * parts * torch.eye(numbers).to(whiten)
    views = []
    for chunk in torch.arange(len(first[1])).split(CHUNK):
        groups = [maps[place[chunk]] for maps, place in white]
        moments = [maps.mT @ maps for maps in groups]
        leading = torch.linalg.eigh(sum(moments)).eigenvectors[..., -1:]
        nearest = groups[0] @ torch.linalg.solve(moments[0] + ridge, leading)
        views.append(nearest.squeeze(-1))
    return torch.cat(views)
