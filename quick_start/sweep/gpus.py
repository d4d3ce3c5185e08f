"""One GPU for each run: whoever trains holds a lock on it, and so do other processes' runs."""

from __future__ import annotations

import contextlib
import getpass
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from quick_start.sweep.locks import BusyError, held

SECONDS_BETWEEN_TRIES = 0.5

_latest = ""  # the GPU that this process had last, where torch and the kernels are loaded


@contextlib.contextmanager
def own_gpu(wanted: str, check: Callable[[], None] | None) -> Iterator[bool]:
    """Take a GPU for a block that no other run on this machine has, and make it the current one.

    Does nothing on a machine without GPUs that torch can use.

    Parameters
    ----------
    wanted : the setting ``device``.
    check : called while all are taken; raises to end the waiting. None does not wait.

    Yields
    ------
    Whether the GPU is shared, because all were taken.
    """
    global _latest
    gpus = [] if wanted == "cpu" else list(enumerate(_gpus()))
    gpus.sort(key=lambda gpu: gpu[1] != _latest)
    with one_of([_lock_path(name) for _, name in gpus], check) as chosen:
        if chosen is None:
            yield bool(gpus)
            return
        import torch

        index, _latest = gpus[chosen]
        with torch.cuda.device(index):
            try:
                yield False
            finally:
                with contextlib.suppress(RuntimeError):  # of a GPU that is lost
                    torch.cuda.empty_cache()  # the next run on it may be another process's


@contextlib.contextmanager
def one_of(paths: list[Path], check: Callable[[], None] | None) -> Iterator[int | None]:
    """Hold the first of some lock files that is free, and tell which; None where none is held."""
    with contextlib.ExitStack() as stack:
        index = _first_free(paths, stack)
        while index is None and paths and check is not None:
            check()
            time.sleep(SECONDS_BETWEEN_TRIES)
            index = _first_free(paths, stack)
        yield index


def _first_free(paths: list[Path], stack: contextlib.ExitStack) -> int | None:
    for index, path in enumerate(paths):
        with contextlib.suppress(BusyError):
            stack.enter_context(held(path, f"{path}"))
            return index
    return None


def _gpus() -> list[str]:
    """What tells the GPUs of this machine apart, in torch's order."""
    import torch

    with contextlib.suppress(RuntimeError, OSError, AssertionError):
        return [
            str(torch.cuda.get_device_properties(index).uuid)
            for index in range(torch.cuda.device_count())
        ]
    return []


def _lock_path(gpu: str) -> Path:
    # In a container, a user may have a number only.
    user = os.getuid() if hasattr(os, "getuid") else getpass.getuser()
    return Path(tempfile.gettempdir(), f"splatbook-{user}-gpu-{gpu}.lock")
