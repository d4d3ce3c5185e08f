"""Numba kernels of the 2D splatting operation: bin, render, differentiate, on every core.

A picture is cut into square tiles. Each tile has the list of the Gaussians that reach it, made by
counting, a prefix sum and a scatter; nothing is sorted. A tile is worked on Gaussian by Gaussian
with its pixels as one contiguous, vectorised loop, and small enough to stay in the L1/L2 cache.

The kernels never see a covariance. ``whiten`` (2x2, per Gaussian) maps an offset from the centre
in pixels to units of standard deviations, so that w = exp(-|whiten @ d|^2 / 2) without the
cancellation that the conic form suffers from when a Gaussian is long and thin.

Inner loops run from 0 over slices: LLVM vectorises them only where it can prove that an index is
not negative, since Numba gives negative indices a meaning.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import get_num_threads, njit, prange

from ops.splat2d.reference import RasterConfig

F = np.float32
# Reassociation lets sums vectorise. NaN and infinity keep their meaning.
MATH = {"contract", "reassoc", "nsz", "arcp"}
OPTIONS = dict(cache=True, nogil=True, error_model="numpy", fastmath=MATH)
kernel = njit(**OPTIONS)
parallel_kernel = njit(parallel=True, **OPTIONS)

HALF = F(0.5)
ZERO = F(0.0)
ONE = F(1.0)
# Geometry columns: centre x, y in pixels; whitening matrix row by row.
CX, CY, M00, M01, M10, M11 = range(6)
SMALLEST_INVERSE_SCALE = 1e-6  # pixels^-1: a wider Gaussian is flat over any picture
SLACK = 1.0 + 1e-4  # bounds are this much wider than the cut, to cover rounding
PLANE = (
    1040  # stride between ranks in the selection; constant, so that the compiler sees no overlap
)

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
def _exp(x):
    x = (x if x > EXP_FLOOR else EXP_FLOOR) * SIXTEENTH
    e = E0 + x * (E1 + x * (E2 + x * (E3 + x * (E4 + x * (E5 + x * E6)))))
    e = e * e
    e = e * e
    e = e * e
    return e * e


@kernel
def _extent(along, across, mixed, det, cut, lo, hi):
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
def _conic(g):
    m00, m01, m10, m11 = float(g[M00]), float(g[M01]), float(g[M10]), float(g[M11])
    det = m00 * m11 - m01 * m10
    return m00 * m00 + m10 * m10, m00 * m01 + m10 * m11, m01 * m01 + m11 * m11, det * det


@kernel
def _pixel_range(lower, upper, count):
    """First and one past the last pixel whose centre lies in [lower, upper], within a row."""
    first = math.ceil(min(max(lower - 0.5, -1.0), count + 1.0))
    last = math.floor(min(max(upper - 0.5, -1.0), count + 1.0))
    return max(int(first), 0), min(int(last), count - 1) + 1


@kernel
def _inverse_scales(scale, inverse):
    u, v = abs(float(scale[0])), abs(float(scale[1]))
    if not inverse:
        u, v = 1.0 / u, 1.0 / v
    return max(u, SMALLEST_INVERSE_SCALE), max(v, SMALLEST_INVERSE_SCALE)


@kernel
def project(xy, scale, rot, feat, width, height, inverse):
    """Geometry (N, 6) of every Gaussian, and whether all its parameters are finite (N)."""
    n, channels = feat.shape
    geometry = np.empty((n, 6), np.float32)
    drawable = np.empty(n, np.bool_)
    for i in range(n):
        u, v = _inverse_scales(scale[i], inverse)
        c, s = math.cos(float(rot[i, 0])), math.sin(float(rot[i, 0]))
        geometry[i, CX] = F(float(xy[i, 0]) * width)
        geometry[i, CY] = F(float(xy[i, 1]) * height)
        geometry[i, M00], geometry[i, M01] = F(u * c), F(u * s)
        geometry[i, M10], geometry[i, M11] = F(-v * s), F(v * c)
        total = ZERO
        for k in range(6):
            total += geometry[i, k] * ZERO
        for k in range(channels):
            total += feat[i, k] * ZERO
        drawable[i] = total == ZERO
    return geometry, drawable


@kernel
def _tile_rows(geometry, drawable, cut, tile, height):
    """First and one past the last row of tiles of every Gaussian, (N, 2) int32."""
    n = geometry.shape[0]
    rows = np.zeros((n, 2), np.int32)
    for i in range(n):
        if drawable[i]:
            a, _, _, det = _conic(geometry[i])
            reach = math.sqrt(cut * a / det)
            center = float(geometry[i, CY])
            first, end = _pixel_range(center - reach, center + reach, height)
            if first < end:
                rows[i, 0], rows[i, 1] = first // tile, (end - 1) // tile + 1
    return rows


@kernel
def _spans(geometry, rows, row_start, cut, tile, width, height):
    """Tile columns that each Gaussian reaches, per row of tiles: (sum of rows, 2) int32."""
    spans = np.zeros((row_start[-1], 2), np.int32)
    for i in range(geometry.shape[0]):
        g = geometry[i]
        a, b, c, det = _conic(g)
        for row in range(rows[i, 0], rows[i, 1]):
            top = row * tile + 0.5 - g[CY]
            bottom = min((row + 1) * tile, height) - 0.5 - g[CY]
            lower, upper = _extent(a, c, b, det, cut, top, bottom)
            first, end = _pixel_range(lower + g[CX], upper + g[CX], width)
            if first < end:
                at = row_start[i] + row - rows[i, 0]
                spans[at, 0], spans[at, 1] = first // tile, (end - 1) // tile + 1
    return spans


@kernel
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


@kernel
def bin_gaussians(geometry, drawable, cut, tile, width, height):
    """List, for every tile, the Gaussians that reach it: count, prefix sum, scatter."""
    rows = _tile_rows(geometry, drawable, cut, tile, height)
    row_start = np.zeros(len(rows) + 1, np.int64)
    row_start[1:] = np.cumsum(rows[:, 1] - rows[:, 0])
    spans = _spans(geometry, rows, row_start, cut, tile, width, height)
    columns = (width + tile - 1) // tile
    return _scatter(rows, row_start, spans, columns, columns * ((height + tile - 1) // tile))


@kernel
def _pixel_rows(g, cut, x0, y0, tile, width, height):
    """First and one past the last pixel of a tile that a Gaussian may touch, in whole rows."""
    a, b, c, det = _conic(g)
    left, right = x0 + 0.5 - g[CX], min(x0 + tile, width) - 0.5 - g[CX]
    lower, upper = _extent(c, a, b, det, cut, left, right)
    first, end = _pixel_range(lower + g[CY] - y0, upper + g[CY] - y0, min(tile, height - y0))
    return first * tile, max(first, end) * tile


@kernel
def _pixel_centers(px, py, x0, y0, tile):
    for p in range(tile * tile):
        px[p], py[p] = F(x0 + p % tile) + HALF, F(y0 + p // tile) + HALF


@kernel
def _weigh(w, g, px, py):
    """Weight of one Gaussian at some pixels."""
    cx, cy, m00, m01, m10, m11 = g[CX], g[CY], g[M00], g[M01], g[M10], g[M11]
    for p in range(len(w)):
        dx, dy = px[p] - cx, py[p] - cy
        x, y = m00 * dx + m01 * dy, m10 * dx + m11 * dy
        w[p] = _exp((x * x + y * y) * -HALF)


@kernel
def _cut(w, threshold):
    for p in range(len(w)):
        w[p] = w[p] if w[p] >= threshold[p] else ZERO


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
def _thresholds(threshold, counts, top, w, ranks, geometry, owners, reach, px, py, cut, w_min, tie):
    """Smallest weight that counts at each pixel of a tile: w_min, or the K-th largest weight."""
    threshold[:] = w_min
    kept = len(ranks)
    if kept == 0 or len(owners) <= kept:
        return
    counts[:] = ZERO
    for j in range(len(owners)):
        lo, hi = reach[j]
        _count(counts[lo:hi], geometry[owners[j]], px[lo:hi], py[lo:hi], cut)
    if counts.max() <= kept:
        return
    top[:] = ZERO
    for j in range(len(owners)):
        lo, hi = reach[j]
        _weigh(w[lo:hi], geometry[owners[j]], px[lo:hi], py[lo:hi])
        _insert(top[lo:], ranks, w[lo:hi])
    last = top[(kept - 1) * PLANE :]
    for p in range(len(threshold)):
        smallest = last[p] * tie
        threshold[p] = smallest if smallest > w_min else w_min


@kernel
def _accumulate(color, total, w, feat, geometry, owners, reach, px, py, threshold):
    """Sums of w and of w * feature over the Gaussians of a tile."""
    for j in range(len(owners)):
        i = owners[j]
        lo, hi = reach[j]
        ws, sums = w[lo:hi], total[lo:hi]
        _weigh(ws, geometry[i], px[lo:hi], py[lo:hi])
        _cut(ws, threshold[lo:hi])
        for p in range(len(ws)):
            sums[p] += ws[p]
        for c in range(feat.shape[1]):
            f, plane = feat[i, c], color[c, lo:hi]
            for p in range(len(ws)):
                plane[p] += ws[p] * f


@parallel_kernel
def forward(
    geometry, feat, tile_start, owners, cut, w_min, tie, eps, width, height, tile, ranks, workers
):
    """Render every tile.

    ``ranks`` is ``tuple(range(K))`` for normalized blending and empty for additive blending.
    Returns the image (C, H, W) and what the backward pass needs: the smallest weight that counts
    and the normaliser's inverse at each pixel (H, W), and each entry's pixel range (E, 2).
    """
    channels = feat.shape[1]
    columns = (width + tile - 1) // tile
    tiles = len(tile_start) - 1
    size = tile * tile
    image = np.empty((channels, height, width), np.float32)
    threshold = np.empty((height, width), np.float32)
    inverse = np.empty((height, width), np.float32)
    reach = np.empty((len(owners), 2), np.int32)
    for worker in prange(workers):
        px, py = np.empty(size, np.float32), np.empty(size, np.float32)
        w, total = np.empty(size, np.float32), np.empty(size, np.float32)
        limit, counts = np.empty(size, np.float32), np.empty(size, np.float32)
        top = np.empty(len(ranks) * PLANE, np.float32)
        color = np.empty((channels, size), np.float32)
        for t in range(worker, tiles, workers):
            x0, y0 = (t % columns) * tile, (t // columns) * tile
            begin, end = tile_start[t], tile_start[t + 1]
            mine, ranges = owners[begin:end], reach[begin:end]
            for j in range(len(mine)):
                ranges[j] = _pixel_rows(geometry[mine[j]], cut, x0, y0, tile, width, height)
            _pixel_centers(px, py, x0, y0, tile)
            _thresholds(
                limit, counts, top, w, ranks, geometry, mine, ranges, px, py, F(cut), w_min, tie
            )
            total[:] = eps
            color[:] = ZERO
            _accumulate(color, total, w, feat, geometry, mine, ranges, px, py, limit)
            for p in range(size):
                total[p] = ONE / total[p] if len(ranks) > 0 else ONE
            right, bottom = min(x0 + tile, width), min(y0 + tile, height)
            for y in range(y0, bottom):
                p = (y - y0) * tile
                q = p + right - x0
                threshold[y, x0:right] = limit[p:q]
                inverse[y, x0:right] = total[p:q]
                for c in range(channels):
                    image[c, y, x0:right] = color[c, p:q] * total[p:q]
    return image, threshold, inverse, reach


@kernel
def _fetch(h, shift, limit, grad, image, threshold, inverse, x0, y0, tile, normalized):
    """Load a tile's part of what the backward pass needs, in tile order, zero outside the picture.

    With h = dL/dcolor * inverse, the derivative of the loss by a weight is
    h . feature - shift, where shift = h . color (0 for additive blending).
    """
    channels, height, width = grad.shape
    right, bottom = min(x0 + tile, width), min(y0 + tile, height)
    h[:] = ZERO
    shift[:] = ZERO
    limit[:] = ONE + ONE
    for y in range(y0, bottom):
        p = (y - y0) * tile
        q = p + right - x0
        limit[p:q] = threshold[y, x0:right]
        for c in range(channels):
            h[c, p:q] = grad[c, y, x0:right] * inverse[y, x0:right]
            if normalized:
                shift[p:q] += h[c, p:q] * image[c, y, x0:right]


@kernel
def _moments(out, w, slope, g, px, py):
    """Sums over pixels of t*X, t*Y, t*X^2, t*X*Y, t*Y^2 with t = w dL/dw, (X, Y) = whiten @ d."""
    cx, cy, m00, m01, m10, m11 = g[CX], g[CY], g[M00], g[M01], g[M10], g[M11]
    sx = sy = sxx = sxy = syy = ZERO
    for p in range(len(w)):
        dx, dy = px[p] - cx, py[p] - cy
        x, y = m00 * dx + m01 * dy, m10 * dx + m11 * dy
        t = w[p] * slope[p]
        # Where the Gaussian does not count, x may be infinite and t*x no number.
        tx = t * x if w[p] > ZERO else ZERO
        ty = t * y if w[p] > ZERO else ZERO
        x, y = (x if w[p] > ZERO else ZERO), (y if w[p] > ZERO else ZERO)
        sx += tx
        sy += ty
        sxx += tx * x
        sxy += tx * y
        syy += ty * y
    out[0], out[1], out[2], out[3], out[4] = sx, sy, sxx, sxy, syy


@parallel_kernel
def backward(
    grad, image, threshold, inverse, geometry, feat, tile_start, owners, slots, reach, tile,
    normalized, workers,
):  # fmt: skip
    """Partial gradients per entry, (E, 5 + C): the moments, then dL/dfeature.

    Each entry has its own row, in Gaussian order, so that no two threads add to one number and
    the sums do not depend on timing.
    """
    channels, height, width = grad.shape
    columns = (width + tile - 1) // tile
    tiles = len(tile_start) - 1
    size = tile * tile
    partial = np.empty((len(owners), 5 + channels), np.float32)
    for worker in prange(workers):
        px, py = np.empty(size, np.float32), np.empty(size, np.float32)
        w, slope = np.empty(size, np.float32), np.empty(size, np.float32)
        limit, shift = np.empty(size, np.float32), np.empty(size, np.float32)
        h = np.empty((channels, size), np.float32)
        for t in range(worker, tiles, workers):
            x0, y0 = (t % columns) * tile, (t // columns) * tile
            _pixel_centers(px, py, x0, y0, tile)
            _fetch(h, shift, limit, grad, image, threshold, inverse, x0, y0, tile, normalized)
            for entry in range(tile_start[t], tile_start[t + 1]):
                i, out = owners[entry], partial[slots[entry]]
                lo, hi = reach[entry]
                ws, ds, ss = w[lo:hi], slope[lo:hi], shift[lo:hi]
                _weigh(ws, geometry[i], px[lo:hi], py[lo:hi])
                _cut(ws, limit[lo:hi])
                for p in range(len(ds)):
                    ds[p] = -ss[p]
                for c in range(channels):
                    hs, f, total = h[c, lo:hi], feat[i, c], ZERO
                    for p in range(len(ws)):
                        ds[p] += hs[p] * f
                        total += hs[p] * ws[p]
                    out[5 + c] = total
                _moments(out, ws, ds, geometry[i], px[lo:hi], py[lo:hi])
    return partial


@kernel
def collect(partial, slot_start, geometry, scale, width, height, inverse):
    """Gradients of the parameters: sum each Gaussian's entries, then the chain rule.

    With X = u (cos, sin) . d and Y = v (-sin, cos) . d, u and v the inverse scales:
    dX/drot = (u/v) Y and dY/drot = -(v/u) X.
    """
    n, channels = len(slot_start) - 1, partial.shape[1] - 5
    xy, scales = np.zeros((n, 2), np.float32), np.zeros((n, 2), np.float32)
    rot, feat = np.zeros((n, 1), np.float32), np.zeros((n, channels), np.float32)
    for i in range(n):
        sx = sy = sxx = sxy = syy = 0.0
        for s in range(slot_start[i], slot_start[i + 1]):
            m = partial[s]
            sx, sy, sxx, sxy, syy = sx + m[0], sy + m[1], sxx + m[2], sxy + m[3], syy + m[4]
            for c in range(channels):
                feat[i, c] += m[5 + c]
        if slot_start[i] < slot_start[i + 1]:
            g = geometry[i]
            u, v = _inverse_scales(scale[i], inverse)
            xy[i, 0] = F((sx * g[M00] + sy * g[M10]) * width)
            xy[i, 1] = F((sx * g[M01] + sy * g[M11]) * height)
            rot[i, 0] = F(sxy * (v / u - u / v))
            scales[i, 0] = F((-sxx / u if inverse else sxx * u) * np.sign(scale[i, 0]))
            scales[i, 1] = F((-syy / v if inverse else syy * v) * np.sign(scale[i, 1]))
    return xy, scales, rot, feat


class State(NamedTuple):
    """What the backward pass needs of a forward pass."""

    image: np.ndarray
    threshold: np.ndarray
    inverse: np.ndarray
    reach: np.ndarray
    bins: tuple[np.ndarray, ...]
    geometry: np.ndarray
    scale: np.ndarray
    feat: np.ndarray
    config: RasterConfig


def _workers(tiles: int) -> int:
    """Units of work for the threads: enough to even out tiles that cost more than others."""
    return max(1, min(tiles, 4 * get_num_threads()))


def render(
    xy: np.ndarray,
    scale: np.ndarray,
    rot: np.ndarray,
    feat: np.ndarray,
    height: int,
    width: int,
    config: RasterConfig,
) -> tuple[np.ndarray, State]:
    """Picture (C, H, W) float32 of float32 Gaussians, and the state for :func:`differentiate`."""
    geometry, drawable = project(xy, scale, rot, feat, width, height, config.inverse_scale)
    cut = config.cut * SLACK
    bins = bin_gaussians(geometry, drawable, cut, config.tile, width, height)
    tile_start, owners, _, _ = bins
    ranks = tuple(range(config.topk)) if config.blending == "normalized" else ()
    image, threshold, inverse, reach = forward(
        geometry, feat, tile_start, owners, cut, F(config.w_min), F(config.tie), F(config.eps),
        width, height, config.tile, ranks, _workers(len(tile_start) - 1),
    )  # fmt: skip
    return image, State(image, threshold, inverse, reach, bins, geometry, scale, feat, config)


def differentiate(grad: np.ndarray, state: State) -> tuple[np.ndarray, ...]:
    """Gradients of xy, scale, rot and feat from the gradient of the picture (C, H, W)."""
    tile_start, owners, slots, slot_start = state.bins
    _, height, width = grad.shape
    config = state.config
    partial = backward(
        grad, state.image, state.threshold, state.inverse, state.geometry, state.feat, tile_start,
        owners, slots, state.reach, config.tile, config.blending == "normalized",
        _workers(len(tile_start) - 1),
    )  # fmt: skip
    return collect(
        partial, slot_start, state.geometry, state.scale, width, height, config.inverse_scale
    )
