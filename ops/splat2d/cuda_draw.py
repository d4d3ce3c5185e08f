"""Draws the tiles of a picture on the GPU: one warp a tile, which first lists who reaches it."""

from __future__ import annotations

import triton
import triton.language as tl

from ops.splat2d import cuda_select
from ops.splat2d.cuda_lists import COLUMNS, FEATURE_COLUMN

CHUNK = tl.constexpr(64)  # Gaussians of a cell that are tested at a time
WORD = tl.constexpr(32)  # Gaussians of a tile that are drawn before those that count are noted
PAD = tl.constexpr(cuda_select.BATCH)  # a list is read so many entries at a time, at most
FETCH = 2  # Gaussians of a tile that are loaded at a time
MARGIN = tl.constexpr(0.75)  # of the smallest weight that counted, below which none is expected to
SHARDS = 32  # parts of the memory for tile lists, each with a cursor of its own


@triton.jit
def _floats(pair):
    """The two float32 values that were loaded as one integer."""
    low = pair.to(tl.int32).to(tl.float32, bitcast=True)
    high = (pair >> 32).to(tl.int32).to(tl.float32, bitcast=True)
    return low, high


@triton.jit
def _touching(members, shapes, capacity, at, end, x0, y0, x1, y1, cut):
    """Gaussians of one chunk of a cell's list, and which reach a pixel centre in a rectangle.

    The smallest squared distance |M d|² over the rectangle lies at its inside (0), or on the
    nearest vertical or horizontal edge.
    """
    j = at + tl.arange(0, CHUNK)
    valid = j < end
    i = tl.load(members + j, mask=valid, other=0)
    cx, cy = _floats(tl.load(shapes + j, mask=valid, other=0))
    a, b = _floats(tl.load(shapes + capacity + j, mask=valid, other=0))
    c, d = _floats(tl.load(shapes + 2 * capacity + j, mask=valid, other=0))
    down, across = _floats(tl.load(shapes + 3 * capacity + j, mask=valid, other=0))
    left, right, top, bottom = x0 - cx, x1 - cx, y0 - cy, y1 - cy
    near_x = tl.minimum(tl.maximum(left, 0.0), right)
    near_y = tl.minimum(tl.maximum(top, 0.0), bottom)
    y = tl.minimum(tl.maximum(down * near_x, top), bottom)
    x = tl.minimum(tl.maximum(across * near_y, left), right)
    u, v = a * near_x + b * y, c * near_x + d * y
    on_vertical = u * u + v * v
    u, v = a * x + b * near_y, c * x + d * near_y
    on_horizontal = u * u + v * v
    beyond = (on_vertical > cut) & (on_horizontal > cut)  # false where not a number
    within = (near_x == 0.0) & (near_y == 0.0)
    return i, valid & (within | (beyond == 0))


