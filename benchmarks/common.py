"""What all benchmarks share: timing, a yardstick from the same run, facts, result files."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PICTURES = {"cat": "chelsea", "astronaut": "astronaut"}  # they ship with scikit-image


def timed(action: Callable[[], Any], repeats: int = 20, warm_up: int = 3) -> list[float]:
    """Seconds of each of some calls, after a few that do not count."""
    for _ in range(warm_up):
        action()
    seconds = []
    for _ in range(repeats):
        begun = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - begun)
    return seconds


def spread(seconds: list[float]) -> dict[str, float]:
    """Median, minimum and maximum in milliseconds."""
    return {
        "median_ms": round(statistics.median(seconds) * 1e3, 4),
        "min_ms": round(min(seconds) * 1e3, 4),
        "max_ms": round(max(seconds) * 1e3, 4),
    }


def interleaved(actions: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Seconds of several actions taken in turn, so that a machine's drift hits all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for action in actions.values():
        timed(action, 0)
    for _ in range(repeats):
        for name, action in actions.items():
            seconds[name] += timed(action, 1, 0)
    return seconds


def matrix_product() -> Callable[[], Any]:
    """The yardstick: a 1024×1024×1024 float32 torch matrix product."""
    import torch

    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    return lambda: a @ b


def input_folder(folder: Path) -> Path:
    """Write the benchmark pictures into a folder as PNG."""
    import skimage.data
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for name, source in PICTURES.items():
        Image.fromarray(getattr(skimage.data, source)()).save(folder / f"{name}.png")
    return folder


def machine() -> dict[str, Any]:
    """Facts that a figure depends on."""
    import numba
    import torch

    from fitting.machine import processor

    gpu = {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    return {
        "processor": processor(),
        **gpu,
        "cores": os.cpu_count(),
        "numba_threads": numba.get_num_threads(),
        "system": platform.system(),
        "python": platform.python_version(),
        **{package: metadata.version(package) for package in ("torch", "numba", "numpy")},
        "date": time.strftime("%Y-%m-%d"),
    }


def load(name: str) -> dict[str, Any]:
    """Read ``benchmarks/results/<name>.json``."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def save(name: str, result: dict[str, Any]) -> None:
    """Write ``benchmarks/results/<name>.json``."""
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps({"machine": machine(), **result}, indent=1)
    (RESULTS / f"{name}.json").write_text(text + "\n")
    print(f"written: {RESULTS / name}.json")
