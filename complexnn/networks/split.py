"""The split network: encoder and decoder on the device, processing module on the server."""

from __future__ import annotations

from typing import NamedTuple, NoReturn

import torch
from torch import Generator, Tensor, nn

from complexnn import functional as cF
from complexnn.config import Group, InputError, NetConfig
from complexnn.defences import perturb
from complexnn.networks.pool import Pool, check_finite, contents


class Groups(NamedTuple):
    """Features put side by side, before a key is drawn for them."""

    parts: Tensor  # (G, d, C, *), Gaussian decoys behind the images' features
    members: Tensor  # (G, d) indices of the images, those from a pool behind those of the batch
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
        self.to(memory_format=torch.channels_last)

    def forward(
        self, images: Tensor, *, generator: Generator | None = None, pool: Pool | None = None
    ) -> Tensor:
        """Encode, process, decode: ``(B, C, H, W) -> (B, num_classes)``."""
        released, key = self.encode(images, generator=generator, pool=pool)
        return self.decode(self.process(released), key)

    def encode(
        self, images: Tensor, *, generator: Generator | None = None, pool: Pool | None = None
    ) -> tuple[Tensor, Key]:
        r"""Images to what the server sees, and the key that undoes it.

        :math:`x = R \cdot (f_1, \dots, f_d)^T` with a fresh random ``R`` per group; at d = 2 this
        is :math:`x = e^{i\theta}(a + ib)`. A ``decoy`` group holds one query and d - 1
        counterparts, a ``packed`` group d queries in a row. Kinds without rotation have d = 1. With
        ``gaussian_decoys``, that many parts of noise stand behind the d and are dropped again by
        :meth:`decode`.

        Groups that share an image give it away, unless they hold the same images. So the
        counterparts of a query are the other d - 1 images of a random block of the batch, or
        images of ``pool``, which no other group ever holds. (``counterparts="batch"`` draws them
        as early versions did, from the whole batch.)

        In train mode nothing is at stake: groups may share images, and may hold copies.

        Args:
            images: ``(B, C, H, W)``, pixels in [0, 1]; without a pool B is a multiple of d.
            generator: source of keys, counterparts and noise, for reproducible experiments. None,
                for deployment: the operating system's cryptographic generator.
            pool: images that serve as counterparts, each once: d - 1 for every query of decoy
                groups, and what the last packed group lacks.

        Returns:
            The released tensor ``(G, d, C', H', W')`` and its key.

        Raises:
            InputError: a group that cannot be filled with images of its own and without copies, a
                pool that holds too few, a query that is not finite.
        """
        features = self.features(images)
        if not self.training:
            check_finite(images, "image {}")
            check_finite(features, "the feature of image {}")
        if pool is None:
            return self.rotate(self.group(features, generator=generator), generator=generator)
        if not isinstance(pool, Pool):
            raise InputError(
                f"pool= takes a complexnn.Pool, got a {type(pool).__name__}: wrap the images once, "
                "pool = complexnn.Pool(images), and pass it to every call, so that none is used twice"
            )
        chosen = pool.choose(self._missing(len(images)), images, generator)
        others = self.features(pool.images(chosen).to(images)) if len(chosen) else None
        groups = self.group(features, generator=generator, pool=others)
        pool.use(chosen)
        return self.rotate(groups, generator=generator)

    def _missing(self, count: int) -> int:
        """How many images of a pool stand beside so many queries."""
        if self.config.kind != "complex":
            return 0
        dim = self.config.dim
        return -count % dim if self.config.group == "packed" else count * (dim - 1)

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
        return self.encoder(images.contiguous(memory_format=torch.channels_last))

    def group(
        self,
        features: Tensor,
        *,
        generator: Generator | None = None,
        pool: Tensor | None = None,
        closed: bool | None = None,
    ) -> Groups:
        """Put features that will share a key side by side, ``(B, C, *) -> (G, d, C, *)``, after
        what :mod:`complexnn.defences` does to each, and Gaussian decoys behind them.

        Args:
            features: of the queries.
            generator: as in :meth:`encode`.
            pool: features of as many counterparts as are needed, no more.
            closed: refuse what would give a group away: a number of queries that fills no whole
                blocks, so that two groups share an image, and copies that cannot be kept apart.
                None: in eval mode. False is for measurements of accuracy.
        """
        config, count = self.config, len(features)
        closed = not self.training if closed is None else closed
        everything = features if pool is None else torch.cat([features, pool])
        if not self.training:  # what is mixed is exact, whatever autocast does to the networks
            everything = cF.at_least_float32(everything)
        everything = perturb(everything, config, generator)
        if config.kind != "complex":
            alone = torch.arange(count, device=features.device).unsqueeze(1)
            return Groups(cF.single_part(everything), alone, count)
        index = self._members(everything.detach(), count, closed, generator).to(features.device)
        in_order = config.group == "packed" and count % config.dim == 0
        parts = (
            everything.unflatten(0, index.shape)  # a view: consecutive queries share a key
            if in_order
            else cF.gather_parts(everything, index)
        )
        if config.gaussian_decoys:
            parts = torch.cat([parts, self._noise(parts, generator)], dim=1)
        return Groups(parts, index, count)

    def _members(
        self, features: Tensor, count: int, closed: bool, generator: Generator | None
    ) -> Tensor:
        """Who stands beside whom, as indices ``(G, d)`` into the features of ``count`` queries and
        of what a pool gave."""
        group, dim, pooled = self.config.group, self.config.dim, len(features) - count
        if not count:
            raise InputError("there is no image in the batch")
        if self.config.counterparts == "batch" and not pooled:
            index = _any_of_the_batch(count, dim, group, generator)
            # An equal counterpart gives the key away; in training nothing is at stake.
            return index if self.training else _replace_equals(features, index, group)
        copies = _first_copies(features) if closed else torch.arange(len(features))
        if group == "packed":
            if closed and len(features) % dim:
                raise _unfilled(count, dim, "packed groups")
            index = _packed(count, dim, pooled, generator)
        elif pooled:
            others = torch.arange(count, len(features)).view(count, dim - 1)
            index = torch.cat([torch.arange(count).unsqueeze(1), others], dim=1)
        else:
            if closed and count % dim:
                raise _unfilled(count, dim, "blocks")
            index = _blocks(copies, dim, generator)
        if closed:
            _refuse_copies(copies[index], group)
        return index

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
        released = self._turned(parts, rotation)
        return released, Key(rotation, self.config.group, members, queries)

    def _turned(self, parts: Tensor, matrix: Tensor) -> Tensor:
        """``matrix`` applied to the parts, outside of training in fp32 or better, also under
        autocast: a key rounded to bf16 is not orthogonal, and a rounded decoy not Gaussian. The
        result has the dtype of the weights."""
        if self.training:
            return parts if parts.shape[1] == 1 else cF.rotate(parts, matrix)
        if parts.shape[1] > 1:
            with torch.autocast(parts.device.type, enabled=False):
                parts = cF.rotate(cF.at_least_float32(parts), matrix)
        weights = next(self.parameters(), parts)
        return parts.to(weights.dtype)

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
        answers = self._turned(hidden, key.directions)
        return self.decoder(answers.flatten(0, 1)[: key.queries])


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


