"""What a sweep looks like as HTML: tables of runs, curves, and the record that a notebook keeps."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Sequence

from quick_start._format import Cell, duration, number, plural
from quick_start.dashboard.charts import Line, legend, line_chart
from quick_start.dashboard.view import RunState

BLOCK = 25  # runs that are listed under one heading
COMPARED = 8  # runs whose curves lie over each other in the record
HEAD = ("run", "status", "progress", "steps", "PSNR (dB)", "SSIM", "Gaussians", "training")
NUMBERS = HEAD[3:]
_ROW = 'style="background: var(--jp-brand-color3, rgba(33, 150, 243, 0.2))"'


def run_table(runs: Sequence[RunState]) -> str:
    """One row per run; the one that goes on is highlighted."""
    head = "".join(_cell(Cell(name, number=name in NUMBERS), "th") for name in HEAD)
    rows = "".join(_row(run) for run in runs)
    return (
        '<table style="font-variant-numeric: tabular-nums; border-collapse: collapse">'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    )


def run_block(runs: Sequence[RunState], first: int) -> str:
    """Runs of a long sweep under a heading; open where one of them goes on."""
    going_on = any(run.status == "running" for run in runs)
    counts = ", ".join(f"{n} {status}" for status, n in Counter(r.status for r in runs).items())
    best = [run.psnr for run in runs if run.psnr is not None]
    quality = f"; PSNR {number(min(best))} to {number(max(best))} dB" if best else ""
    which = f"runs {first + 1:,} to {first + len(runs):,}"
    return (
        f"<details{' open' if going_on else ''}><summary>{which}: {html.escape(counts)}{quality}"
        f"</summary>{run_table(runs)}</details>"
    )


def blocks(runs: Sequence[RunState]) -> list[tuple[int, Sequence[RunState]]]:
    """Parts of a sweep, each with the number of its first run, counted from 0."""
    return [(first, runs[first : first + BLOCK]) for first in range(0, len(runs), BLOCK)]


def charts(runs: Sequence[RunState]) -> str:
    """Curves of runs over each other; what happened at which step is shown for a single one.

    While a run goes on there is some room to the right of its curves.
    """
    runs = [run for run in runs if run.curves["num_gaussians"].points]
    ends = (run.step if run.ended else min(1.2 * run.step, run.steps) for run in runs)
    steps = max([1, *ends])
    marks = {}
    if len(runs) == 1:
        marks = {"additions": runs[0].additions, "decays": runs[0].decays}

    def chart(title: str, name: str, **options: object) -> str:
        lines = [Line(run.name, run.curves[name].points) for run in runs]
        return line_chart(title, lines, steps=steps, **marks, **options)

    drawn = [
        chart("PSNR", "psnr", unit="dB"),
        chart("SSIM", "ssim"),
        chart("loss", "loss", log=True),
    ]
    if any(run.additions for run in runs):
        drawn.append(chart("Gaussians", "num_gaussians", stairs=True))
    names = legend([run.name for run in runs]) if len(runs) > 1 else ""
    grid = "display: grid; grid-template-columns: repeat(auto-fill, minmax(250px, 1fr))"
    return f'<div style="{grid}; gap: 0.8em; max-width: 80em">{"".join(drawn)}</div>{names}'


def messages(lines: Sequence[str]) -> str:
    """Lines of text, each once; of very many the last."""
    lines = list(dict.fromkeys(lines))
    more = [f"({plural(len(lines) - 50, 'earlier message')} not shown)"] if len(lines) > 50 else []
    return "".join(f"<div>{html.escape(line)}</div>" for line in [*more, *lines[-50:]])


def record(runs: Sequence[RunState], figures: Sequence[str], notes: Sequence[str]) -> str:
    """What remains of the live view when all is over: plain HTML that needs no kernel.

    Parameters
    ----------
    figures : pictures, as HTML.
    notes : said about the sweep as a whole.
    """
    begun = [run for run in runs if run.curves["psnr"].points][-COMPARED:]
    notices = [
        f"{run.name}: {notice}" if len(runs) > 1 else notice
        for run in runs
        for notice in run.notices
    ]
    table = run_table(runs)
    if len(runs) > BLOCK:
        table = f'<div style="max-height: 32em; overflow: auto">{table}</div>'
    parts = [table, messages([*notices, *notes])]
    if figures:
        flex = "display: flex; flex-wrap: wrap; gap: 0.8em; margin-top: 0.6em"
        parts.append(f'<div style="{flex}">{"".join(figures)}</div>')
    if begun:
        parts.append(charts(begun))
    return f'<div style="line-height: 1.4">{"".join(parts)}</div>'


def _row(run: RunState) -> str:
    numbers = (
        f"{run.step:,}",
        number(run.psnr),
        number(run.ssim, 4),
        f"{run.num_gaussians:,}" if run.status != "waiting" else "",
        duration(run.seconds) if run.status != "waiting" else "",
    )
    status = Cell(run.status + (f": {run.error}" if run.error else ""))
    cells = [_cell(Cell(run.name, bold=run.status == "running")), _cell(status), _progress(run)]
    cells += [_cell(Cell(value, number=True)) for value in numbers]
    return f"<tr {_ROW if run.status == 'running' else ''}>{''.join(cells)}</tr>"


def _progress(run: RunState) -> str:
    percent = round(100 * run.fraction)
    bar = (
        '<span style="display: inline-block; width: 5em; height: 0.6em; vertical-align: middle; '
        'border: 1px solid currentColor; opacity: 0.7">'
        f'<span style="display: block; width: {percent}%; height: 100%; '
        'background: currentColor"></span></span>'
    )
    return f'<td style="text-align: left; padding: 0.2em 0.6em">{bar} {percent} %</td>'


def _cell(cell: Cell, tag: str = "td") -> str:
    text = html.escape(cell.text)
    content = f"<b>{text}</b>" if cell.bold else text
    side = "right" if cell.number else "left"
    return f'<{tag} style="text-align: {side}; padding: 0.2em 0.6em">{content}</{tag}>'
