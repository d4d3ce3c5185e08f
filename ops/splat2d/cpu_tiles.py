"""What the kernels for drawing and for gradients share: tiles, their memory, weights.

A picture is cut into square tiles. A tile is worked on Gaussian by Gaussian, with its pixels as
one contiguous, vectorised loop, and is small enough to stay in the L1/L2 cache.

Inner loops run from 0 over slices: LLVM vectorises them only where it can prove that an index is
not negative, since Numba gives negative indices a meaning.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ops.compiling import allocating_kernel, kernel
from ops.splat2d.cpu_bins import (
    CX,
    CY,
    M00,
    M01,
    M10,
    M11,
    ZERO,
    F,
    conic,
    extent,
    pixel_range,
)

HALF = F(0.5)
ONE = F(1.0)
FULL = F(2.0)  # more than any weight
PLANE = 1040  # stride between ranks in the selection: constant, so that the compiler sees that
# ranks do not overlap, and no power of two, so that they do not share cache lines

# exp(x) = p(x / 16)^16 with p interpolating exp at the Chebyshev nodes of [-0.9, 0]. Arguments
# below -14.4 are clamped; exp(-14.4) lies under every allowed w_min.
EXP_FLOOR = F(-14.4)
SIXTEENTH = F(1 / 16)
E0, E1, E2, E3, E4, E5, E6 = (
    F(c)
    for c in np.polynomial.Polynomial(
        np.polynomial.chebyshev.Chebyshev.interpolate(np.exp, 6, domain=[-0.9, 0.0])
        .convert(kind=np.polynomial.Polynomial)
        .coef
    ).coef
)


@kernel
def exponential(x):
    x = (x if x > EXP_FLOOR else EXP_FLOOR) * SIXTEENTH
    e = E0 + x * (E1 + x * (E2 + x * (E3 + x * (E4 + x * (E5 + x * E6)))))
    e = e * e
    e = e * e
    e = e * e
    return e * e


class Box(NamedTuple):
    """Where a tile lies: its first pixel, and one past its last one within the picture."""

    x0: int
    y0: int
    x1: int
    y1: int
    tile: int


@kernel
def tile_box(t, tile, width, height):
    columns = (width + tile - 1) // tile
    x0, y0 = (t % columns) * tile, (t // columns) * tile
    return Box(x0, y0, min(x0 + tile, width), min(y0 + tile, height), tile)


@kernel
def pixel_rows(g, cut, box):
    """First and one past the last pixel of a tile that a Gaussian may touch, in whole rows."""
    a, b, c, det = conic(g)
    left, right = box.x0 + 0.5 - g[CX], box.x1 - 0.5 - g[CX]
    lower, upper = extent(c, a, b, det, cut, left, right)
    top = g[CY] - box.y0
    first, end = pixel_range(lower + top, upper + top, box.y1 - box.y0)
    return first * box.tile, max(first, end) * box.tile


@kernel
def pixel_centers(px, py, box):
    for row in range(box.tile):  # a division per pixel would cost more than drawing a Gaussian
        first = row * box.tile
        y = F(box.y0 + row) + HALF
        for column in range(box.tile):
            px[first + column], py[first + column] = F(box.x0 + column) + HALF, y


class Scratch(NamedTuple):
    """A thread's memory for one tile; all of one value per pixel, ``top`` and ``color`` of more."""

    px: np.ndarray
    py: np.ndarray
    w: np.ndarray
    total: np.ndarray
    limit: np.ndarray
    counts: np.ndarray
    top: np.ndarray
    color: np.ndarray


@allocating_kernel
def allocate_scratch(tile, kept, channels):
    size = tile * tile
    return Scratch(
        np.empty(size, np.float32), np.empty(size, np.float32), np.empty(size, np.float32),
        np.empty(size, np.float32), np.empty(size, np.float32), np.empty(size, np.float32),
        np.empty(kept * PLANE, np.float32), np.empty((channels, size), np.float32),
    )  # fmt: skip


@kernel
def weigh(w, g, px, py):
    """Weight of one Gaussian at some pixels."""
    cx, cy, m00, m01, m10, m11 = g[CX], g[CY], g[M00], g[M01], g[M10], g[M11]
    for p in range(len(w)):
        dx, dy = px[p] - cx, py[p] - cy
        x, y = m00 * dx + m01 * dy, m10 * dx + m11 * dy
        w[p] = exponential((x * x + y * y) * -HALF)


@kernel
def cut_below(w, threshold):
    for p in range(len(w)):
        w[p] = w[p] if w[p] >= threshold[p] else ZERO


@kernel
def smallest(values, sign):
    """The smallest value, or with sign -1 minus the largest."""
    least = sign * values[0]
    for p in range(len(values)):
        v = sign * values[p]
        least = v if v < least else least
    return least


# Loops instead of slice assignments, which copy to temporary memory first.
@kernel
def copy_into(out, values):
    for p in range(len(out)):
        out[p] = values[p]


@kernel
def multiply(out, a, b):
    for p in range(len(out)):
        out[p] = a[p] * b[p]


@kernel
def add_product(out, a, b):
    for p in range(len(out)):
        out[p] += a[p] * b[p]
