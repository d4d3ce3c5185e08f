"""What quality costs: PSNR and SSIM over the size of a model, and over the time of its training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from quick_start.analysis.figure import OTHERS, Chart, PlainLog, legend_below, look, shortened
from quick_start.runs import natural

QUALITIES = {"psnr": "PSNR (dB)", "ssim": "SSIM"}
COSTS = {"theoretical_bpp": "size (bits per pixel)", "seconds": "training time (s)"}
NAMED = 16  # pictures that the legend names
ENDED = ("finished", "stopped early")
LOGARITHMIC_FROM = 8.0  # where the dearest run costs so many times what the cheapest does


def draw_tradeoffs(table: pd.DataFrame) -> Chart:
    """Each run as a point; a line per picture joins those that no cheaper one beats.

    Parameters
    ----------
    table : with the columns ``image psnr ssim theoretical_bpp seconds status``. Runs without
        numbers are left out; runs that did not end by themselves are hollow.
    """
    pictures = list(dict.fromkeys(table.loc[table["psnr"].notna(), "image"]))
    pictures.sort(key=natural)
    lines_below = -(-min(len(pictures), NAMED + 1) // 3)
    figure = Chart(figsize=(11, 7 + 0.25 * lines_below), dpi=80, layout="constrained")
    axes = figure.subplots(2, 2, sharex="col", sharey="row")
    for row, (quality, ylabel) in zip(axes, QUALITIES.items(), strict=True):
        for ax, (cost, xlabel) in zip(row, COSTS.items(), strict=True):
            measured = table[np.isfinite(table[cost]) & np.isfinite(table[quality])]
            _draw_others(ax, measured[~measured["image"].isin(pictures[:NAMED])], cost, quality)
            for index, picture in enumerate(pictures[:NAMED]):
                _draw_picture(ax, measured[measured["image"] == picture], cost, quality, index)
            ax.grid(alpha=0.3)
            if ax.get_subplotspec().is_first_col():
                ax.set(ylabel=ylabel)
            if ax.get_subplotspec().is_last_row():
                ax.set(xlabel=xlabel)
    for ax, cost in zip(axes[0], COSTS, strict=True):
        _scale_costs(ax, table.loc[table["psnr"].notna(), cost])
    handles, labels = _legend(pictures, table)
    legend_below(figure, handles, labels)
    names = ", ".join(pictures[:NAMED])
    figure.description = f"PSNR and SSIM over bits per pixel and over training time: {names}"
    return figure


def _draw_picture(ax: Any, runs: pd.DataFrame, cost: str, quality: str, index: int) -> None:
    style = look(index)
    ended = runs["status"].isin(ENDED)
    for chosen, fill in ((runs[ended], style.color), (runs[~ended], "white")):
        ax.plot(
            chosen[cost], chosen[quality], linestyle="", marker=style.marker,
            color=style.color, markerfacecolor=fill, markersize=5, alpha=0.9,
        )  # fmt: skip
    line = _best_line(runs, cost, quality)
    ax.plot(*line.T, color=style.color, linestyle=style.linestyle, linewidth=1.2, alpha=0.8)


def _draw_others(ax: Any, runs: pd.DataFrame, cost: str, quality: str) -> None:
    """Many pictures as two things to draw, which is fast."""
    ax.plot(runs[cost], runs[quality], ".", color=OTHERS, markersize=4, alpha=0.7)
    pictures = runs[runs.duplicated("image", keep=False)].groupby("image")
    lines = [_best_line(group, cost, quality) for _, group in pictures]
    ax.add_collection(LineCollection(lines, colors=OTHERS, linewidths=0.6, alpha=0.6))


def _best_line(runs: pd.DataFrame, cost: str, quality: str) -> np.ndarray:
    """Cost and quality of the runs that are better than all that cost less: (n, 2)."""
    points = runs.sort_values(cost)[[cost, quality]].to_numpy()
    before = np.maximum.accumulate(np.concatenate([[-np.inf], points[:-1, 1]]))
    return points[points[:, 1] > before[: len(points)]]


def _scale_costs(ax: Any, costs: pd.Series) -> None:
    positive = costs[np.isfinite(costs) & (costs > 0)]
    if len(positive) and positive.max() / positive.min() > LOGARITHMIC_FROM:
        ax.set_xscale("log", nonpositive="mask")
        ax.xaxis.set(
            major_formatter=PlainLog(), minor_formatter=PlainLog(minor_thresholds=(1.5, 1))
        )
    elif len(positive):
        ax.xaxis.set_major_locator(MaxNLocator(7))


def _legend(pictures: list[str], table: pd.DataFrame) -> tuple[list[Line2D], list[str]]:
    handles = [Line2D([], [], **look(index)._asdict()) for index in range(len(pictures[:NAMED]))]
    labels = [shortened(name) for name in pictures[:NAMED]]
    if len(pictures) > NAMED:
        handles.append(Line2D([], [], color=OTHERS, marker="o"))
        labels.append(f"{len(pictures) - NAMED:,} other pictures")
    if not table.loc[table["psnr"].notna(), "status"].isin(ENDED).all():
        handles.append(Line2D([], [], color="#555555", marker="o", mfc="white", linestyle=""))
        labels.append("hollow: interrupted or failed")
    return handles, labels
