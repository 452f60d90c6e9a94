r"""The span attack: is a candidate image in the group? No training, no key.

:math:`X = R A` with an orthogonal R spans exactly the features of the group's members, so the
projection of a member's feature on the released parts has that feature's full length, whatever the
key. With one part, the share is the cosine between the candidate's feature and the released one.

**The coordinates have length 1.** A member is :math:`a = X^T u` with u a row of the key's inverse,
so :math:`u = (X X^T)^{-1} X a` has norm 1. With d parts of N numbers, d ≤ N, members lie on an
ellipsoid of d - 1 dimensions, and a candidate is scored by its distance from there: what it has
outside the span and, to first order (Sampson 1982),
:math:`|\,\|u\| - 1\,| / \|\nabla \|u\|\,\|` within, where
:math:`\|\nabla \|u\|\,\|^2 = \hat u^T (X X^T)^{-1} \hat u`. At d = N nothing is outside, and the
norm alone tells members from strangers.

**More parts than numbers.** What is released is known by :math:`G = X^T X = W + a a^T`, up to a
rotation that tells nothing, where W is the sum over the other members. W has no negative
eigenvalue, so :math:`q = a^T G^{-1} a \le 1`. Were features of the population normal,
:math:`N(0, M)`, W would be Wishart of d - 1 degrees of freedom in units where M = 1, with density
:math:`\propto |W|^{(d - 2 - N)/2} e^{-\operatorname{tr} W / 2}`, and without the candidate G would
have one more. As :math:`|G - a a^T| = |G| (1 - q)`, the log likelihood ratio is

.. math::
    \frac{d - N - 2}{2} \log(1 - q) + \frac{\|a\|^2 - \log |G|}{2} + \frac N2 \log 2
    + \log \Gamma(\tfrac d2) - \log \Gamma(\tfrac{d - N}{2})

for q < 1. :mod:`complexnn.privacy` needs the same ratio where W is noise alone. M is the attacker's
own second moment; with the mean apart (noncentral W) as many were found.
"""

from __future__ import annotations

import io
import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from complexnn.metrics import double

RANK = 1e-6  # of the largest singular value: dependent parts, in numbers rounded to float32
OUTSIDE = 1e9  # a score that no likelihood reaches


def scores(released: Tensor, features: Tensor, moment: Tensor | None = None) -> Tensor:
    r"""How well each candidate's feature fits to be a member of each group.

    At d ≤ N minus the squared distance from the ellipsoid that members lie on; above, the log
    likelihood ratio for normal members, and under every candidate with q < 1 those with
    :math:`q \ge 1`, in falling order of q. Scores compare candidates of one group.

    Args:
        released: groups ``(G, d, C, H, W)``.
        features: candidates ``(n, C, H, W)``.
        moment: mean of :math:`x x^T` over released parts, ``(N, N)``, see :func:`second_moment`;
            needed above N parts only.

    Returns:
        ``(G, n)``, in double precision; differentiable in the features.
    """
    return _scores(released, double(features.flatten(1)).unsqueeze(0), moment)


def own_scores(released: Tensor, features: Tensor, moment: Tensor | None = None) -> Tensor:
    """The same for one candidate per group: ``(G, d, C, H, W), (G, C, H, W) -> (G,)``."""
    return _scores(released, double(features.flatten(1)).unsqueeze(1), moment).squeeze(1)


def second_moment(features: Tensor, *, parts: int, decoys: int = 0, scale: float = 1.0) -> Tensor:
    r"""Mean of :math:`x x^T` over released parts: of features like the attacker's own
    ``(n, C, H, W)``, and of so many Gaussian decoys among ``parts`` in all. ``(N, N)``."""
    flat = double(features.flatten(1))
    numbers, share = flat.shape[1], decoys / parts
    noise = scale**2 * torch.eye(numbers).to(flat)
    return (1 - share) * flat.mT @ flat / len(flat) + share * noise


def _scores(released: Tensor, candidates: Tensor, moment: Tensor | None) -> Tensor:
    flat = double(released.flatten(2))
    if flat.shape[1] > flat.shape[2]:
        if moment is None:
            raise ValueError("more parts than numbers: pass moment=, see second_moment")
        return _likelihood(flat, candidates, moment.to(flat))
    return -_distance(flat, candidates)


