r"""The span attack: is a candidate image in the group? No training, no key.

:math:`X = R A` with an orthogonal R spans exactly the features of the group's members, so the
projection of a member's feature on the released parts has that feature's full length, whatever the
key. With one part, the share is the cosine between the candidate's feature and the released one.
"""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from complexnn.metrics import double


def shares(released: Tensor, features: Tensor) -> Tensor:
    r""":math:`\|P_X g\| / \|g\|`, the share of each candidate's feature g that lies in the span.

    Shape: ``(G, d, C, H, W), (N, C, H, W) -> (G, N)``; differentiable in both.
    """
    flat, candidates = released.flatten(2), features.flatten(1)
    inside = _inside(flat, flat @ candidates.T)
    length = candidates.square().sum(dim=1)
    return (inside / length.clamp(min=1e-30)).sqrt()


def own_shares(released: Tensor, features: Tensor) -> Tensor:
    """The same for one candidate per group: ``(G, d, C, H, W), (G, C, H, W) -> (G,)``."""
    flat, candidates = released.flatten(2), features.flatten(1)
    inside = _inside(flat, flat @ candidates.unsqueeze(-1)).squeeze(1)
    length = candidates.square().sum(dim=1)
    return (inside / length.clamp(min=1e-30)).sqrt()


def _inside(flat: Tensor, across: Tensor) -> Tensor:
    """Squared length of projections with the products ``across`` ``(G, d, N)``: ``(G, N)``."""
    inverse = torch.linalg.pinv(double(flat @ flat.mT), hermitian=True)
    across = double(across)
    return (across * (inverse @ across)).sum(dim=1).clamp(min=0).to(flat)


def placed(own: Tensor, others: Tensor, excluded: Tensor, top: int = 1) -> Tensor:
    """The probability that each query is among the first ``top`` of a gallery, itself included,
    with ties broken at random; ``excluded`` candidates do not count.

    A tie is no loss, and no success either: scores that are all the same place a query by chance.

    Shape: ``(Q,), (Q, N), (Q, N) -> (Q,)``.
    """
    above = ((others > own.unsqueeze(1)) & ~excluded).sum(dim=1)
    ties = ((others == own.unsqueeze(1)) & ~excluded).sum(dim=1)
    return ((top - above) / (1 + ties)).clamp(0, 1)


def jpeg(images: Tensor, quality: int = 75) -> Tensor:
    """The images as a JPEG file of that quality keeps them: what a candidate may have gone
    through before the attacker found it. ``(N, C, H, W)``, pixels in [0, 1]."""
    found = []
    for image in images.cpu():
        pixels = (image * 255).round().byte().movedim(0, -1).squeeze(-1).numpy()
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=quality)
        again = torch.from_numpy(np.array(Image.open(file))).float() / 255
        found.append(again.unsqueeze(0) if again.dim() == 2 else again.movedim(-1, 0))
    return torch.stack(found).to(images)
