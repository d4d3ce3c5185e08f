"""The card of a run: its picture, its main numbers, the course of its PSNR and its film."""

from __future__ import annotations

import csv
import math
from typing import Any

import numpy as np

from imaging.files import PictureError
from imaging.thumbnails import small_jpeg
from quick_start._format import Cell, duration, escaped, html_table, image_tag, number
from quick_start.runs import Run, RunError

PICTURE_HEIGHT = 180  # pixels
FILM_MEGABYTES = 4.0  # larger films are left out of the card
CURVE_SIZE = (220, 90)  # pixels
CURVE_POINTS = 110
GREY, BLUE = "#808080", "#4a90d9"  # which stand out from white and from black


def card(run: Run) -> str:
    """A run as HTML that needs neither kernel nor folder; what is damaged says so in it."""
    try:
        record, scores = run.record, run.scores
        rows = _rows(run, record, scores)
    except RunError as error:
        return f"<div>{escaped(str(error))}</div>"
    except (TypeError, ValueError, AttributeError) as error:
        path = run.folder / "run.json"
        return f"<div>{escaped(f'{path} is damaged: {error}. Train again.')}</div>"
    parts = [_picture(run), html_table(rows, caption=str(run)), _curve(run)]
    return (
        '<div style="display: flex; flex-wrap: wrap; gap: 1em; align-items: center">'
        f"{''.join(parts)}</div>{_film(run)}"
    )


def _rows(run: Run, record: dict[str, Any], scores: dict[str, float | None]) -> list[tuple]:
    seconds = record.get("seconds") or {}
    rows = [
        ("status", Cell(run.status)),
        ("PSNR", Cell(f"{number(scores.get('psnr'))} dB")),
        ("SSIM", Cell(number(scores.get("ssim"), 4))),
        ("Gaussians", Cell(f"{record.get('num_gaussians', 0):,}")),
        ("steps", Cell(f"{record.get('steps_done', 0):,}")),
        ("training", Cell(duration(seconds.get("training")))),
        ("folder", Cell(str(run.folder))),
    ]
    if record.get("error"):
        rows.append(("error", Cell(record["error"])))
    return rows


def _picture(run: Run) -> str:
    try:
        small = small_jpeg(run.rendered_path, (2 * PICTURE_HEIGHT, PICTURE_HEIGHT))
    except PictureError:  # a run that failed has no picture, and its card says that it failed
        return ""
    return image_tag(small, "jpeg", str(run))


def _film(run: Run) -> str:
    from quick_start.analysis.playback import player

    if not run.film_path.is_file():
        return ""
    megabytes = run.film_path.stat().st_size / 1e6
    if megabytes <= FILM_MEGABYTES:
        return f"<div>{player(run.film_path, width=2 * PICTURE_HEIGHT)}</div>"
    hint = f"film of {megabytes:.1f} MB: play_video({str(run)!r})"
    return f"<div><code>{escaped(hint)}</code></div>"


def _curve(run: Run) -> str:
    """PSNR over the steps as a small drawing that can be read on light and on dark pages."""
    points = _psnr(run)
    if len(points) < 2:
        return ""
    (first, low), (last, high) = points[0], points[-1]
    width, height = CURVE_SIZE
    left, right, top, bottom = 4, width - 4, 22, height - 18
    xs = np.interp([step for step, _ in points], (first, last), (left, right))
    values = [value for _, value in points]
    ys = np.interp(values, (min(values), max(values) + 1e-9), (bottom, top))
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True))
    drawing = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'font-size="11" font-family="sans-serif" fill="{GREY}">'
        f'<text x="{left}" y="11">PSNR {low:.1f} → {high:.1f} dB</text>'
        f'<polyline points="{line}" fill="none" stroke="{BLUE}" stroke-width="1.5"/>'
        f'<path d="M{left} {bottom + 3.5}H{right}" stroke="{GREY}" opacity="0.5"/>'
        f'<text x="{left}" y="{height - 3}">{first:,.0f}</text>'
        f'<text x="{right}" y="{height - 3}" text-anchor="end">{last:,.0f} steps</text></svg>'
    )
    described = f"PSNR from {low:.2f} to {high:.2f} dB over steps {first:,.0f} to {last:,.0f}"
    return image_tag(drawing.encode(), "svg+xml", described)


def _psnr(run: Run) -> list[tuple[float, float]]:
    """Steps and finite PSNR, thinned; nothing where nothing could be read."""
    try:
        with run.metrics_path.open(newline="", encoding="utf-8") as file:
            rows = [(float(row["step"]), float(row["psnr"])) for row in csv.DictReader(file)]
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        return []
    points = [(step, value) for step, value in rows if math.isfinite(step + value)]
    thin = -(-len(points) // CURVE_POINTS)
    return points[::-thin][::-1] if points else []
