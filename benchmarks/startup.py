"""What a newcomer waits for: the import, the first compilation, the whole quick start."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import common

ROOT = Path(__file__).parents[1]
FIRST_STEP = """
import time
from pathlib import Path
from model import GaussianSplatting2D
from settings import Settings
begun = time.perf_counter()
model = GaussianSplatting2D(
    Settings.build(input_dir="input", input_filename="cat.png", steps=1), Path({folder!r})
)
*_, ended = model.optimize()
print(time.perf_counter() - begun)
"""


def main() -> dict[str, Any]:
    """Time fresh processes."""
    imports = [_seconds("-c", "import quick_start") for _ in range(5)]
    used = "import quick_start; quick_start.set_config; quick_start.train; import model"
    everything = [_seconds("-c", used) for _ in range(5)]
    with tempfile.TemporaryDirectory() as folder:
        cold = _first_step(folder, "cold")
        warm = _first_step(folder, "cold")
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-m", "quick_start"], cwd=ROOT, check=True)
    result = {
        "import_quick_start_s": round(statistics.median(imports), 3),
        "import_quick_start_and_trainer_s": round(statistics.median(everything), 3),
        "first_step_empty_cache_s": round(cold, 2),
        "first_step_filled_cache_s": round(warm, 2),
        "quick_start_s": round(time.perf_counter() - begun, 1),
        "goals": {"import_quick_start_s": 3, "quick_start_s": 90},
    }
    for name, value in result.items():
        print(f"{name:34} {value}")
    common.save("startup_cpu", result)
    return result


def _seconds(*arguments: str) -> float:
    begun = time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True)
    return time.perf_counter() - begun


def _first_step(folder: str, cache: str) -> float:
    environment = os.environ | {"NUMBA_CACHE_DIR": f"{folder}/{cache}"}
    code = FIRST_STEP.format(folder=f"{folder}/run")
    output = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, check=True, capture_output=True
    ).stdout
    return float(output.split()[-1])


if __name__ == "__main__":
    main()
