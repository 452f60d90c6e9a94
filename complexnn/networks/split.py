"""The split network: encoder and decoder on the device, processing module on the server."""

from __future__ import annotations

from typing import NamedTuple, NoReturn

import torch
from torch import Generator, Tensor, nn

from complexnn import functional as cF
from complexnn.config import Group, InputError, NetConfig
from complexnn.defences import perturb
from complexnn.networks import signs


class Groups(NamedTuple):
    """Features put side by side, before a key is drawn for them."""

    parts: Tensor  # (G, d, C, *), Gaussian decoys behind the images' features
    members: Tensor  # (G, d) indices of the images, those of a pool behind those of the batch
    queries: int  # real queries; they are the first part of decoy groups, every part when packed


BLOCK = 1 << 21  # numbers: 8 MiB of float32


class Key:
    """What stays on the device: one orthogonal matrix per group, and who is in the group.

    Prints without its value and refuses to be pickled, so that it is neither logged nor saved
    with the released tensor by accident.
    """

    __slots__ = ("group", "members", "queries", "rotation")

    def __init__(self, rotation: Tensor, group: Group, members: Tensor, queries: int) -> None:
        self.rotation, self.group = rotation, group
        self.members, self.queries = members, queries

    @property
    def directions(self) -> Tensor:
        r"""The unit vectors that pick each real query out: :math:`a_i = \sum_j u_{ij} x_j`.

        ``(G, m, d)``, m = 1 for decoys and the number of queries when packed: rows of
        :math:`R^T`. At d = 2 and decoys, :math:`u = (\cos\theta, \sin\theta)`.
        """
        queries = 1 if self.group == "decoy" else self.members.shape[1]
        return self.rotation.mT[:, :queries]

    def __repr__(self) -> str:
        count, dim = self.rotation.shape[:2]
        return f"Key(groups={count}, dim={dim}, group={self.group!r}, value hidden)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Key is secret and is not pickled; keep it on the device that made it")


