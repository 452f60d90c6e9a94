"""Long work: progress on a terminal or in a log, and an orderly end on a signal."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
log = logging.getLogger("complexnn")


def process_number() -> int:
    """This process's rank under torchrun; 0 where a command runs alone."""
    return int(os.environ.get("RANK", "0"))


def track(items: Iterable[T], total: int, what: str, *, every: float = 20.0) -> Iterator[T]:
    """Pass ``items`` on and show how far they are and how long the rest will take: a bar on a
    terminal, elsewhere a plain line now and then. Of several processes the first one shows it."""
    if process_number():
        yield from items
        return
    if sys.stderr.isatty():
        yield from tqdm(items, total=total, desc=what, leave=False, dynamic_ncols=True)
        return
    started = said = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if done == 1:
            started = now  # the first may have had something to prepare that the others have not
        if now - said >= every and done < total:
            said = now
            left = "" if done == 1 else duration((now - started) / (done - 1) * (total - done))
            log.info("%s: %d of %d%s", what, done, total, left and f", {left} left")


def duration(seconds: float) -> str:
    """``75 -> '1 min 15 s'``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


class Interrupted(Exception):
    """Work that a signal ended in good order; says where it can go on."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number


class Stop:
    """The signal that asked for an end, if one did."""

    number: int | None = None


@contextlib.contextmanager
def deferred_signals() -> Iterator[Stop]:
    """Hold Ctrl-C, SIGTERM and a terminal's end back while a block runs: it looks at
    ``stop.number`` where it can end in good order. A second Ctrl-C ends it at once."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def note(number: int, frame: object) -> None:
        if stop.number == number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.number = number

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:  # not under nohup
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
