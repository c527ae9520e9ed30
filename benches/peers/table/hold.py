"""A lock on a file, so that several who measure on one machine take turns."""

from __future__ import annotations

import fcntl
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator


@contextmanager
def hold(file: Path | None) -> Iterator[None]:
    """Holds the file alone while the body runs, after waiting for it; nothing without a file."""
    if file is None:
        yield
        return
    with file.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
