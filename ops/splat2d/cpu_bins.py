"""Projects Gaussians and lists those that reach each tile of a picture, for the CPU kernels.

The lists are made by counting, a prefix sum and a scatter; nothing is sorted.

The kernels never see a covariance. The whitening matrix (2x2, per Gaussian) maps an offset d from
the centre in pixels to units of standard deviations, so that w = exp(-|M d|^2 / 2) without the
cancellation that the conic form suffers from when a Gaussian is long and thin.
"""

from __future__ import annotations

import math

import numpy as np

from ops.compiling import allocating_kernel, kernel

F = np.float32
ZERO = F(0.0)
# Geometry columns: centre x, y in pixels; whitening matrix row by row.
CX, CY, M00, M01, M10, M11 = range(6)
SMALLEST_INVERSE_SCALE = 1e-6  # pixels^-1: a wider Gaussian is flat over any picture
SLACK = 1.0 + 1e-4  # bounds are this much wider than the cut, to cover rounding


@kernel
def extent(along, across, mixed, det, cut, lo, hi):
    """Range of one coordinate over the ellipse where the other one lies in [lo, hi].

    The ellipse is along*s^2 + 2*mixed*s*t + across*t^2 <= cut; the range of s is returned.
    """
    reach = math.sqrt(cut * along / det)
    if lo > reach or hi < -reach:
        return 1.0, -1.0
    turn = mixed * math.sqrt(cut / (across * det))  # t where s is smallest
    t = min(max(-turn, lo), hi)
    upper = -mixed / along * t + math.sqrt(max(0.0, (cut - det / along * t * t) / along))
    t = min(max(turn, lo), hi)
    lower = -mixed / along * t - math.sqrt(max(0.0, (cut - det / along * t * t) / along))
    return lower, upper


@kernel
def conic(g):
    m00, m01, m10, m11 = float(g[M00]), float(g[M01]), float(g[M10]), float(g[M11])
    det = m00 * m11 - m01 * m10
    return m00 * m00 + m10 * m10, m00 * m01 + m10 * m11, m01 * m01 + m11 * m11, det * det


@kernel
def pixel_range(lower, upper, count):
    """First and one past the last pixel whose centre lies in [lower, upper], within a row."""
    first = math.ceil(min(max(lower - 0.5, -1.0), count + 1.0))
    last = math.floor(min(max(upper - 0.5, -1.0), count + 1.0))
    return max(int(first), 0), min(int(last), count - 1) + 1


@kernel
def inverse_scales(scale, inverse):
    u, v = abs(float(scale[0])), abs(float(scale[1]))
    if not inverse:
        u, v = 1.0 / u, 1.0 / v
    return max(u, SMALLEST_INVERSE_SCALE), max(v, SMALLEST_INVERSE_SCALE)


@allocating_kernel
def project(xy, scale, rot, feat, width, height, top, inverse):
    """Geometry (N, 6) of every Gaussian, and whether all its parameters are finite (N).

    Centres are counted from row ``top`` of a picture of ``height`` rows.
    """
    n, channels = feat.shape
    geometry = np.empty((n, 6), np.float32)
    drawable = np.empty(n, np.bool_)
    for i in range(n):
        u, v = inverse_scales(scale[i], inverse)
        c, s = math.cos(float(rot[i, 0])), math.sin(float(rot[i, 0]))
        geometry[i, CX] = F(float(xy[i, 0]) * width)
        geometry[i, CY] = F(float(xy[i, 1]) * height - top)
        geometry[i, M00], geometry[i, M01] = F(u * c), F(u * s)
        geometry[i, M10], geometry[i, M11] = F(-v * s), F(v * c)
        total = ZERO
        for k in range(6):
            total += geometry[i, k] * ZERO
        for k in range(channels):
            total += feat[i, k] * ZERO
        drawable[i] = total == ZERO
    return geometry, drawable


@allocating_kernel
def _tile_rows(geometry, drawable, cut, tile, height):
    """First and one past the last row of tiles of every Gaussian, (N, 2) int32."""
    n = geometry.shape[0]
    rows = np.zeros((n, 2), np.int32)
    for i in range(n):
        if drawable[i]:
            a, _, _, det = conic(geometry[i])
            reach = math.sqrt(cut * a / det)
            center = float(geometry[i, CY])
            first, end = pixel_range(center - reach, center + reach, height)
            if first < end:
                rows[i, 0], rows[i, 1] = first // tile, (end - 1) // tile + 1
    return rows


@allocating_kernel
def _spans(geometry, rows, row_start, cut, tile, width, height):
    """Tile columns that each Gaussian reaches, per row of tiles: (sum of rows, 2) int32."""
    spans = np.zeros((row_start[-1], 2), np.int32)
    for i in range(geometry.shape[0]):
        g = geometry[i]
        a, b, c, det = conic(g)
        for row in range(rows[i, 0], rows[i, 1]):
            top = row * tile + 0.5 - g[CY]
            bottom = min((row + 1) * tile, height) - 0.5 - g[CY]
            lower, upper = extent(a, c, b, det, cut, top, bottom)
            first, end = pixel_range(lower + g[CX], upper + g[CX], width)
            if first < end:
                at = row_start[i] + row - rows[i, 0]
                spans[at, 0], spans[at, 1] = first // tile, (end - 1) // tile + 1
    return spans


@allocating_kernel
def _scatter(rows, row_start, spans, columns, tiles):
    """Tile lists from spans.

    Returns ``tile_start`` (T+1), ``owners`` (E) the Gaussian of each entry in tile order,
    ``slots`` (E) the entry's place in Gaussian order, and ``slot_start`` (N+1).
    """
    n = rows.shape[0]
    tile_start = np.zeros(tiles + 1, np.int64)
    slot_start = np.zeros(n + 1, np.int64)
    for i in range(n):
        entries = 0
        for row in range(rows[i, 0], rows[i, 1]):
            at = row_start[i] + row - rows[i, 0]
            for column in range(spans[at, 0], spans[at, 1]):
                tile_start[row * columns + column + 1] += 1
                entries += 1
        slot_start[i + 1] = slot_start[i] + entries
    for t in range(tiles):
        tile_start[t + 1] += tile_start[t]
    owners = np.empty(slot_start[n], np.int32)
    slots = np.empty(slot_start[n], np.int64)
    cursor = tile_start[:-1].copy()
    slot = 0
    for i in range(n):
        for row in range(rows[i, 0], rows[i, 1]):
            at = row_start[i] + row - rows[i, 0]
            for column in range(spans[at, 0], spans[at, 1]):
                t = row * columns + column
                owners[cursor[t]] = i
                slots[cursor[t]] = slot
                cursor[t] += 1
                slot += 1
    return tile_start, owners, slots, slot_start


@allocating_kernel
def bin_gaussians(geometry, drawable, cut, tile, width, height):
    """List, for every tile, the Gaussians that reach it: count, prefix sum, scatter."""
    rows = _tile_rows(geometry, drawable, cut, tile, height)
    row_start = np.zeros(len(rows) + 1, np.int64)
    row_start[1:] = np.cumsum(rows[:, 1] - rows[:, 0])
    spans = _spans(geometry, rows, row_start, cut, tile, width, height)
    columns = (width + tile - 1) // tile
    return _scatter(rows, row_start, spans, columns, columns * ((height + tile - 1) // tile))
