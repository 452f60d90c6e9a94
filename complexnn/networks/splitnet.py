"""The split network: encoder and decoder on the device, processing module on the server."""

from __future__ import annotations

import logging

import torch
from torch import Generator, Tensor, nn

from complexnn.config import InputError, NetConfig
from complexnn.networks import counterparts, signs
from complexnn.networks.defences import perturb
from complexnn.networks.key import Key, Release
from complexnn.networks.pool import Pool, check_finite
from complexnn.rotation import functional as cF
from complexnn.rotation.fused import exactly

log = logging.getLogger("complexnn")
BLOCK = 1 << 21  # numbers that a CPU's server takes at a time: 8 MiB of float32, as a cache holds


class SplitNet(nn.Module):
    """A classifier cut in three.

    ``encode`` runs on the device and makes the key; ``process`` runs on the server and never sees
    one; ``decode`` runs on the device. Images are pixels in [0, 1], ``(B, C, H, W)``.

    ``encode`` is for users: it checks images, takes counterparts from a pool, and answers with the
    released tensor and its key. Training, attackers with images of their own and measurements call
    :meth:`release`, which also returns what was rotated. Both are :meth:`features` (the encoder)
    and :meth:`release_features` (defences, groups, keys), and this ends in ``_rotate``, the one
    place where keys of these networks are drawn.
    """

    def __init__(
        self, encoder: nn.Module, processing: nn.Module, decoder: nn.Module, config: NetConfig
    ) -> None:
        super().__init__()
        self.encoder, self.processing, self.decoder = encoder, processing, decoder
        self.config = config
        self._signs_seen = self._told = False
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
        if pool is not None:
            return self._encode_beside(pool, images, features, generator)
        self._warn_if_open(len(images))
        return self.release_features(features, generator=generator)[:2]

    def _encode_beside(
        self, pool: Pool, images: Tensor, features: Tensor, generator: Generator | None
    ) -> tuple[Tensor, Key]:
        """:meth:`encode` with counterparts from a pool, which then hands them out no more."""
        if not isinstance(pool, Pool):
            raise InputError(
                f"pool= takes a complexnn.Pool, got a {type(pool).__name__}: wrap the images once, "
                "pool = complexnn.Pool(images), and pass it to every call: a tensor would be drawn "
                "from anew in each"
            )
        need = counterparts.missing(len(images), self.config)
        chosen = pool.choose(need, images, generator)
        others = self.features(pool.images(chosen).to(images)) if len(chosen) else None
        released, key, _ = self.release_features(features, generator=generator, pool=others)
        pool.use(chosen, images)  # only now: a release that is refused uses nothing up
        return released, key

    def _warn_if_open(self, count: int) -> None:
        """Once, where decoys are drawn as early versions did, which published networks still do."""
        config = self.config
        shared = config.kind == "complex" and (config.group == "decoy" or count % config.dim)
        if shared and config.counterparts == "batch" and not (self.training or self._told):
            self._told = True
            log.warning(
                "counterparts='batch', as early versions drew them: every image stands in several "
                "groups of this release, which give it away without a key or training; pass "
                "pool=complexnn.Pool(images), or set net.config = "
                "dataclasses.replace(net.config, counterparts='blocks')"
            )

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

    def release(
        self, images: Tensor, *, generator: Generator | None = None, closed: bool | None = None
    ) -> Release:
        """Images to all that is made of them, for training and measurements; arguments and errors
        as in :meth:`release_features`."""
        return self.release_features(self.features(images), generator=generator, closed=closed)

    def release_features(
        self,
        features: Tensor,
        *,
        generator: Generator | None = None,
        pool: Tensor | None = None,
        closed: bool | None = None,
    ) -> Release:
        """The same for features ``(B, C, *)`` that are there already, as of several batches which
        are grouped together.

        Args:
            features: of the queries, as :meth:`features` made them.
            generator: as in :meth:`encode`.
            pool: features of as many counterparts as are needed, no more.
            closed: refuse what must not be sent: features that are not finite, and what would give
                a group away. That is a number of queries that fills no whole blocks, so that two
                groups share an image, and copies that cannot be kept apart. None: in eval mode.
                False, as in train mode, is for measurements of accuracy, where nothing is sent. It
                lets NaN pass, since a look at each batch would make the CPU wait for a GPU.

        Raises:
            InputError: too few images; what ``closed`` refuses.
        """
        closed = not self.training if closed is None else closed
        if closed:
            check_finite(features, "the feature of image {}")
            if pool is not None:
                check_finite(pool, "the feature of counterpart {}")
        parts, members = self._group(features, generator, pool=pool, closed=closed)
        return self._rotate(parts, members, len(features), generator)

    def release_again(self, release: Release, *, generator: Generator | None = None) -> Release:
        """The same groups under fresh keys; of a release that still has its parts."""
        key = release.key
        return self._rotate(release.parts, key.members, key.queries, generator)

    def unrotated_groups(self, features: Tensor, *, generator: Generator | None = None) -> Tensor:
        """Groups ``(G, d, C, *)`` as :meth:`release_features` puts them together for measurements
        of accuracy, without a key: never to be sent."""
        return self._group(features, generator, closed=False)[0]

    def unrotated_queries(self, images: Tensor, *, generator: Generator | None = None) -> Tensor:
        """What of each image goes into its group, ``(B, C, *)``, without a key: never to be
        sent."""
        return self._defended(self.features(images), generator)

    def _group(
        self,
        features: Tensor,
        generator: Generator | None,
        *,
        pool: Tensor | None = None,
        closed: bool,
    ) -> tuple[Tensor, Tensor]:
        """Features that will share a key side by side, after the network's defences, and Gaussian
        decoys behind them: parts ``(G, d, C, *)`` and members ``(G, d)``."""
        config, count = self.config, len(features)
        everything = features if pool is None else torch.cat([features, pool])
        everything = self._defended(everything, generator)
        if config.kind != "complex":
            alone = torch.arange(count, device=features.device).unsqueeze(1)
            return cF.single_part(everything), alone
        index = counterparts.members(
            everything.detach(), count, config, generator, training=self.training, closed=closed
        )
        index = index.to(features.device)
        if config.group == "packed" and count % config.dim == 0:
            parts = everything.unflatten(0, index.shape)  # a view: neighbours share a key
        else:
            parts = cF.gather_parts(everything, index)
        if config.gaussian_decoys:
            parts = torch.cat([parts, self._noise(parts, generator)], dim=1)
        return parts, index

    def _defended(self, features: Tensor, generator: Generator | None) -> Tensor:
        """Features ``(B, C, *)`` as they go into their groups, after what
        :mod:`complexnn.networks.defences` does to each."""
        if not self.training:  # what is mixed is exact, whatever autocast does to the networks
            features = cF.at_least_float32(features)
        return perturb(features, self.config, generator)

    def _noise(self, parts: Tensor, generator: Generator | None) -> Tensor:
        """Gaussian decoys for groups ``(G, d, C, *)``: ``(G, k, C, *)``."""
        shape = (len(parts), self.config.gaussian_decoys, *parts.shape[2:])
        return self.config.decoy_scale * cF.normal(shape, generator).to(parts)

    def _rotate(
        self, parts: Tensor, members: Tensor, queries: int, generator: Generator | None
    ) -> Release:
        """Draw a key for each group and apply it."""
        count, dim = parts.shape[:2]
        precision = torch.promote_types(parts.dtype, torch.float32)
        rotation = cF.draw_rotations(count, dim, generator).to(parts.device, precision)
        key = Key(rotation, self.config.group, members, queries)
        return Release(self._turned(parts, rotation), key, parts)

    def _turned(self, parts: Tensor, matrix: Tensor) -> Tensor:
        """``matrix`` applied to the parts, outside of training in fp32 or better, also under
        autocast: a key rounded to bf16 is not orthogonal, and a rounded decoy not Gaussian. The
        result has the dtype of the weights."""
        if self.training:
            return parts if parts.shape[1] == 1 else cF.rotate(parts, matrix)
        if parts.shape[1] > 1:
            with exactly(parts):
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
