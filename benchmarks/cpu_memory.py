"""Main memory and time of an 8K training on the CPU, whole and in bands of rows.

    python -m benchmarks.cpu_memory FOLDER

FOLDER holds elephants.jpg (5640×3172). Each case runs in a process of its own.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import common
from benchmarks.gpu_step import pictures

GAUSSIANS, STEPS = 30_000, 5
MODES = {"all off": False, "all on": True}


def main(given: str) -> dict[str, Any]:
    """Measure both."""
    result: dict[str, Any] = {"picture": "elephants-8k.png", "gaussians": GAUSSIANS, "modes": {}}
    with tempfile.TemporaryDirectory() as temporary:
        folder = pictures(Path(temporary), given)
        for name in MODES:
            command = [sys.executable, "-m", "benchmarks.cpu_memory", "--one", str(folder), name]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            result["modes"][name] = json.loads(done.stdout.splitlines()[-1])
            print(name, result["modes"][name], flush=True)
    common.save("memory_cpu", result)
    return result


def one(folder: str, mode: str) -> dict[str, Any]:
    """Train some steps, and look at the largest resident memory of them alone."""
    from model import GaussianSplatting2D
    from settings import Settings

    settings = Settings.build(
        input_dir=folder, input_filename="elephants-8k.png", gaussians=GAUSSIANS, device="cpu",
        use_amp=MODES[mode], use_gradient_checkpointing=MODES[mode],
    )  # fmt: skip
    model = GaussianSplatting2D(settings, Path(folder) / "unused")
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of reading and placing
    model._prepare()
    seconds = []
    while model.step < STEPS:
        begun, first = time.perf_counter(), model.step
        model.stepper.advance(STEPS - first)
        seconds.append((time.perf_counter() - begun) / (model.step - first))
    return {
        "picture_read_gb": before,
        "peak_gb": _resident("VmHWM"),
        "median_ms": round(statistics.median(seconds[1:]) * 1e3, 1),
    }


def _resident(name: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return round(int(line.split()[1]) / 1e6, 3)
    raise RuntimeError(f"/proc/self/status has no {name}")


if __name__ == "__main__":
    if sys.argv[1] == "--one":
        print(json.dumps(one(*sys.argv[2:])))
    else:
        main(*sys.argv[1:])
