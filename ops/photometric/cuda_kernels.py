"""SSIM, L1 and L2 with their gradient on the GPU, for windows of rows of a picture.

Two kernels march down strips of columns. The first blurs the pictures and turns the result into
three maps; the second blurs those, which gives the gradient. Both blur across by loading a row's
neighbourhood of two columns per thread, and down by adding each row to the eleven rows of output
that it belongs to. Rows lie ``stride`` values apart, with zeros between them (``ops.planes``), so
that neighbours beyond the picture's edge need no test.

With d = x - y, D and N the denominator and numerator of the contrast-structure term cs, l the
luminance term: D - N is the variance of d. So 1 - cs is computed without the cancellation of the
textbook form, and the derivatives of S = l cs are written by it:

    e = 2 dS/dE[x²] + dS/dE[xy] = 2 l (1 - cs) / D          c = dS/dE[xy] = 2 l / D
    a = dS/dE[x] = cs dl/dE[x] - E[x] e + E[d] c
    d(sum of S)/dx(p) = sum of window(q - p) (a(q) + x(p) e(q) - d(p) c(q)) over q
"""

from __future__ import annotations

import triton
import triton.language as tl

from ops.photometric import reference

RADIUS = tl.constexpr(reference.WINDOW_RADIUS)
TAPS = tl.constexpr(2 * reference.WINDOW_RADIUS + 1)
WINDOW = tl.constexpr(tuple(reference.gaussian_window()))
C1, C2 = tl.constexpr(reference.C1), tl.constexpr(reference.C2)
# Sums of partial sums as integers: they do not depend on the order of adding.
FIXED_POINT = float(1 << 30)
POINT = tl.constexpr(FIXED_POINT)
L1, L2, SSIM = range(3)  # where the sums are
PAIRS = 7  # aligned pairs of columns that hold the neighbourhood of one


@triton.jit
def _value(stored):
    """Stored values as float32; those of 8 bits are stored times 255."""
    if stored.dtype == tl.uint8:
        # 1 + n / 2^8 has the bits of n in its middle, which spares the GPU a slow conversion.
        bits = stored.to(tl.int32) * 32768 + 0x3F800000
        return bits.to(tl.float32, bitcast=True) * (256.0 / 255.0) - 256.0 / 255.0
    return stored.to(tl.float32)


@triton.jit
def _ask(row, COUNT: tl.constexpr):
    """Load columns -6 to 7 around the first of each pair."""
    pairs = ()
    for k in tl.static_range(COUNT):
        pairs = pairs + (tl.load(row + (2 * k - 6)),)
    return pairs


@triton.jit
def _neighbourhood(pairs, COUNT: tl.constexpr):
    """What was asked for, as one column after the other."""
    values = ()
    for k in tl.static_range(COUNT):
        values = values + tl.split(_value(pairs[k]))
    return values


@triton.jit
def _zeros(WIDTH: tl.constexpr, COUNT: tl.constexpr):
    rows = ()
    for _ in tl.static_range(COUNT):
        rows = rows + (tl.zeros((WIDTH,), tl.float32),)
    return rows


@triton.jit
def _times(rows, factor, COUNT: tl.constexpr):
    """All rows times a number: 0 for those beyond the picture, which were read from its edge."""
    out = ()
    for k in tl.static_range(COUNT):
        out = out + (rows[k] * factor,)
    return out


@triton.jit
def _spread(pending, row, TAPS: tl.constexpr):
    """Add a row to all rows of output that it belongs to; the first of them is then complete.

    ``pending`` holds the first column of each pair, then the second.
    """
    rows = ()
    for side in tl.static_range(2):
        for k in tl.static_range(TAPS - 1):
            rows = rows + (pending[side * TAPS + k + 1] + row[side] * WINDOW[TAPS - 1 - k],)
        rows = rows + (row[side] * WINDOW[0],)
    return rows


@triton.jit
def _add(sums, which: tl.constexpr, values, flags, FLAG: tl.constexpr):
    total = tl.sum(values, 0)
    finite = total * 0.0 == 0.0
    if finite:
        tl.atomic_add(sums + which, (total * POINT).to(tl.int64), sem="relaxed")
    else:
        tl.atomic_or(flags, FLAG)


@triton.jit
def _blur_pictures(xs, ys, WIDTH: tl.constexpr, TAPS: tl.constexpr):
    """Blur d, y, d² and x² + y² across: for each the first and the second column of each pair."""
    out = _zeros(WIDTH, 8)
    for t in tl.static_range(1, TAPS + 2):
        x, y = xs[t], ys[t]
        d = x - y
        d2, power = d * d, x * x + y * y
        if t <= TAPS:
            out = (
                out[0] + d * WINDOW[t - 1], out[1], out[2] + y * WINDOW[t - 1], out[3],
                out[4] + d2 * WINDOW[t - 1], out[5], out[6] + power * WINDOW[t - 1], out[7],
            )  # fmt: skip
        if t > 1:
            out = (
                out[0], out[1] + d * WINDOW[t - 2], out[2], out[3] + y * WINDOW[t - 2],
                out[4], out[5] + d2 * WINDOW[t - 2], out[6], out[7] + power * WINDOW[t - 2],
            )  # fmt: skip
    return out


