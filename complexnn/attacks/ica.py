r"""Key recovery by independent component analysis, group by group and without training.

A key is orthogonal, so that white members stay white: their covariance, which is all that second
moments tell, is the identity whatever the key. What is left to go by is that a mixture of
independent members is nearer to a Gaussian than the members are (the central limit theorem). ICA
turns the whitened parts until they are as far from Gaussian as can be; Gaussian members are not to
be found at all.

**The contrast** is log cosh (Hyvärinen 1999). Its derivative, tanh, is bounded, where that of
kurtosis is a cube, with which a few large entries would decide alone.

**What stays open.** The negative of a member is as independent as the member, and so are members
in another order. :func:`complexnn.attacks.unmixing.settled` asks a critic.
"""

from __future__ import annotations

import math
import warnings

import torch
import torch.nn.functional as F
from sklearn.decomposition import FastICA
from sklearn.exceptions import ConvergenceWarning
from torch import Generator, Tensor

from complexnn.attacks.unmixing import Score, nearest_orthogonal, settled
from complexnn.attacks.whitening import ChannelWhitening
from complexnn.metrics import double
from complexnn.rotation import functional as cF


def ica(
    released: Tensor,
    known: ChannelWhitening,
    score: Score,
    *,
    count: int,
    iterations: int = 60,
) -> Tensor:
    """Independent components of each group's ``(d, C·H·W)`` matrix, for every d.

    Channels are whitened by what the attacker measured on its own features, the parts by the
    sample; then symmetric FastICA (Hyvärinen 1999) with the contrast log cosh, the best of several
    starts, and the nearest orthogonal matrix. ``score`` settles signs and, at d = 2, which
    component is the query's.

    Shape: ``(G, d, C, H, W) -> (G, n, d)``.
    """
    # In the plane one start finds the one optimum.
    starts = 1 if released.shape[1] == 2 else 2
    rows = unmix(known.apply(released), iterations=iterations, starts=starts)
    return settled(rows, released, score, count)


def unmix(mixed: Tensor, *, iterations: int = 60, starts: int = 2, coarse: int = 4096) -> Tensor:
    """Orthogonal unmixing matrices ``(G, d, d)`` of ``mixed`` ``(G, d, N)``, rows up to sign and
    order. Searches on ``coarse`` evenly spaced entries, then settles on all of them.

    The numbers of iterations, starts and entries are chosen by hand.
    """
    groups, dim, count = mixed.shape
    sphere = _sphering(mixed @ mixed.mT / count)
    white = sphere @ mixed
    some = white[:, :, :: max(1, count // coarse)]
    best = torch.full((groups,), -math.inf, device=mixed.device)
    unmixing = sphere
    for start in range(starts):
        generator = Generator().manual_seed(start)
        turn = cF.draw_rotations(groups, dim, generator).to(mixed)
        turn = _fixed_point(some, turn, iterations)
        contrast = _negentropy(turn @ some)
        better = contrast > best
        best = torch.where(better, contrast, best)
        unmixing = torch.where(better.view(-1, 1, 1), turn, unmixing)
    unmixing = _fixed_point(white, unmixing, 8)
    return nearest_orthogonal(F.normalize(unmixing @ sphere, dim=2))


def _sphering(covariance: Tensor) -> Tensor:
    """The symmetric inverse root ``(G, d, d)``, after which parts are uncorrelated and of variance
    1. Directions without variance, as of equal parts, count as if they had 1e-9 of the largest."""
    values, vectors = torch.linalg.eigh(double(covariance))
    least = 1e-9 * values.amax(dim=1, keepdim=True).clamp(min=1e-30)
    return (vectors * values.clamp(min=least).rsqrt().unsqueeze(1) @ vectors.mT).to(covariance)


def _negentropy(sources: Tensor) -> Tensor:
    """How far rows ``(G, d, N)`` of variance 1 are from Gaussian, in all: ``(G,)``.

    The squared distance of E log cosh from its value 0.37457 under a standard normal: Hyvärinen's
    approximation of negentropy, up to a factor.
    """
    return (_log_cosh(sources).mean(dim=2) - 0.37457).square().sum(dim=1)


def _fixed_point(white: Tensor, turn: Tensor, iterations: int) -> Tensor:
    """Symmetric FastICA from ``turn`` until the groups' matrices hardly move any more.

    A row w moves to :math:`E[z g(w z)] - E[g'(w z)] w` with g = tanh, the derivative of log cosh:
    Newton's step towards an extremum of E log cosh among unit vectors. The polar factor then keeps
    all rows orthonormal at once, so that no two end at the same source.
    """
    for _ in range(iterations):
        slope = (turn @ white).tanh()
        step = slope @ white.mT / white.shape[2]
        step = step - (1 - slope.square()).mean(dim=2, keepdim=True) * turn
        after = nearest_orthogonal(step)
        moved = 1 - (after * turn).sum(dim=2).abs()  # a row and its negative are the same
        turn = after
        if moved.mean() < 1e-5:  # cosines of under 5 mrad, chosen by hand
            break
    return turn


def _log_cosh(x: Tensor) -> Tensor:
    return x.abs() + torch.log1p(torch.exp(-2 * x.abs())) - math.log(2)


def fast_ica(released: Tensor, score: Score, *, count: int) -> Tensor:
    """The same with scikit-learn's FastICA on the features as they are, group by group. It cannot
    whiten a group whose parts are no d independent directions, such as one of zeros;
    :func:`unmix` can."""
    components = []
    for group in released:
        flat = double(group.flatten(1)).cpu()
        if torch.linalg.matrix_rank(flat - flat.mean(dim=1, keepdim=True)) < len(flat):
            components.append(unmix(flat.unsqueeze(0)).squeeze(0))
            continue
        model = FastICA(len(flat), whiten="unit-variance", random_state=0, max_iter=300)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(flat.mT.numpy())
        components.append(torch.from_numpy(model.components_))
    unmixing = F.normalize(torch.stack(components), dim=2).to(released)
    return settled(nearest_orthogonal(unmixing), released, score, count)
