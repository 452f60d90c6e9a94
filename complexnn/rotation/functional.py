r"""Pure functions on features of d parts.

A feature is a real tensor ``(B, d, C, *)``; axis 1 holds the parts. At d = 2 the parts are the
real and imaginary component of the complex feature of Xiang et al. (ICLR 2020), and a rotation of
axis 1 by :math:`\theta` is the multiplication by :math:`e^{i\theta}`. For any orthogonal ``R``,
one per sample, a function ``f`` of this file satisfies ``f(rotate(x, R)) == rotate(f(x), R)``
unless its docstring says otherwise. None of them modifies its arguments.

Features are kept channels-last (``B, d, *, C`` in memory), which is what the convolutions are
fastest at; :func:`rotate` establishes that layout.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from complexnn.rotation import fused
from complexnn.rotation.fused import at_least_float32 as at_least_float32
from complexnn.rotation.processes import all_reduced as all_reduced
from complexnn.rotation.processes import average_gradients as average_gradients
from complexnn.rotation.processes import processes as processes

# ---------------------------------------------------------------------------------- randomness


def uniform(shape: tuple[int, ...], generator: Generator | None) -> Tensor:
    """Uniform float64 numbers in (0, 1), drawn on the CPU.

    With a generator they are reproducible: for experiments. Without one they come from the
    operating system's cryptographic generator: for deployment.
    """
    if generator is None:
        raw = np.frombuffer(os.urandom(8 * math.prod(shape)), dtype=np.uint64)
        # 52 random bits, centred between two grid points: k + 0.5 is exact up to k = 2^52 - 1,
        # where one bit more would round the last one up to 1.
        return torch.from_numpy(((raw >> 12) + 0.5) * 2.0**-52).reshape(shape)
    drawn = torch.rand(shape, generator=generator, dtype=torch.float64, device=generator.device)
    return drawn.cpu().clamp(min=2.0**-54, max=1 - 2.0**-53)


def normal(shape: tuple[int, ...], generator: Generator | None) -> Tensor:
    """Standard normal float64 numbers from the same source as :func:`uniform`."""
    return math.sqrt(2) * torch.erfinv(2 * uniform(shape, generator) - 1)


def angle_matrix(theta: Tensor) -> Tensor:
    r"""The matrix of the multiplication by :math:`e^{i\theta}`: ``(B,) -> (B, 2, 2)``."""
    cos, sin = theta.cos(), theta.sin()
    return torch.stack([cos, -sin, sin, cos], dim=-1).unflatten(-1, (2, 2))


def draw_rotations(count: int, dim: int, generator: Generator | None = None) -> Tensor:
    r"""Secret keys: ``count`` random orthogonal matrices ``(count, dim, dim)`` in float64.

    d = 2: a rotation by :math:`\theta \sim U(0, 2\pi)` (the paper). d > 2: Haar measure on O(d),
    as the QR factor of a Gaussian matrix with the signs of R's diagonal moved into Q
    (Mezzadri 2007, arXiv math-ph/0609050).
    """
    if dim == 1:
        return torch.ones(count, 1, 1, dtype=torch.float64)
    if dim == 2:
        return angle_matrix(2 * math.pi * uniform((count,), generator))
    q, r = torch.linalg.qr(normal((count, dim, dim), generator))
    return q * r.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)


def draw_directions(count: int, dim: int, generator: Generator | None = None) -> Tensor:
    r"""What a wrong key sees: unit vectors ``(count, dim)`` with :math:`a' = \sum_j u_j f_j`.

    d = 2: :math:`u = (\cos\Delta\theta, -\sin\Delta\theta)`, :math:`\Delta\theta \sim U(0, \pi)`
    (the paper). d > 2: uniform on the sphere, the first row of a Haar matrix.
    """
    if dim == 2:
        delta = math.pi * uniform((count,), generator)
        return torch.stack([delta.cos(), -delta.sin()], dim=-1)
    return F.normalize(normal((count, dim), generator), dim=-1)


def draw_counterparts(count: int, others: int, generator: Generator | None = None) -> Tensor:
    """For each of ``count`` samples, ``others`` different samples, never itself.

    A cyclic shift of a random permutation by distinct non-zero offsets: each column is a
    derangement, and no row repeats. Returns indices ``(count, others)``.
    """
    if others >= count:
        raise ValueError(
            f"{others} counterparts per sample need over {others} samples, got {count}"
        )
    order = uniform((count,), generator).argsort()
    shifts = 1 + uniform((count - 1,), generator).argsort()[:others]
    place = order.argsort()
    return order[(place[:, None] + shifts) % count]


# ------------------------------------------------------------------------------------- rotation


def rotate(x: Tensor, matrix: Tensor) -> Tensor:
    r"""Mix the parts: :math:`y_i = \sum_j M_{ij} x_j`, one matrix per sample.

    For :math:`M = R(\theta)` and d = 2 this is :math:`y = e^{i\theta} x`. The matrix need not be
    square: ``R.mT[:, :1]`` undoes a rotation and keeps the first part only.

    Shape: ``(B, d, C, *), (B, e, d) -> (B, e, C, *)``.
    """
    last = x.movedim(2, -1)
    mixed = torch.bmm(matrix.to(x), last.flatten(2))
    return mixed.unflatten(2, last.shape[2:]).movedim(-1, 2)


def gather_parts(features: Tensor, index: Tensor) -> Tensor:
    """Put features into groups: ``(B, C, *), (G, d) -> (G, d, C, *)``."""
    last = features.movedim(1, -1)
    return last.index_select(0, index.flatten()).unflatten(0, index.shape).movedim(-1, 2)


def single_part(features: Tensor) -> Tensor:
    """Features without counterparts as groups of one part: ``(B, C, *) -> (B, 1, C, *)``."""
    return features.unsqueeze(1)


def first_parts(x: Tensor, count: int) -> Tensor:
    """The first ``count`` parts of each group as a batch: ``(G, d, C, *) -> (G * count, C, *)``."""
    return x[:, :count].flatten(0, 1)


def per_part(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply a function of ``(B, C, *)`` to every part; equivariant if the function is linear."""
    return function(x.flatten(0, 1)).unflatten(0, x.shape[:2])


