"""One picture that sums up a run: target, rendering, error map, and the main numbers as text."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from imaging.drawing import heat

PANEL = 400  # pixels of a panel's longer side
MOST_ROWS = 6  # pictures of a stack that are shown
MARGIN = 12
LEAST_COLUMN = 290  # pixels, for the text above a narrow picture
SAMPLES = 4  # in each direction, at least, for a pixel of a reduced panel
TEXT_SIZE = 15
LINE = 20
LONGEST = 200  # characters of a line
PAPER, INK = (255, 255, 255), (32, 32, 32)
TITLES = ("target", "rendering", "error: black is 0, pale yellow 0.25 or more")


class Triple(NamedTuple):
    """A picture of a run; both (1 | 3, H, W) in [0, 1], of equal size."""

    name: str
    target: np.ndarray
    image: np.ndarray


def overview(pictures: Sequence[Triple], lines: Sequence[str]) -> np.ndarray:
    """Target, rendering and error of each picture in a row, below lines of text.

    Parameters
    ----------
    pictures : of one size; the first 6 are shown, reduced where they are large, and enlarged by
        whole pixels where they are small.
    lines : the text. What is too long for the canvas is cut.

    Returns
    -------
    RGB (H, W, 3) uint8.
    """
    lines = [*lines]
    if len(pictures) > MOST_ROWS:
        lines.append(f"shown: the first {MOST_ROWS} of {len(pictures)} pictures")
    rows = [_panels(picture) for picture in pictures[:MOST_ROWS]]
    height, width = rows[0][0].shape[:2]
    column = max(width, LEAST_COLUMN)
    top = MARGIN + LINE * len(lines) + MARGIN
    pitch = LINE + height + MARGIN
    size = (MARGIN + 3 * (column + MARGIN), top + pitch * len(rows))
    canvas = Image.new("RGB", size, PAPER)
    for index, line in enumerate(lines):
        _write(canvas, (MARGIN, MARGIN + index * LINE), line, size[0] - 2 * MARGIN)
    for index, (picture, panels) in enumerate(zip(pictures, rows, strict=False)):
        name = f" {picture.name}" if len(pictures) > 1 else ""
        for place, (title, panel) in enumerate(zip(TITLES, panels, strict=True)):
            x, y = MARGIN + place * (column + MARGIN), top + index * pitch
            _write(canvas, (x, y), title + name * (place == 0), column)
            canvas.paste(Image.fromarray(panel), (x, y + LINE))
    return np.asarray(canvas)


def _panels(picture: Triple) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Target, rendering and error, RGB (h, w, 3) uint8, no side above PANEL."""
    shown = (_rgb(picture.target), _rgb(picture.image), heat(_error(picture)))
    factor = PANEL // max(shown[0].shape[:2])
    if factor < 2:
        return shown
    return tuple(panel.repeat(factor, axis=0).repeat(factor, axis=1) for panel in shown)


def _rgb(pixels: np.ndarray) -> np.ndarray:
    planes = [_reduced(plane) for plane in _thinned(pixels)]
    picture = np.stack(planes if len(planes) == 3 else planes * 3, axis=2)
    return (picture.clip(0, 1) * 255).round().astype(np.uint8)


def _error(picture: Triple) -> np.ndarray:
    """The mean absolute error, (h, w)."""
    planes = zip(_thinned(picture.image), _thinned(picture.target), strict=True)
    return np.mean([_reduced(abs(a - b)) for a, b in planes], axis=0)


def _thinned(pixels: np.ndarray) -> np.ndarray:
    """Fewer pixels of a large picture, (C, h, w): a panel needs some of 8K, not all of them."""
    step = max(1, max(pixels.shape[1:]) // (SAMPLES * PANEL))
    return pixels[:, ::step, ::step]


def _reduced(plane: np.ndarray) -> np.ndarray:
    """At most PANEL pixels wide and high, each the mean of those it covers."""
    ratio = PANEL / max(plane.shape)
    if ratio >= 1:
        return plane
    height, width = (max(1, round(side * ratio)) for side in plane.shape)
    return cv2.resize(np.ascontiguousarray(plane), (width, height), interpolation=cv2.INTER_AREA)


def _write(canvas: Image.Image, place: tuple[int, int], text: str, width: int) -> None:
    """A line of text, cut to a width in pixels."""
    pen, font, text = ImageDraw.Draw(canvas), _font(), _plain(text[:LONGEST])
    if pen.textlength(text, font) > width:
        while text and pen.textlength(f"{text}...", font) > width:
            text = text[:-1]
        text += "..."
    pen.text(place, text, INK, font)


@cache
def _font() -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(TEXT_SIZE)


def _plain(text: str) -> str:
    """The letters that Pillow's own font has: ASCII, accents left out, ? for all else."""
    letters = unicodedata.normalize("NFKD", text.replace("×", "x"))
    without_accents = "".join(c for c in letters if not unicodedata.combining(c))
    ascii_only = without_accents.encode("ascii", "replace").decode()
    return "".join(letter if letter.isprintable() else "?" for letter in ascii_only)
