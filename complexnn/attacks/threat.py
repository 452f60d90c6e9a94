"""The threat model as types: what an attack is given, and what it gives back.

An attack is a function of :class:`Observation`, which holds released tensors and nothing else, and
returns an :class:`Answer`, an unordered set for each group. The key, the images and their labels
stay with the victim's user (:mod:`complexnn.attacks.user`). :mod:`complexnn.attacks.trial` hands
answers and truth to :mod:`complexnn.attacks.scoring`, which compares them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor

# How a user sends its images several times, fresh keys each time: the same groups; the queries
# among fresh decoys or under fresh noise, packed groups as they were; among other co-members.
Again = Literal["same group", "fresh decoys", "other co-members"]


class Repeat(NamedTuple):
    """Another release of images that were sent before."""

    released: Tensor  # (G', d, C, H, W)
    place: Tensor  # (G, m): which of these G' groups repeats each of the m queries of a first group


@dataclass(frozen=True)
class Observation:
    """What the server sees of a user's queries."""

    # (G, d, C, H, W): of one batch or, for attacks on a whole draw, of all its batches.
    released: Tensor
    again: tuple[Repeat, ...] = ()  # only for attacks on images that are sent several times


@dataclass(frozen=True)
class Answer:
    """What an attack makes of each group: an unordered set of n answers.

    ``values`` are directions ``(G, n, d)``, features ``(G, n, C', H', W')``, images
    ``(G, n, C, H, W)`` or logits ``(G, n, K)``; n is at least the number of queries. The truth
    must not choose among answers by what they say, so an attack that made them from views of the
    group adds the views' directions, by which scoring tells whose answer each of them is.
    """

    values: Tensor
    shown_by: Tensor | None = None  # (G, n, d)
