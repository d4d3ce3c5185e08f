"""Projects Gaussians, and lists those that may reach each cell of a coarse grid, for the GPU.

Lists keep the order of the Gaussians, so that sums do not depend on timing: count per cell and
segment of Gaussians, find room for each cell's list, then every segment fills its own part of it.
Nothing is sorted here;
where neighbours in the picture are neighbours in memory, most segments are passed over at once.
"""

from __future__ import annotations

import math

import triton
import triton.language as tl

# exp(-r²/2) = 2^-(K²r²): the whitening matrix is stored times K, which saves a product per pair.
K = math.sqrt(math.log2(math.e) / 2)
K2 = tl.constexpr(K * K)
WHITENING = tl.constexpr(K)
SMALLEST_INVERSE_SCALE = tl.constexpr(1e-6)  # pixels^-1: a wider Gaussian is flat over any picture
LARGEST_INVERSE_SCALE = tl.constexpr(1e15)  # keeps all that follows finite
# A Gaussian's row: centre x, y in pixels; whitening matrix times K; four features; the slopes dy/dx
# and dx/dy at which its weight is largest along a vertical and along a horizontal line. Kernels
# read two columns at a time.
GEOMETRY = 12
FEATURES = 4
COLUMNS, FEATURE_COLUMN = tl.constexpr(GEOMETRY), tl.constexpr(6)
SHAPE, SHAPES = tl.constexpr((0, 1, 2, 3, 4, 5, 10, 11)), tl.constexpr(8)  # say where it reaches
SEGMENT = 128  # Gaussians that are tested together; best neighbours in the picture
FAR = tl.constexpr(1e18)  # pixels
CELLS = 8  # cells that one program tests a segment against, at most
SLACK = 1.001  # bounds are this much wider than the cut, to cover rounding


@triton.jit
def _limited(scale):
    scale = tl.where(scale < SMALLEST_INVERSE_SCALE, SMALLEST_INVERSE_SCALE, scale)
    finite = scale * 0.0 == 0.0
    return tl.where(finite & (scale > LARGEST_INVERSE_SCALE), LARGEST_INVERSE_SCALE, scale)


@triton.jit
def inverse_scales(scale, i, inside, INVERSE: tl.constexpr):
    """Reciprocal standard deviations of both axes, 1/px."""
    u = tl.abs(tl.load(scale + 2 * i, mask=inside, other=1.0))
    v = tl.abs(tl.load(scale + 2 * i + 1, mask=inside, other=1.0))
    if not INVERSE:
        u, v = 1.0 / u, 1.0 / v
    return _limited(u), _limited(v)


@triton.jit
def _half(cut, a, b):
    return tl.sqrt(cut * (a * a + b * b))


