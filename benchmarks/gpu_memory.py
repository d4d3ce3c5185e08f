"""GPU memory and time of large trainings, with and without what saves memory.

    python -m benchmarks.gpu_memory FOLDER [gigapixel]

Each case runs in a process of its own, so that one's memory is not another's.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import common
from benchmarks.gpu_step import Case, model_of, pictures, trainer

LARGE = Case("elephants-8k.png", 30000, 10000, None)
STEPS = 60
SWITCHES = ("use_amp", "video_save_to_disk", "use_gradient_checkpointing")
MODES = {
    "none": (False, False, False),
    "half precision": (True, False, False),
    "half precision, frames on disk": (True, True, False),
    "half precision, frames on disk, bands": (True, True, True),
    "bands": (False, False, True),
}
GIGAPIXEL_SIDE, GIGAPIXEL_COUNT = 32768, 100_000


def main(given: str, *wanted: str) -> dict[str, Any]:
    """Measure every mode, and the gigapixel picture where it is asked for."""
    result: dict[str, Any] = {"picture": LARGE.picture, "gaussians": LARGE.gaussians, "modes": {}}
    with tempfile.TemporaryDirectory() as temporary:
        folder = pictures(Path(temporary), given)
        for name in MODES:
            result["modes"][name] = _in_process(str(folder), name)
            print(name, result["modes"][name], flush=True)
    if "gigapixel" in wanted:
        result["gigapixel"] = _in_process("", "gigapixel")
        print("gigapixel", result["gigapixel"], flush=True)
    common.save("memory_gpu", result)
    return result


def _in_process(folder: str, mode: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.gpu_memory", "--one", folder, mode]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"error": done.stderr[-2000:]}
    return json.loads(done.stdout.splitlines()[-1])


def one(folder: str, mode: str) -> dict[str, Any]:
    """One mode in this process."""
    return gigapixel() if mode == "gigapixel" else _large(Path(folder), MODES[mode])


def _large(folder: Path, switches: tuple[bool, ...]) -> dict[str, Any]:
    """A run with a film, from its first to its last file, and then the time of a step."""
    import torch

    from fitting.memory import gpu_bytes

    changed = dict(zip(SWITCHES, switches, strict=True))
    model = model_of(folder, LARGE, **changed)
    times = _times(model.stepper)
    estimated = gpu_bytes(model.settings, tuple(model.target.pixels.shape))
    del model
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    case = LARGE._replace(steps=STEPS)
    film = {"make_training_video": True, "video_iterations": STEPS // 3}
    model = trainer(folder, Path(tempfile.mkdtemp(dir=folder)), case, **changed, **film)
    model.stop_asked = lambda: True  # scores that are computed on the CPU are left out
    *_, ended = model.optimize()
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    film_bytes = (model.folder / "training_video.mp4").stat().st_size
    return {
        **_peak(), "estimated_gb": estimated / 1e9, **times, "psnr": ended.scores["psnr"],
        "host_gb": host / 1e9, "film_bytes": film_bytes, **changed,
    }  # fmt: skip


def gigapixel() -> dict[str, Any]:
    """A generated picture of 2³⁰ pixels, in bands and half precision."""
    import torch

    from fitting.gaussians import NAMES, Gaussians
    from fitting.step_cuda import CudaStep
    from ops.adam import Adam
    from settings import Settings

    side, count = GIGAPIXEL_SIDE, GIGAPIXEL_COUNT
    settings = Settings.build(
        input_filename="generated", gaussians=count, use_gradient_checkpointing=True
    )
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(1, 3, 128, 128, generator=generator)
    pixels = torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear")[0]
    pixels.mul_(255).round_().div_(255)
    xy = torch.rand(count, 2, generator=generator)
    # In the order of rows of cells, as a run places them.
    xy = xy[((xy[:, 1] * 64).floor() * 64 + (xy[:, 0] * 64).floor()).argsort()]
    gaussians = Gaussians(
        xy.cuda(), torch.full((count, 2), 1 / 60).cuda(), torch.zeros(count, 1).cuda(),
        torch.rand(count, 3, generator=generator).cuda(), side, side, settings, (3,), ("a",),
    )  # fmt: skip
    step = CudaStep(settings, gaussians, pixels, Adam(dict.fromkeys(NAMES, 1e-3)))
    before = step.measure()
    times = _times(step, 40)
    after = step.measure()
    return {**_peak(), **times, "side": side, "gaussians": count,
            "loss_before": before.total, "loss_after": after.total}  # fmt: skip


def _times(step: Any, steps: int = STEPS) -> dict[str, float]:
    milliseconds, done = [], 0
    while done < steps:
        begun, first = time.perf_counter(), step.gaussians.step
        step.advance(10)
        new = step.gaussians.step - first
        milliseconds.append((time.perf_counter() - begun) * 1e3 / new)
        done += new
    return {"median_ms": statistics.median(milliseconds[-4:])}  # the first ones compile


def _peak() -> dict[str, float]:
    import torch

    free, total = torch.cuda.mem_get_info()
    return {
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9,
        "reserved_gb": torch.cuda.max_memory_reserved() / 1e9,
        "device_gb": (total - free) / 1e9,  # with CUDA's own, and whatever else uses the GPU
    }


if __name__ == "__main__":
    if sys.argv[1] == "--one":
        print(json.dumps(one(*sys.argv[2:])))
    else:
        main(*sys.argv[1:])
