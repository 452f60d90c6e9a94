"""Random numbers of a run: a generator of its own for every purpose and place."""

from __future__ import annotations

import hashlib
import json

from torch import Generator

PURPOSES = ("order", "augment", "keys", "critic", "layers", "evaluation", "attack")


def random_for(purpose: str, *where: int | str) -> Generator:
    """The generator of one of :data:`PURPOSES` at one place, such as (seed, epoch, step, rank).

    Places of different length, or that differ in any number or name, have different streams.

    Randomness is a function of where a run stands, never of how it came there: a run that goes on
    after an interruption draws what the unbroken run would have drawn.
    """
    if purpose not in PURPOSES:
        raise ValueError(f"purpose must be one of {', '.join(PURPOSES)}, got {purpose!r}")
    # JSON keeps the parts of a place apart: (1, 23) and (12, 3) are different texts.
    place = [purpose, *(part if isinstance(part, str) else int(part) for part in where)]
    digest = hashlib.sha256(json.dumps(place).encode()).digest()
    # 63 bits, like the seeds that a user may give.
    return Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
