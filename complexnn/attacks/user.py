"""The victim's user: it sends images to the server and keeps the truth about them."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from complexnn.attacks.fitting import OwnRelease, together, whole_groups
from complexnn.attacks.threat import Again, Observation, Repeat
from complexnn.data.images import Batch, ImageSet
from complexnn.networks.key import Key, Release
from complexnn.networks.splitnet import SplitNet
from complexnn.runs.seeds import random_for
from complexnn.training.evaluation import eval_batch

CROWD = 64  # packed groups among which queries are sent again; chosen by hand
BATCH = [field.name for field in dataclasses.fields(Batch)]


@dataclass(frozen=True)
class Truth(OwnRelease):
    """What the user knows of one release, and no attacker."""

    index: Tensor  # places of the batch's images in the set that is judged

    @property
    def clusters(self) -> Tensor:
        """For each query the lowest index of those with which it shares all its members: what such
        queries show is not independent. Where groups overlap but in part, each its own: ``(B,)``.
        """
        members = self.key.members.sort(dim=1).values.cpu()
        distinct, cluster = members.unique(dim=0, return_inverse=True)
        if distinct.numel() > self.key.queries:
            return self.index
        cluster = cluster.repeat_interleave(self.key.directions.shape[1])[: self.key.queries]
        lowest = self.index.new_full((len(distinct),), self.index.max().item())
        return lowest.scatter_reduce(0, cluster, self.index, "amin")[cluster]


@dataclass(frozen=True)
class User:
    """Sends ``images`` through the victim, draw by draw, each time under fresh keys."""

    net: SplitNet
    images: ImageSet
    others: ImageSet  # what other users send meanwhile
    device: torch.device
    seed: int

    @torch.no_grad()
    def sends(
        self, draw: int, count: int, *, again: Again | None = None, times: int = 1
    ) -> Iterator[tuple[Observation, Truth]]:
        """The first ``count`` images in batches: what the server sees, and the truth.

        Every draw puts other images together. ``again``: how each batch is sent ``times`` times in
        all; None: once.
        """
        net, rng = self.net, random_for("evaluation", self.seed, draw)
        repeats = random_for("evaluation", self.seed, draw, 1)
        order = self._order(draw, count)
        dim = together(net.config)
        chunks = [order[c] for c in whole_groups(count, eval_batch(dim), dim)]
        for index, batch in zip(chunks, self.images.fetch(chunks, self.device), strict=True):
            release = net.release(batch.images, generator=rng)
            more = times - 1 if again else 0
            sent = [self._again(again, batch, release, repeats) for _ in range(more)]
            truth = Truth(batch, release.without_parts(), index)
            yield Observation(release.released, tuple(sent)), truth

    def sends_whole(
        self, draw: int, count: int, *, again: Again | None = None, times: int = 1
    ) -> tuple[Observation, Truth]:
        """The same with all batches of the draw seen, and answered, together."""
        return joined(list(self.sends(draw, count, again=again, times=times)))

    def _order(self, draw: int, count: int) -> Tensor:
        """Packed queries share a key with their neighbours, so draws send them in other orders."""
        if not draw or self.net.config.queries == 1:
            return torch.arange(count)
        return torch.randperm(count, generator=random_for("evaluation", self.seed, draw, 2))

    def _again(self, how: Again, batch: Batch, release: Release, rng: Generator) -> Repeat:
        """Send a batch, which was in ``release``, another time."""
        net, queries = self.net, release.key.directions.shape[1]
        if how == "other co-members":
            released, place = self.elsewhere(batch, rng)
            return Repeat(released, place[release.key.members[:, :queries].cpu()])
        if how == "fresh decoys":
            released = net.release(batch.images, generator=rng).released
        else:
            released = net.release_again(release, generator=rng).released
        return Repeat(released, torch.arange(len(released)).unsqueeze(1).expand(-1, queries))

    @torch.no_grad()
    def elsewhere(self, batch: Batch, rng: Generator) -> tuple[Tensor, Tensor]:
        """Another release of the same images, under fresh keys and beside other co-members, and
        which of its groups holds each of them: ``(G, d, C, H, W), (B,)``.

        Packed queries stand among others of the user's kind, in so many groups that hardly two
        queries share a group again.
        """
        net, images = self.net, batch.images
        dim = together(net.config)
        if net.config.queries > 1:
            crowd = min(max(0, CROWD * dim - len(images)), len(self.others)) // dim * dim
            chosen = torch.randperm(len(self.others), generator=rng)[:crowd].split(256)
            more = self.others.fetch(chosen, self.device)
            images = torch.cat([images, *(b.images for b in more)])
        order = torch.randperm(len(images), generator=rng)
        features = torch.cat([net.features(chunk) for chunk in images.split(256)])
        released, key, _ = net.release_features(features[order.to(features.device)], generator=rng)
        place = order.argsort()[: len(batch.images)]
        return released, place // key.directions.shape[1]


def joined(releases: Sequence[tuple[Observation, Truth]]) -> tuple[Observation, Truth]:
    """Several batches as one release."""
    every, truths = zip(*releases, strict=True)
    key = Key.joined([t.key for t in truths], _starts(len(t.batch.images) for t in truths))
    released = torch.cat([s.released for s in every])
    batch = Batch(*(torch.cat([getattr(t.batch, name) for t in truths]) for name in BATCH))
    again = []
    for same in zip(*(s.again for s in every), strict=True):
        starts = _starts(len(r.released) for r in same)
        place = torch.cat([r.place + start for r, start in zip(same, starts, strict=True)])
        again.append(Repeat(torch.cat([r.released for r in same]), place))
    index = torch.cat([t.index for t in truths])
    truth = Truth(batch, Release(released, key, None), index)
    return Observation(released, tuple(again)), truth


def _starts(sizes: Iterable[int]) -> list[int]:
    """Where each of several things begins when they are put together."""
    return list(itertools.accumulate(sizes, initial=0))[:-1]
