"""Small line charts as inline SVG, which take their colours from the page they stand in."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

WIDTH, HEIGHT = 310, 180  # CSS pixels
LEFT, RIGHT, TOP, BOTTOM = 42, 10, 24, 34  # room around the plot

# Okabe and Ito's colours stay apart for the colour-blind, on white and on black; the first one
# follows JupyterLab's theme.
COLOURS = (
    "var(--jp-brand-color1, #0072B2)", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9",
    "#999933", "#AA4499",
)  # fmt: skip
DASHES = ("", "6 2", "2 2", "8 2 2 2")


class Line(NamedTuple):
    """A curve: its name for the legend, and its points (step, value) in order."""

    name: str
    points: Sequence[tuple[float, float]]


class Axis(NamedTuple):
    """Maps values to pixels.

    Attributes
    ----------
    low, high : values at the ends, for a logarithmic axis their logarithms to base 10.
    begin, end : pixels at the ends.
    """

    low: float
    high: float
    begin: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        value = math.log10(value) if self.log else value
        return self.begin + (value - self.low) / (self.high - self.low) * (self.end - self.begin)


def line_chart(
    title: str,
    lines: Sequence[Line],
    *,
    steps: float,
    unit: str = "",
    log: bool = False,
    stairs: bool = False,
    additions: Iterable[float] = (),
    decays: Iterable[float] = (),
) -> str:
    """Curves over the steps as an ``<svg>`` element.

    Parameters
    ----------
    title : what is drawn.
    lines : any number; values that are no finite numbers, and with ``log`` those up to 0, are
        left out.
    steps : at which the horizontal axis ends at the least.
    unit : of the values.
    log : whether the vertical axis is logarithmic.
    stairs : whether values stay as they are until the next point; the axis then includes 0.
    additions, decays : steps at which Gaussians were added and learning rates divided.
    """
    lines = [Line(line.name, _drawable(line.points, log)) for line in lines]
    values = [value for line in lines for _, value in line.points]
    last = max([1.0, steps, *(step for line in lines for step, _ in line.points)])
    x = Axis(0.0, last, LEFT, WIDTH - RIGHT)
    label = f"{title} ({unit})" if unit else title
    if not values:
        return _svg(label, [_title(label), *_step_axis(x), _nothing()])
    y = _value_axis(values, log, stairs)
    parts = [_title(label), *_step_axis(x), *_grid(y), *_marks(x, additions, decays)]
    several = len(lines) > 1
    parts += [_curve(line, x, y, index, several, stairs) for index, line in enumerate(lines)]
    described = f"{label} from {min(values):.4g} to {max(values):.4g} over {last:,.0f} steps"
    return _svg(described, parts)


def legend(names: Sequence[str]) -> str:
    """Names of curves beside a piece of each, as HTML."""
    items = [
        '<span style="white-space: nowrap; margin-right: 1.2em">'
        '<svg width="26" height="8" style="vertical-align: middle" aria-hidden="true">'
        f'<path d="M0 4H26" {_stroke(index)}/></svg> {html.escape(name)}</span>'
        for index, name in enumerate(names)
    ]
    return f'<div style="margin: 0.3em 0">{"".join(items)}</div>'


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers from ``low`` to ``high``, about ``count`` of them, 1, 2 or 5 apart."""
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    apart = next(power * n for n in (1, 2, 5, 10) if power * n >= raw * 0.999)
    first = math.ceil(low / apart - 1e-9)
    return [n * apart for n in range(first, math.floor(high / apart + 1e-9) + 1)]


