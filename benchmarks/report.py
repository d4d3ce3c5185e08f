"""Writes the figures of the README from the files in ``benchmarks/results``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- figures -->", "<!-- /figures -->"


def main() -> None:
    """Replace what stands between the two marks."""
    text = README.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    body = "\n".join([*_quality(), "", *_steps(), "", *_scaling(), "", *_waiting()])
    README.write_text(f"{before}{BEGIN}\n{body}\n{END}{after}", encoding="utf-8")


def _load(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text())


def _quality() -> Iterator[str]:
    yield "Quality at equal count and steps, learning-rate schedule off:"
    yield ""
    yield "| picture | Gaussians × steps | growth | PSNR | Image-GS | SSIM | time |"
    yield "|---|---|---|---|---|---|---|"
    baselines = _load("image_gs_h200")["rows"]
    for row, baseline in zip(_load("quality_cpu")["rows"], baselines, strict=True):
        growth = "progressive" if row["progressive"] else "no"
        yield (
            f"| {row['picture']} | {row['gaussians']:,} × {row['steps']:,} | {growth} | "
            f"{row['psnr']:.2f} dB | {baseline['psnr']} dB | {row['ssim']:.3f} | "
            f"{row['seconds']:.0f} s |"
        )


def _steps() -> Iterator[str]:
    yield (
        "A whole training step (forward, loss with SSIM, backward, Adam), beside a 1024³ float32 "
        "torch matrix product in the same process:"
    )
    yield ""
    yield "| picture | Gaussians | step | matrix product | ratio | goal |"
    yield "|---|---|---|---|---|---|"
    for name, case in _load("step_cpu")["cases"].items():
        width, height = case["pixels"]
        yield (
            f"| {name} {width}×{height} | {case['gaussians']:,} | "
            f"{case['step']['median_ms']:.1f} ms | {case['product']['median_ms']:.1f} ms | "
            f"{case['ratio']:.2f} | {case['goal']} |"
        )


def _scaling() -> Iterator[str]:
    rows = _load("scaling_cpu")["rows"]
    counts = sorted({row["gaussians"] for row in rows})
    yield (
        "Milliseconds of forward, loss and backward by size and count (random Gaussians of "
        "σ = 5 px):"
    )
    yield ""
    yield "| picture | " + " | ".join(f"{count:,}" for count in counts) + " |"
    yield "|---|" + "---|" * len(counts)
    for size in sorted({row["size"] for row in rows}):
        times = [row["total_ms"] for row in rows if row["size"] == size]
        yield f"| {size}² | " + " | ".join(f"{ms:.0f}" for ms in times) + " |"


def _waiting() -> Iterator[str]:
    facts = _load("startup_cpu")
    yield (
        f"Waiting: `import quick_start` {facts['import_quick_start_s']:.2f} s (with the trainer "
        f"{facts['import_quick_start_and_trainer_s']:.1f} s); the first step "
        f"{facts['first_step_empty_cache_s']:.0f} s with compilation, "
        f"{facts['first_step_filled_cache_s']:.1f} s without; `make quick-start` after "
        f"installation {facts['quick_start_s']:.0f} s."
    )


if __name__ == "__main__":
    main()
