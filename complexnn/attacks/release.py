r"""The release attack: all groups at once, without training, a key, or an image sent twice.

Two groups that share a member have spans that meet in exactly its feature a, whatever the keys:
of orthonormal bases :math:`B_i, B_j` the largest singular value of :math:`B_i B_j^T`, the cosine
of the smallest principal angle (Björck and Golub 1973), is 1. Its left vector w shows a up to a
factor, :math:`w B_i = w S_i X_i` with :math:`S_i = (X_i X_i^T)^{-1/2}`, and as rows of a key have
length 1 that factor is known: :math:`u = w S_i / \|w S_i\|`. Both groups must show the same view
up to its sign, which strangers do in neither direction nor length.

**Several members in common.** Within a group the u of its members are orthonormal, so what it
shares with each partner is the projection on a coordinate subspace of one hidden basis. All of
these commute. A member is recovered if no other member of its group has the same partners,
including the one that has none while all others have some: at d = 2 one shared member gives both.
Groups of equal members (closed blocks) share everything with each other and nothing else, and tell
nothing.

**The threshold** comes from the release itself. A misfit within the rounding of the released
numbers is none. Beyond that, strangers' smallest misfits follow a power law, whose logarithms'
spacings are exponential (Rényi 1953): a gap that is wider than what lies between it and the median
of the misfits above it, or of many under it, is no chance, and groups under it share a member.

**The cost.** A linear map of the numbers keeps what spans share. So all pairs are compared in the
strongest whitened directions, where strangers are far apart, by the Frobenius norms of their d × d
products; the few best of each group get a singular value decomposition, and only pairs that share
a member are looked at in full.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from complexnn.attacks.bases import basis
from complexnn.attacks.unmixing import nearest_orthogonal
from complexnn.metrics import double

# All of these are chosen by hand.
DIRECTIONS = 128  # in which groups are compared at least; 16 for each part
RANK = 1e-13  # of a Gram matrix's largest eigenvalue: less is none
TILE = 1 << 25  # numbers: 128 MiB of float32
ENOUGH = 16  # misfits that a gap is compared with
DRAWS = 4  # of random weights that tell members apart
CLEAR, ROUNDED = 4, 8  # standard deviations of rounding: a direction above, a misfit below
ODDS = 100  # to one, that a gap between misfits is not as wide by chance


@dataclass(frozen=True)
class Members:
    """What the groups of a release tell about each other."""

    directions: Tensor  # (G, d, d): orthonormal rows, up to their signs; 0 where none was found
    recovered: Tensor  # (G, d) bool: which of the rows are a member's
    misfits: Tensor  # (G, d): relative distance of the two groups' views, a mean over partners
    pairs: Tensor  # (P, 2): groups that have some, but not all, of their members in common
    shared: Tensor  # (P,): how many


@torch.no_grad()
def recover(released: Tensor, *, seed: int = 0) -> Members:
    """Every member that lies in several groups of other membership, or is left beside such ones.

    Args:
        released: ``(G, d, C, H, W)``, all groups of a release, or of several, one after the other.
        seed: of the weights that tell the members of a group apart.

    Returns:
        Nothing found where there is one part, or more than half as many parts as numbers: there
        any two spans meet.
    """
    flat = released.flatten(2)
    flat = flat.to(double(flat[:1]).device)
    groups, parts, numbers = flat.shape
    rng = Generator().manual_seed(seed)
    if parts == 1 or groups < 2 or 2 * parts > numbers:
        return _collect(flat, torch.zeros(0, 2, dtype=torch.long), torch.zeros(0).long(), rng)
    whiten, tolerance = _whitening(flat, rng)
    base, scale = basis(_apply(flat, whiten), rtol=RANK)
    pairs = _candidates(base, rng)
    misfits = torch.cat([_compare(base, scale, chunk)[0] for chunk in pairs.split(4096)])
    limit, strange = _limit(misfits[:, 0], tolerance)
    shared = (misfits <= limit).sum(dim=1).cpu()
    # Between the two: members in common, perhaps, under noise of their own strength.
    unclear = ((misfits > limit) & (misfits < strange)).any(dim=1).cpu()
    some = (shared > 0) & (shared < parts) & ~unclear
    return _collect(flat, pairs[some], shared[some], rng)


def without(released: Tensor, known: Tensor) -> Tensor:
    r"""Directions of what is left in groups of which k members are known: their decoys are public.

    A known feature b shows in :math:`u = (X X^T)^{-1} X b`, and the other members' directions are
    orthogonal to it. With d - 1 known this is the query's, up to its sign: at d = 2,
    :math:`X^T X - b b^T = a a^T`.

    Shape: ``(G, d, C, H, W), (G, k, C, H, W) -> (G, d - k, d)``, orthonormal rows.
    """
    flat, features = double(released.flatten(2)), double(known.flatten(2))
    shown = torch.linalg.lstsq(flat @ flat.mT, flat @ features.mT).solution
    rest = torch.linalg.svd(shown.mT, full_matrices=True).Vh[:, known.shape[1] :]
    return rest.to(released)


# ------------------------------------------------------------------------------ which groups share


def _whitening(flat: Tensor, rng: Generator) -> tuple[Tensor | None, float]:
    """The strongest directions of all parts ``(N, n)``, scaled to equal strength, and the misfit
    that rounding explains in them; None where there are too few groups to measure them."""
    groups, parts, numbers = flat.shape
    rows = flat.flatten(0, 1)
    keep = min(max(DIRECTIONS, 16 * parts), groups * parts // 4, numbers)
    epsilon = _precision(rows)
    if keep < 4 * parts:
        return None, ROUNDED * epsilon
    some = double(rows[torch.randperm(len(rows), generator=rng)[: 8 * keep].to(rows.device)])
    _, strength, axes = torch.linalg.svd(some, full_matrices=False)
    strength = strength[:keep] / math.sqrt(len(some))
    rounding = epsilon * some.square().mean().sqrt()
    # Scaling up a direction that holds little but rounding would compare groups by that.
    clear = strength > CLEAR * rounding
    strength, axes = strength[clear], axes[:keep][clear]
    tolerance = ROUNDED * (rounding / strength).square().mean().sqrt().item()
    return axes.T / strength, tolerance


def _precision(rows: Tensor) -> float:
    """Relative spacing of the released numbers: of bf16, fp16 or fp32, whichever holds them. What
    cosines in double precision resolve is the least."""
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        if all(torch.equal(chunk, chunk.to(dtype).to(chunk)) for chunk in rows.split(4096)):
            return torch.finfo(dtype).eps
    return 1e-8


def _apply(flat: Tensor, whiten: Tensor | None) -> Tensor:
    if whiten is None:
        return double(flat)
    return torch.cat([double(chunk) @ whiten for chunk in flat.split(1024)])


def _candidates(base: Tensor, rng: Generator) -> Tensor:
    r"""Pairs of groups among which those that share a member are: for each group the d² + 2 with
    the largest :math:`\|B_i B_j^T\|_F`, which is 1 or more for its partners. ``(P, 2)``.

    A member that many groups hold must not crowd out another one, so ties are broken at random.
    """
    groups, parts = base.shape[:2]
    order = torch.randperm(groups, generator=rng).to(base.device)
    rows = base[order].float().flatten(0, 1)
    most = min(groups - 1, parts * parts + 2)
    pairs = []
    for begun in range(0, groups, size := max(1, TILE // (parts * len(rows)))):
        mine = rows[begun * parts : (begun + size) * parts]
        norms = (mine @ rows.T).square_().view(-1, parts, groups, parts).sum(dim=(1, 3))
        norms.clamp_(max=1 + norms.mean().item())
        here = torch.arange(len(norms), device=rows.device)
        norms[here, begun + here] = -1
        best = norms.topk(most, dim=1).indices
        pairs.append(torch.stack([(begun + here).unsqueeze(1).expand_as(best), best], dim=-1))
    return order[torch.cat(pairs).flatten(0, 1)].sort(dim=1).values.unique(dim=0)


def _compare(base: Tensor, scale: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""Where the spans of two groups come nearest: for each principal angle the misfit of the two
    views, and the directions that show them on either side, ``(P, d), (P, d, d), (P, d, d)``.

    Views of lengths p, q under a cosine c are :math:`\sqrt{p/q + q/p - 2c}` apart, relative to
    :math:`\sqrt{pq}`.
    """
    first, second = pairs.T
    left, cosines, right = torch.linalg.svd(base[first] @ base[second].mT)
    # A principal vector w of the basis B = S X shows the unit view w S X. A member's coefficients
    # have length 1, so a member is that view over |w S|: these lengths compare those of the views.
    mine, theirs = left.mT @ scale[first], right @ scale[second]
    lengths = mine.norm(dim=2), theirs.norm(dim=2)
    ratio = lengths[0] / lengths[1].clamp(min=1e-30)
    apart = (ratio + 1 / ratio.clamp(min=1e-30) - 2 * cosines).clamp(min=0).sqrt()
    return apart, mine, theirs