def _unfilled(count: int, dim: int, what: str) -> InputError:
    return InputError(
        f"{count} images do not fill {what} of d = {dim}, and an image in two of them would give "
        f"itself away: pass a multiple of {dim}, or pool= with other images"
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
    first, seen = [], {}
    for place, content in enumerate(contents(few)):
        alike = seen.setdefault(content, [])
        same = next((p for p in alike if torch.equal(features[p], features[place])), place)
        if same == place:
            alike.append(place)
        first.append(same)
    return torch.tensor(first)


def _refuse_copies(members: Tensor, group: Group) -> None:
    """Refuse groups ``(G, d)`` whose key could be read off: a decoy group with copies, a packed one
    of nothing else."""
    if group == "packed":
        broken = (members == members[:, :1]).all(dim=1).nonzero()
        if len(broken):
            raise InputError(
                f"all images of packed group {broken[0].item()} are the same: its key could be "
                "read off; put different images into the batch, or pass pool="
            )
        return
    ordered = members.sort(dim=1).values
    broken = (ordered[:, 1:] == ordered[:, :-1]).any(dim=1).nonzero()
    if len(broken):
        raise InputError(
            f"image {broken[0].item()} has copies in its group, however the batch is cut: its key "
            "could be read off; pass pool= with other images"
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