def _distance(flat: Tensor, candidates: Tensor) -> Tensor:
    r"""Squared distance from :math:`\{X^T u: \|u\| = 1\}`, ``(G, d, N), (1 or G, n, N) -> (G, n)``.

    Of dependent parts (copies) u is the shortest that shows the candidate: at most 1 for members.
    """
    # With the thin SVD of Xᵀ the ellipsoid has its axes along the left vectors, and their lengths
    # are the singular values. A Gram matrix would square the condition, hence QR first.
    frame, small = torch.linalg.qr(flat.mT)
    left, strength, _ = torch.linalg.svd(small)
    along = (frame @ left).mT @ candidates.mT
    kept = strength > RANK * strength[:, :1]
    inverse = torch.where(kept, 1 / strength.clamp(min=1e-300), 0).unsqueeze(2)
    outside = candidates.square().sum(dim=2) - along.square().sum(dim=1)
    u = along * inverse  # in the basis of the right singular vectors
    length = u.norm(dim=1).clamp(min=1e-30)
    slope = (u * inverse).norm(dim=1).clamp(min=1e-30) / length
    excess = length - 1
    # Parts that depend on each other leave u open along what shows nothing: it may be shorter.
    excess = torch.where(kept.all(dim=1, keepdim=True), excess, excess.clamp(min=0))
    return outside.clamp(min=0) + (excess / slope).square()


def _likelihood(flat: Tensor, candidates: Tensor, moment: Tensor) -> Tensor:
    """Log likelihood ratio of each candidate: ``(G, d, N), (1 or G, n, N) -> (G, n)``."""
    parts, numbers = flat.shape[1:]
    # Units in which the second moment of a member is the identity: W is standard Wishart there.
    least = 1e-9 * moment.diagonal().mean() * torch.eye(numbers).to(moment)
    unit = torch.linalg.cholesky(moment + least)
    white = torch.linalg.solve_triangular(unit, flat.mT, upper=False).mT
    candidates = torch.linalg.solve_triangular(unit, candidates.mT, upper=False).mT
    values, vectors = torch.linalg.eigh(white.mT @ white)
    kept = values > RANK**2 * values[:, -1:]
    inverse = torch.where(kept, 1 / values.clamp(min=1e-300), 0)
    q = ((candidates @ vectors).square() * inverse.unsqueeze(1)).sum(dim=2)
    rank = kept.sum(dim=1, keepdim=True).to(q)
    volume = torch.where(kept, values.clamp(min=1e-300).log(), 0).sum(dim=1, keepdim=True)
    constant = rank * math.log(2) - volume
    constant = constant / 2 + math.lgamma(parts / 2) - torch.lgamma((parts - rank) / 2)
    # Without the candidate G - a aᵀ has d - 1 members, with it G has d: the ratio of the densities,
    # of which the powers of |G| leave |G|^(-1/2), and (1 - q) the power (d - N - 2) / 2.
    inside = (parts - rank - 2) / 2 * (1 - q).clamp(min=1e-12).log()
    inside = inside + candidates.square().sum(dim=2) / 2 + constant
    return torch.where(q < 1, inside, -OUTSIDE * q)


def shares(released: Tensor, features: Tensor) -> Tensor:
    r""":math:`\|P_X g\| / \|g\|`, the share of each candidate's feature g that lies in the span.

    Shape: ``(G, d, C, H, W), (N, C, H, W) -> (G, N)``; differentiable in both.
    """
    flat, candidates = double(released.flatten(2)), double(features.flatten(1))
    inside = _inside(flat, flat @ candidates.T)
    length = candidates.square().sum(dim=1)
    return (inside / length.clamp(min=1e-30)).sqrt().to(released)


def own_shares(released: Tensor, features: Tensor) -> Tensor:
    """The same for one candidate per group: ``(G, d, C, H, W), (G, C, H, W) -> (G,)``."""
    flat, candidates = double(released.flatten(2)), double(features.flatten(1))
    inside = _inside(flat, flat @ candidates.unsqueeze(-1)).squeeze(1)
    length = candidates.square().sum(dim=1)
    return (inside / length.clamp(min=1e-30)).sqrt().to(released)


def _inside(flat: Tensor, across: Tensor) -> Tensor:
    """Squared length of projections with the products ``across`` ``(G, d, N)``: ``(G, N)``."""
    inverse = torch.linalg.pinv(flat @ flat.mT, rtol=RANK**2, hermitian=True)
    return (across * (inverse @ across)).sum(dim=1).clamp(min=0)


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
    decoded = []
    for image in images.cpu():
        pixels = (image * 255).round().byte().movedim(0, -1).squeeze(-1).numpy()
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=quality)
        again = torch.from_numpy(np.array(Image.open(file))).float() / 255
        decoded.append(again.unsqueeze(0) if again.dim() == 2 else again.movedim(-1, 0))
    return torch.stack(decoded).to(images)