# ------------------------------------------------------------------------------- magnitude gates


def modulus(x: Tensor) -> Tensor:
    r""":math:`\|x\| = \sqrt{\sum_j x_j^2}` over the parts, in float32 or better.

    Invariant under rotation. Its gradient at 0 is 0.

    Shape: ``(B, d, C, *) -> (B, 1, C, *)``.
    """
    return fused.Modulus.apply(at_least_float32(x))


def soft_gate(x: Tensor, c: float) -> Tensor:
    r""":math:`\delta(x) = \frac{\|x\|}{\max(\|x\|, c)} x`, the paper's replacement of ReLU."""
    if not (torch.is_grad_enabled() and x.requires_grad):
        return fused.gated(x, c)
    return fused.Gate.apply(x, c)


def mean_gate(x: Tensor) -> Tensor:
    r"""The gate with :math:`c_k = E_{ij}\|x_{ijk}\|`, the mean modulus of the sample's channel k.

    Deviation: a feature without positions (after a fully connected layer) has no such mean; there
    c is the mean modulus over its channels.
    """
    return fused.Gate.apply(x, None)


def bound(x: Tensor, limit: float) -> Tensor:
    r"""Moduli limited to ``limit``: :math:`x \cdot b / \max(\|x\|, b)`."""
    return x * (limit / modulus(x).clamp(min=limit)).to(x.dtype)


def signed_stand_in(x: Tensor, c: float | None = None) -> Tensor:
    r""":math:`s(x) = r - c/2` with :math:`r = \|x\| / \sqrt d`: what stands for the signed value
    of one part in functions that need one, such as a sigmoid.

    r is the root mean square of the parts, so it has the unit of one part for every d. ``c=None``
    takes the mean of r over all channels and positions of the sample, so that s is around c/2 for
    usual features and -c/2 for zeros. Invariant under rotation.

    Shape: ``(B, d, C, *) -> (B, 1, C, *)``.
    """
    root = modulus(x) / math.sqrt(x.shape[1])
    middle = root.mean(tuple(range(2, x.dim())), keepdim=True) if c is None else c
    return root - middle / 2


# ------------------------------------------------------------------ norms within one sample


