"""Numbers and small tables as people read them, in text and in HTML."""

from __future__ import annotations

import html
import math
from base64 import b64encode
from collections.abc import Iterable, Sequence
from typing import NamedTuple

EMPTY = "–"


class Cell(NamedTuple):
    """A table's cell; numbers are set to the right."""

    text: str
    number: bool = False
    bold: bool = False
    title: str = ""  # shown when the mouse rests on the cell


def number(value: float | None, digits: int = 2) -> str:
    """``31.70``; a dash for what was not measured, ``∞`` for the PSNR of a perfect copy."""
    if value is None or math.isnan(value):
        return EMPTY
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    return f"{value:,.{digits}f}"


def duration(seconds: float | None) -> str:
    """``8.3 s``, ``2 min 05 s`` or ``1 h 02 min``."""
    if seconds is None or not math.isfinite(seconds):
        return EMPTY
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def plural(count: int, noun: str) -> str:
    """``1 run``, ``2 runs``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def escaped(text: str) -> str:
    """A text for HTML. What is no character, as in odd file names, could not be sent or stored."""
    return html.escape(text.encode("utf-8", "backslashreplace").decode())


def html_table(
    rows: Iterable[Sequence[str | Cell]], head: Sequence[str | Cell] = (), caption: str = ""
) -> str:
    """An HTML table; every text is escaped."""
    parts = ['<table style="font-variant-numeric: tabular-nums">']
    if caption:
        parts.append(
            '<caption style="caption-side: top; text-align: left; white-space: nowrap">'
            f"{escaped(caption)}</caption>"
        )
    if head:
        parts.append(f"<thead><tr>{''.join(_html_cell(c, 'th') for c in head)}</tr></thead>")
    parts += ["<tbody>", *(f"<tr>{''.join(map(_html_cell, row))}</tr>" for row in rows), "</tbody>"]
    return "".join(parts) + "</table>"


def _html_cell(cell: str | Cell, tag: str = "td") -> str:
    cell = Cell(cell) if isinstance(cell, str) else cell
    text = escaped(cell.text)
    title = f' title="{escaped(cell.title)}"' if cell.title else ""
    side = "right" if cell.number else "left"
    content = f"<b>{text}</b>" if cell.bold else text
    style = f"text-align: {side}; padding: 0.2em 0.6em"
    return f'<{tag} style="{style}"{title}>{content}</{tag}>'


def image_tag(data: bytes, kind: str, description: str, style: str = "max-width: 100%") -> str:
    """A picture file inside HTML, so that it outlives its folder; ``kind`` such as ``png``."""
    source = f"data:image/{kind};base64,{b64encode(data).decode()}"
    return f'<img src="{source}" alt="{escaped(description)}" style="{style}">'


def text_table(rows: Iterable[Sequence[str]]) -> str:
    """Lines with aligned columns."""
    rows = [list(row) for row in rows]
    if not rows:
        return ""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)
