"""Measurements of runs over their steps, as a table and as curves."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D

from fitting.recorder import COLUMNS
from fitting.schedule import GrowthPlan
from quick_start.analysis.figure import OTHERS, Chart, PlainLog, legend_below, look, shortened
from quick_start.runs import Run, RunError, RunName, RunNames, find_run, find_runs

CURVES = {
    "psnr": "PSNR (dB)",
    "ssim": "SSIM",
    "total_loss": "loss",
    "l1_loss": "L1 loss",
    "l2_loss": "L2 loss",
    "ssim_loss": "1 − SSIM loss",
    "num_gaussians": "Gaussians",
    "num_bytes": "size (kB)",
    "total_time_accum": "training time (s)",
}
UNITS = {"num_bytes": 1e-3}  # what a column is multiplied with
LOSSES = ("total_loss", "l1_loss", "l2_loss", "ssim_loss")
FROM_ZERO = ("num_gaussians", "num_bytes", "total_time_accum")
GROWTH = "#555555"
NAMED = 24  # runs that a legend names; more would not be read
POINTS = 500  # of a curve, at most; a panel is some 250 pixels wide


@dataclass(frozen=True)
class Curve:
    """A run and what was measured in it."""

    run: Run
    table: pd.DataFrame

    @property
    def label(self) -> str:
        """As in the legend."""
        name = shortened(str(self.run))
        return name if len(self.table) else f"{name} (nothing was measured)"

    @property
    def quality(self) -> float:
        """The last PSNR in dB; minus infinity where there is none."""
        values = self.table["psnr"].to_numpy(float)
        return values[-1] if len(values) and not np.isnan(values[-1]) else -np.inf

    @cached_property
    def growth(self) -> list[int]:
        """The steps at which Gaussians were added or moved."""
        done = self.run.record.get("steps_done", 0)
        return [step for step in GrowthPlan.of(self.run.settings).additions if step <= done]


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
        table = pd.read_csv(found.metrics_path)
        wrong = [n for n in COLUMNS if n not in table or table[n].dtype.kind not in "iuf"]
        if wrong:
            raise ValueError(f"its columns {', '.join(wrong)} are missing, or hold no numbers")
        return table
    except FileNotFoundError:
        return pd.DataFrame({name: pd.Series(dtype=float) for name in COLUMNS})
    except (OSError, ValueError) as error:
        raise RunError(f"{found.metrics_path} cannot be read: {error}. Train again.") from error


def plot_metrics(runs: RunNames, *, output_dir: str | os.PathLike[str] = "output") -> Chart:
    """Quality, losses, number of Gaussians, size and time over the steps; runs lie over each other.

    Triangles at the bottom mark the steps at which Gaussians were added or moved. Of more than 24
    runs, the 24 with the highest PSNR are named, and the others are thin and grey.

    Parameters
    ----------
    runs : a run, its name such as ``session_1/cat-1000-2000``, a list of them, or a session.
    output_dir : folder in which names are looked up.

    Raises
    ------
    RunError
        Where there is no such run, or its measurements cannot be read.
    """
    curves = [Curve(run, load_metrics(run)) for run in find_runs(runs, output_dir)]
    named, others = _parted(curves)
    figure = Chart(figsize=(11, 8.5 + 0.1 * len(named)), dpi=80, layout="constrained")
    axes = figure.subplots(3, 3, sharex=True).flat
    for ax, (column, label) in zip(axes, CURVES.items(), strict=True):
        _draw_others(ax, others, column)
        for index, curve in enumerate(named):
            _draw_curve(ax, curve, column, index)
        _draw_growth(ax, named)
        _dress(ax, column, label)
    handles, labels = _legend(figure.axes[0], named, others)
    legend_below(figure, handles, labels)
    shown = ", ".join(CURVES.values())
    figure.description = f"{shown} over the steps of {', '.join(labels)}"
    return figure


def _parted(curves: Sequence[Curve]) -> tuple[list[Curve], list[Curve]]:
    """Those that the legend names, in their order, and all others."""
    best = sorted(range(len(curves)), key=lambda index: curves[index].quality, reverse=True)
    named = set(best[:NAMED])
    return (
        [curve for index, curve in enumerate(curves) if index in named],
        [curve for index, curve in enumerate(curves) if index not in named],
    )


def _points(curve: Curve, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values, (n,) each, n at most about POINTS; the last measurement is one of them."""
    table = curve.table
    thin = -(-len(table) // POINTS)
    kept = np.arange(len(table) - 1, -1, -thin)[::-1] if thin else np.arange(0)
    values = table[column].to_numpy(float)[kept] * UNITS.get(column, 1)
    return table["step"].to_numpy(float)[kept], values


def _draw_curve(ax: Any, curve: Curve, column: str, index: int) -> None:
    steps, values = _points(curve, column)
    finite = np.isfinite(values)
    style = look(index)
    # A marker now and then, each run's at other steps, so that lines on each other stay apart.
    every = (index % 5, max(1, len(values) // 8)) if len(values) > 12 else 1
    ax.plot(
        steps[finite], values[finite], **style._asdict(),
        markevery=every, markersize=4, alpha=0.9, label=curve.label,
    )  # fmt: skip
    for step in steps[np.isposinf(values)][:1]:
        ax.annotate("∞", (step, 1), xycoords=ax.get_xaxis_transform(), color=style.color)


def _draw_growth(ax: Any, curves: Sequence[Curve]) -> None:
    """A triangle at each step of growth; in a run's colour, or dark where runs grew together."""
    colours: dict[int, str] = {}
    for index, curve in enumerate(curves):
        for step in curve.growth:
            colours[step] = GROWTH if step in colours else look(index).color
    ax.scatter(
        list(colours), np.full(len(colours), 0.02), c=list(colours.values()), s=20, marker="^",
        transform=ax.get_xaxis_transform(), zorder=3,
    )  # fmt: skip


def _draw_others(ax: Any, others: Iterable[Curve], column: str) -> None:
    """Many curves as one thing to draw, which is fast."""
    points = [np.stack(_points(curve, column), axis=1) for curve in others]
    lines = [line[np.isfinite(line).all(axis=1)] for line in points]
    if lines:
        drawn = LineCollection(lines, colors=OTHERS, linewidths=0.5, alpha=0.5)
        drawn.set_in_layout(False)  # they lie inside the panel, and measuring them takes time
        ax.add_collection(drawn)
        ax.autoscale_view()


def _dress(ax: Any, column: str, label: str) -> None:
    ax.set(ylabel=label)
    ax.grid(alpha=0.3)
    low, high = ax.get_ylim()
    if column in LOSSES and any((np.asarray(line.get_ydata()) > 0).any() for line in ax.lines):
        ax.set_yscale("log", nonpositive="mask")
        ax.yaxis.set(major_formatter=PlainLog(), minor_formatter=PlainLog())
        ax.tick_params(axis="y", which="minor", labelsize="x-small")
    elif column in FROM_ZERO:
        ax.set_ylim(bottom=0, top=max(high, 1e-9))
    elif high - low < 1e-6:
        ax.set_ylim(low - 0.5, high + 0.5)
    if ax.get_subplotspec().is_last_row():
        ax.set(xlabel="step")


def _legend(ax: Any, named: Sequence[Curve], others: Sequence[Curve]) -> tuple[list, list[str]]:
    handles, labels = ax.get_legend_handles_labels()
    if others:
        handles.append(Line2D([], [], color=OTHERS))
        labels.append(f"{len(others):,} other runs")
    if any(curve.growth for curve in named):
        handles.append(Line2D([], [], color=GROWTH, marker="^", linestyle=""))
        labels.append("Gaussians were added or moved")
    return handles, labels
