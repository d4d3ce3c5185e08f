"""How much faster a sweep ends on all GPUs of a host than on one of them.

    python -m benchmarks.gpu_sweep [STEPS]

Sixteen runs of the astronaut, by as many processes as there are GPUs and by a single one. They have
loaded and compiled everything before the clock starts. Each run's GPU is read from its record.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import common

RUNS = 16
STEPS = 40_000


def main(steps: int = STEPS) -> dict[str, Any]:
    """Train the same sweep with one worker and with all."""
    import torch

    gpus = torch.cuda.device_count()
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        common.input_folder(Path(folder))
        os.chdir(folder)
        for workers in (1, gpus):
            seconds[workers], devices = _measure(workers, steps)
            print(workers, "workers:", round(seconds[workers], 2), "s on", sorted(devices))
            assert len(devices) == workers, devices
        os.chdir("/")
    result = {
        "gpus": gpus,
        "runs": RUNS,
        "settings": {"picture": "astronaut", "gaussians": 10_000, "steps": steps},
        "seconds": {str(workers): round(value, 2) for workers, value in seconds.items()},
        "speedup": round(seconds[1] / seconds[gpus], 3),
        "goal": {"4": 3.6, "2": 1.85}.get(str(gpus)),
    }
    print(json.dumps(result, indent=1))
    common.save("sweep_gpu", result)
    return result


def _measure(workers: int, steps: int) -> tuple[float, set[str]]:
    """Seconds of the sweep, and the GPUs that it used."""
    from quick_start import process_pool, set_config, train

    def config(runs: int, steps: int) -> Any:
        counts = list(range(10_000, 10_000 + runs))
        return set_config(
            input_filenames="astronaut.png", gaussians=counts, steps=steps, input_dir=".",
            device="cuda", lr_schedule=False,
        )  # fmt: skip

    with process_pool(workers) as executor:
        train(config(4 * workers, 200), executor=executor, show=False)  # starts, compiles
        begun = time.perf_counter()
        runs = train(config(RUNS, steps), executor=executor, show=False)
        seconds = time.perf_counter() - begun
    assert not runs.failed, runs.failed[0].record["error"]
    return seconds, {run.record["device"] for run in runs}


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
