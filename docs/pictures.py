"""Makes the pictures in the documentation: ``python docs/pictures.py`` after a quick start."""

from __future__ import annotations

import tempfile
from pathlib import Path

from imaging.files import load_picture, save_picture
from quick_start import plot_metrics, set_config, train, view_results

IMAGES = Path(__file__).parent / "images"


def main() -> None:
    """Fit the cat with two sizes of model and keep what the notebook would show."""
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        config = set_config(
            input_filenames="cat.png", gaussians=[250, 1000], vis_gaussians=True, output_dir=folder
        )
        runs = train(config)
        view_results(runs[1]).savefig(IMAGES / "results.png", dpi=100)
        plot_metrics(runs).savefig(IMAGES / "curves.png", dpi=80)
        ellipses = load_picture(runs[1].folder / "other" / "ellipses.png")
        save_picture(IMAGES / "ellipses.png", ellipses.pixels)


if __name__ == "__main__":
    main()
