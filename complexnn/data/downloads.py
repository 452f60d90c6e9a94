"""Data sets that torchvision downloads."""

from __future__ import annotations

from pathlib import Path
from urllib.error import URLError

from complexnn.config import InputError

# What torchvision raises without a connection and, from OSError on, makes of files that were cut.
CANNOT_READ = (URLError, RuntimeError, OSError, ValueError, TypeError, EOFError, AssertionError)


def read_or_download(cls: type, root: Path) -> list:
    """Training and test set of a torchvision class, downloaded if they are not there.

    Raises:
        InputError: no connection, or files that are incomplete.
    """
    try:
        return [cls(root, train=train, download=True) for train in (True, False)]
    except CANNOT_READ as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"{cls.__name__} is not in {root} and could not be downloaded ({reason}): put its "
            f"official files into {root}, delete any incomplete one, or give --data-dir"
        ) from error