@triton.jit
def _similarity(mean_d, mean_y, mean_d2, power):
    """SSIM from blurred values, and the maps a, e, c."""
    mean_x = mean_d + mean_y
    squares = mean_x * mean_x + mean_y * mean_y
    per_variance = 1.0 / (tl.maximum(power - squares, 0.0) + C2)
    unlike = (mean_d2 - mean_d * mean_d) * per_variance  # 1 - cs
    alike = 1.0 - unlike
    per_light = 1.0 / (squares + C1)
    dim = mean_d * mean_d * per_light  # 1 - l
    luminance = 1.0 - dim
    c = 2.0 * luminance * per_variance
    e = c * unlike
    a = alike * 2.0 * (dim * mean_x - mean_d) * per_light - mean_x * e + mean_d * c
    return luminance * alike, a, e, c


@triton.jit(
    do_not_specialize=["height", "target_plane", "first", "end", "sum_first", "sum_end", "lines"]
)
def similarity(
    image, target, maps, sums, flags,
    height, width, stride, target_plane, first, end, sum_first, sum_end, lines,
    WIDTH: tl.constexpr, STORE: tl.constexpr, TAPS: tl.constexpr,
    PAIRS: tl.constexpr, SSIM: tl.constexpr, FLAG: tl.constexpr,
):  # fmt: skip
    """Sum SSIM over the rows [sum_first, sum_end) of a window (C, height, width).

    With ``STORE`` also write the maps a, e, c of the rows [first, end), (3, C, end - first, width),
    of which the others are a part. ``WIDTH`` is the number of pairs of columns.
    """
    columns = tl.program_id(0) * (2 * WIDTH) + 2 * tl.arange(0, WIDTH)
    begin = first + tl.program_id(1) * lines
    stop = tl.minimum(begin + lines, end)
    channel = tl.program_id(2).to(tl.int64)
    pairs = columns[:, None] + tl.arange(0, 2)[None, :]
    image += channel * height * stride
    target += channel * target_plane
    plane = tl.num_programs(2).to(tl.int64) * (end - first) * stride
    maps += channel * (end - first) * stride
    difference, level = _zeros(WIDTH, 2 * TAPS), _zeros(WIDTH, 2 * TAPS)
    difference2, power = _zeros(WIDTH, 2 * TAPS), _zeros(WIDTH, 2 * TAPS)
    total = tl.zeros((WIDTH,), tl.float32)
    for row in range(begin - RADIUS, stop + RADIUS):
        here = tl.minimum(tl.maximum(row, 0), height - 1) * stride + pairs
        xs, ys = _ask(image + here, PAIRS), _ask(target + here, PAIRS)
        xs, ys = _neighbourhood(xs, PAIRS), _neighbourhood(ys, PAIRS)
        present = ((row >= 0) & (row < height)).to(tl.float32)
        across = _times(_blur_pictures(xs, ys, WIDTH, TAPS), present, 8)
        difference = _spread(difference, (across[0], across[1]), TAPS)
        level = _spread(level, (across[2], across[3]), TAPS)
        difference2 = _spread(difference2, (across[4], across[5]), TAPS)
        power = _spread(power, (across[6], across[7]), TAPS)
        q = row - RADIUS
        if q >= begin:
            s0, a0, e0, c0 = _similarity(difference[0], level[0], difference2[0], power[0])
            s1, a1, e1, c1 = _similarity(
                difference[TAPS], level[TAPS], difference2[TAPS], power[TAPS]
            )
            if (q >= sum_first) & (q < sum_end):
                total += tl.where(columns < width, s0, 0.0)
                total += tl.where(columns + 1 < width, s1, 0.0)
            if STORE:
                out = maps + (q - first) * stride + pairs
                shown = pairs < width
                tl.store(out, tl.join(a0, a1), mask=shown)
                tl.store(out + plane, tl.join(e0, e1), mask=shown)
                tl.store(out + 2 * plane, tl.join(c0, c1), mask=shown)
    _add(sums, SSIM, total, flags, FLAG)


@triton.jit
def _ask_maps(maps, plane, row, stride, pairs, first, end, PAIRS: tl.constexpr):
    """Load a row of the three maps, or one nearby, before the row above it is used."""
    here = maps + (tl.minimum(tl.maximum(row, first), end - 1) - first) * stride + pairs
    return _ask(here, PAIRS), _ask(here + plane, PAIRS), _ask(here + 2 * plane, PAIRS)


