"""Draws the tiles of a picture on the GPU: one warp a tile, which first lists who reaches it."""

from __future__ import annotations

import triton
import triton.language as tl

from ops.splat2d.cuda_lists import COLUMNS

CHUNK = tl.constexpr(64)  # Gaussians of a cell that are tested at a time
WORD = tl.constexpr(32)
FETCH = 4  # Gaussians of a tile that are loaded at a time
FAR = tl.constexpr(0x5D5E0B6B5D5E0B6B)  # 1e18 twice, as float32
ONES = tl.constexpr(0x3F8000003F800000)
MARGIN = tl.constexpr(0.75)  # of the smallest weight that counted, below which none is expected to
SHARDS = 32  # parts of the memory for tile lists, each with a cursor of its own


@triton.jit
def _touching(members, shapes, capacity, at, end, x0, y0, x1, y1, cut):
    """Gaussians of one chunk of a cell's list, and which reach a pixel centre in a rectangle.

    The smallest squared distance |M d|² over the rectangle lies at its inside (0), or on the
    nearest vertical or horizontal edge.
    """
    j = at + tl.arange(0, CHUNK)
    valid = j < end
    i = tl.load(members + j, mask=valid, other=0)
    cx = tl.load(shapes + j, mask=valid, other=0.0)
    cy = tl.load(shapes + capacity + j, mask=valid, other=0.0)
    a = tl.load(shapes + 2 * capacity + j, mask=valid, other=1.0)
    b = tl.load(shapes + 3 * capacity + j, mask=valid, other=0.0)
    c = tl.load(shapes + 4 * capacity + j, mask=valid, other=0.0)
    d = tl.load(shapes + 5 * capacity + j, mask=valid, other=1.0)
    left, right, top, bottom = x0 - cx, x1 - cx, y0 - cy, y1 - cy
    near_x = tl.minimum(tl.maximum(left, 0.0), right)
    near_y = tl.minimum(tl.maximum(top, 0.0), bottom)
    mixed = a * b + c * d
    y = tl.minimum(tl.maximum(-mixed * near_x / (b * b + d * d), top), bottom)
    x = tl.minimum(tl.maximum(-mixed * near_y / (a * a + c * c), left), right)
    u, v = a * near_x + b * y, c * near_x + d * y
    on_vertical = u * u + v * v
    u, v = a * x + b * near_y, c * x + d * near_y
    on_horizontal = u * u + v * v
    beyond = (on_vertical > cut) & (on_horizontal > cut)  # false where not a number
    within = (near_x == 0.0) & (near_y == 0.0)
    return i, valid & (within | (beyond == 0))


@triton.jit
def _floats(pair):
    """The two float32 values that were loaded as one integer."""
    low = pair.to(tl.int32).to(tl.float32, bitcast=True)
    high = (pair >> 32).to(tl.int32).to(tl.float32, bitcast=True)
    return low, high


