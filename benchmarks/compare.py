"""Looking at a session of 1,000 runs."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import common
from fitting.recorder import COLUMNS

RUNS = 1000
EVALUATIONS = 50
GOAL_SECONDS = 5.0


def main() -> dict[str, Any]:
    """Time the functions that a notebook uses, on generated run folders."""
    load = round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None
    result: dict[str, Any] = {
        "load_of_the_machine": load,
        "runs": RUNS,
        "evaluations_of_a_run": EVALUATIONS,
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, pictures in (("few_pictures", 8), ("picture_per_run", RUNS)):
            session = _session(Path(folder) / f"session_{pictures}", pictures)
            result[name] = {"pictures": pictures, **_looks(session)}
    result["goals"] = {"look_s": GOAL_SECONDS}
    print(json.dumps(result, indent=1))
    common.save("compare_cpu", result)
    return result


def _looks(session: Path) -> dict[str, Any]:
    from quick_start import compare_batch_results, plot_metrics
    from quick_start.runs import Runs, find_runs

    runs = Runs(find_runs(session))
    looks: dict[str, Callable[[], Any]] = {
        "find_runs": lambda: find_runs(session),
        "compare_batch_results": lambda: compare_batch_results(session),
        "compare_batch_results_shown": lambda: compare_batch_results(session)._repr_html_(),
        "list_of_runs_shown": runs._repr_html_,
        "plot_metrics_shown": lambda: plot_metrics(session).png(),
    }
    return {name: _timed(look) for name, look in looks.items()}


def _timed(look: Callable[[], Any]) -> dict[str, float]:
    """Spread of the time on the clock, and the processor time, which ignores other programs."""
    begun = time.process_time()
    seconds = common.timed(look, 5, 0)
    processor = (time.process_time() - begun) / len(seconds)
    return {**common.spread(seconds), "processor_ms": round(processor * 1e3, 4)}


def _session(session: Path, pictures: int) -> Path:
    """Run folders as training leaves them, with made-up numbers and without models."""
    from settings import Settings

    rng = np.random.default_rng()
    for index in range(RUNS):
        count = 200 * (1 + index // pictures)
        name = f"picture{index % pictures}"
        settings = Settings.build(input_filename=f"{name}.png", gaussians=count, steps=5000)
        psnr = 20 + 4 * np.log10(count / 100) + rng.random()
        folder = session / f"{name}-{count}-5000"
        folder.mkdir(parents=True)
        facts = _facts(settings.model_dump(), name, float(psnr), index)
        (folder / "run.json").write_text(json.dumps(facts, indent=1))
        lines = (",".join(map(str, row)) for row in _rows(psnr, count, rng))
        (folder / "metrics.csv").write_text("\n".join([",".join(COLUMNS), *lines]) + "\n")
    return session


def _facts(settings: dict[str, Any], name: str, psnr: float, index: int) -> dict[str, Any]:
    count, odd = settings["gaussians"], index % 50 == 7
    return {
        "status": "failed" if odd else "finished",
        "error": "GpuError: memory is full" if odd else "",
        "settings": settings,
        "steps_done": 100 if odd else 5000,
        "num_gaussians": count,
        "picture": {"name": name, "names": [name], "width": 512, "height": 512, "channels": 3},
        "scores": {"psnr": psnr, "ssim": psnr / 40, "ms_ssim": 0.9, "flip": 0.1, "lpips": None},
        "reasons": {"lpips": "there are no weights"},
        "size": {"theoretical_bytes": 32 * count, "theoretical_bpp": 256 * count / 512**2},
        "seconds": {"training": 5 + count / 1000, "total": 6 + count / 1000},
        "notices": [],
    }


def _rows(psnr: float, count: int, rng: np.random.Generator) -> Iterator[list[float]]:
    for index in range(EVALUATIONS + 1):
        share = index / EVALUATIONS
        loss = 0.2 * np.exp(-4 * share) * (1 + 0.05 * rng.random())
        quality = [psnr * (0.4 + 0.6 * share**0.3), 0.3 + 0.5 * share**0.3]
        yield [100 * index, loss, loss, loss**2, loss, *quality, count, 32 * count, 1, 5 * share]


if __name__ == "__main__":
    main()
