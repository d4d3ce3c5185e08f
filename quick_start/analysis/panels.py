"""Pictures of runs side by side: ground truth, rendering and error."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import SubFigure

from quick_start._format import number
from quick_start.analysis.figure import Chart, plain
from quick_start.analysis.renderings import Rendering, reduced, renderings
from quick_start.runs import Run, RunNames, find_runs

PANEL_PIXELS = 600  # pictures are reduced to this before they go into a figure
PANEL_INCHES = 4.0  # of width
LEAST_ERROR = 1 / 255  # the error map's scale ends here at the least: one step of a screen


@dataclass
class Row:
    """Pictures that stand beside each other, (H, W) or (H, W, 3); None where there is none."""

    title: str
    truth: np.ndarray | None = None
    rendering: np.ndarray | None = None
    error: np.ndarray | None = None
    start: np.ndarray | None = None
    aspect: float = 0.0  # height / width

    @property
    def height(self) -> float:
        """In inches, with the title and at most the height of a tower of two squares."""
        return min(PANEL_INCHES * self.aspect, 2 * PANEL_INCHES) + 0.6


def view_results(runs: RunNames, *, output_dir: str | os.PathLike[str] = "output") -> Chart:
    """Ground truth, rendering and error map side by side, with PSNR and SSIM.

    Parameters
    ----------
    runs : a run, its name such as ``session_1/cat-1000-2000``, a list of them, or a session.
    output_dir : folder in which names are looked up.

    Returns
    -------
    The figure: one row per run, for a stack one per picture. The error is the mean over the
    channels of the absolute difference; its scale is the same in all rows. A run that started
    from ``init_gaussian_file`` shows in a fourth panel what that was.

    Raises
    ------
    RunError
        Where there is no such run.
    """
    rows = [row for run in find_runs(runs, output_dir) for row in _rows(run)]
    limit = max([LEAST_ERROR, *(np.quantile(r.error, 0.995) for r in rows if r.error is not None)])
    panels = 4 if any(row.start is not None for row in rows) else 3
    heights = [row.height for row in rows]
    figure = Chart(figsize=(panels * PANEL_INCHES, sum(heights)), dpi=80, layout="constrained")
    parts = np.atleast_1d(figure.subfigures(len(rows), 1, height_ratios=heights))
    for part, row in zip(parts, rows, strict=True):
        _draw_row(part, row, limit, panels)
    titles = "; ".join(row.title for row in rows)
    figure.description = f"Ground truth, rendering and error side by side. {titles}"
    return figure


def _rows(run: Run) -> Iterator[Row]:
    if not run.model_path.exists():
        yield Row(f"{run}: {run.status}, so there is no picture. {run.record.get('error', '')}")
        return
    scores = run.scores
    quality = f"PSNR {number(scores.get('psnr'))} dB, SSIM {number(scores.get('ssim'), 4)}"
    stack = len(run.picture["names"]) > 1
    for index, found in enumerate(renderings(run)):
        title = f"{run}: {quality}"
        if stack:
            title = f"{run}, {found.name}" + (f": the stack has {quality}" if index == 0 else "")
        if run.status in ("interrupted", "failed"):
            title += f" ({run.status})"
        yield _row(title, found)


def _row(title: str, found: Rendering) -> Row:
    height, width = found.truth.shape[:2]
    shown = (found.truth, found.image, found.error, found.start)
    small = [None if values is None else reduced(values, PANEL_PIXELS) for values in shown]
    return Row(title, *small, aspect=height / width)


def _draw_row(part: SubFigure, row: Row, limit: float, panels: int) -> None:
    part.suptitle(plain(row.title), fontsize="medium", wrap=True)
    if row.error is None:
        return
    axes = part.subplots(1, panels)
    pictures = {"ground truth": (0, row.truth), "rendering": (1, row.rendering)}
    pictures |= {"started from": (3, row.start)} if row.start is not None else {}
    for name, (place, picture) in pictures.items():
        axes[place].imshow(picture, cmap="gray", vmin=0, vmax=1)
        axes[place].set_title(name, fontsize="small")
    shown = axes[2].imshow(row.error, cmap="magma", vmin=0, vmax=limit)
    axes[2].set_title("absolute error", fontsize="small")
    part.colorbar(shown, ax=axes[2], shrink=0.8, pad=0.01, extend="max")
    for ax in axes:
        ax.set_axis_off()
