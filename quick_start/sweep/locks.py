"""Keeps two trainings out of one folder. A lock dies with its process, however that ends."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import filelock


class BusyError(RuntimeError):
    """Another training works in a folder; the message names it."""


@contextlib.contextmanager
def held(path: Path, what: str, patience: float = 0.0) -> Iterator[None]:
    """Hold a lock file, which stays when the lock is given back.

    Parameters
    ----------
    path : of the lock file; its folder exists.
    what : is locked, for the message.
    patience : seconds to wait for it.

    Raises
    ------
    BusyError
        Where another process, or another thread of this one, holds it.
    """
    lock = filelock.FileLock(path, timeout=patience, thread_local=False)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise BusyError(
            f"{what} is being trained by another process. Wait until that has ended, or end it."
        ) from None
    try:
        yield
    finally:
        lock.release()
