"""Gradients of a picture on the GPU: each lane sums one Gaussian over the pixels of a block.

Sums of different blocks are added as 64-bit fixed-point numbers: integers add to the same sum in
any order, so that a training can be repeated to the last bit.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ops.splat2d.cuda_lists import COLUMNS, FEATURE_COLUMN, K2, inverse_scales

SIDE = 8  # pixels of a block in a row and in a column
HELD = 3  # channels whose sums are added together with the moments, at most
BLOCK = tl.constexpr(SIDE)
LANES = 4  # Gaussians at a time
# Gradients are scaled to about 1 per pixel, so that this keeps nine digits behind the point and
# ten before it.
FIXED_POINT = tl.constexpr(float(1 << 28))
MOMENTS = 5  # sums of t*X, t*Y, t*X², t*X*Y, t*Y², before those of w*h for each channel
FIRST_CHANNEL = tl.constexpr(MOMENTS)


@triton.jit
def _add(sums, value, mask):
    tl.atomic_add(sums, (value * FIXED_POINT).to(tl.int64), mask=mask, sem="relaxed")


@triton.jit
def _slope(grad, inside, factor):
    return tl.load(grad, mask=inside, other=0.0).to(tl.float32) * factor


@triton.jit
def _column(values):
    """A value per pixel, as the left operand of products with a value per Gaussian."""
    return values[:, None]


@triton.jit
def _row(v0, v1, v2, v3, v4, v5, v6, v7, LANES: tl.constexpr):
    """Eight sums of each Gaussian side by side, as they lie in memory.

    Added one after the other, they would cost the GPU's cache eight visits instead of two.
    """
    even = tl.join(tl.join(v0, v4), tl.join(v2, v6))
    odd = tl.join(tl.join(v1, v5), tl.join(v3, v7))
    return tl.reshape(tl.join(even, odd), (LANES * 8,))


@triton.jit
def _fetch(geometry, owners, at, LANES: tl.constexpr, GROUP: tl.constexpr):
    """Index, centre, matrix and first features of some Gaussians of a list, one a lane."""
    i = tl.load(owners + at + tl.arange(0, LANES)[None, :])
    row = geometry + i * COLUMNS
    found = (i,)
    for k in tl.static_range(FEATURE_COLUMN + GROUP):
        found = found + (tl.load(row + k),)
    return found


@triton.jit(do_not_specialize=["channels", "rows", "top", "first_row", "end_row"])
def backward(
    geometry, feat, owners, tile_start, tile_count, grad, image, threshold, inverse, sums, unit,
    channels, width, stride, rows, top, first_row, end_row,
    TILE: tl.constexpr, NORMALIZED: tl.constexpr, LANES: tl.constexpr,
    GROUP: tl.constexpr,
):  # fmt: skip
    """Add one block's sums to those of its Gaussians, (N, 5 + C) int64.

    With h = dL/dcolor * inverse and shift = h . color, the derivative of the loss by a weight is
    h . feature - shift; t is that times the weight, and (X, Y) = K * whiten @ d.
    ``grad`` holds the rows [first_row, end_row) of the window; it is multiplied by ``unit``. The
    first ``GROUP`` channels (at most all) stay in registers. Rows are ``stride`` values apart.
    """
    blocks_x = tl.cdiv(width, BLOCK)
    bx, by = tl.program_id(0) % blocks_x, tl.program_id(0) // blocks_x
    tile = (by * BLOCK // TILE) * tl.cdiv(width, TILE) + bx * BLOCK // TILE
    start, n = tl.load(tile_start + tile), tl.load(tile_count + tile)
    end = start + n
    last = start + tl.maximum(n - 1, 0) // LANES * LANES
    plane = rows.to(tl.int64) * stride
    grad_plane = (end_row - first_row).to(tl.int64) * stride
    grad -= first_row.to(tl.int64) * stride
    p = tl.arange(0, BLOCK * BLOCK)
    line = by * BLOCK + p // BLOCK
    column = bx * BLOCK + p % BLOCK
    differs = (column < width) & (line < rows) & (line >= first_row) & (line < end_row)
    pixel = line * stride + column
    # Everything that is needed first is asked for before anything is waited for.
    limit = tl.load(threshold + pixel, mask=differs, other=2.0)
    factor = tl.load(inverse + pixel, mask=differs, other=0.0) * tl.load(unit)
    slopes = ()
    for k in tl.static_range(GROUP):
        slopes = slopes + (tl.load(grad + k * grad_plane + pixel, mask=differs, other=0.0),)
    colors = ()
    for k in tl.static_range(GROUP):
        colors = colors + (tl.load(image + k * plane + pixel, mask=differs, other=0.0),)
    found = _fetch(geometry, owners, start, LANES, GROUP)
    shift = tl.zeros((BLOCK * BLOCK,), tl.float32)
    held = ()
    for k in tl.static_range(GROUP):
        first = slopes[k].to(tl.float32) * factor
        held = held + (_column(first),)
        shift += first * colors[k].to(tl.float32)
    for channel in range(GROUP, channels):
        color = tl.load(image + channel * plane + pixel, mask=differs, other=0.0).to(tl.float32)
        shift += _slope(grad + channel * grad_plane + pixel, differs, factor) * color
    if not NORMALIZED:
        shift = tl.zeros((BLOCK * BLOCK,), tl.float32)
    shift, limit = _column(shift), _column(limit)
    q = p[:, None]
    xs, ys = bx * BLOCK + q % BLOCK + 0.5, top + by * BLOCK + q // BLOCK + 0.5
    for at in range(start, end, LANES):
        current = found
        found = _fetch(geometry, owners, tl.minimum(at + LANES, last), LANES, GROUP)
        i = current[0]
        dx, dy = xs - current[1], ys - current[2]
        x, y = current[3] * dx + current[4] * dy, current[5] * dx + current[6] * dy
        w = tl.exp2(-(x * x + y * y))
        w = tl.where(w >= limit, w, 0.0)
        slope = -shift
        for k in tl.static_range(GROUP):
            slope += held[k] * current[7 + k]
        for channel in range(GROUP, channels):
            h = _column(_slope(grad + channel * grad_plane + pixel, differs, factor))
            valid = at + tl.arange(0, LANES)[None, :] < end
            slope += h * tl.load(feat + i * channels + channel, mask=valid, other=0.0)
            out = sums + i * (channels + FIRST_CHANNEL) + FIRST_CHANNEL + channel
            _add(out, tl.sum(h * w, 0, keep_dims=True), valid)
        t = w * slope
        tx, ty = t * x, t * y
        none = tl.zeros((1, LANES), tl.float32)
        second, third = none, none
        if GROUP > 1:
            second = tl.sum(held[1] * w, 0, keep_dims=True)
        if GROUP > 2:
            third = tl.sum(held[2] * w, 0, keep_dims=True)
        row = _row(
            tl.sum(tx, 0, keep_dims=True), tl.sum(ty, 0, keep_dims=True),
            tl.sum(tx * x, 0, keep_dims=True), tl.sum(tx * y, 0, keep_dims=True),
            tl.sum(ty * y, 0, keep_dims=True), tl.sum(held[0] * w, 0, keep_dims=True),
            second, third, LANES,
        )  # fmt: skip
        e = tl.arange(0, LANES * 8)
        j = at + e // 8
        valid_row = (j < end) & (e % 8 < FIRST_CHANNEL + GROUP) & (row != 0.0)
        out = sums + tl.load(owners + j, mask=j < end, other=0) * (channels + FIRST_CHANNEL)
        _add(out + e % 8, row, valid_row)


@triton.jit
def chain_rule(sums, scale, geometry, i, inside, channels, width, height, INVERSE: tl.constexpr):
    """Gradients of x, y, both scales and the angle of some Gaussians from their sums.

    With X = u (cos, sin) . d and Y = v (-sin, cos) . d, u and v the inverse scales:
    dX/drot = (u/v) Y and dY/drot = -(v/u) X. The stored X and Y, and the matrix, hold a factor K.
    """
    row = sums + i * (FIRST_CHANNEL + channels)
    factor = 1.0 / (FIXED_POINT * K2)
    sx = tl.load(row, mask=inside, other=0).to(tl.float32) * factor
    sy = tl.load(row + 1, mask=inside, other=0).to(tl.float32) * factor
    sxx = tl.load(row + 2, mask=inside, other=0).to(tl.float32) * factor
    sxy = tl.load(row + 3, mask=inside, other=0).to(tl.float32) * factor
    syy = tl.load(row + 4, mask=inside, other=0).to(tl.float32) * factor
    row = geometry + i * COLUMNS
    a, b = tl.load(row + 2, mask=inside, other=0.0), tl.load(row + 3, mask=inside, other=0.0)
    c, d = tl.load(row + 4, mask=inside, other=0.0), tl.load(row + 5, mask=inside, other=0.0)
    drawable = inside & ((a + b + c + d) * 0.0 == 0.0)
    a, b = tl.where(drawable, a, 0.0), tl.where(drawable, b, 0.0)
    c, d = tl.where(drawable, c, 0.0), tl.where(drawable, d, 0.0)
    u, v = inverse_scales(scale, i, drawable, INVERSE)
    if INVERSE:
        first, second = -sxx / u, -syy / v
    else:
        first, second = sxx * u, syy * v
    first = tl.where(tl.load(scale + 2 * i, mask=inside, other=1.0) < 0.0, -first, first)
    second = tl.where(tl.load(scale + 2 * i + 1, mask=inside, other=1.0) < 0.0, -second, second)
    angle = sxy * (v / u - u / v)
    return (sx * a + sy * c) * width, (sx * b + sy * d) * height, first, second, angle


@triton.jit
def feature_sum(sums, i, c, inside, channels):
    """Gradient of channel ``c`` of some Gaussians."""
    at = sums + i * (FIRST_CHANNEL + channels) + FIRST_CHANNEL + c
    return tl.load(at, mask=inside, other=0).to(tl.float32) * (1.0 / FIXED_POINT)


@triton.jit(do_not_specialize=["n", "channels"])
def collect(
    sums, scale, geometry, unit, xy_grad, scale_grad, rot_grad, feat_grad,
    n, channels, width, height, INVERSE: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """Write the gradients of the parameters, divided by ``unit``."""
    i = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    inside = i < n
    factor = 1.0 / tl.load(unit)
    x, y, first, second, angle = chain_rule(
        sums, scale, geometry, i, inside, channels, width, height, INVERSE
    )
    tl.store(xy_grad + 2 * i, x * factor, mask=inside)
    tl.store(xy_grad + 2 * i + 1, y * factor, mask=inside)
    tl.store(scale_grad + 2 * i, first * factor, mask=inside)
    tl.store(scale_grad + 2 * i + 1, second * factor, mask=inside)
    tl.store(rot_grad + i, angle * factor, mask=inside)
    for c in range(channels):
        f = feature_sum(sums, i, c, inside, channels)
        tl.store(feat_grad + i * channels + c, f * factor, mask=inside)
