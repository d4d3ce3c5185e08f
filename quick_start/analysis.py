"""Looks at what runs left behind: pictures side by side, curves, a table to compare them.

Every function returns what it made. As the last line of a cell it is shown, once; elsewhere
``display(...)`` shows it.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import LogFormatter

from fitting.recorder import COLUMNS
from quick_start._format import Cell, html_table, number
from quick_start.runs import Run, RunError, find_run, find_runs

RunName = Run | str | os.PathLike[str]
RunNames = RunName | Iterable[RunName]

CURVES = {
    "psnr": "PSNR (dB)",
    "ssim": "SSIM",
    "total_loss": "loss",
    "num_gaussians": "Gaussians",
}
HIGHEST_IS_BEST = ("psnr", "ssim", "ms_ssim")
LOWEST_IS_BEST = ("flip", "lpips", "seconds", "theoretical_bytes", "theoretical_bpp")
DIGITS = {
    "gaussians": 0, "steps": 0, "psnr": 2, "ssim": 4, "ms_ssim": 4, "flip": 4, "lpips": 4,
    "seconds": 1, "theoretical_bytes": 0, "theoretical_bpp": 3,
}  # fmt: skip

# Okabe and Ito's colours stay apart for the colour-blind; lines and markers do without colour.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "h")
PANEL_PIXELS = 600  # pictures are reduced to this before they go into a figure
LEAST_ERROR = 1 / 255  # the error map's scale ends here at the least: one step of a screen


class Chart(Figure):
    """A figure outside pyplot's list: it shows itself once, and is freed with its last name."""

    description = ""  # for those who cannot see it

    def _repr_png_(self) -> tuple[bytes, dict[str, str]]:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue(), {"alt": self.description}


