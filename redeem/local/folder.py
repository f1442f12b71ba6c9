"""The data folder: made private, and used by one server at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redeem.errors import ServeError


@contextmanager
def locked(folder: Path) -> Iterator[Path]:
    """Make the folder where needed and hold its lock. Yields its absolute path. The kernel frees the lock with the
    process, however that ends. Raises ServeError when it cannot be written or another server has it."""
    folder = folder.absolute()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / "logs").mkdir(mode=0o700, exist_ok=True)
        lock = (folder / "lock").open("a+")
    except OSError as error:
        raise ServeError(
            "data_unwritable",
            f"The data folder {folder} cannot be written: {error.strerror}.",
            "Give a folder that you may write: redeem serve --data DIR, or REDEEM_DATA.",
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise ServeError(
                "data_locked",
                f"The data folder {folder} is used by another server (process {lock.read().strip() or 'unknown'}).",
                "Use that server, stop it first, or give another folder: redeem serve --data DIR.",
            ) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield folder
