"""What is made of a batch: what goes to the server, and the key, which does not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, NoReturn

import torch
from torch import Tensor

from complexnn.config import Group


class Key:
    """What stays on the device: one orthogonal matrix per group, and who is in the group.

    Prints without its value and refuses to be pickled, so that it is neither logged nor saved
    with the released tensor by accident.

    Args:
        rotation: ``(G, d + k, d + k)`` with k Gaussian decoys; orthogonal.
        group: which of the parts are queries.
        members: ``(G, d)`` indices of the images, those from a pool behind those of the batch.
        queries: their number; they are the first part of decoy groups, every part when packed.
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

    @classmethod
    def joined(cls, keys: Sequence[Key], starts: Sequence[int]) -> Key:
        """The key of several batches' groups, put together in order; ``starts``: the place of each
        batch's first image among all images."""
        members = [key.members + start for key, start in zip(keys, starts, strict=True)]
        rotation = torch.cat([key.rotation for key in keys])
        queries = sum(key.queries for key in keys)
        return cls(rotation, keys[0].group, torch.cat(members), queries)

    def __repr__(self) -> str:
        count, dim = self.rotation.shape[:2]
        return f"Key(groups={count}, dim={dim}, group={self.group!r}, value hidden)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Key is secret and is not pickled; keep it on the device that made it")


class Release(NamedTuple):
    """All that is made of a batch. ``released`` goes to the server, the rest stays where it is."""

    released: Tensor  # (G, d, C, *): the parts of each group under its key
    key: Key
    parts: Tensor | None  # the same before the rotation, Gaussian decoys last

    def without_parts(self) -> Release:
        """The same for who keeps it: parts take as much memory as what is released."""
        return self._replace(parts=None)
