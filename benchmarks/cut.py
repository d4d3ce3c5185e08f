"""PSNR by the weight below which a Gaussian does not reach a pixel: why the cut is at 1e-5."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks import common

CUTS = (1 / 255, 1e-3, 1e-4, 1e-5, 1e-6)
SEEDS = (123, 1, 2)
STEPS = 2000


def main() -> dict[str, Any]:
    """Fit the cat with 1,000 Gaussians at several cuts and seeds."""
    rows = []
    print(f"{'cut':>9} {'seed':>5} {'PSNR at 200':>11} {'PSNR at 2000':>12} {'ms/step':>8}")
    with tempfile.TemporaryDirectory() as folder:
        pictures = common.input_folder(Path(folder))
        for cut in CUTS:
            for seed in SEEDS:
                row = _train(pictures, cut, seed)
                rows.append(row)
                print(
                    f"{cut:9.2e} {seed:>5} {row['psnr_200']:11.2f} {row['psnr']:12.2f} "
                    f"{row['ms_per_step']:8.2f}"
                )
    result = {"picture": "cat", "gaussians": 1000, "steps": STEPS, "rows": rows}
    common.save("cut_cpu", result)
    return result


def _train(pictures: Path, cut: float, seed: int) -> dict[str, Any]:
    import fitting.gaussians
    from events import Evaluated
    from model import GaussianSplatting2D
    from settings import Settings

    plain = fitting.gaussians.raster_config
    settings = Settings.build(
        input_dir=str(pictures), input_filename="cat.png", gaussians=1000, steps=STEPS, seed=seed,
        eval_steps=200, lr_schedule=False,
    )  # fmt: skip
    with patch("fitting.gaussians.raster_config", lambda s: replace(plain(s), w_min=cut)):
        model = GaussianSplatting2D(settings, pictures / f"{cut}-{seed}")
        measured = [e for e in model.optimize() if isinstance(e, Evaluated)]
    return {
        "cut": cut,
        "seed": seed,
        "psnr_200": measured[1].psnr,
        "psnr": measured[-1].psnr,
        "ms_per_step": round(model.seconds / STEPS * 1e3, 3),
    }


if __name__ == "__main__":
    main()
