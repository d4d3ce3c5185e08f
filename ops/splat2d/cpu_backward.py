"""Gradients of a picture: sums over the pixels of each tile, then over the tiles."""

from __future__ import annotations

import numpy as np
from numba import prange

from ops.compiling import allocating_kernel, kernel, parallel_kernel
from ops.splat2d.cpu_bins import (
    CX,
    CY,
    M00,
    M01,
    M10,
    M11,
    ZERO,
    F,
    inverse_scales,
)
from ops.splat2d.cpu_tiles import (
    FULL,
    add_product,
    allocate_scratch,
    copy_into,
    cut_below,
    multiply,
    pixel_centers,
    tile_box,
    weigh,
)


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
        copy_into(s.limit[row], threshold[y, across])
        for c in range(len(s.color)):
            multiply(s.color[c, row], grad[c, y, across], inverse[y, across])
            if normalized:
                add_product(s.total[row], s.color[c, row], image[c, y, across])


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
    weigh(w, g, px, py)
    cut_below(w, s.limit[lo:hi])
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
    pixel_centers(s.px, s.py, box)
    _fetch(s, grad, image, threshold, inverse, box, norm)
    for j in range(len(owners)):
        i = owners[j]
        _differentiate_entry(s, partial[slots[j]], geometry[i], feat[i], reach[j, 0], reach[j, 1])


@parallel_kernel
def backward(
    partial, grad, image, threshold, inverse, geometry, feat, tile_start, owners, slots, reach,
    tile, normalized, workers,
):  # fmt: skip
    """Fill the partial gradients per entry, (E, 5 + C): the moments, then dL/dfeature.

    Each entry has its own row, in Gaussian order, so that no two threads add to one number and
    the sums do not depend on timing.
    """
    channels, height, width = grad.shape
    tiles = len(tile_start) - 1
    for worker in prange(workers):
        s = allocate_scratch(tile, 0, channels)
        for t in range(worker, tiles, workers):
            begin, end = tile_start[t], tile_start[t + 1]
            if begin == end:
                continue
            _differentiate_tile(
                s, partial, grad, image, threshold, inverse, geometry, feat, owners[begin:end],
                slots[begin:end], reach[begin:end], tile_box(t, tile, width, height), normalized,
            )  # fmt: skip


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
