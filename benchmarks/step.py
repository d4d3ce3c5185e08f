"""A whole training step on the CPU: forward, loss with SSIM, backward, Adam, over a training."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import common

CASES = {"cat": (1000, 1.2), "astronaut": (5000, 3.0)}  # Gaussians, goal in matrix products
STEPS = 400
PARTS = ("forward", "loss", "check", "backward", "adam")


def main() -> dict[str, Any]:
    """Time every step of a short training, each beside one matrix product."""
    result: dict[str, Any] = {"steps": STEPS, "cases": {}}
    print(
        f"{'case':>12} {'Gaussians':>9} {'step ms':>8} {'product ms':>10} {'ratio':>6} {'goal':>5}"
    )
    with tempfile.TemporaryDirectory() as folder:
        pictures = common.input_folder(Path(folder))
        for name, (gaussians, goal) in CASES.items():
            case = _measure(pictures, name, gaussians) | {"goal": goal}
            result["cases"][name] = case
            print(
                f"{name:>12} {gaussians:>9} {case['step']['median_ms']:8.2f} "
                f"{case['product']['median_ms']:10.2f} {case['ratio']:6.2f} {goal:5.1f}"
            )
    common.save("step_cpu", result)
    return result


def _measure(pictures: Path, name: str, gaussians: int) -> dict[str, Any]:
    from model import GaussianSplatting2D
    from settings import Settings

    settings = Settings.build(
        input_dir=str(pictures),
        input_filename=f"{name}.png",
        gaussians=gaussians,
        steps=STEPS,
        device="cpu",
    )
    model = GaussianSplatting2D(settings, pictures / "unused")
    model._prepare()
    product = common.matrix_product()
    parts: dict[str, list[float]] = {part: [] for part in PARTS}
    products: list[float] = []
    for step in range(STEPS):
        marks = _step(model)
        if step >= 10:
            for part, begun, ended in zip(PARTS, marks, marks[1:], strict=False):
                parts[part].append(ended - begun)
            # A product now and then: its threads would disturb the step that follows it.
            if step % 20 == 0:
                products += common.timed(product, 3, 1)
                _step(model)
    steps = [sum(values) for values in zip(*parts.values(), strict=True)]
    return {
        "gaussians": gaussians,
        "pixels": [model.width, model.height],
        "step": common.spread(steps),
        "parts": {part: common.spread(seconds) for part, seconds in parts.items()},
        "product": common.spread(products),
        "ratio": round(statistics.median(steps) / statistics.median(products), 3),
    }


def _step(model: Any) -> list[float]:
    """One step as the trainer does it, with the time before, between and after its parts."""
    from fitting.step import Measured

    marks = [time.perf_counter()]

    def mark() -> None:
        marks.append(time.perf_counter())

    stepper = model.stepper
    image = model.gaussians.draw()
    mark()
    terms = stepper._loss(image)
    mark()
    stepper._check(Measured(*(term.item() for term in terms), 0.0))
    mark()
    terms.total.backward()
    mark()
    model.optimizer.update(model.gaussians.tensors())
    mark()
    return marks


if __name__ == "__main__":
    main()
