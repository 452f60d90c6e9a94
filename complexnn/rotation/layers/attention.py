"""Attention, whose weights no rotation changes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from complexnn.rotation import functional as cF
from complexnn.rotation.layers.linear import Linear


class MultiheadAttention(nn.Module):
    r"""Multi-head attention without biases.

    .. math:: y_j = W_o\, \mathrm{softmax}\Big(
        \frac{\sum_i (W_q x_i)(W_k x_i)^\top}{\sqrt{d E}} + M\Big)\, W_v x_j

    in each head, E its width; see :func:`complexnn.rotation.functional.attention`. All parts share
    the weights, and the mask of dropout on them. Parameters have the names and the order of
    :class:`torch.nn.MultiheadAttention`.

    Shape: query ``(B, d, n, C)``, key and value ``(B, d, m, C)`` to ``(B, d, n, C)``; ``mask``
    ``(n, m)`` is added to the products, or says with True which may be seen.
    """

    def __init__(self, channels: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"{heads} heads do not divide {channels} channels")
        self.heads, self.dropout = heads, dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * channels, channels))
        self.out_proj = Linear(channels, channels)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        causal: bool = False,
    ) -> Tensor:
        key = query if key is None else key
        value = key if value is None else value
        weights = self.in_proj_weight.chunk(3)
        heads = [
            nn.functional.linear(x, w).unflatten(-1, (self.heads, -1)).transpose(-3, -2)
            for x, w in zip((query, key, value), weights, strict=True)
        ]
        share = self.dropout if self.training else 0.0
        mixed = cF.attention(*heads, mask, dropout_p=share, is_causal=causal)
        return self.out_proj(mixed.transpose(-3, -2).flatten(-2))

    def extra_repr(self) -> str:
        return f"{self.out_proj.in_features}, heads={self.heads}"
