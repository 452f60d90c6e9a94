r"""Orthonormal bases of what groups of parts span: what attacks on several releases compare.

Parts depend on the key, their span does not: :math:`X = R A` and A have the same rows but for a
rotation. So whatever is computed from spans alone holds under every key.
"""

from __future__ import annotations

import torch
from torch import Tensor


def inverse_root(matrices: Tensor, *, rtol: float) -> Tensor:
    """Symmetric inverse square roots of semi-definite matrices on their ranges, ``(..., d, d)``.

    Eigenvalues below ``rtol`` of the largest count as 0 and stay 0: dependent parts, such as
    copies, add no direction. Callers choose it by hand, far above double precision's 2e-16.
    """
    values, vectors = torch.linalg.eigh(matrices)
    least = rtol * values.amax(dim=-1, keepdim=True).clamp(min=1e-30)
    root = torch.where(values > least, values.clamp(min=least).rsqrt(), 0.0)
    return vectors * root.unsqueeze(-2) @ vectors.mT


def basis(flat: Tensor, *, rtol: float) -> tuple[Tensor, Tensor]:
    """Orthonormal rows that span each group's parts, ``(G, d, N)``, and the symmetric matrix that
    made them of the parts, ``(G, d, d)``. Give it double precision: spans have much in common."""
    scale = inverse_root(flat @ flat.mT, rtol=rtol)
    return scale @ flat, scale
