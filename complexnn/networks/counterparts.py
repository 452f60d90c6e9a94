"""Who stands beside whom: the images that share a key.

Groups that have one image in common have spans that meet in exactly its feature. So groups hold
either the same images or none in common (docs/threat-model.md).
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from complexnn.config import Group, InputError, NetConfig
from complexnn.networks.pool import contents
from complexnn.rotation import functional as cF


def missing(count: int, config: NetConfig) -> int:
    """How many images of a pool stand beside so many queries."""
    if config.kind != "complex":
        return 0
    return -count % config.dim if config.group == "packed" else count * (config.dim - 1)


def members(
    features: Tensor,
    count: int,
    config: NetConfig,
    generator: Generator | None,
    *,
    training: bool,
    closed: bool,
) -> Tensor:
    """Draw the groups: indices ``(G, d)`` into the features of ``count`` queries, and behind them
    those that a pool gave.

    Raises:
        InputError: too few images; if ``closed``, images in two groups, or copies in one.
    """
    group, dim, pooled = config.group, config.dim, len(features) - count
    if not count:
        raise InputError("there is no image in the batch")
    if config.counterparts == "batch" and not pooled:
        index = _any_of_the_batch(count, dim, group, generator)
        # An equal counterpart gives the key away; in training nothing is at stake.
        return index if training else _replace_equals(features, index, group)
    if closed:
        _refuse_unfilled(count, dim, pooled, group)
    copies = _first_copies(features) if closed else torch.arange(len(features))
    if group == "packed":
        index = _packed(count, dim, pooled, generator)
    elif pooled:
        others = torch.arange(count, len(features)).view(count, dim - 1)
        index = torch.cat([torch.arange(count).unsqueeze(1), others], dim=1)
    else:
        index = _blocks(copies, dim, generator)
    if closed:
        _refuse_copies(copies[index], group)
    return index


def _blocks(copies: Tensor, dim: int, generator: Generator | None) -> Tensor:
    """Random blocks of d images; each image leads a group of all images of its block.

    Images that ``copies`` says are equal go to different blocks while there are enough blocks. What
    fills no block leads groups of the last images and as many others as are missing.

    Returns:
        Indices ``(count, d)``: row i has image i first, and behind it the others in random order.
    """
    count = len(copies)
    _enough(count, dim, "batch", f"a decoy group of {dim}")
    # Copies have one rank, so they stand in a row, and dealing puts neighbours into other blocks.
    order = cF.uniform((count,), generator)[copies].argsort(stable=True)
    missing = -count % dim
    blocks = torch.cat([order, order[:missing]]).view(-1, dim) if missing else order.view(dim, -1).T
    place = cF.uniform((len(blocks), dim, dim), generator)
    place.diagonal(dim1=1, dim2=2).zero_()  # each leads once
    rows = blocks.unsqueeze(1).expand_as(place).gather(2, place.argsort(dim=2))
    rows = rows.flatten(0, 1)[:count]
    return rows[rows[:, 0].argsort()]


def _any_of_the_batch(count: int, dim: int, group: Group, generator: Generator | None) -> Tensor:
    """What early versions drew: each query with d - 1 distinct others of the batch."""
    if group == "packed":
        return _packed(count, dim, 0, generator)
    _enough(count, dim, "batch", f"a decoy group of {dim}")
    others = cF.draw_counterparts(count, dim - 1, generator)
    return torch.cat([torch.arange(count).unsqueeze(1), others], dim=1)


def _packed(count: int, dim: int, pooled: int, generator: Generator | None) -> Tensor:
    """Consecutive queries in groups of d, the last one filled from a pool or earlier groups."""
    members = torch.arange(count + pooled)
    missing = -len(members) % dim
    if missing:
        earlier = count - count % dim
        _enough(
            earlier, missing, "full groups of the batch",
            f"{missing} free places of a packed group of {dim}",
        )  # fmt: skip
        members = torch.cat([members, cF.uniform((earlier,), generator).argsort()[:missing]])
    return members.view(-1, dim)


def _refuse_unfilled(count: int, dim: int, pooled: int, group: Group) -> None:
    """Refuse numbers of images that would leave one of them in two groups, of other members."""
    packed = group == "packed"
    if (count + pooled) % dim if packed else not pooled and count % dim:
        raise InputError(
            f"{count} images do not fill {'packed groups' if packed else 'blocks'} of d = {dim}, "
            "and an image in two of them would give itself away: pass a multiple of "
            f"{dim}, or pool= with other images"
        )


def _enough(have: int, need: int, where: str, what: str) -> None:
    if have < need:
        raise InputError(
            f"{what} needs {need} images from the {where}, which has {have}: "
            "pass more images, or pool= with other images"
        )


def _first_copies(features: Tensor) -> Tensor:
    """For each feature the place of the first one that is equal to it, mostly its own."""
    # Copies agree in some entries; only such suspects are compared entry by entry.
    few = features[..., ::4, ::4] if features[0].numel() > 4096 else features
    first, places = [], {}
    for place, content in enumerate(contents(few)):
        alike = places.setdefault(content, [])
        same = next((p for p in alike if torch.equal(features[p], features[place])), place)
        if same == place:
            alike.append(place)
        first.append(same)
    return torch.tensor(first)


def _refuse_copies(members: Tensor, group: Group) -> None:
    """Refuse groups ``(G, d)`` whose key could be read off: a decoy group with copies, a packed one
    of nothing else."""
    if group == "packed":
        _refuse_uniform((members == members[:, :1]).all(dim=1))
        return
    ordered = members.sort(dim=1).values
    broken = (ordered[:, 1:] == ordered[:, :-1]).any(dim=1).nonzero()
    if len(broken):
        raise InputError(
            f"image {broken[0].item()} has copies in its group, however the batch is cut: its key "
            "could be read off; pass pool= with other images"
        )


def _refuse_uniform(uniform: Tensor) -> None:
    """Refuse packed groups, by a mask ``(G,)``, that hold copies of one image and nothing else."""
    if uniform.any():
        raise InputError(
            f"all images of packed group {uniform.nonzero()[0].item()} are the same: its key could "
            "be read off; put different images into the batch, or pass pool="
        )


def _replace_equals(features: Tensor, index: Tensor, group: Group) -> Tensor:
    """Replace counterparts that are a copy of their query; refuse groups of copies only.

    The phase of a query beside its own copy is its key: every entry of e^{iθ}(a + ia) has it.
    """
    index = index.to(features.device)
    # Copies agree in a sum over some entries; only such suspects are compared entry by entry.
    sums = features[..., ::4, ::4].sum(dim=(1, 2, 3))
    same = sums[index[:, :1]] == sums[index[:, 1:]]
    for row, column in same.nonzero().tolist():
        query, other = index[row, 0], index[row, column + 1]
        same[row, column] = torch.equal(features[query], features[other])
    if group == "packed":
        _refuse_uniform(same.all(dim=1))
        return index
    if not same.any():
        return index
    index = index.clone()
    for row, column in same.nonzero().tolist():
        query = features[index[row, 0]]
        differs = (features != query).flatten(1).any(dim=1)
        differs[index[row]] = False
        spare = differs.nonzero()
        if not len(spare):
            raise InputError(
                f"image {row} has only copies of itself as counterparts: its key could be read "
                "off; pass pool= with other images"
            )
        index[row, column + 1] = spare[row % len(spare)]
    return index