def layer_norm(
    x: Tensor, axes: int, weight: Tensor | None = None, eps: float = 1e-5, *, centre: bool = True
) -> Tensor:
    r"""Layer norm over the last ``axes`` axes, without shift:

    .. math:: y_j = w \frac{x_j - E[x_j]}{\sqrt{E_j\big[(x_j - E[x_j])^2\big] + \epsilon}}

    :math:`E` is the mean over these axes of one sample and one part; :math:`E_j` is over the parts,
    too. Subtracting :math:`E[x_j]` is linear in the parts, so it commutes with their rotation.
    ``centre=False`` leaves it out: RMS norm (Zhang and Sennrich 2019, arXiv 1910.07467).
    """
    wide = at_least_float32(x)
    over = tuple(range(-axes, 0))
    if centre:
        wide = wide - wide.mean(over, keepdim=True)
    y = wide * torch.rsqrt(wide.square().mean((1, *over), keepdim=True) + eps)
    return (y if weight is None else y * weight).to(x.dtype)


def group_norm(x: Tensor, groups: int, weight: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    """:func:`layer_norm` over all positions of each of ``groups`` groups of channels, with a scale
    per channel. As many groups as channels: instance norm."""
    y = layer_norm(x.unflatten(2, (groups, -1)).flatten(3), 1, None, eps).reshape(x.shape)
    return y if weight is None else y * weight.view(-1, *[1] * (x.dim() - 3)).to(x.dtype)


# ----------------------------------------------------------------------------------- attention


def product(x: Tensor, y: Tensor) -> Tensor:
    r"""Matrix products summed over the parts: :math:`\frac{1}{\sqrt d} \sum_j x_j y_j`.

    A rotation of both leaves them alone. The scale keeps their spread whatever d is, as attention's
    :math:`1 / \sqrt E` does for E channels.

    Shape: ``(B, d, *, n, E), (B, d, *, E, m) -> (B, 1, *, n, m)``.
    """
    return (x @ y).sum(1, keepdim=True) / math.sqrt(x.shape[1])


def attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, **settings: Any
) -> Tensor:
    r"""Scaled dot-product attention (Vaswani et al. 2017):

    .. math:: y_j = \mathrm{softmax}\Big(\frac{\sum_i q_i k_i^\top}{\sqrt{d E}} + M\Big)\, v_j

    The weights depend on products of queries and keys that are summed over the parts, which no
    rotation changes; every part of the values is mixed by the same weights. ``mask`` and
    ``settings`` are those of :func:`torch.nn.functional.scaled_dot_product_attention`, which
    computes all parts in one call: as channels of one sample.

    Shape: ``(B, d, *, n, E), (B, d, *, m, E), (B, d, *, m, V) -> (B, d, *, n, V)``.
    """
    dim, scale = query.shape[1], settings.pop("scale", None)
    scale = (query.shape[-1] ** -0.5 if scale is None else scale) / math.sqrt(dim)
    together = [part.movedim(1, -2).flatten(-2) for part in (query, key, value)]
    y = F.scaled_dot_product_attention(*together, attn_mask=mask, scale=scale, **settings)
    return y.unflatten(-1, (dim, -1)).movedim(-2, 1)


# --------------------------------------------------------------- pooling, dropout and shortcut


def max_pool2d(
    x: Tensor,
    kernel: int,
    stride: int | None = None,
    padding: int = 0,
    *,
    ceil_mode: bool = False,
) -> Tensor:
    """In each window the entry of largest modulus, all its parts from that one place."""
    length = modulus(x).squeeze(1)
    _, place = F.max_pool2d(
        length, kernel, stride, padding, ceil_mode=ceil_mode, return_indices=True
    )
    index = place.flatten(2).unsqueeze(1).expand(-1, x.shape[1], -1, -1)
    return x.flatten(3).gather(3, index).unflatten(3, place.shape[2:])


def shared_dropout(x: Tensor, p: float, training: bool, *, whole_channels: bool = False) -> Tensor:
    """Dropout with one mask for all parts, per entry or per channel; factor 1 / (1 - p)."""
    if not training or p == 0:
        return x
    positions = [1] * (x.dim() - 3) if whole_channels else x.shape[3:]
    return x * F.dropout(x.new_ones(x.shape[0], 1, x.shape[2], *positions), p)


def pad_shortcut(x: Tensor, out_channels: int, stride: int) -> Tensor:
    """ResNet's shortcut without parameters (He et al. 2016, option A), for ``(..., C, H, W)``:
    every ``stride``-th position, new channels filled with zeros."""
    missing = out_channels - x.shape[-3]
    before = missing // 2
    # As a batch of maps: torch pads five axes into another memory format, which every later layer
    # would have to change back.
    maps = x.flatten(end_dim=-4)[..., ::stride, ::stride]
    padded = F.pad(maps, (0, 0, 0, 0, before, missing - before))
    return padded.unflatten(0, x.shape[:-3])
