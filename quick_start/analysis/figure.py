"""What all figures share: a figure that shows itself, looks of lines, a legend that stays short."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

# Okabe and Ito's colours stay apart for the colour-blind; lines and markers do without colour.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "h")
OTHERS = "#b0b0b0"  # what is too much for a legend of its own
LONGEST_LABEL = 60  # characters
LEGEND_WIDTH = 130  # characters that fit beside each other


class Chart(Figure):
    """A figure outside pyplot's list: it shows itself once, and is freed with its last name."""

    description = ""  # for those who cannot see it

    def png(self) -> bytes:
        """The figure as a PNG file, on white, so that it can be read on a dark page too."""
        buffer = io.BytesIO()
        with warnings.catch_warnings():  # letters that the font lacks are shown as boxes
            warnings.filterwarnings("ignore", "Glyph .* missing")
            self.savefig(buffer, format="png", facecolor="white")
        return buffer.getvalue()

    def _repr_png_(self) -> tuple[bytes, dict[str, str]]:
        return self.png(), {"alt": self.description}


class PlainLog(LogFormatter):
    """Labels of a logarithmic axis as 0.05 instead of 5e-02."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


class Look(NamedTuple):
    """How a line is told apart: by colour, by dashes and by marker."""

    color: str
    linestyle: str
    marker: str


def look(index: int) -> Look:
    """A look for each of 300 lines."""
    return Look(
        COLOURS[index % len(COLOURS)], LINES[index % len(LINES)], MARKERS[index % len(MARKERS)]
    )


def plain(text: str) -> str:
    """A text, such as a file's name, that matplotlib shows as it is."""
    text = text.encode("utf-8", "replace").decode()
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    text = text.replace("$", r"\$")  # which would begin a formula
    return f" {text}" if text.startswith("_") else text  # which would be left out of a legend


def shortened(label: str) -> str:
    """A plain label, cut in its middle where it is too long for a legend."""
    half = LONGEST_LABEL // 2
    return plain(label if len(label) <= LONGEST_LABEL else f"{label[: half - 1]}…{label[-half:]}")


def legend_columns(labels: Sequence[str]) -> int:
    """How many columns of a legend fit below a figure."""
    widest = max((len(label) for label in labels), default=0) + 8  # the sample of the line
    return max(1, min(len(labels), LEGEND_WIDTH // widest, 4))


def legend_below(figure: Figure, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """Name the lines of a figure below it, where they hide nothing."""
    if handles:
        place, columns = "outside lower center", legend_columns(labels)
        figure.legend(handles, labels, loc=place, ncols=columns, fontsize="small")