def _limit(misfits: Tensor, tolerance: float) -> tuple[float, float]:
    """The largest misfit of two groups that share a member, and the smallest of two strangers."""
    logs = misfits.clamp(min=1e-9).log().sort().values
    count = len(logs)
    if count < 3:
        return tolerance, tolerance
    below = torch.arange(1, count, device=logs.device)  # misfits under each gap
    gaps = logs.diff()
    above, under = logs[(count + below) // 2] - logs[below], logs[below - 1] - logs[below // 2]
    # By chance, a gap is wider than the spread above it with probability exp(-certain), and than
    # the spread under it with 2^-below. Near their largest value misfits follow no power law.
    certain = below * ((count + below) / (2 * below + 2)).log() > math.log(ODDS)
    clear = (gaps > above) & certain & (gaps == gaps.max())
    clear |= (gaps > under) & (below >= ENOUGH)
    if not clear.any():
        return tolerance, tolerance
    best = gaps.where(clear, 0).argmax()
    middle, upper = (logs[best] + gaps[best] / 2).exp().item(), logs[best + 1].exp().item()
    return max(tolerance, middle), max(tolerance, upper)


# ------------------------------------------------------------------------------- which members


def _collect(flat: Tensor, pairs: Tensor, shared: Tensor, rng: Generator) -> Members:
    """Members of groups from what each shares with its partners."""
    groups, parts = flat.shape[:2]
    size = max(1, TILE // flat[0].numel() // 4)
    chunks = zip(pairs.split(size), shared.to(pairs.device).split(size), strict=True)
    met = [_meet(flat, *chunk) for chunk in chunks if len(chunk[0])]
    none = double(flat.new_zeros(0, parts, parts)), double(flat.new_zeros(0))
    mine, theirs, misfits = (torch.cat(m) for m in zip((none[0], *none), *met, strict=True))
    owner = pairs.to(flat.device).T.flatten()
    common, misfits = torch.cat([mine, theirs]), misfits.repeat(2)
    frame, holds = _common_frame(groups, owner, common, rng)
    # A random code for each partner: the sum over those that hold a member names the set of them,
    # but for a chance of 2^-62, so that equal sums are members that cannot be told apart.
    codes = torch.randint(1 << 62, (len(owner), 1), generator=rng).to(flat.device)
    pattern = torch.zeros(groups, parts, dtype=torch.long, device=flat.device)
    pattern.index_add_(0, owner, holds * codes)
    recovered = (pattern.unsqueeze(1) == pattern.unsqueeze(2)).sum(dim=2) == 1
    for k in range(parts):
        # Partners that hold the member, less those that do not: a gap of 1 to every other member.
        sign = (2 * holds[:, k] - 1).to(common).view(-1, 1, 1)
        sharp = torch.linalg.eigh(_summed(groups, owner, sign * common)).eigenvectors[..., -1]
        frame[:, k] = torch.where(recovered[:, k : k + 1], sharp, frame[:, k])
    frame = nearest_orthogonal(frame) * recovered.unsqueeze(-1)
    # One that no partner holds is what all of them leave.
    weight = torch.where((pattern == 0)[owner], 1, holds).to(common)
    apart = _summed(groups, owner, weight * misfits.unsqueeze(1))
    apart = apart / _summed(groups, owner, weight).clamp(min=1) * recovered
    return Members(frame.to(flat.dtype), recovered, apart, pairs, shared)


def _meet(flat: Tensor, pairs: Tensor, shared: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Projections of each group's parts on what it shares with the other, ``(P, d, d)`` twice, and
    the misfit of the views."""
    wanted, place = pairs.unique(return_inverse=True)
    base, scale = basis(double(flat[wanted]), rtol=RANK)
    misfits, mine, theirs = _compare(base, scale, place)
    among = torch.arange(flat.shape[1], device=flat.device) < shared.unsqueeze(1)
    projections = []
    for rows in (mine, theirs):
        axes = torch.linalg.svd(F.normalize(rows, dim=2) * among.unsqueeze(2)).Vh
        axes = axes * among.unsqueeze(2)
        projections.append(axes.mT @ axes)
    return *projections, misfits.masked_fill(~among, 0).amax(dim=1)


def _common_frame(
    groups: int, owner: Tensor, common: Tensor, rng: Generator
) -> tuple[Tensor, Tensor]:
    """Each group's orthonormal rows in which its commuting projections are all diagonal, and which
    of them every projection keeps: ``(G, d, d), (2P, d)`` of zeros and ones.

    Eigenvectors of a sum with random weights; of a few draws, those that the projections keep or
    drop most clearly.
    """
    parts = common.shape[-1]
    # The projections commute, so they have common eigenvectors; a random sum of them has no others,
    # unless two of its eigenvalues come close by chance, which another draw mends.
    best = torch.full((groups,), math.inf, dtype=common.dtype, device=common.device)
    frame = torch.eye(parts).to(common).expand(groups, parts, parts).clone()
    for _ in range(DRAWS):
        weights = torch.rand(len(owner), 1, 1, generator=rng, dtype=torch.float64).to(common)
        drawn = torch.linalg.eigh(_summed(groups, owner, (0.5 + weights) * common)).eigenvectors.mT
        kept = _kept(drawn[owner], common)
        vague = _summed(groups, owner, (kept - kept.round()).abs().sum(dim=1))
        better = vague < best
        best = torch.where(better, vague, best)
        frame[better] = drawn[better]
    return frame, _kept(frame[owner], common).round().clamp(0, 1).long()


def _kept(rows: Tensor, projections: Tensor) -> Tensor:
    """Squared lengths of projected unit rows: ``(P, d, d), (P, d, d) -> (P, d)``."""
    return (rows @ projections * rows).sum(dim=2)


def _summed(groups: int, owner: Tensor, values: Tensor) -> Tensor:
    return values.new_zeros(groups, *values.shape[1:]).index_add_(0, owner, values)
