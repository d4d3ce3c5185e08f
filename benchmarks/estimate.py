"""How far the estimates of time are from what runs take, on the CPU.

    python -m benchmarks.estimate

The estimate is asked before each run, as the form does it; all runs are real and complete. Other
work on the machine spoils the comparison, hence its load in each row.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import common

CASES = (  # side of the picture, Gaussians, steps, eval_steps
    (128, 200, 1500, 100),
    (128, 2000, 300, 100),
    (512, 1000, 200, 100),
    (512, 1000, 100, 10),
    (512, 10_000, 60, 30),
    (1536, 2000, 20, 10),
    (1536, 20_000, 15, 15),
)


def main() -> dict[str, Any]:
    """Estimate, train, compare."""
    import skimage.data
    from PIL import Image

    from quick_start.estimate import estimate_time, forget, measure_pace

    result: dict[str, Any] = {"picture": "astronaut", "runs": []}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        source = Image.fromarray(skimage.data.astronaut())
        for side in {case[0] for case in CASES}:
            source.resize((side, side)).save(folder / f"{side}.png")
        runs = [_settings(folder, *case) for case in CASES]
        _train(runs[0], folder / "warm-up")
        for number, settings in enumerate(runs):
            forget()
            begun = time.perf_counter()
            measure_pace(settings)
            measuring = time.perf_counter() - begun
            said = estimate_time(settings).seconds
            took = _train(settings, folder / f"run-{number}")
            row = {
                "side": CASES[number][0], "gaussians": settings.gaussians,
                "steps": settings.steps, "eval_steps": settings.eval_steps,
                "measuring_s": round(measuring, 2), "estimate_s": round(said, 2),
                "took_s": round(took, 2), "ratio": round(said / took, 2),
                "load": round(os.getloadavg()[0], 1),
            }  # fmt: skip
            print(row, flush=True)
            result["runs"].append(row)
    ratios = [row["ratio"] for row in result["runs"]]
    result |= {"median_ratio": statistics.median(ratios), "least_and_most": _ends(ratios)}
    result["goal"] = [0.5, 2]
    common.save("estimate_cpu", result)
    return result


def _ends(values: list[float]) -> list[float]:
    return [min(values), max(values)]


def _settings(folder: Path, side: int, gaussians: int, steps: int, every: int) -> Any:
    from settings import Settings

    return Settings.build(
        input_dir=folder, input_filename=f"{side}.png", gaussians=gaussians, steps=steps,
        eval_steps=every, device="cpu", lr_schedule=False,
    )  # fmt: skip


def _train(settings: Any, folder: Path) -> float:
    """Seconds of a whole run, from reading the picture to the last file."""
    from model import GaussianSplatting2D

    begun = time.perf_counter()
    for _ in GaussianSplatting2D(settings, folder).optimize():
        pass
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
