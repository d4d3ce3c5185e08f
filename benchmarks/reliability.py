"""Breaks sweeps for real and counts what was lost: the table of docs/reliability.md.

    python -m benchmarks.reliability [PART ...]

A PART of a fault's name, such as ``disk``, tries that one; of the others the last result is kept.
On a GPU, processes that train are killed, and nothing else is tried: the rest has no part in it.
Every fault is a real one: SIGKILL, a full file system, permissions taken away, workers that die.
Results are compared with those of an unbroken sweep: parameters, measurements, scores, the drawn
picture and the film in every byte; and nothing may be left over.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import common
from tests import survival

KILLS, KILLS_ON_GPU = 60, 10
# One kilobyte more or less decides which file is the last that there is room for.
DISKS = (*(f"{kilobytes}k" for kilobytes in range(200, 1500, 52)), "1092k")
PERMISSIONS = 5
WORKERS = 10


def main(*parts: str) -> dict[str, Any]:
    """Try everything, or what is named, each in a new folder."""
    import torch

    gpu = torch.cuda.is_available()
    seed = secrets.randbits(31)
    rng = np.random.default_rng(seed)
    cases: dict[str, Callable[[Path], dict[str, Any]]] = {
        "kill -9 of the process that trains": lambda folder: _killed(folder, rng, KILLS),
        "kill -9 of a worker of a pool": lambda folder: survival.kill_workers(folder, rng, WORKERS),
        "kill -9 of a worker of Dask": lambda folder: survival.kill_dask_workers(
            folder, rng, WORKERS
        ),
        "full disk": lambda folder: _each(folder, DISKS, survival.fill_disk),
        "permission to write taken away": lambda folder: _each(
            folder, range(PERMISSIONS), lambda place, _: survival.forbid_writing(place, rng)
        ),
    }
    if gpu:
        cases = {
            "kill -9 of the process that trains on a GPU": lambda folder: _killed(
                folder, rng, KILLS_ON_GPU
            )
        }
    file = "reliability_gpu" if gpu else "reliability_cpu"
    result: dict[str, Any] = {"seed": seed, "cases": common.load(file)["cases"] if parts else {}}
    before = os.getcwd()
    for name, case in cases.items():
        if parts and not any(part in name for part in parts):
            continue
        begun = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            try:
                found = case(Path(folder))
            finally:
                os.chdir(before)
        result["cases"][name] = found | {"seconds": round(time.perf_counter() - begun, 1)}
        print(name, json.dumps(result["cases"][name]))
    common.save(file, result)
    return result


def _killed(folder: Path, rng: np.random.Generator, times: int) -> dict[str, Any]:
    kills = survival.kill_at_random(folder, rng, times)
    return {
        "times": len(kills.delays),
        "sweeps": kills.sweeps,
        "hit": dict(Counter(kills.statuses)),
        "compared": kills.compared,
        "different": 0,  # else an error was raised
    }


def _each(
    folder: Path, values: Any, action: Callable[[Path, Any], dict[str, int]]
) -> dict[str, Any]:
    found = []
    for index, value in enumerate(values):
        place = folder / str(index)
        place.mkdir()
        found.append(action(place, value))
    return {
        "times": len(found),
        "failed": sum(each["failed"] for each in found),
        "compared": sum(each["compared"] for each in found),
        "different": 0,  # else an error was raised
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