@triton.jit
def _fetch(pairs, owners, at, end, COUNT: tl.constexpr):
    """Some Gaussians of a list: index, centre and matrix of each, in one tuple.

    They are loaded together, because waiting for one after the other would cost more than drawing,
    and two numbers at a time, because loading is what limits drawing small tiles. Beyond the end
    of the list the last one is repeated, from so far away that its weight is 0.
    """
    found = ()
    for k in tl.static_range(COUNT):
        i = tl.load(owners + tl.minimum(at + k, end - 1))
        row = pairs + i * (COLUMNS // 2)
        center = _floats(tl.load(row, mask=at + k < end, other=FAR))
        top = _floats(tl.load(row + 1, mask=at + k < end, other=ONES))
        bottom = _floats(tl.load(row + 2, mask=at + k < end, other=ONES))
        found = found + (i,) + center + top + bottom
    return found


@triton.jit
def _weigh(found, k: tl.constexpr, xs, ys):
    """Weight of one of the fetched Gaussians at pixel centres."""
    dx, dy = xs - found[7 * k + 1], ys - found[7 * k + 2]
    u = found[7 * k + 3] * dx + found[7 * k + 4] * dy
    v = found[7 * k + 5] * dx + found[7 * k + 6] * dy
    return tl.exp2(-(u * u + v * v))


@triton.jit
def _zeros(TILE: tl.constexpr, COUNT: tl.constexpr):
    planes = ()
    for _ in tl.static_range(COUNT):
        planes = planes + (tl.zeros((TILE, TILE), tl.float32),)
    return planes


@triton.jit
def _insert(largest, w, COUNT: tl.constexpr):
    """Put weights into each pixel's descending list of the largest ones so far."""
    planes = ()
    for k in tl.static_range(COUNT):
        planes = planes + (tl.maximum(largest[k], w),)
        w = tl.minimum(largest[k], w)
    return planes


@triton.jit
def _add_colors(colors, w, feat, i, first, channels, COUNT: tl.constexpr):
    planes = ()
    for c in tl.static_range(COUNT):
        f = tl.load(feat + i * channels + first + c, mask=channels > first + c, other=0.0)
        planes = planes + (colors[c] + w * f,)
    return planes


@triton.jit
def _or(a, b):
    return a | b


@triton.jit
def _keep(owners, begin, end, place, counting):
    """Move those of a word of Gaussians that count at some pixel to a place before them.

    Each bit of ``counting`` (pixels) stands for one. Returns how many stay.
    """
    j = begin + tl.arange(0, WORD)
    i = tl.load(owners + j, mask=j < end, other=0)
    stay = (tl.reduce(tl.ravel(counting), 0, _or) >> (j - begin)) & 1
    tl.store(owners + place + tl.cumsum(stay, 0) - 1, i, mask=(stay == 1) & (j < end))
    return tl.sum(tl.where(j < end, stay, 0), 0)


@triton.jit(
    do_not_specialize=[
        "capacity",
        "member_capacity",
        "channels",
        "rows",
        "top",
        "segments",
        "cells_x",
        "shift",
    ]
)
def forward(
    pairs, feat, members, shapes, ends, owners, tile_start, tile_count, image, threshold, inverse,
    guess, cursors, flags, needed, capacity, member_capacity,
    channels, width, stride, rows, top, segments, cells_x, shift,
    w_min, cut, tie, eps,
    TILE: tl.constexpr, TOPK: tl.constexpr, GROUP: tl.constexpr, GUESS: tl.constexpr,
    FETCH: tl.constexpr, SHARDS: tl.constexpr,
    OVERFLOW: tl.constexpr,
):  # fmt: skip
    """Draw one tile of the rows [top, top + rows) of a picture.

    Rows of all planes are ``stride`` values apart. The tile's list goes to one of ``SHARDS`` parts
    of ``owners``, ``capacity`` long, because all tiles would wait for a single cursor.

    ``guess`` (tiles) holds a weight that every pixel's K-th largest one is expected to exceed,
    from the last time this tile was drawn. Gaussians that stay below it everywhere in the tile are
    left out; where the expectation turns out wrong, the tile is drawn again without it.
    """
    tiles_x = tl.cdiv(width, TILE)
    tile = tl.program_id(0)
    tx, ty = tile % tiles_x, tile // tiles_x
    x0, y0 = tx * TILE, ty * TILE
    cell = (y0 >> shift) * cells_x + (x0 >> shift)
    begin = 0
    if cell > 0:
        begin = tl.load(ends + cell * segments - 1)
    begin = tl.minimum(begin, member_capacity)
    end = tl.minimum(tl.load(ends + (cell + 1) * segments - 1), member_capacity)
    columns, lines = tl.arange(0, TILE), tl.arange(0, TILE)
    xs = (x0 + columns + 0.5)[None, :]
    ys = (top + y0 + lines + 0.5)[:, None]
    inside = (x0 + columns < width)[None, :] & (y0 + lines < rows)[:, None]
    left, above = x0 + 0.5, top + y0 + 0.5
    right, below = left + TILE - 1, above + TILE - 1

    expected = 0.0
    if GUESS:
        expected = tl.load(guess + (top // TILE) * tiles_x + tile)
    limit = tl.zeros((TILE, TILE), tl.float32) + w_min
    # Room for the whole list of the cell: asking for less would mean to test it twice.
    start = tl.atomic_add(cursors + tile % SHARDS, end - begin, sem="relaxed")
    stop = end
    if start + end - begin > capacity:
        tl.atomic_or(flags, OVERFLOW)
        tl.atomic_max(needed + 1, start + end - begin)
        stop = begin
    start += tile % SHARDS * capacity
    n = 0
    drawn = False
    while not drawn:
        reach = cut
        if expected > w_min:
            reach = -tl.log2(expected) * 1.001 + 1e-3
        n = 0
        for at in range(begin, stop, CHUNK):
            i, hit = _touching(
                members, shapes, member_capacity, at, stop, left, above, right, below, reach
            )
            ones = hit.to(tl.int32)
            tl.store(owners + start + n + tl.cumsum(ones, 0) - 1, i, mask=hit)
            n += tl.sum(ones, 0)
        tl.debug_barrier()  # what one lane wrote, others read

        limit = tl.zeros((TILE, TILE), tl.float32) + w_min
        crowded = n > TOPK
        if TOPK > 0 and crowded:
            if (n <= 2 * TOPK) & (expected <= w_min):
                counts = tl.zeros((TILE, TILE), tl.float32)
                for at in range(start, start + n, FETCH):
                    found = _fetch(pairs, owners, at, start + n, FETCH)
                    for k in tl.static_range(FETCH):
                        counts += tl.where(_weigh(found, k, xs, ys) >= w_min, 1.0, 0.0)
                crowded = tl.max(counts) > TOPK
            if crowded:
                largest = _zeros(TILE, TOPK)
                for at in range(start, start + n, FETCH):
                    found = _fetch(pairs, owners, at, start + n, FETCH)
                    for k in tl.static_range(FETCH):
                        largest = _insert(largest, _weigh(found, k, xs, ys), TOPK)
                limit = tl.maximum(limit, largest[TOPK - 1] * tie)
        drawn = True
        if GUESS:
            lowest = tl.min(tl.where(inside, limit, 1.0))
            if expected > w_min and lowest < expected:
                expected = 0.0
                drawn = False
            else:
                expected = lowest
    if GUESS:
        tl.store(guess + (top // TILE) * tiles_x + tile, expected * MARGIN)

    pixel = (y0 + lines)[:, None] * stride + (x0 + columns)[None, :]
    plane = rows.to(tl.int64) * stride
    for first in range(0, channels, GROUP):
        total = tl.zeros((TILE, TILE), tl.float32)
        colors = _zeros(TILE, GROUP)
        last = first + GROUP >= channels
        kept = 0
        for base in range(start, start + n, WORD):
            counting = tl.zeros((TILE, TILE), tl.int32)
            end = tl.minimum(base + WORD, start + n)
            for at in range(base, end, FETCH):
                found = _fetch(pairs, owners, at, end, FETCH)
                for k in tl.static_range(FETCH):
                    w = _weigh(found, k, xs, ys)
                    enough = w >= limit
                    w = tl.where(enough, w, 0.0)
                    total += w
                    colors = _add_colors(colors, w, feat, found[7 * k], first, channels, GROUP)
                    counting |= tl.where(enough, 1 << (at - base + k), 0)
            if last:
                kept += _keep(owners, base, end, start + kept, counting)
        scale = tl.zeros((TILE, TILE), tl.float32) + 1.0
        if TOPK > 0:
            scale = 1.0 / (total + eps)
        for c in tl.static_range(GROUP):
            if channels > first + c:
                tl.store(image + (first + c) * plane + pixel, colors[c] * scale, mask=inside)
        if first == 0:
            tl.store(threshold + pixel, limit, mask=inside)
            tl.store(inverse + pixel, scale, mask=inside)
        if last:
            tl.store(tile_start + tile, start)
            tl.store(tile_count + tile, kept)