def short(value: float) -> str:
    """A tick's label: ``0.25``, ``1,500``, ``20k``, ``3M``."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= max(size, 1e4):
            return f"{value / size:.4g}{letter}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _drawable(points: Iterable[tuple[float, float]], log: bool) -> list[tuple[float, float]]:
    return [(s, v) for s, v in points if math.isfinite(v) and (v > 0 or not log)]


def _value_axis(values: Sequence[float], log: bool, from_zero: bool) -> Axis:
    low, high = min(values), max(values)
    if log:
        low, high = math.log10(low), math.log10(high)
    if from_zero:
        low = min(low, 0.0)
    room = 0.06 * (high - low) or 0.05 * abs(high) or 0.5
    low = low if from_zero and low == 0 else low - room
    return Axis(low, high + room, HEIGHT - BOTTOM, TOP, log)


def _value_ticks(y: Axis) -> list[float]:
    if not y.log:
        return ticks(y.low, y.high)
    decades = range(math.floor(y.low), math.ceil(y.high) + 1)
    for digits in ((1,), (1, 3), (1, 2, 5)):
        found = [d * 10.0**n for n in decades for d in digits]
        found = [value for value in found if y.low <= math.log10(value) <= y.high]
        if len(found) >= 3:
            return found[:: -(-len(found) // 6)]
    return ticks(10**y.low, 10**y.high, 4)  # less than a decade is nearly linear


def _svg(description: str, parts: Sequence[str]) -> str:
    text = html.escape(description)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'height="{HEIGHT}" role="img" aria-label="{text}" fill="currentColor" '
        f'style="width: 100%; max-width: {WIDTH}px; height: auto; '
        'font: 11px var(--jp-ui-font-family, sans-serif)">'
        f"<title>{text}</title>{''.join(parts)}</svg>"
    )


def _title(text: str) -> str:
    return f'<text x="{LEFT}" y="14" font-weight="600" font-size="12">{html.escape(text)}</text>'


def _nothing() -> str:
    middle = f'x="{(LEFT + WIDTH - RIGHT) / 2}" y="{(TOP + HEIGHT - BOTTOM) / 2}"'
    return f'<text {middle} text-anchor="middle" opacity="0.6">nothing measured yet</text>'


def _step_axis(x: Axis) -> list[str]:
    bottom = HEIGHT - BOTTOM
    parts = [f'<path d="M{x.begin} {bottom}H{x.end}" stroke="currentColor" opacity="0.5"/>']
    for tick in ticks(x.low, x.high):
        place = x(tick)
        anchor = "end" if place > x.end - 14 else "middle"
        parts.append(f'<path d="M{place:.1f} {bottom}v4" stroke="currentColor" opacity="0.5"/>')
        parts.append(
            f'<text x="{place:.1f}" y="{bottom + 16}" text-anchor="{anchor}" opacity="0.8">'
            f"{short(tick)}</text>"
        )
    middle = (x.begin + x.end) / 2
    name = f'<text x="{middle}" y="{HEIGHT - 4}" text-anchor="middle" opacity="0.8">step</text>'
    return [*parts, name]


def _grid(y: Axis) -> list[str]:
    parts = []
    for tick in _value_ticks(y):
        place = y(tick)
        line = f'd="M{LEFT} {place:.1f}H{WIDTH - RIGHT}"'
        parts.append(f'<path {line} stroke="currentColor" opacity="0.15"/>')
        parts.append(
            f'<text x="{LEFT - 6}" y="{place + 4:.1f}" text-anchor="end" opacity="0.8">'
            f"{short(tick)}</text>"
        )
    return parts


def _marks(x: Axis, additions: Iterable[float], decays: Iterable[float]) -> list[str]:
    """Vertical lines: dashed where Gaussians were added, dotted where rates were divided."""
    kinds = ((additions, "5 3", "Gaussians added"), (decays, "1 3", "learning rates divided"))
    return [
        f'<path d="M{x(step):.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="currentColor" opacity="0.45" '
        f'stroke-dasharray="{dash}"><title>{what} at step {step:,.0f}</title></path>'
        for steps, dash, what in kinds
        for step in steps
    ]


def _curve(line: Line, x: Axis, y: Axis, index: int, several: bool, stairs: bool) -> str:
    if not line.points:
        return ""
    places = [(x(step), y(value)) for step, value in line.points]
    name = f"<title>{html.escape(line.name)}</title>" if several else ""
    path = ("L{0:.1f} {1:.1f}", "H{0:.1f}V{1:.1f}")[stairs]
    a, b = places[0]
    path = f"M{a:.1f} {b:.1f}" + "".join(path.format(*place) for place in places[1:])
    a, b = places[-1]
    end = f'<circle cx="{a:.1f}" cy="{b:.1f}" r="2.5" style="fill: {_colour(index)}"/>'
    return f'<path d="{path}" {_stroke(index)}>{name}</path>{end}'


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def _stroke(index: int) -> str:
    dash = DASHES[index // len(COLOURS) % len(DASHES)]
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        f'fill="none" stroke-width="1.8" stroke-linejoin="round"{dashed} '
        f'style="stroke: {_colour(index)}"'
    )