class SplitNet(nn.Module):
    """A classifier cut in three.

    ``encode`` runs on the device and is the only call that makes a key; ``process`` runs on the
    server and never sees one; ``decode`` runs on the device. Images are pixels in [0, 1],
    ``(B, C, H, W)``.
    """

    def __init__(
        self, encoder: nn.Module, processing: nn.Module, decoder: nn.Module, config: NetConfig
    ) -> None:
        super().__init__()
        self.encoder, self.processing, self.decoder = encoder, processing, decoder
        self.config = config
        self._signs_seen = False
        self.to(memory_format=torch.channels_last)

    def forward(
        self, images: Tensor, *, generator: Generator | None = None, pool: Tensor | None = None
    ) -> Tensor:
        """Encode, process, decode: ``(B, C, H, W) -> (B, num_classes)``."""
        released, key = self.encode(images, generator=generator, pool=pool)
        return self.decode(self.process(released), key)

    def encode(
        self, images: Tensor, *, generator: Generator | None = None, pool: Tensor | None = None
    ) -> tuple[Tensor, Key]:
        r"""Images to what the server sees, and the key that undoes it.

        :math:`x = R \cdot (f_1, \dots, f_d)^T` with a fresh random ``R`` per group; at d = 2 this
        is :math:`x = e^{i\theta}(a + ib)`. A ``decoy`` group holds one query and d - 1
        counterparts, a ``packed`` group d queries; a last packed group that is not full is filled
        with counterparts. Kinds without rotation have d = 1. With ``gaussian_decoys``, that many
        parts of noise stand behind the d and are dropped again by :meth:`decode`.

        Args:
            images: ``(B, C, H, W)``, pixels in [0, 1].
            generator: source of keys, counterparts and noise, for reproducible experiments. None,
                for deployment: the operating system's cryptographic generator.
            pool: images that serve as counterparts; None: the other images of the batch.

        Returns:
            The released tensor ``(G, d, C', H', W')`` and its key.

        Raises:
            InputError: a group that cannot be filled with other images.
        """
        features = self.features(images)
        others = None if pool is None else self.features(pool)
        groups = self.group(features, generator=generator, pool=others)
        return self.rotate(groups, generator=generator)

    def features(self, images: Tensor) -> Tensor:
        """The secret feature a = g(I): ``(B, C, H, W) -> (B, C', H', W')``.

        Raises:
            InputError: images of another number of axes or channels, or of integers.
        """
        config = self.config
        if images.dim() != 4 or images.shape[1] != config.in_channels:
            raise InputError(
                f"images must be (B, {config.in_channels}, H, W), got {tuple(images.shape)}"
            )
        if not images.is_floating_point():
            raise InputError(
                f"images must be floats in [0, 1], got {images.dtype}: divide bytes by 255"
            )
        features = self.encoder(images.contiguous(memory_format=torch.channels_last))
        if not (self.training or self._signs_seen or torch.compiler.is_compiling()):
            self._signs_seen = True  # one look: it costs as much as copying the features
            if config.kind == "complex" and signs.one_signed(features):
                signs.warn(f"the encoder of this {config.arch}")
        return features

    def group(
        self, features: Tensor, *, generator: Generator | None = None, pool: Tensor | None = None
    ) -> Groups:
        """Put features that will share a key side by side, ``(B, C, *) -> (G, d, C, *)``, after
        what :mod:`complexnn.defences` does to each, and Gaussian decoys behind them."""
        features = perturb(features, self.config, generator)
        if self.config.kind != "complex":
            alone = torch.arange(len(features), device=features.device).unsqueeze(1)
            return Groups(cF.single_part(features), alone, len(features))
        choose = _decoys if self.config.group == "decoy" else _packed
        candidates = 0 if pool is None else len(pool)
        index = choose(len(features), self.config.dim, candidates, generator)
        everything = features if pool is None else torch.cat([features, pool])
        if not self.training:
            # An equal counterpart gives the key away; in training nothing is at stake.
            index = _replace_equals(everything.detach(), index, self.config.group)
        index = index.to(features.device)
        in_order = self.config.group == "packed" and len(features) % self.config.dim == 0
        parts = (
            features.unflatten(0, index.shape)  # a view: consecutive queries share a key
            if in_order
            else cF.gather_parts(everything, index)
        )
        if self.config.gaussian_decoys:
            parts = torch.cat([parts, self._noise(parts, generator)], dim=1)
        return Groups(parts, index, len(features))

    def _noise(self, parts: Tensor, generator: Generator | None) -> Tensor:
        """Gaussian decoys for groups ``(G, d, C, *)``: ``(G, k, C, *)``."""
        shape = (len(parts), self.config.gaussian_decoys, *parts.shape[2:])
        return self.config.decoy_scale * cF.normal(shape, generator).to(parts)

    def rotate(self, groups: Groups, *, generator: Generator | None = None) -> tuple[Tensor, Key]:
        """Draw a key per group and apply it: the released tensor ``(G, d, C, *)`` and the key."""
        parts, members, queries = groups
        count, dim = parts.shape[:2]
        precision = torch.promote_types(parts.dtype, torch.float32)
        rotation = cF.draw_rotations(count, dim, generator).to(parts.device, precision)
        released = parts if dim == 1 else cF.rotate(parts, rotation)
        return released, Key(rotation, self.config.group, members, queries)

    def process(self, released: Tensor) -> Tensor:
        """The server's work: ``(G, d, C, H, W) -> (G, d, C', *)``, without any secret."""
        if self.config.kind == "complex":
            return self._in_blocks(released)
        return cF.single_part(self._in_blocks(cF.first_parts(released, 1)))

    def _in_blocks(self, features: Tensor) -> Tensor:
        """The server on as many groups at a time as a CPU's cache holds, where no group depends on
        others: in eval mode and without gradient."""
        size = max(1, BLOCK // max(1, features[:1].numel()))
        needs_whole = self.processing.training or torch.is_grad_enabled()
        if needs_whole or features.device.type != "cpu" or len(features) <= size:
            return self.processing(features)
        return torch.cat([self.processing(block) for block in features.split(size)])

    def decode(self, hidden: Tensor, key: Key) -> Tensor:
        """Undo the rotation, drop the decoys, classify: ``-> (queries, num_classes)``.

        Raises:
            InputError: a key of another release.
        """
        groups, parts = key.rotation.shape[:2]
        if tuple(hidden.shape[:2]) != (groups, parts):
            raise InputError(
                f"the answer has {hidden.shape[0]} groups of {hidden.shape[1]}, the key is for "
                f"{groups} of {parts}: decode each answer with the key of its own release"
            )
        answers = hidden if hidden.shape[1] == 1 else cF.rotate(hidden, key.directions)
        return self.decoder(answers.flatten(0, 1)[: key.queries])


def _decoys(count: int, dim: int, pool: int, generator: Generator | None) -> Tensor:
    """Each query with d - 1 distinct others of the batch, or d - 1 distinct ones of the pool."""
    own = torch.arange(count).unsqueeze(1)
    if pool:
        _enough(pool, dim - 1, "pool", f"a decoy group of {dim}")
        others = count + cF.uniform((count, pool), generator).argsort(dim=1)[:, : dim - 1]
    else:
        _enough(count, dim, "batch", f"a decoy group of {dim}")
        others = cF.draw_counterparts(count, dim - 1, generator)
    return torch.cat([own, others], dim=1)


def _packed(count: int, dim: int, pool: int, generator: Generator | None) -> Tensor:
    """Consecutive queries in groups of d, the last one filled from the pool or earlier groups."""
    members = torch.arange(count)
    missing = -count % dim
    if missing:
        earlier = count - count % dim
        start, candidates = (count, pool) if pool else (0, earlier)
        where = "pool" if pool else "full groups of the batch"
        _enough(candidates, missing, where, f"{missing} free places of a packed group of {dim}")
        fill = start + cF.uniform((candidates,), generator).argsort()[:missing]
        members = torch.cat([members, fill])
    return members.view(-1, dim)


def _enough(have: int, need: int, where: str, what: str) -> None:
    if have < need:
        raise InputError(
            f"{what} needs {need} images from the {where}, which has {have}: "
            "pass more images, or pool= with other images"
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
        broken = same.all(dim=1).nonzero()
        if len(broken):
            raise InputError(
                f"all images of packed group {broken[0].item()} are the same: its key could be "
                "read off; put different images into the batch, or pass pool="
            )
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