@triton.jit
def _blur_map(values, WIDTH: tl.constexpr, TAPS: tl.constexpr):
    """Blur one map across: the first and the second column of each pair."""
    out = _zeros(WIDTH, 2)
    for t in tl.static_range(1, TAPS + 2):
        if t <= TAPS:
            out = (out[0] + values[t] * WINDOW[t - 1], out[1])
        if t > 1:
            out = (out[0], out[1] + values[t] * WINDOW[t - 2])
    return out


@triton.jit(
    do_not_specialize=[
        "height", "target_plane", "first", "end", "grad_first", "grad_rows", "map_first", "map_end",
        "counted_first", "counted_end", "lines", "l1", "l2", "ssim",
    ]
)  # fmt: skip
def gradient(
    image, target, maps, grad, sums, flags,
    height, width, stride, target_plane, first, end, grad_first, grad_rows, map_first, map_end,
    counted_first, counted_end, lines, l1, l2, ssim,
    WIDTH: tl.constexpr, STORE: tl.constexpr, WITH_SSIM: tl.constexpr,
    TAPS: tl.constexpr, PAIRS: tl.constexpr, L1: tl.constexpr, L2: tl.constexpr,
    FLAG: tl.constexpr,
):  # fmt: skip
    """Sum |d| and d² over the rows [first, end) of a window, as far as they count.

    With ``STORE`` also write the gradient of l1 |d| + l2 d² - ssim S for these rows, into ``grad``
    (C, grad_rows, width) beginning at the row ``grad_first``. The maps are there for the rows
    [map_first, map_end). ``WIDTH`` is the number of pairs of columns.
    """
    columns = tl.program_id(0) * (2 * WIDTH) + 2 * tl.arange(0, WIDTH)
    begin = first + tl.program_id(1) * lines
    stop = tl.minimum(begin + lines, end)
    channel = tl.program_id(2).to(tl.int64)
    pairs = columns[:, None] + tl.arange(0, 2)[None, :]
    shown = pairs < width
    image += channel * height * stride
    target += channel * target_plane
    grad += channel * grad_rows * stride
    plane = tl.num_programs(2).to(tl.int64) * (map_end - map_first) * stride
    maps += channel * (map_end - map_first) * stride
    pending_a, pending_e = _zeros(WIDTH, 2 * TAPS), _zeros(WIDTH, 2 * TAPS)
    pending_c = _zeros(WIDTH, 2 * TAPS)
    sum1, sum2 = tl.zeros((WIDTH, 2), tl.float32), tl.zeros((WIDTH, 2), tl.float32)
    before = 0
    if WITH_SSIM and STORE:
        before = RADIUS
    around = ()
    if WITH_SSIM and STORE:
        row = begin - before
        around = _ask_maps(maps, plane, row, stride, pairs, map_first, map_end, PAIRS)
    for row in range(begin - before, stop + before):
        p = row - before
        here = tl.maximum(p, begin) * stride + pairs
        stored_x, stored_y = tl.load(image + here), tl.load(target + here)  # used late
        if WITH_SSIM and STORE:
            now = around
            around = _ask_maps(maps, plane, row + 1, stride, pairs, map_first, map_end, PAIRS)
            present = ((row >= map_first) & (row < map_end)).to(tl.float32)
            a = _times(_blur_map(_neighbourhood(now[0], PAIRS), WIDTH, TAPS), present, 2)
            e = _times(_blur_map(_neighbourhood(now[1], PAIRS), WIDTH, TAPS), present, 2)
            c = _times(_blur_map(_neighbourhood(now[2], PAIRS), WIDTH, TAPS), present, 2)
            pending_a = _spread(pending_a, a, TAPS)
            pending_e = _spread(pending_e, e, TAPS)
            pending_c = _spread(pending_c, c, TAPS)
        if p >= begin:
            x = _value(stored_x)
            d = tl.where(shown, x - _value(stored_y), 0.0)
            counted = (p >= counted_first) & (p < counted_end)
            d_counted = d * counted.to(tl.float32)
            sum1 += tl.abs(d_counted)
            sum2 += d_counted * d_counted
            if STORE:
                sign = tl.where(d_counted > 0.0, 1.0, tl.where(d_counted < 0.0, -1.0, 0.0))
                slope = l1 * sign + 2.0 * l2 * d_counted
                if WITH_SSIM:
                    blurred = tl.join(pending_a[0], pending_a[TAPS])
                    blurred += x * tl.join(pending_e[0], pending_e[TAPS])
                    blurred -= d * tl.join(pending_c[0], pending_c[TAPS])
                    slope -= ssim * blurred
                tl.store(grad + (p - grad_first) * stride + pairs, slope, mask=shown)
    _add(sums, L1, tl.sum(sum1, 1), flags, FLAG)
    _add(sums, L2, tl.sum(sum2, 1), flags, FLAG)
