"""Images that stand beside queries, each of them once."""

from __future__ import annotations

import hashlib
from typing import NoReturn

import torch
from torch import Generator, Tensor

from complexnn.config import InputError
from complexnn.rotation import functional as cF


class Pool:
    """Images that serve as counterparts, each at most once over the pool's life.

    Two groups that hold the same image have spans that meet in exactly its feature. So make one
    pool of the images, and pass it to every call of ``encode``. What was drawn, or sent as a query
    beside the pool, is never drawn again, and a query that was drawn before is refused; copies of
    an image count as that image. The pool does not know what was sent without it.

    Args:
        images: ``(N, C, H, W)``, pixels in [0, 1]. They stay where they are and are not copied.

    Raises:
        InputError: images of another form, or with NaN or infinity.
    """

    def __init__(self, images: Tensor) -> None:
        if not isinstance(images, Tensor) or images.dim() != 4 or not images.is_floating_point():
            raise InputError("a Pool is made of images (N, C, H, W), floats in [0, 1]")
        check_finite(images, "image {} of the pool")
        self._images = images
        # The first of each set of copies, by its content.
        self._left: dict[bytes, int] = {}
        for place, content in enumerate(contents(images)):
            self._left.setdefault(content, place)
        self._drawn: set[bytes] = set()

    def __len__(self) -> int:
        """How many images are left."""
        return len(self._left)

    def __repr__(self) -> str:
        return f"Pool({len(self)} of {len(self._images)} images left)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Pool is not copied: each copy would hand out the same images again")

    def choose(self, need: int, queries: Tensor, generator: Generator | None) -> Tensor:
        """The places of ``need`` random images that are left and no copies of ``queries``.

        Nothing is used up before :meth:`use`.

        Raises:
            InputError: too few are left, they have another size than the queries, or one of these
                was drawn before.
        """
        if self._images.shape[1:] != queries.shape[1:]:
            raise InputError(
                f"the pool's images are {tuple(self._images.shape[1:])}, the queries "
                f"{tuple(queries.shape[1:])}: give both one size"
            )
        asked = contents(queries)
        known = next((place for place, c in enumerate(asked) if c in self._drawn), None)
        if known is not None:
            raise InputError(
                f"query {known} is a copy of an image that stood beside an earlier one, and both "
                "groups together would give it away: leave it out, or make the Pool of other images"
            )
        sent = set(asked)
        free = torch.tensor([p for content, p in self._left.items() if content not in sent])
        if len(free) < need:
            raise InputError(
                f"{len(queries)} queries need {need} images from the pool, which has {len(free)} "
                "left that are no copies of them: send fewer at a time, or make a new Pool of "
                "images that were never sent"
            )
        return free[cF.uniform((len(free),), generator).argsort()[:need]].long()

    def images(self, places: Tensor) -> Tensor:
        """The images at these places."""
        return self._images[places.to(self._images.device)]

    def use(self, places: Tensor, queries: Tensor) -> None:
        """Never again draw the images at these places, nor copies of the queries."""
        gone, sent = set(places.tolist()), set(contents(queries))
        self._drawn |= {c for c, p in self._left.items() if p in gone}
        self._left = {c: p for c, p in self._left.items() if p not in gone and c not in sent}


def contents(images: Tensor) -> list[bytes]:
    """A digest of each image, or feature: equal for equal ones."""
    digests = []
    for chunk in images.detach().flatten(1).split(256):  # on their way to the CPU, not all at once
        rows = (chunk.float() + 0.0).cpu().numpy()  # -0.0 becomes 0.0
        digests += [hashlib.blake2b(row.data, digest_size=16).digest() for row in rows]
    return digests


def check_finite(images: Tensor, name: str) -> None:
    """Refuse images with NaN or infinity, by their index.

    Raises:
        InputError: names the first one.
    """
    if images.sum().isfinite():  # fast, and any NaN or infinity spoils it
        return
    broken = (~images.isfinite().flatten(1).all(dim=1)).nonzero()
    if len(broken):
        raise InputError(
            f"{name.format(broken[0].item())} holds NaN or infinity, which would spoil every "
            "answer of its group: leave it out"
        )
