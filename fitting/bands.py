"""Cuts a picture into bands of rows that are handled one after another, to save memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from ops.photometric.reference import WINDOW_RADIUS
from ops.planes import Rows

BAND_VALUES = 4 << 20  # values of one buffer of a band: 16 MiB of float32
LEAST_ROWS = 64  # fewer, and the neighbours of SSIM would cost more than the band
PREVIEW_PIXELS = 1 << 20


class Band(NamedTuple):
    """Rows of the picture that are handled together.

    Attributes
    ----------
    top, rows : window that is drawn; begins with a row of tiles.
    counted : rows of the window that belong to the band.
    differs : rows of the window on which the band's loss depends.
    """

    top: int
    rows: int
    counted: Rows
    differs: Rows

    @property
    def window(self) -> tuple[int, int]:
        """First and one past the last row of the picture that are drawn."""
        return self.top, self.top + self.rows


def bands(height: int, size: int, tile: int = 1) -> Iterator[Band]:
    """Cut a picture into bands of ``size`` rows, each with what SSIM sees beyond its edges."""
    for first in range(0, height, size):
        end = min(first + size, height)
        above, below = max(0, first - WINDOW_RADIUS), min(height, end + WINDOW_RADIUS)
        top = above // tile * tile
        yield Band(top, below - top, Rows(first - top, end - top), Rows(above - top, below - top))


def band_rows(channels: int, width: int, multiple: int = 1) -> int:
    """Rows of a band whose buffers hold about ``BAND_VALUES``; a multiple of a number."""
    rows = max(LEAST_ROWS, BAND_VALUES // (channels * width))
    return math.ceil(rows / multiple) * multiple


def preview_factor(height: int, width: int) -> int:
    """By how much both sides of a picture are divided to show it in about a megapixel."""
    return max(1, math.ceil(math.sqrt(height * width / PREVIEW_PIXELS)))