class PlainLog(LogFormatter):
    """Labels of a logarithmic axis as 0.05 instead of 5e-02."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


class Comparison(pd.DataFrame):
    """A table of runs that marks the best values when a notebook shows it."""

    @property
    def _constructor(self) -> type[pd.DataFrame]:
        return pd.DataFrame

    def _repr_html_(self) -> str:
        best = {name: _best(self[name], max) for name in HIGHEST_IS_BEST if name in self}
        best |= {name: _best(self[name], min) for name in LOWEST_IS_BEST if name in self}
        head = [Cell(name.replace("_", " "), number=name in DIGITS) for name in self.columns]
        rows = [
            [_cell(name, value, best.get(name)) for name, value in row.items()]
            for row in self.to_dict("records")
        ]
        reasons = "".join(f"<div>{escape(note)}</div>" for note in self.attrs.get("reasons", ()))
        caption = "Bold is the best of its column." if len(self) > 1 else ""
        return html_table(rows, head, caption) + reasons


def view_results(runs: RunNames, *, output_dir: str | os.PathLike[str] = "output") -> Chart:
    """Ground truth, rendering and error map side by side, with PSNR and SSIM.

    Parameters
    ----------
    runs : a run, its name such as ``session_1/cat-1000-2000``, a list of them, or a session.
    output_dir : folder in which names are looked up.

    Returns
    -------
    The figure: one row per run, for a stack one per picture. The error is the mean over the
    channels of the absolute difference; its scale is the same in all rows.

    Raises
    ------
    RunError
        Where there is no such run.
    """
    rows = [row for run in find_runs(runs, output_dir) for row in _rows(run)]
    limit = max([LEAST_ERROR, *(np.quantile(r.error, 0.995) for r in rows if r.error is not None)])
    heights = [4 * row.aspect + 0.5 for row in rows]
    figure = Chart(figsize=(12, sum(heights)), dpi=80, layout="constrained")
    parts = np.atleast_1d(figure.subfigures(len(rows), 1, height_ratios=heights))
    for part, row in zip(parts, rows, strict=True):
        _draw_row(part, row, limit)
    titles = "; ".join(row.title for row in rows)
    figure.description = f"Ground truth, rendering and error side by side. {titles}"
    return figure


def load_metrics(run: RunName, *, output_dir: str | os.PathLike[str] = "output") -> pd.DataFrame:
    """The measurements of a run: a row per evaluation, the columns of ``metrics.csv``.

    Where nothing was measured, the table is empty.

    Raises
    ------
    RunError
        Where there is no such run, or its ``metrics.csv`` cannot be read.
    """
    found = find_run(run, output_dir)
    try:
        return pd.read_csv(found.metrics_path)
    except FileNotFoundError:
        return pd.DataFrame({name: pd.Series(dtype=float) for name in COLUMNS})
    except (OSError, ValueError) as error:
        raise RunError(f"{found.metrics_path} cannot be read: {error}. Train again.") from error


def plot_metrics(runs: RunNames, *, output_dir: str | os.PathLike[str] = "output") -> Chart:
    """PSNR, SSIM, loss and number of Gaussians over the steps; several runs lie over each other.

    Parameters
    ----------
    runs : a run, its name such as ``session_1/cat-1000-2000``, a list of them, or a session.
    output_dir : folder in which names are looked up.

    Raises
    ------
    RunError
        Where there is no such run, or its measurements cannot be read.
    """
    found = find_runs(runs, output_dir)
    tables = [load_metrics(run) for run in found]
    lines_below = -(-len(found) // 3)
    figure = Chart(figsize=(11, 6 + 0.25 * lines_below), dpi=80, layout="constrained")
    axes = figure.subplots(2, 2, sharex=True).flat
    for ax, (column, label) in zip(axes, CURVES.items(), strict=True):
        for index, (run, table) in enumerate(zip(found, tables, strict=True)):
            _draw_curve(ax, table, column, _label(run, table), index)
        ax.set(ylabel=label)
        ax.grid(alpha=0.3)
        if column == "total_loss":
            ax.set_yscale("log")
            ax.yaxis.set(major_formatter=PlainLog(), minor_formatter=PlainLog())
        if column == "num_gaussians":
            ax.set_ylim(bottom=0)
        if ax.get_subplotspec().is_last_row():
            ax.set(xlabel="step")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(3, len(found)))
    figure.description = f"{', '.join(CURVES.values())} over the steps of {', '.join(labels)}"
    return figure


def compare_batch_results(
    runs: RunNames, *, output_dir: str | os.PathLike[str] = "output"
) -> Comparison:
    """Runs in a table, the highest PSNR first.

    Parameters
    ----------
    runs : what :func:`train` returned, a session such as ``session_1``, or a list of names.
    output_dir : folder in which names are looked up.

    Returns
    -------
    A DataFrame with ``run image gaussians steps psnr ssim ms_ssim flip lpips seconds
    theoretical_bytes theoretical_bpp status``. ``gaussians`` and ``steps`` are those asked for,
    ``seconds`` is training time. What was not measured is NaN, and the notebook shows why.

    Raises
    ------
    RunError
        Where there is no such run.
    """
    found = find_runs(runs, output_dir)
    table = pd.DataFrame([_facts(run) for run in found])
    table = table.sort_values("psnr", ascending=False, kind="stable", na_position="last")
    comparison = Comparison(table.reset_index(drop=True))
    comparison.attrs["reasons"] = list(dict.fromkeys(n for run in found for n in _reasons(run)))
    return comparison


# The table


def _facts(run: Run) -> dict[str, Any]:
    record, settings, scores = run.record, run.settings, run.scores
    size = record.get("size") or {}
    measured = {n: scores.get(n) for n in (*HIGHEST_IS_BEST, "flip", "lpips")}
    return {
        "run": str(run),
        "image": run.picture["name"],
        "gaussians": settings.gaussians,
        "steps": settings.steps,
        **{name: np.nan if value is None else value for name, value in measured.items()},
        "seconds": (record.get("seconds") or {}).get("training", np.nan),
        "theoretical_bytes": size.get("theoretical_bytes", np.nan),
        "theoretical_bpp": size.get("theoretical_bpp", np.nan),
        "status": run.status,
    }


def _reasons(run: Run) -> Iterator[str]:
    """Why scores are empty, for runs that ended by themselves."""
    record = run.record
    if record["status"] in ("finished", "stopped early"):
        for name, reason in (record.get("reasons") or {}).items():
            yield f"{name} is empty: {reason}."
    elif record.get("error"):
        yield f"{run} {record['status']}: {record['error']}"


def _best(values: pd.Series, choose: Any) -> float | None:
    """The best of several measured values; where all are equal, none is marked."""
    measured = values.dropna()
    return choose(measured) if measured.nunique() > 1 else None


def _cell(name: str, value: Any, best: float | None) -> Cell:
    if name not in DIGITS:
        return Cell(str(value))
    return Cell(number(value, DIGITS[name]), number=True, bold=best is not None and value == best)


# The pictures


@dataclass
class Row:
    """A picture, its rendering and the error, (H, W) or (H, W, 3); None where there is none."""

    title: str
    truth: np.ndarray | None = None
    rendering: np.ndarray | None = None
    error: np.ndarray | None = None
    aspect: float = 0.25


def _rows(run: Run) -> Iterator[Row]:
    scores, names = run.scores, run.picture["names"]
    quality = f"PSNR {number(scores.get('psnr'))} dB, SSIM {number(scores.get('ssim'), 4)}"
    if not run.model_path.exists():
        yield Row(f"{run}: {run.status}, so there is no picture. {run.record.get('error', '')}")
        return
    for index, (name, rendering) in enumerate(_renderings(run)):
        title = f"{run}: {quality}"
        if len(names) > 1:
            title = f"{run}, {name}" + (f": the stack has {quality}" if index == 0 else "")
        suffix = f"_{name}" if len(names) > 1 else ""
        truth = _read(run.folder / "other" / f"ground_truth{suffix}.png")
        error = abs(truth - rendering).reshape(*truth.shape[:2], -1).mean(axis=2)
        shown = [_reduced(values) for values in (truth, rendering, error)]
        yield Row(title, *shown, aspect=truth.shape[0] / truth.shape[1])


def _renderings(run: Run) -> Iterator[tuple[str, np.ndarray]]:
    """Each picture of a run drawn from its model, for rendered.jpg may have another size."""
    import torch

    from fitting.gaussians import Gaussians

    gaussians, size = Gaussians.load(run.model_path), run.picture
    image = gaussians.picture(size["height"])
    if image.shape[2] != size["width"]:  # a reduced fit may differ by a pixel when enlarged
        wanted = (size["height"], size["width"])
        image = torch.nn.functional.interpolate(image[None], wanted, mode="bilinear")[0]
    for name, part in zip(gaussians.names, image.split(gaussians.channels), strict=True):
        yield name, part.permute(1, 2, 0).squeeze(2).numpy()


def _read(path: os.PathLike[str]) -> np.ndarray:
    from PIL import Image

    with Image.open(path) as picture:
        return np.asarray(picture, np.float32) / 255


def _reduced(values: np.ndarray) -> np.ndarray:
    """At most PANEL_PIXELS wide and high, each pixel the mean of those it covers."""
    import cv2

    ratio = PANEL_PIXELS / max(values.shape[:2])
    if ratio >= 1:
        return values
    height, width = (max(1, round(side * ratio)) for side in values.shape[:2])
    return cv2.resize(values, (width, height), interpolation=cv2.INTER_AREA)


def _draw_row(part: SubFigure, row: Row, limit: float) -> None:
    part.suptitle(row.title, fontsize="medium", wrap=True)
    if row.error is None:
        return
    axes = part.subplots(1, 3)
    for ax, name, picture in zip(
        axes, ("ground truth", "rendering"), (row.truth, row.rendering), strict=False
    ):
        ax.imshow(picture, cmap="gray", vmin=0, vmax=1)
        ax.set_title(name, fontsize="small")
    shown = axes[2].imshow(row.error, cmap="magma", vmin=0, vmax=limit)
    axes[2].set_title("absolute error", fontsize="small")
    part.colorbar(shown, ax=axes[2], shrink=0.8, pad=0.01, extend="max")
    for ax in axes:
        ax.set_axis_off()


# The curves


def _label(run: Run, table: pd.DataFrame) -> str:
    return str(run) if len(table) else f"{run} (nothing was measured)"


def _draw_curve(ax: Any, table: pd.DataFrame, column: str, label: str, index: int) -> None:
    values = table[column].to_numpy(float)
    steps = table["step"].to_numpy(float)
    finite = np.isfinite(values)
    style = {
        "color": COLOURS[index % len(COLOURS)],
        "linestyle": LINES[index % len(LINES)],
        "marker": MARKERS[index % len(MARKERS)],
    }
    # A marker now and then, each run's at other steps, so that lines on each other stay apart.
    every = (index % 5, max(1, len(values) // 8)) if len(values) > 12 else 1
    style |= {"markevery": every, "markersize": 5, "alpha": 0.9, "label": label}
    ax.plot(steps[finite], values[finite], **style)
    for step in steps[np.isposinf(values)][:1]:
        ax.annotate("∞", (step, 1), xycoords=ax.get_xaxis_transform(), color=style["color"])
