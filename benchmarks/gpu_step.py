"""Whole trainings on a GPU: milliseconds of a step, quality, frames per second of drawing.

    python -m benchmarks.gpu_step FOLDER

FOLDER holds the pictures that do not ship with scikit-image: kodim05.png, garden.jpg (2560×1600)
and elephants.jpg (5640×3172). Cases without their picture are left out, and listed as such.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import common

STRETCH = 100  # steps between two looks at the clock; a training looks about five times a second
LARGE = (7680, 4320)
KERNELS = 10  # of a step: begin, project, count, place, fill, draw, loss (2), gradients, update


class Case(NamedTuple):
    """One training: goal and the milliseconds of Image-GS on the same GPU, where they are known."""

    picture: str
    gaussians: int
    steps: int
    goal_ms: float | None
    progressive: bool = False


CASES = (
    Case("cat.png", 1000, 2000, 0.12),
    Case("astronaut.png", 5000, 3500, 0.15),
    Case("astronaut.png", 10000, 5000, None, True),
    Case("kodim05.png", 10000, 2000, 0.20),
    Case("kodim05.png", 50000, 2000, 0.35),
    Case("retina.png", 30000, 2000, 0.5),
    Case("garden.jpg", 10000, 2000, 0.6),
    Case("elephants-8k.png", 30000, 200, 4.0),
)


def main(given: str = "") -> dict[str, Any]:
    """Run every case whose picture is there."""
    result: dict[str, Any] = {"rows": [], "left_out": []}
    print(
        f"{'picture':>18} {'count':>6} {'steps':>6} {'ms':>8} {'goal':>5} {'PSNR':>6} {'SSIM':>6}"
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = pictures(Path(temporary), given)
        for case in CASES:
            if not (folder / case.picture).exists():
                result["left_out"].append(case.picture)
                continue
            row = train(folder, case)
            result["rows"].append(row)
            print(
                f"{case.picture:>18} {case.gaussians:>6} {case.steps:>6} {row['median_ms']:8.4f} "
                f"{case.goal_ms or '':>5} {row['psnr']:6.2f} {row['ssim']:6.4f}",
                flush=True,
            )
        result["drawing"] = drawing(folder)
        result["copy_tb_per_s"] = round(bandwidth() / 1e12, 3)
        result["launch_us"] = round(launch_seconds() * 1e6, 3)
        print(f"drawing: {result['drawing']}")
    common.save("step_gpu", result)
    return result


def pictures(folder: Path, given: str) -> Path:
    """Collect the pictures in one folder."""
    import skimage.data
    from PIL import Image

    common.input_folder(folder)
    Image.fromarray(skimage.data.retina()).save(folder / "retina.png")
    for path in Path(given).iterdir() if given else ():
        if not (folder / path.name).exists():
            (folder / path.name).symlink_to(path.resolve())
    if (folder / "elephants.jpg").exists() and not (folder / "elephants-8k.png").exists():
        with Image.open(folder / "elephants.jpg") as picture:
            large = picture.convert("RGB").resize(LARGE, Image.Resampling.BICUBIC)
        large.save(folder / "elephants-8k.png", compress_level=1)
    return folder


def trainer(folder: Path, run_folder: Path, case: Case, **changed: Any) -> Any:
    """A trainer of a case."""
    from model import GaussianSplatting2D
    from settings import Settings

    settings = Settings.build(
        input_dir=str(folder), input_filename=case.picture, gaussians=case.gaussians,
        steps=case.steps, device="cuda", lr_schedule=False, use_progressive=case.progressive,
        **changed,
    )  # fmt: skip
    return GaussianSplatting2D(settings, run_folder)


def model_of(folder: Path, case: Case, **changed: Any) -> Any:
    """A trainer, ready to step."""
    model = trainer(folder, folder / "unused", case, **changed)
    model._prepare()
    return model


def train(folder: Path, case: Case, **changed: Any) -> dict[str, Any]:
    """Train to the end; the time of a step is the median over stretches between two waits."""
    import torch

    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    model = model_of(folder, case, **changed)
    milliseconds: list[float] = []
    for halt in sorted({*model.growth.additions, case.steps}):
        while model.step < halt:
            begun, first = time.perf_counter(), model.step
            model.stepper.advance(min(STRETCH, halt - first))
            milliseconds.append((time.perf_counter() - begun) * 1e3 / (model.step - first))
        if halt in model.growth.additions:
            model._grow(model.growth.additions[halt])
    settled = milliseconds[len(milliseconds) // 5 :]  # the first ones compile
    evaluated = model._evaluate()
    return {
        **case._asdict(),
        "pixels": [model.width, model.height],
        "median_ms": round(statistics.median(settled), 4),
        "min_ms": round(min(settled), 4),
        "max_ms": round(max(settled), 4),
        "psnr": round(evaluated.psnr, 3),
        "ssim": round(evaluated.ssim, 4),
        "peak_gb": round(torch.cuda.max_memory_allocated() / 1e9, 3),
        "tile": model.stepper.painter.tile,
        "floor_ms": floor(model),
        "seed": model.settings.seed,
    }


def floor(model: Any) -> dict[str, float]:
    """Milliseconds that no version of a step can go below: its bytes, its launches.

    SSIM compares every pixel with its neighbours, so the rendering must be written before its
    gradient is known, and that before it is used: both are written once and read once, the target
    is read once. Launches are those of as many kernels, with nothing to do, as a step has.
    """
    channels, height, width = model.stepper.target.shape
    values = channels * height * width
    between = model.stepper.grad.element_size()
    moved = values * (model.stepper.target.element_size() + 4 * between)
    return {
        "bytes": round(moved / bandwidth() * 1e3, 4),
        "launches": round(KERNELS * launch_seconds() * 1e3, 4),
    }


@cache
def bandwidth() -> float:
    """Bytes per second of a large copy on the device, those read and those written."""
    import torch

    source = torch.randint(0, 255, (4 << 30,), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    seconds = _median_seconds(lambda: target.copy_(source))
    return 2 * len(source) / seconds


@cache
def launch_seconds() -> float:
    """Seconds of a kernel without work, in a recorded graph of many."""
    import torch

    value = torch.zeros(1, device="cuda")
    value.add_(1)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(100):
            value.add_(1)
    return _median_seconds(graph.replay) / 100


def _median_seconds(action: Callable[[], Any]) -> float:
    import torch

    seconds = []
    for _ in range(20):
        torch.cuda.synchronize()
        begun = time.perf_counter()
        action()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds)


def drawing(folder: Path) -> dict[str, Any]:
    """Pictures per second of a trained astronaut with 10,000 Gaussians, as a recorded graph."""
    import torch

    model = model_of(folder, Case("astronaut.png", 10000, 2000, None))
    while model.step < 2000:
        model.stepper.advance(2000 - model.step)
    step, band = model.stepper, model.stepper.bands[0]

    def draw() -> None:
        with torch.no_grad():
            step.painter.draw(step._project(), band.top, band.rows)

    draw()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        draw()
    rates = []
    for _ in range(20):
        torch.cuda.synchronize()
        begun = time.perf_counter()
        for _ in range(500):
            graph.replay()
        torch.cuda.synchronize()
        rates.append(500 / (time.perf_counter() - begun))
    return {
        "picture": "astronaut",
        "gaussians": 10000,
        "median_fps": round(statistics.median(rates)),
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
