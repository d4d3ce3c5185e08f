"""Guards the compiled CPU kernels against Numba thread pools that cannot be entered twice."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.RLock()


@contextmanager
def kernel_lock() -> Iterator[None]:
    """Let one Python thread at a time run parallel kernels.

    Each kernel already uses every core, so waiting costs nothing, and Numba's fallback pool
    (``workqueue``: macOS and Windows without OpenMP) aborts the process when entered twice.
    """
    with _lock:
        yield
