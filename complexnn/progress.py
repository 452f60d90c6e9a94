"""Progress: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
log = logging.getLogger("complexnn")


def track(items: Iterable[T], total: int, what: str, *, every: float = 20.0) -> Iterator[T]:
    """Pass ``items`` on and show how far they are and how long the rest will take."""
    if sys.stderr.isatty():
        yield from tqdm(items, total=total, desc=what, leave=False, dynamic_ncols=True)
        return
    started = said = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - said >= every and done < total:
            said = now
            left = (now - started) / done * (total - done)
            log.info("%s: %d of %d, %s left", what, done, total, duration(left))


def duration(seconds: float) -> str:
    """``75 -> '1 min 15 s'``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
