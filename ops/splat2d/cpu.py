"""Numba kernels of 2D splatting: render and differentiate, on every core.

A picture is cut into square tiles. A tile is worked on Gaussian by Gaussian, with its pixels as
one contiguous, vectorised loop, and is small enough to stay in the L1/L2 cache.

Inner loops run from 0 over slices: LLVM vectorises them only where it can prove that an index is
not negative, since Numba gives negative indices a meaning.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import get_num_threads, njit, prange

from ops.splat2d.binning import (
    CX,
    CY,
    M00,
    M01,
    M10,
    M11,
    OPTIONS,
    SLACK,
    ZERO,
    F,
    allocating_kernel,
    bin_gaussians,
    conic,
    extent,
    inverse_scales,
    kernel,
    pixel_range,
    project,
)  # fmt: skip
from ops.splat2d.reference import RasterConfig

parallel_kernel = njit(parallel=True, **OPTIONS)

HALF = F(0.5)
ONE = F(1.0)
FULL = F(2.0)  # more than any weight
REVIEW = 8  # Gaussians between two looks at how far the rest of a tile's list may be cut
EDGE = 1e-3  # slack of a tightened cut, to cover rounding
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
def _exp(x):
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
def _box(t, tile, width, height):
    columns = (width + tile - 1) // tile
    x0, y0 = (t % columns) * tile, (t // columns) * tile
    return Box(x0, y0, min(x0 + tile, width), min(y0 + tile, height), tile)


@kernel
def _pixel_rows(g, cut, box):
    """First and one past the last pixel of a tile that a Gaussian may touch, in whole rows."""
    a, b, c, det = conic(g)
    left, right = box.x0 + 0.5 - g[CX], box.x1 - 0.5 - g[CX]
    lower, upper = extent(c, a, b, det, cut, left, right)
    top = g[CY] - box.y0
    first, end = pixel_range(lower + top, upper + top, box.y1 - box.y0)
    return first * box.tile, max(first, end) * box.tile


@kernel
def _pixel_centers(px, py, box):
    for p in range(len(px)):
        px[p], py[p] = F(box.x0 + p % box.tile) + HALF, F(box.y0 + p // box.tile) + HALF


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
def _smallest(values, sign):
    """The smallest value, or with sign -1 minus the largest."""
    least = sign * values[0]
    for p in range(len(values)):
        v = sign * values[p]
        least = v if v < least else least
    return least


# Loops instead of slice assignments, which copy to temporary memory first.
@kernel
def _copy(out, values):
    for p in range(len(out)):
        out[p] = values[p]


@kernel
def _multiply(out, a, b):
    for p in range(len(out)):
        out[p] = a[p] * b[p]


@kernel
def _add_product(out, a, b):
    for p in range(len(out)):
        out[p] += a[p] * b[p]


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
def _scratch(tile, kept, channels):
    size = tile * tile
    return Scratch(
        np.empty(size, np.float32), np.empty(size, np.float32), np.empty(size, np.float32),
        np.empty(size, np.float32), np.empty(size, np.float32), np.empty(size, np.float32),
        np.empty(kept * PLANE, np.float32), np.empty((channels, size), np.float32),
    )  # fmt: skip


@kernel
def _is_crowded(s, kept, geometry, owners, reach, cut):
    """Whether more than ``kept`` Gaussians may reach some pixel of a tile."""
    if len(owners) <= kept:
        return False
    s.counts[:] = ZERO
    for j in range(len(owners)):
        lo, hi = reach[j]
        _count(s.counts[lo:hi], geometry[owners[j]], s.px[lo:hi], s.py[lo:hi], cut)
    return -_smallest(s.counts, -ONE) > kept


@kernel
def _hide_outside(plane, box):
    """Give pixels of a tile that lie outside the picture a weight that none exceeds."""
    for p in range(box.tile * box.tile):
        if box.x0 + p % box.tile >= box.x1 or box.y0 + p // box.tile >= box.y1:
            plane[p] = FULL


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
            tight = _tightened(_smallest(last, ONE) * tie, cut)
        if tight < cut:
            reach[j] = _pixel_rows(geometry[owners[j]], tight, box)
        lo, hi = reach[j]
        _weigh(s.w[lo:hi], geometry[owners[j]], s.px[lo:hi], s.py[lo:hi])
        _insert(s.top[lo:], ranks, s.w[lo:hi])
    for p in range(len(s.limit)):
        smallest = last[p] * tie
        s.limit[p] = smallest if smallest > s.limit[p] else s.limit[p]
    tight = _tightened(_smallest(s.limit, ONE), cut)
    for j in range(len(owners)):
        reach[j] = _pixel_rows(geometry[owners[j]], tight, box)


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
        _weigh(w, geometry[i], s.px[lo:hi], s.py[lo:hi])
        _cut(w, s.limit[lo:hi])
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
        reach[j] = _pixel_rows(geometry[owners[j]], cut, box)
    _pixel_centers(s.px, s.py, box)
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
        _copy(threshold[y, across], s.limit[row])
        _copy(inverse[y, across], s.total[row])
        for c in range(len(image)):
            _multiply(image[c, y, across], s.color[c, row], s.total[row])


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
    tiles = len(tile_start) - 1
    image = np.empty((channels, height, width), np.float32)
    threshold = np.empty((height, width), np.float32)
    inverse = np.empty((height, width), np.float32)
    reach = np.empty((len(owners), 2), np.int32)
    # The work on a tile is in a function of its own, which no pass for parallel code rearranges.
    for worker in prange(workers):
        s = _scratch(tile, len(ranks), channels)
        for t in range(worker, tiles, workers):
            begin, end = tile_start[t], tile_start[t + 1]
            _draw_tile(
                s, image, threshold, inverse, geometry, feat, owners[begin:end],
                reach[begin:end], _box(t, tile, width, height), ranks, cut, w_min, tie, eps,
            )  # fmt: skip
    return image, threshold, inverse, reach


@kernel
def _fetch(s, grad, image, threshold, inverse, box, normalized):
    """Load a tile's part of what the backward pass needs, zero outside the picture.

    ``color`` becomes h = dL/dcolor * inverse and ``total`` becomes shift = h . color (0 for
    additive blending): the derivative of the loss by a weight is h . feature - shift.
    """
    s.color[:] = ZERO
    s.total[:] = ZERO
    s.limit[:] = FULL
    for y in range(box.y0, box.y1):
        row = slice((y - box.y0) * box.tile, (y - box.y0) * box.tile + box.x1 - box.x0)
        across = slice(box.x0, box.x1)
        _copy(s.limit[row], threshold[y, across])
        for c in range(len(s.color)):
            _multiply(s.color[c, row], grad[c, y, across], inverse[y, across])
            if normalized:
                _add_product(s.total[row], s.color[c, row], image[c, y, across])


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


@kernel
def _differentiate_entry(s, out, g, feat, lo, hi):
    """Partial gradients of one Gaussian in one tile: the moments, then dL/dfeature."""
    px, py, w, slope, shift = s.px[lo:hi], s.py[lo:hi], s.w[lo:hi], s.counts[lo:hi], s.total[lo:hi]
    _weigh(w, g, px, py)
    _cut(w, s.limit[lo:hi])
    for p in range(len(w)):
        slope[p] = -shift[p]
    for c in range(len(feat)):
        h, f, total = s.color[c, lo:hi], feat[c], ZERO
        for p in range(len(w)):
            slope[p] += h[p] * f
            total += h[p] * w[p]
        out[5 + c] = total
    _moments(out, w, slope, g, px, py)


@kernel
def _differentiate_tile(
    s, partial, grad, image, threshold, inverse, geometry, feat, owners, slots, reach, box, norm
):
    _pixel_centers(s.px, s.py, box)
    _fetch(s, grad, image, threshold, inverse, box, norm)
    for j in range(len(owners)):
        i = owners[j]
        _differentiate_entry(s, partial[slots[j]], geometry[i], feat[i], reach[j, 0], reach[j, 1])


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
    tiles = len(tile_start) - 1
    partial = np.empty((len(owners), 5 + channels), np.float32)
    for worker in prange(workers):
        s = _scratch(tile, 0, channels)
        for t in range(worker, tiles, workers):
            begin, end = tile_start[t], tile_start[t + 1]
            _differentiate_tile(
                s, partial, grad, image, threshold, inverse, geometry, feat, owners[begin:end],
                slots[begin:end], reach[begin:end], _box(t, tile, width, height), normalized,
            )  # fmt: skip
    return partial


@allocating_kernel
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
            u, v = inverse_scales(scale[i], inverse)
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