@triton.jit(do_not_specialize=["n", "channels"])
def project(
    xy, scale, rot, feat, geometry, boxes, extents, n, channels, width, height, cut,
    INVERSE: tl.constexpr, FEATURES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Fill the geometry table (N, 12), ``boxes`` and ``extents``.

    ``boxes`` (4, N) holds centres, half-widths and half-heights, with a half-width of -1 where a
    parameter is not finite; ``extents`` (segments, 4) the range in x and in y of each segment.
    """
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < n
    u, v = inverse_scales(scale, i, inside, INVERSE)
    angle = tl.load(rot + i, mask=inside, other=0.0)
    cos, sin = tl.cos(angle), tl.sin(angle)
    x = tl.load(xy + 2 * i, mask=inside, other=0.0) * width
    y = tl.load(xy + 2 * i + 1, mask=inside, other=0.0) * height
    total = (x + y + angle + u + v) * 0.0  # not a number where anything is not finite
    row = geometry + i * COLUMNS
    for c in range(channels):
        value = tl.load(feat + i * channels + c, mask=inside, other=0.0)
        total += value * 0.0
        tl.store(row + FEATURE_COLUMN + c, value, mask=inside & (c < FEATURES))
    half_width = _half(cut, cos / u, sin / v)
    half_height = _half(cut, sin / u, cos / v)
    half_width = tl.where(total == 0.0, half_width, -1.0)
    a, b = u * cos * WHITENING, u * sin * WHITENING
    c, d = -v * sin * WHITENING, v * cos * WHITENING
    mixed = -(a * b + c * d)
    values = (x, y, a, b, c, d, mixed / (b * b + d * d), mixed / (a * a + c * c))
    for k in tl.static_range(SHAPES):
        tl.store(row + SHAPE[k], values[k], mask=inside)
    tl.store(boxes + i, x, mask=inside)
    tl.store(boxes + n + i, y, mask=inside)
    tl.store(boxes + 2 * n + i, half_width, mask=inside)
    tl.store(boxes + 3 * n + i, half_height, mask=inside)
    drawn = inside & (half_width >= 0.0)
    extent = extents + 4 * tl.program_id(0)
    tl.store(extent, tl.min(tl.where(drawn, x - half_width, FAR), 0))
    tl.store(extent + 1, tl.max(tl.where(drawn, x + half_width, -FAR), 0))
    tl.store(extent + 2, tl.min(tl.where(drawn, y - half_height, FAR), 0))
    tl.store(extent + 3, tl.max(tl.where(drawn, y + half_height, -FAR), 0))


@triton.jit
def _near(boxes, i, n, left, right, above, below):
    """Which Gaussians have a box that meets a rectangle."""
    inside = i < n
    x, y = (
        tl.load(boxes + i, mask=inside, other=0.0),
        tl.load(boxes + n + i, mask=inside, other=0.0),
    )
    half_width = tl.load(boxes + 2 * n + i, mask=inside, other=-1.0)
    half_height = tl.load(boxes + 3 * n + i, mask=inside, other=-1.0)
    across = (x + half_width >= left) & (x - half_width <= right)
    down = (y + half_height >= above) & (y - half_height <= below)
    return across & down & (half_width >= 0.0)


@triton.jit
def _extent(extents, segment):
    """The range in x and in y of a segment's Gaussians."""
    row = extents + 4 * segment
    return tl.load(row), tl.load(row + 1), tl.load(row + 2), tl.load(row + 3)


@triton.jit
def _rectangle(cell, cells_x, top, shift):
    left, above = (cell % cells_x) << shift, top + ((cell // cells_x) << shift)
    return left, left + (1 << shift), above, above + (1 << shift)


@triton.jit(do_not_specialize=["n", "cells", "cells_x", "top", "shift"])
def count_cells(
    boxes, extents, counts, cursors, n, cells, cells_x, top, shift,
    BLOCK: tl.constexpr, CELLS: tl.constexpr, SHARDS: tl.constexpr,
):  # fmt: skip
    """Count a segment's Gaussians near some cells: ``counts`` (cells, segments).

    Also sets ``cursors``, the lengths of the tile lists that come next, to 0.
    """
    segment = tl.program_id(1)
    i = segment * BLOCK + tl.arange(0, BLOCK)
    first = tl.program_id(0) * CELLS
    leftmost, rightmost, highest, lowest = _extent(extents, segment)
    for cell in range(first, tl.minimum(first + CELLS, cells)):
        left, right, above, below = _rectangle(cell, cells_x, top, shift)
        across = (rightmost >= left) & (leftmost <= right)
        count = 0
        if across & (lowest >= above) & (highest <= below):
            count += tl.sum(_near(boxes, i, n, left, right, above, below).to(tl.int32), 0)
        tl.store(counts + cell * tl.num_programs(1) + segment, count)
    if (tl.program_id(0) == 0) & (segment == 0):
        tl.store(cursors + tl.arange(0, SHARDS), tl.zeros((SHARDS,), tl.int32))
        tl.store(cursors + SHARDS, 0)


@triton.jit(do_not_specialize=["segments"])
def place_cells(counts, ends, cell_lists, cursor, segments, BLOCK: tl.constexpr):
    """Find room for a cell's list: where it begins and ends, and where each segment's part ends.

    The lists of cells lie in any order, the parts of a list in that of the segments.
    """
    cell = tl.program_id(0)
    counts += cell.to(tl.int64) * segments
    ends += cell.to(tl.int64) * segments
    own = tl.arange(0, BLOCK)
    total = 0
    for at in range(0, segments, BLOCK):
        total += tl.sum(tl.load(counts + at + own, mask=at + own < segments, other=0), 0)
    begin = tl.atomic_add(cursor, total, sem="relaxed")
    tl.store(cell_lists + 2 * cell, begin)
    tl.store(cell_lists + 2 * cell + 1, begin + total)
    for at in range(0, segments, BLOCK):
        count = tl.load(counts + at + own, mask=at + own < segments, other=0)
        tl.store(ends + at + own, begin + tl.cumsum(count, 0), mask=at + own < segments)
        begin += tl.sum(count, 0)


@triton.jit(do_not_specialize=["capacity", "n", "cells", "cells_x", "top", "shift"])
def fill_cells(
    boxes, geometry, counts, ends, members, shapes, flags, needed,
    capacity, n, cells, cells_x, top, shift,
    OVERFLOW: tl.constexpr, BLOCK: tl.constexpr, CELLS: tl.constexpr,
):  # fmt: skip
    """Write a segment's Gaussians into its part of some cells' lists; ``ends`` is where it ends.

    ``members`` receives their indices and ``shapes`` (4, capacity, 2) what decides where they
    reach: the tiles of a cell all read its list, and what lies side by side in memory is read at
    once.
    """
    segment = tl.program_id(1)
    i = segment * BLOCK + tl.arange(0, BLOCK)
    first = tl.program_id(0) * CELLS
    stop = tl.minimum(first + CELLS, cells)
    own = first + tl.arange(0, CELLS)
    found = tl.load(counts + own * tl.num_programs(1) + segment, mask=own < cells, other=0)
    if tl.sum(found, 0) == 0:  # which is so for most segments and cells
        stop = first
    for cell in range(first, stop):
        at = cell * tl.num_programs(1) + segment
        count = tl.load(counts + at)
        if count > 0:
            end = tl.load(ends + at)
            left, right, above, below = _rectangle(cell, cells_x, top, shift)
            near = _near(boxes, i, n, left, right, above, below)
            place = end - count + tl.cumsum(near.to(tl.int32), 0) - 1
            near = near & (place < capacity)
            tl.store(members + place, i, mask=near)
            row = geometry + i * COLUMNS
            for k in tl.static_range(SHAPES):
                value = tl.load(row + SHAPE[k], mask=near, other=0.0)
                tl.store(shapes + k // 2 * (2 * capacity) + 2 * place + k % 2, value, mask=near)
            if end > capacity:
                tl.atomic_or(flags, OVERFLOW)
                tl.atomic_max(needed, end)
