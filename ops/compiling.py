"""How kernels are compiled for the CPU, and where the machine code is kept.

Numba notices that a cached function is out of date only by the file that holds it, not by those
whose functions it calls. So the code of every version of this package has a folder of its own.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numba

# Reassociation lets sums vectorise. NaN and infinity keep their meaning.
FASTMATH = {"contract", "reassoc", "nsz", "arcp"}


@cache
def cache_folder() -> str:
    """Folder for the machine code of exactly these sources; empty leaves the choice to Numba."""
    here = Path(__file__).parent
    digest = hashlib.sha256(numba.__version__.encode())
    for path in sorted(here.rglob("*.py")):
        digest.update(path.read_bytes())
    name = f"kernels-{digest.hexdigest()[:16]}"
    chosen = numba.config.CACHE_DIR
    candidates = (
        [Path(chosen)] if chosen else [here / "__pycache__", Path.home() / ".cache" / "splatbook"]
    )
    for parent in candidates:
        try:
            (parent / name).mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(parent / name, os.W_OK):
            return str(parent / name)
    return ""


def _compiled(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = cache_folder() or before
    try:
        return numba.njit(
            cache=True, nogil=True, error_model="numpy", fastmath=FASTMATH, **options
        )(function)
    finally:
        numba.config.CACHE_DIR = before


# Without Numba's run time there are no reference counts, which threads would fight over: a view of
# a shared array costs an atomic increment otherwise. Such a kernel cannot allocate.
kernel = partial(_compiled, _nrt=False)
allocating_kernel = _compiled
parallel_kernel = partial(_compiled, parallel=True)
# Without this, the loss gradient differed in its last bit between the process that compiled it and
# those that read it from disk: each caller brings its own copy of a function that is not inlined.
inlined_kernel = partial(_compiled, forceinline=True)
