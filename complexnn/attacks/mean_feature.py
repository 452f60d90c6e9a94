r"""What the mean feature alone tells of a key.

All members of a group share the mean feature μ. Released parts :math:`x_i = \sum_j R_{ij} a_j`
share it, too, in the direction :math:`s = R\,(1, \dots, 1)^T / \sqrt d`, which least squares finds
from what was released: the coefficients of μ in each part. Every row of the key, which shows one
member, has the inner product :math:`1 / \sqrt d` with s.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from complexnn.attacks.whitening import Whitening
from complexnn.rotation import functional as cF


def shared_direction(released: Tensor, known: Whitening) -> Tensor:
    """The unit vector s of each group along which its parts hold the mean feature:
    ``(G, d, C, H, W) -> (G, d)``."""
    white = known(released).flatten(2)
    return F.normalize(white @ known.white_mean.flatten(), dim=1)


def sharing_frames(shared: Tensor, members: int, generator: Generator) -> Tensor:
    r"""Random orthonormal frames whose first ``members`` rows share the direction s equally.

    Uniform among the orthogonal U with :math:`U s = t`, where t is :math:`1 / \sqrt m` for members
    and 0 for Gaussian decoys, which have no mean: with reflections that map the first axis to s
    and to t, :math:`U = H_t \, \mathrm{diag}(1, V) \, H_s` for a uniform V.

    Shape: ``(G, d) -> (G, d, d)``.
    """
    groups, dim = shared.shape
    target = torch.zeros(1, dim, dtype=torch.float64)
    target[:, :members] = 1 / math.sqrt(members)
    inner = torch.zeros(groups, dim, dim, dtype=torch.float64)
    inner[:, 0, 0] = 1
    inner[:, 1:, 1:] = _orthogonal(groups, dim - 1, generator)
    frames = _reflection(target) @ inner @ _reflection(shared.cpu().double())
    return frames.to(shared)


def _orthogonal(count: int, dim: int, generator: Generator) -> Tensor:
    """Uniform on O(d) for every d; at d = 1 a sign, at d = 2 turns and reflections."""
    matrices = cF.draw_rotations(count, dim, generator)
    if dim <= 2:
        signs = 1 - 2 * (cF.uniform((count,), generator) < 0.5).double()
        matrices[:, 0] = matrices[:, 0] * signs.unsqueeze(1)
    return matrices


def _reflection(unit: Tensor) -> Tensor:
    """The Householder matrix that exchanges the first axis and each unit vector."""
    first = torch.zeros_like(unit)
    first[:, 0] = 1
    normal = F.normalize(unit - first, dim=1)  # zero where they are the same: the identity
    return torch.eye(unit.shape[1]).to(unit) - 2 * normal.unsqueeze(2) * normal.unsqueeze(1)


def guess(
    released: Tensor, known: Whitening, generator: Generator, *, members: int, count: int
) -> Tensor:
    r"""Directions that the mean feature alone suggests, without any separation: ``(G, n, d)``.

    One vector, at d = 2 with a decoy: a key is a proper rotation, so that a stands an eighth of a
    turn behind :math:`s = (\cos(\theta + \pi/4), \sin(\theta + \pi/4))`.
    """
    shared = shared_direction(released, known)
    if count > 1:
        return sharing_frames(shared, members, generator)[:, :count]
    turn = cF.angle_matrix(torch.tensor([-math.pi / 4])).to(shared)
    return (shared @ turn[0].mT).unsqueeze(1)
