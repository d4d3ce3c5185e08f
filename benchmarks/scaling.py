"""How the cost of a CPU training step grows with pixels and with covered pixels."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks import common

SIZES = (256, 512, 1024, 2048)
COUNTS = (1_000, 4_000, 16_000, 64_000)
SIGMA = 5.0
RADIUS = 4.29  # standard deviations to the cut at w = 1e-4


def main() -> dict[str, Any]:
    """Time forward, loss and backward for random Gaussians at four sizes and four counts."""
    rows = []
    print("  size Gaussians covered Mpx        ms  loss ms ns/covered px")
    for size in SIZES:
        for count in COUNTS:
            row = _measure(size, count)
            rows.append(row)
            print(
                f"{size:>6} {count:>9} {row['covered'] / 1e6:11.2f} {row['total_ms']:9.2f} "
                f"{row['loss_ms']:8.2f} {row['splat_ns_per_covered']:13.3f}"
            )
    result = {"sigma": SIGMA, "rows": rows, "fit": _fit(rows)}
    print("ms =", " + ".join(f"{value:.3g} {name}" for name, value in result["fit"].items()))
    common.save("scaling_cpu", result)
    return result


def _measure(size: int, count: int) -> dict[str, Any]:
    import torch

    from ops.photometric import PhotometricLoss
    from ops.splat2d import render

    inputs = [
        torch.rand(count, 2), torch.full((count, 2), 1 / SIGMA), torch.rand(count, 1) * 6,
        torch.rand(count, 3),
    ]  # fmt: skip
    inputs = [tensor.requires_grad_() for tensor in inputs]
    loss = PhotometricLoss(torch.rand(3, size, size))
    image = render(*inputs, size, size)
    upstream = torch.rand_like(image)
    probe = image.detach().requires_grad_()
    seconds = common.interleaved(
        {
            "splat": lambda: render(*inputs, size, size).backward(upstream),
            "loss": lambda: loss(probe).total.backward(),
        },
        repeats=7,
    )
    splat, photometric = (statistics.median(seconds[k]) * 1e3 for k in ("splat", "loss"))
    covered = _covered(inputs[0].detach(), size)
    return {
        "size": size,
        "gaussians": count,
        "pixels": size * size,
        "covered": covered,
        "splat_ms": round(splat, 3),
        "loss_ms": round(photometric, 3),
        "total_ms": round(splat + photometric, 3),
        "splat_ns_per_covered": round(splat * 1e6 / covered, 3),
    }


def _covered(xy: Any, size: int) -> int:
    """Pixels within reach of a Gaussian, summed over the Gaussians (their squares, clipped)."""
    radius = RADIUS * SIGMA
    center = xy * size
    extent = (center + radius).clamp(max=size) - (center - radius).clamp(min=0)
    return int((extent.prod(dim=1) * 3.14159 / 4).sum())


def _fit(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Least squares, relative: ms = a * Mpixels + b * M covered pixels, and the worst misfit."""
    import numpy as np

    total = np.array([row["total_ms"] for row in rows])
    terms = np.array([[row["pixels"] / 1e6, row["covered"] / 1e6] for row in rows])
    factors, *_ = np.linalg.lstsq(terms / total[:, None], np.ones(len(rows)), rcond=None)
    misfit = np.abs(terms @ factors / total - 1).max()
    return {
        "per Mpixel": round(float(factors[0]), 4),
        "per M covered pixels": round(float(factors[1]), 4),
        "(worst relative misfit)": round(float(misfit), 3),
    }


if __name__ == "__main__":
    main()