@triton.jit
def _fetch(rows, owners, COUNT: tl.constexpr, FEATURES: tl.constexpr):
    """The next Gaussians of a list: index, centre, matrix and features of each, in one tuple.

    They are loaded together, because waiting for one after the other would cost more than drawing,
    and two numbers at a time, because loading is what limits drawing small tiles.
    """
    found = ()
    for k in tl.static_range(COUNT):
        i = tl.load(owners + k)
        row = rows + i.to(tl.int64) * (COLUMNS // 2)
        found = found + (i,)
        for j in tl.static_range((FEATURE_COLUMN + FEATURES + 1) // 2):
            found = found + _floats(tl.load(row + j))
    return found


@triton.jit
def _weigh(found, at: tl.constexpr, xs, ys):
    """Weight at pixel centres of the fetched Gaussian whose index stands at a place."""
    dx, dy = xs - found[at + 1], ys - found[at + 2]
    u = found[at + 3] * dx + found[at + 4] * dy
    v = found[at + 5] * dx + found[at + 6] * dy
    return tl.exp2((u * u + v * v) * -1.0)


@triton.jit
def _fill(value, TILE: tl.constexpr):
    return tl.zeros((TILE, TILE), tl.float32) + value


@triton.jit
def _zeros(TILE: tl.constexpr, COUNT: tl.constexpr):
    planes = ()
    for _ in tl.static_range(COUNT):
        planes = planes + (tl.zeros((TILE, TILE), tl.float32),)
    return planes


@triton.jit
def _pad(owners, end, nobody):
    """Make a list a multiple of what is read at once, with a Gaussian that reaches nothing."""
    tl.store(owners + end + tl.arange(0, PAD), tl.zeros((PAD,), tl.int32) + nobody)
    tl.debug_barrier()  # what one lane wrote, others read


@triton.jit
def _list_tile(
    members, shapes, capacity, begin, end, owners, nobody, left, above, cut,
    TILE: tl.constexpr,
):  # fmt: skip
    """Write those of a cell's list that reach a pixel centre of a tile; returns how many."""
    n = 0
    for at in range(begin, end, CHUNK):
        i, hit = _touching(
            members, shapes, capacity, at, end, left, above, left + (TILE - 1), above + (TILE - 1),
            cut,
        )  # fmt: skip
        ones = hit.to(tl.int32)
        tl.store(owners + n + tl.cumsum(ones, 0) - 1, i, mask=hit)
        n += tl.sum(ones, 0)
    _pad(owners, n, nobody)
    return n


@triton.jit
def _batch(rows, owners, xs, ys, BATCH: tl.constexpr, FETCH: tl.constexpr):
    """Weights of the next Gaussians of a list, sorted."""
    weights = ()
    for part in tl.static_range(0, BATCH, FETCH):
        found = _fetch(rows, owners + part, FETCH, 0)
        for k in tl.static_range(FETCH):
            weights = weights + (_weigh(found, k * (FEATURE_COLUMN + 1), xs, ys),)
    return cuda_select.sort_batch(weights, BATCH)


@triton.jit
def _kth_largest(
    rows, owners, n, xs, ys, TILE: tl.constexpr, TOPK: tl.constexpr,
    FETCH: tl.constexpr, BATCH: tl.constexpr,
):  # fmt: skip
    """Each pixel's K-th largest weight; n > K."""
    largest = _zeros(TILE, TOPK)
    last = (n - 1) // BATCH * BATCH
    for at in range(0, last, BATCH):
        batch = _batch(rows, owners + at, xs, ys, BATCH, FETCH)
        largest = cuda_select.sort_merged(cuda_select.merge(largest, batch, TOPK, BATCH), TOPK)
    batch = _batch(rows, owners + last, xs, ys, BATCH, FETCH)
    return cuda_select.smallest(cuda_select.merge(largest, batch, TOPK, BATCH), TOPK)


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


@triton.jit
def _bits(word):
    """How many bits of each int32 are set."""
    word -= (word >> 1) & 0x55555555
    word = (word & 0x33333333) + ((word >> 2) & 0x33333333)
    word = (word + (word >> 4)) & 0x0F0F0F0F
    return (word * 0x01010101) >> 24


@triton.jit
def _sum_colors(
    rows, feat, owners, n, limit, xs, ys, first, channels, last,
    TILE: tl.constexpr, GROUP: tl.constexpr, FEATURES: tl.constexpr,
    FETCH: tl.constexpr,
):  # fmt: skip
    """Sums of w and of w * colour for some channels, over the weights that are large enough.

    ``FEATURES`` of the channels are in the table of Gaussians, all or none. If these channels are
    the last, the list is reduced to those that count anywhere. Returns the sums, the length of the
    list, and bits for those of its last word that count at each pixel.
    """
    total = _fill(0.0, TILE)
    colors = _zeros(TILE, GROUP)
    counting = tl.zeros((TILE, TILE), tl.int32)
    kept = 0
    size: tl.constexpr = 1 + (FEATURE_COLUMN + FEATURES + 1) // 2 * 2
    for base in range(0, n, WORD):
        counting = tl.zeros((TILE, TILE), tl.int32)
        end = tl.minimum(base + WORD, n)
        for at in range(base, end, FETCH):
            found = _fetch(rows, owners + at, FETCH, FEATURES)
            for k in tl.static_range(FETCH):
                w = _weigh(found, k * size, xs, ys)
                enough = w >= limit
                w = tl.where(enough, w, 0.0)
                total += w
                sums = ()
                for c in tl.static_range(GROUP):
                    if FEATURES > 0:
                        f = found[k * size + 1 + FEATURE_COLUMN + c]
                    else:
                        own = feat + tl.where(at + k < end, found[k * size], 0) * channels
                        f = tl.load(own + first + c, mask=channels > first + c, other=0.0)
                    sums = sums + (colors[c] + w * f,)
                colors = sums
                counting |= tl.where(enough, 1 << (at - base + k), 0)
        if last:
            kept += _keep(owners, base, end, kept, counting)
    if not last:
        kept = n
    return total, colors, kept, counting


@triton.jit(
    do_not_specialize=[
        "capacity", "member_capacity", "nobody", "channels", "height", "top",
        "cells_x", "shift",
    ]
)  # fmt: skip
def forward(
    rows, feat, members, shapes, cell_lists, owners, tile_start, tile_count, image, threshold,
    inverse, guess, cursors, flags, needed, capacity, member_capacity, nobody,
    channels, width, stride, height, top, cells_x, shift,
    w_min, cut, tie, eps,
    TILE: tl.constexpr, TOPK: tl.constexpr, GROUP: tl.constexpr,
    FEATURES: tl.constexpr, GUESS: tl.constexpr, FETCH: tl.constexpr, BATCH: tl.constexpr,
    SHARDS: tl.constexpr, OVERFLOW: tl.constexpr,
):  # fmt: skip
    """Draw one tile of the rows [top, top + height) of a picture.

    Rows of all planes are ``stride`` values apart. The tile's list goes to one of ``SHARDS`` parts
    of ``owners``, ``capacity`` long, because all tiles would wait for a single cursor.

    ``guess`` (tiles) holds a weight that every pixel's K-th largest one is expected to exceed,
    from the last time this tile was drawn. Gaussians that stay below it everywhere in the tile are
    left out; where the expectation turns out wrong, the tile is drawn again without it. It is
    negative where more than K reached some pixels, but not all. Where nothing is known and the list
    is short, it is expected that no more than K reach a pixel.
    """
    tiles_x = tl.cdiv(width, TILE)
    tile = tl.program_id(0)
    x0, y0 = tile % tiles_x * TILE, tile // tiles_x * TILE
    cell = (y0 >> shift) * cells_x + (x0 >> shift)
    begin = tl.minimum(tl.load(cell_lists + 2 * cell), member_capacity)
    end = tl.minimum(tl.load(cell_lists + 2 * cell + 1), member_capacity)
    columns, lines = tl.arange(0, TILE), tl.arange(0, TILE)
    xs = (x0 + columns + 0.5)[None, :]
    ys = (top + y0 + lines + 0.5)[:, None]
    inside = (x0 + columns < width)[None, :] & (y0 + lines < height)[:, None]

    # Room for the whole list of the cell: asking for less would mean to test it twice.
    room = end - begin + PAD
    start = tl.atomic_add(cursors + tile % SHARDS, room, sem="relaxed")
    if start + room > capacity:
        tl.atomic_or(flags, OVERFLOW)
        tl.atomic_max(needed + 1, start + room)
        start, end = 0, begin
    start += tile % SHARDS * capacity
    listed = owners + start
    guess += (top // TILE) * tiles_x + tile
    expected = 0.0
    if GUESS:
        expected = tl.load(guess)
    crowded = expected < 0.0
    limit = _fill(w_min, TILE)
    n = 0
    unsure = False
    settled = False
    while not settled:
        reach = cut
        if expected > w_min:
            reach = -tl.log2(expected) * 1.001 + 1e-3
        n = _list_tile(
            members, shapes, member_capacity, begin, end, listed, nobody, x0 + 0.5, top + y0 + 0.5,
            reach, TILE,
        )  # fmt: skip
        limit = _fill(w_min, TILE)
        if TOPK > 0:
            unsure = (n > TOPK) & (n <= WORD) & (expected <= w_min) & (crowded == 0)
            if (n > TOPK) & (unsure == 0):
                kth = _kth_largest(rows, listed, n, xs, ys, TILE, TOPK, FETCH, BATCH)
                limit = tl.maximum(limit, kth * tie)
        lowest = tl.min(tl.where(inside, limit, 1.0))
        settled = (expected <= w_min) | (lowest >= expected)
        expected = tl.where(settled, lowest, 0.0)

    pixel = (y0 + lines)[:, None] * stride + (x0 + columns)[None, :]
    plane = height.to(tl.int64) * stride
    first = 0
    while first < channels:
        total, colors, n, counting = _sum_colors(
            rows, feat, listed, n, limit, xs, ys, first, channels, first + GROUP >= channels,
            TILE, GROUP, FEATURES, FETCH,
        )  # fmt: skip
        if TOPK > 0:
            unsure = unsure & (tl.max(_bits(counting)) > TOPK)
        if unsure:
            if TOPK > 0:
                _pad(listed, n, nobody)
                kth = _kth_largest(rows, listed, n, xs, ys, TILE, TOPK, FETCH, BATCH)
                limit = tl.maximum(limit, kth * tie)
            expected = tl.min(tl.where(inside, limit, 1.0))
            unsure = False
        else:
            scale = _fill(1.0, TILE)
            if TOPK > 0:
                scale = 1.0 / (total + eps)
            for c in tl.static_range(GROUP):
                if channels > first + c:
                    tl.store(image + (first + c) * plane + pixel, colors[c] * scale, mask=inside)
            if first == 0:
                tl.store(threshold + pixel, limit, mask=inside)
                tl.store(inverse + pixel, scale, mask=inside)
            first += GROUP
    _pad(listed, n, nobody)
    if GUESS:
        somewhere = (tl.max(limit) > w_min) & (expected <= w_min)
        tl.store(guess, tl.where(somewhere, -1.0, expected * MARGIN))
    tl.store(tile_start + tile, start)
    tl.store(tile_count + tile, n)
