"""Sweeps: what a run costs beyond its training, a thousand runs, and two workers against none.

    python -m benchmarks.sweeps [overhead] [two_workers] [many_runs]

Other work on the machine spoils the comparison with workers, hence its load in the result.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil

from benchmarks import common

CAT = Path(__file__).parents[1] / "input" / "cat.png"
OVERHEAD_RUNS = 12
SMALL_RUNS, REPEATS = 8, 3
SMALL = {  # picture: settings. Kernels use both cores well from about 200 pixels on
    "64x64": {"gaussians": 200, "steps": 3000},
    "256x256": {"gaussians": 500, "steps": 400},
}
MANY_RUNS, BLOCK = 1000, 100
GOALS = {"overhead_s": 0.3, "share_of_two_workers": 0.65, "compare_1000_s": 5.0}


def main(*parts: str) -> dict[str, Any]:
    """Measure all three, or those named; of the others the last result is kept."""
    before = os.getcwd()
    known = {"overhead": _overhead, "two_workers": _two_workers, "many_runs": _many_runs}
    result: dict[str, Any] = {}
    if parts:
        result = common.load("sweeps_cpu")
        del result["machine"]
    result |= {"load_of_the_machine": round(os.getloadavg()[0], 1), "goals": GOALS}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            _pictures()
            for part in parts or known:
                result[part] = known[part]()
        finally:
            os.chdir(before)
    print(json.dumps(result, indent=1))
    common.save("sweeps_cpu", result)
    return result


def _pictures() -> None:
    from PIL import Image

    picture = Image.open(CAT)
    picture.save("cat.png")
    for side in (64, 256):
        picture.resize((side, side)).save(f"cat-{side}.png")


def _config(picture: str, runs: int, **settings: Any) -> Any:
    """So many runs that differ by a Gaussian each."""
    from quick_start import set_config

    values = {"gaussians": 500, "steps": 50, "lr_schedule": False, "device": "cpu"} | settings
    first = values.pop("gaussians")
    counts = list(range(first, first + runs))
    return set_config(input_filenames=picture, gaussians=counts, input_dir=".", **values)


def _overhead() -> dict[str, Any]:
    """Seconds of a run on the clock less those of its training; all scores are computed."""
    from quick_start import train

    found = {}
    for picture in ("cat-64.png", "cat-256.png", "cat.png"):
        train(_config(picture, 2), show=False)  # compiles
        begun = time.perf_counter()
        runs = train(_config(picture, OVERHEAD_RUNS), show=False)
        total = time.perf_counter() - begun
        training = sum(run.record["seconds"]["training"] for run in runs)
        size = runs[0].picture
        found[f"{size['width']}x{size['height']}"] = {
            "run_s": round(total / len(runs), 4),
            "beyond_training_s": round((total - training) / len(runs), 4),
        }
    return found


def _two_workers() -> dict[str, Any]:
    """Eight small runs one after another, and by two processes, in turn."""
    return {
        picture: _shared(f"cat-{picture.split('x')[0]}.png", settings)
        for picture, settings in SMALL.items()
    }


def _shared(picture: str, settings: dict[str, int]) -> dict[str, Any]:
    from quick_start import process_pool, train

    config = _config(picture, SMALL_RUNS, **settings)
    alone, starting, started, training = [], [], [], []
    train(config, show=False)
    for _ in range(REPEATS):
        with _clock(alone):
            train(config, show=False)
        with _clock(starting), process_pool(2) as executor:
            train(config, executor=executor, show=False)
        with process_pool(2) as executor:
            _warm(executor)
            with _clock(started):
                runs = train(config, executor=executor, show=False)
            training.append(sum(run.record["seconds"]["training"] for run in runs) / 2)
    one, with_start, two, least = map(statistics.median, (alone, starting, started, training))
    return {
        "runs": SMALL_RUNS,
        "settings": settings,
        "one_after_another_s": round(one, 3),
        "two_workers_with_their_start_s": round(with_start, 3),
        "two_workers_s": round(two, 3),
        "share_with_their_start": round(with_start / one, 3),
        "share": round(two / one, 3),
        "share_of_training": round(least / one, 3),  # of two steps at once, and of nothing else
        "all_s": [[round(s, 2) for s in times] for times in (alone, starting, started)],
    }


def _warm(executor: Executor) -> None:
    """Have both processes import and compile."""
    from quick_start import train

    train(_config("cat-64.png", 4, steps=60), executor=executor, show=False)


@contextmanager
def _clock(times: list[float]) -> Iterator[None]:
    begun = time.perf_counter()
    yield
    times.append(time.perf_counter() - begun)


def _many_runs() -> dict[str, Any]:
    """A sweep of 1,000 tiny runs: memory, open files and pace of each hundred."""
    from events import RunEnded
    from quick_start import compare_batch_results, train, training
    from quick_start.dashboard import View

    process, blocks = psutil.Process(), []

    class Watch(View):
        def take(self, index: int, event: Any) -> None:
            super().take(index, event)
            if isinstance(event, RunEnded) and (index + 1) % BLOCK == 0:
                blocks.append(
                    {
                        "at_s": round(time.perf_counter() - begun, 2),
                        "resident_mb": round(process.memory_info().rss / 1e6, 1),
                        "open_files": process.num_fds(),
                        "threads": process.num_threads(),
                    }
                )

    config = _config("cat-64.png", MANY_RUNS, gaussians=20, steps=10, eval_steps=5)
    before, training.open_view = training.open_view, lambda names, *a, **k: Watch(names)
    begun = time.perf_counter()
    try:
        runs = train(config)
    finally:
        training.open_view = before
    seconds = time.perf_counter() - begun
    begun = time.perf_counter()
    table = compare_batch_results(runs)
    compared = time.perf_counter() - begun
    ends = [0.0, *(block["at_s"] for block in blocks)]
    pace = [round(b - a, 2) for a, b in pairwise(ends)]
    return {
        "runs": len(table),
        "complete": int((table["status"] == "finished").sum()),
        "seconds": round(seconds, 2),
        "seconds_of_each_hundred": pace,
        "compare_batch_results_s": round(compared, 3),
        "after_each_hundred": blocks,
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
