"""Draws the tiles of a picture: who counts at a pixel, and the sum of those."""

from __future__ import annotations

import math

from numba import prange

from ops.compiling import kernel, parallel_kernel
from ops.splat2d.cpu_bins import CX, CY, M00, M01, M10, M11, ZERO, F
from ops.splat2d.cpu_tiles import (
    FULL,
    ONE,
    PLANE,
    allocate_scratch,
    copy_into,
    cut_below,
    multiply,
    pixel_centers,
    pixel_rows,
    smallest,
    tile_box,
    weigh,
)

REVIEW = 8  # Gaussians between two looks at how far the rest of a tile's list may be cut
EDGE = 1e-3  # slack of a tightened cut, to cover rounding


@kernel
def _count(counts, g, px, py, cut):
    cx, cy, m00, m01, m10, m11 = g[CX], g[CY], g[M00], g[M01], g[M10], g[M11]
    for p in range(len(counts)):
        dx, dy = px[p] - cx, py[p] - cy
        x, y = m00 * dx + m01 * dy, m10 * dx + m11 * dy
        counts[p] += ONE if x * x + y * y <= cut else ZERO


@kernel
def _insert(top, ranks, w):
    """Put weights into each pixel's descending list of the largest ones so far.

    ``ranks`` is a tuple: its length is part of the type, so the compiler unrolls over it.
    """
    for p in range(len(w)):
        v = w[p]
        for k in range(len(ranks)):
            t = top[k * PLANE + p]
            top[k * PLANE + p] = t if t > v else v
            v = v if t > v else t


@kernel
def _is_crowded(s, kept, geometry, owners, reach, cut):
    """Whether more than ``kept`` Gaussians may reach some pixel of a tile."""
    if len(owners) <= kept:
        return False
    s.counts[:] = ZERO
    for j in range(len(owners)):
        lo, hi = reach[j]
        _count(s.counts[lo:hi], geometry[owners[j]], s.px[lo:hi], s.py[lo:hi], cut)
    return -smallest(s.counts, -ONE) > kept


@kernel
def _hide_outside(plane, box):
    """Give pixels of a tile that lie outside the picture a weight that none exceeds."""
    for row in range(box.tile):
        for column in range(box.tile):
            if box.x0 + column >= box.x1 or box.y0 + row >= box.y1:
                plane[row * box.tile + column] = FULL


@kernel
def _select(s, ranks, geometry, owners, reach, cut, tie, box):
    """Set the limit of each pixel to its K-th largest weight, and shrink what reaches the tile.

    Only weights above the smallest K-th largest one in the tile can still matter. That bound
    grows as Gaussians are taken in, and it tightens the ellipse of those that follow.
    """
    s.top[:] = ZERO
    last = s.top[(len(ranks) - 1) * PLANE :][: len(s.limit)]
    _hide_outside(last, box)
    tight = cut
    for j in range(len(owners)):
        if j % REVIEW == 0:
            tight = _tightened(smallest(last, ONE) * tie, cut)
        if tight < cut:
            reach[j] = pixel_rows(geometry[owners[j]], tight, box)
        lo, hi = reach[j]
        weigh(s.w[lo:hi], geometry[owners[j]], s.px[lo:hi], s.py[lo:hi])
        _insert(s.top[lo:], ranks, s.w[lo:hi])
    for p in range(len(s.limit)):
        least = last[p] * tie
        s.limit[p] = least if least > s.limit[p] else s.limit[p]
    tight = _tightened(smallest(s.limit, ONE), cut)
    for j in range(len(owners)):
        reach[j] = pixel_rows(geometry[owners[j]], tight, box)


@kernel
def _tightened(weight, cut):
    """Squared distance at which a weight is reached, not beyond ``cut``."""
    return min(cut, -2.0 * math.log(max(weight, 1e-30)) + EDGE)


@kernel
def _accumulate(s, feat, geometry, owners, reach):
    """Sums of w and of w * feature over the Gaussians of a tile."""
    for j in range(len(owners)):
        i = owners[j]
        lo, hi = reach[j]
        w, total = s.w[lo:hi], s.total[lo:hi]
        weigh(w, geometry[i], s.px[lo:hi], s.py[lo:hi])
        cut_below(w, s.limit[lo:hi])
        for p in range(len(w)):
            total[p] += w[p]
        for c in range(feat.shape[1]):
            f, plane = feat[i, c], s.color[c, lo:hi]
            for p in range(len(w)):
                plane[p] += w[p] * f


@kernel
def _draw_tile(
    s, image, threshold, inverse, geometry, feat, owners, reach, box, ranks, cut, w_min, tie, eps
):
    for j in range(len(owners)):
        reach[j] = pixel_rows(geometry[owners[j]], cut, box)
    pixel_centers(s.px, s.py, box)
    s.limit[:] = w_min
    if len(ranks) > 0 and _is_crowded(s, len(ranks), geometry, owners, reach, F(cut)):
        _select(s, ranks, geometry, owners, reach, cut, tie, box)
    s.total[:] = eps
    s.color[:] = ZERO
    _accumulate(s, feat, geometry, owners, reach)
    for p in range(len(s.total)):
        s.total[p] = ONE / s.total[p] if len(ranks) > 0 else ONE
    for y in range(box.y0, box.y1):
        row = slice((y - box.y0) * box.tile, (y - box.y0) * box.tile + box.x1 - box.x0)
        across = slice(box.x0, box.x1)
        copy_into(threshold[y, across], s.limit[row])
        copy_into(inverse[y, across], s.total[row])
        for c in range(len(image)):
            multiply(image[c, y, across], s.color[c, row], s.total[row])


@parallel_kernel
def forward(
    image, threshold, inverse, reach, geometry, feat, tile_start, owners, cut, w_min, tie, eps,
    tile, ranks, workers,
):  # fmt: skip
    """Render every tile.

    ``ranks`` is ``tuple(range(K))`` for normalized blending and empty for additive blending.
    Fills the image (C, H, W) and what the backward pass needs: the smallest weight that counts
    and the normaliser's inverse at each pixel (H, W), and each entry's pixel range (E, 2) int32.
    """
    channels, height, width = image.shape
    tiles = len(tile_start) - 1
    # The work on a tile is in a function of its own, which no pass for parallel code rearranges.
    for worker in prange(workers):
        s = allocate_scratch(tile, len(ranks), channels)
        for t in range(worker, tiles, workers):
            begin, end = tile_start[t], tile_start[t + 1]
            _draw_tile(
                s, image, threshold, inverse, geometry, feat, owners[begin:end],
                reach[begin:end], tile_box(t, tile, width, height), ranks, cut, w_min, tie, eps,
            )  # fmt: skip
