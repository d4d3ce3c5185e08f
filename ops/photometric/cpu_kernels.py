"""The photometric loss with its gradient, and SSIM, for float32 in main memory (Numba).

The image enters SSIM through its error e = x - y, because the target's share can then be
computed once, and because small differences of large squares would lose half the digits. With
m = G e, q = G e², r = G(e y), where G is the Gaussian blur, and with the target's mean μ and
variance s,

    A1 = 2 μ (μ + m) + C1      B1 = A1 + m²
    A2 = 2 (s + r - μ m) + C2  B2 = A2 + q - m²       SSIM = (A1 / B1) (A2 / B2),

which is equation 13 of Wang et al. 2004. G is its own adjoint, so the gradient is
G(∂m) + 2 e G(∂q) + y G(∂r), where ∂m, ∂q, ∂r are the derivatives of SSIM.

A picture is cut into tiles of one channel each. A tile is done from start to end by one thread
in scratch memory that stays in its cache: it reads a border of 10 pixels more than it writes, and
recomputes what its neighbours compute there too, instead of exchanging it through memory.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from ops.compiling import inlined_kernel, parallel_kernel
from ops.photometric import reference

RADIUS = reference.WINDOW_RADIUS
BORDER = 2 * RADIUS  # a pixel's gradient depends on errors as far away as this
C1 = np.float32(reference.C1)
C2 = np.float32(reference.C2)
ZERO, ONE, TWO = np.float32(0), np.float32(1), np.float32(2)  # a plain 2.0 would be a float64
WINDOW64 = tuple(reference.gaussian_window()[: RADIUS + 1])  # symmetric: the first half will do
WINDOW = tuple(np.float32(weight) for weight in WINDOW64)

TILE_ROWS = 64
TILE_COLUMNS = 512
GROUP = 4  # rows blurred together down the columns: their windows share most of what they read
STRIDE = TILE_COLUMNS + 2 * BORDER + 12  # floats from one row of a plane to the next
PLANE = (TILE_ROWS + 2 * BORDER + GROUP) * STRIDE  # floats from one plane to the next


class TargetStatistics(NamedTuple):
    """The target's blurred mean and variance, (C, H, W) float32 each, set at counted rows only."""

    mean: np.ndarray
    variance: np.ndarray


class Tile(NamedTuple):
    """A rectangle of pixels of one channel: rows top to bottom, columns left to right."""

    channel: int
    top: int
    bottom: int
    left: int
    right: int


@inlined_kernel
def _sections(scratch):
    """Divide a thread's scratch into planes of errors (3), of SSIM (4) and of blurs (3).

    Planes lie PLANE apart in one array because LLVM must then prove less to vectorise a loop:
    given as seven arrays, it gives up.
    """
    return scratch[: 3 * PLANE], scratch[3 * PLANE : 7 * PLANE], scratch[7 * PLANE :]


@inlined_kernel
def _tile(row):
    return Tile(row[0], row[1], row[2], row[3], row[4])


@parallel_kernel
def loss(image, target, statistics, counted, weights, gradient, wants, tiles, scratch, sums):
    """Fill sums (tiles, 3): of |x-y|, (x-y)² and SSIM; and, where wanted, the gradient.

    The sums are over the counted rows, first to one past the last. The gradient must be 0 at the
    other rows: that of SSIM is added there, as far as the tiles go.
    """
    wants_ssim, wants_gradient = wants
    threads = len(scratch)
    for thread in numba.prange(threads):
        errors, partials, blurred = _sections(scratch[thread])
        for index in range(thread, len(tiles), threads):
            tile = _tile(tiles[index])
            _pixel_terms(
                image, target, counted, tile, weights, gradient, wants_gradient, sums[index]
            )
            if wants_ssim:
                _errors(image, target, tile, errors)
                _similarity(statistics, counted, tile, errors, blurred, partials)
                sums[index, 2] = _sum_of_similarity(tile, partials)
                if wants_gradient:
                    _add_similarity_gradient(
                        image, target, tile, partials, blurred, weights[2], gradient
                    )


@parallel_kernel
def similarity_map(image, target, statistics, similarity, tiles, scratch):
    """Fill similarity (C, H, W)."""
    threads = len(scratch)
    for thread in numba.prange(threads):
        errors, partials, blurred = _sections(scratch[thread])
        for index in range(thread, len(tiles), threads):
            tile = _tile(tiles[index])
            _errors(image, target, tile, errors)
            _similarity(statistics, (0, image.shape[1]), tile, errors, blurred, partials)
            for row in range(tile.top, tile.bottom):
                out = similarity[tile.channel, row, tile.left : tile.right]
                out[:] = _similarity_of_row(tile, partials, row)


@parallel_kernel
def blur_target(target, counted, statistics, threads):
    """Fill mean and variance at the counted rows, in float64: what is lost here stays lost."""
    channels, height, width = target.shape
    first, end = counted
    for thread in numba.prange(threads):
        sums = np.zeros(width + 2 * RADIUS)
        squares = np.zeros(width + 2 * RADIUS)
        for index in range(thread, channels * (end - first), threads):
            channel, row = index // (end - first), first + index % (end - first)
            sums[:] = 0
            squares[:] = 0
            for tap in range(max(-RADIUS, -row), min(RADIUS + 1, height - row)):
                weight = WINDOW64[RADIUS - abs(tap)]
                _add_row(target[channel, row + tap], weight, sums[RADIUS:], squares[RADIUS:])
            _mean_and_variance_row(
                sums, squares, statistics.mean[channel, row], statistics.variance[channel, row]
            )


@inlined_kernel
def _pixel_terms(image, target, counted, tile, weights, gradient, wants_gradient, sums):
    """Sum |x-y| and (x-y)² over a tile; where wanted, set the gradient of these two terms."""
    for row in range(max(tile.top, counted[0]), min(tile.bottom, counted[1])):
        x = image[tile.channel, row, tile.left : tile.right]
        y = target[tile.channel, row, tile.left : tile.right]
        absolute, squared = _error_sums_row(x, y)
        sums[0] += absolute
        sums[1] += squared
        if wants_gradient:
            g = gradient[tile.channel, row, tile.left : tile.right]
            _error_gradient_row(x, y, weights[0], weights[1], g)


@inlined_kernel
def _errors(image, target, tile, errors):
    """Set planes e, e² and e y, of the tile and BORDER pixels around it."""
    height, width = image.shape[1:]
    first, last = max(tile.left - BORDER, 0), min(tile.right + BORDER, width)
    margin = first - tile.left + BORDER
    span = tile.right - tile.left + 2 * BORDER
    top = tile.top - BORDER
    for line in range(tile.bottom + BORDER - top):
        row = top + line
        inside = last - first if 0 <= row < height else 0
        _clear_around(errors, 3, line, margin, inside, span)
        if inside > 0:
            _error_row(
                image[tile.channel, row, first:last],
                target[tile.channel, row, first:last],
                errors[line * STRIDE + margin :],
            )


@inlined_kernel
def _similarity(statistics, counted, tile, errors, blurred, partials):
    """Set planes ∂m, ∂q, ∂r and SSIM, of the tile and RADIUS pixels around it.

    They are 0 at rows that do not count, as they are outside the picture.
    """
    width = statistics.mean.shape[2]
    first, last = max(tile.left - RADIUS, 0), min(tile.right + RADIUS, width)
    margin = first - tile.left + RADIUS
    span = tile.right - tile.left + 2 * RADIUS
    top = tile.top - RADIUS
    for line in range(tile.bottom + RADIUS - top):
        row = top + line
        if line % GROUP == 0 and counted[0] - GROUP < row < counted[1]:
            _blur_columns(errors[line * STRIDE :], span + 2 * RADIUS, blurred)
        inside = last - first if counted[0] <= row < counted[1] else 0
        _clear_around(partials, 4, line, margin, inside, span)
        if inside > 0:
            _similarity_row(
                blurred[line % GROUP * STRIDE + margin :],
                statistics.mean[tile.channel, row, first:last],
                statistics.variance[tile.channel, row, first:last],
                partials[line * STRIDE + margin :],
            )


@inlined_kernel
def _clear_around(planes, count, line, margin, inside, span):
    """Set a line of the first planes to 0 but for the inside pixels after the margin."""
    for plane in range(count):
        begin = plane * PLANE + line * STRIDE
        planes[begin : begin + margin] = 0
        planes[begin + margin + inside : begin + span] = 0


@inlined_kernel
def _sum_of_similarity(tile, partials):
    total = 0.0
    for row in range(tile.top, tile.bottom):
        total += _sum_row(_similarity_of_row(tile, partials, row))
    return total


@inlined_kernel
def _similarity_of_row(tile, partials, row):
    begin = 3 * PLANE + (row - tile.top + RADIUS) * STRIDE + RADIUS
    return partials[begin : begin + tile.right - tile.left]


@inlined_kernel
def _add_similarity_gradient(image, target, tile, partials, blurred, weight, gradient):
    """Add the gradient of SSIM, times weight, to the gradient of a tile."""
    span = tile.right - tile.left
    for line in range(tile.bottom - tile.top):
        if line % GROUP == 0:
            _blur_columns(partials[line * STRIDE :], span + 2 * RADIUS, blurred)
        row = tile.top + line
        _similarity_gradient_row(
            blurred[line % GROUP * STRIDE :],
            image[tile.channel, row, tile.left : tile.right],
            target[tile.channel, row, tile.left : tile.right],
            weight,
            gradient[tile.channel, row, tile.left : tile.right],
        )


@inlined_kernel
def _blur_columns(source, width, blurred):
    """Blur three planes down their columns: GROUP rows, whose windows start at the source."""
    for plane in range(3):
        values = source[plane * PLANE :]
        out = blurred[plane * PLANE :]
        for i in range(width):
            a = _taps(values, i, STRIDE, WINDOW)
            b = _taps(values, i + STRIDE, STRIDE, WINDOW)
            c = _taps(values, i + 2 * STRIDE, STRIDE, WINDOW)
            d = _taps(values, i + 3 * STRIDE, STRIDE, WINDOW)
            out[i] = a
            out[i + STRIDE] = b
            out[i + 2 * STRIDE] = c
            out[i + 3 * STRIDE] = d


@inlined_kernel
def _error_sums_row(x, y):
    absolute, squared = ZERO, ZERO
    for i in range(len(x)):
        error = x[i] - y[i]
        absolute += abs(error)
        squared += error * error
    return absolute, squared


@inlined_kernel
def _error_gradient_row(x, y, l1_weight, l2_weight, gradient):
    for i in range(len(gradient)):
        error = x[i] - y[i]
        zero_or_nan = ZERO * error
        slope = l1_weight if error > 0 else (-l1_weight if error < 0 else zero_or_nan)
        gradient[i] = slope + l2_weight * error


@inlined_kernel
def _error_row(x, y, out):
    for i in range(len(x)):
        error = x[i] - y[i]
        out[i] = error
        out[i + PLANE] = error * error
        out[i + 2 * PLANE] = error * y[i]


@inlined_kernel
def _similarity_row(blurred, mean, variance, out):
    """Blur along the row what is blurred down the columns, and set ∂m, ∂q, ∂r and SSIM."""
    for i in range(len(mean)):
        m = _taps(blurred, i, 1, WINDOW)
        q = _taps(blurred, i + PLANE, 1, WINDOW)
        r = _taps(blurred, i + 2 * PLANE, 1, WINDOW)
        mu = mean[i]
        v = _at_least(q - m * m, ZERO)
        a1 = TWO * mu * (mu + m) + C1
        b1 = a1 + m * m
        a2 = TWO * (variance[i] + r - mu * m) + C2
        b2 = _at_least(a2 + v, C2)
        quotient = ONE / (b1 * b2)
        over_b1 = quotient * b2
        over_b2 = quotient * b1
        luminance = a1 * over_b1
        structure = a2 * over_b2
        d_luminance = TWO * m * (mu * m - a1) * over_b1 * over_b1  # by m
        d_variance = -structure * over_b2  # of the structure by v
        d_covariance = TWO * v * over_b2 * over_b2  # of the structure by r
        out[i] = d_luminance * structure - luminance * (TWO * m * d_variance + mu * d_covariance)
        out[i + PLANE] = luminance * d_variance
        out[i + 2 * PLANE] = luminance * d_covariance
        out[i + 3 * PLANE] = luminance * structure


@inlined_kernel
def _similarity_gradient_row(blurred, x, y, weight, gradient):
    """Blur along the row what is blurred down the columns, and add the chain rule's sum."""
    for i in range(len(gradient)):
        by_m = _taps(blurred, i, 1, WINDOW)
        by_q = _taps(blurred, i + PLANE, 1, WINDOW)
        by_r = _taps(blurred, i + 2 * PLANE, 1, WINDOW)
        gradient[i] += weight * (by_m + TWO * (x[i] - y[i]) * by_q + y[i] * by_r)


@inlined_kernel
def _add_row(values, weight, sums, squares):
    for i in range(len(values)):
        value = np.float64(values[i])
        sums[i] += weight * value
        squares[i] += weight * value * value


@inlined_kernel
def _mean_and_variance_row(sums, squares, mean, variance):
    for i in range(len(mean)):
        average = _taps(sums, i, 1, WINDOW64)
        mean[i] = average
        variance[i] = _taps(squares, i, 1, WINDOW64) - average * average


@inlined_kernel
def _sum_row(values):
    total = ZERO
    for i in range(len(values)):
        total += values[i]
    return total


@inlined_kernel
def _taps(values, i, step, window):
    """Weigh the 11 values at i, i + step, …, i + 10 step with the symmetric window."""
    return (
        window[0] * (values[i] + values[i + 10 * step])
        + window[1] * (values[i + step] + values[i + 9 * step])
        + window[2] * (values[i + 2 * step] + values[i + 8 * step])
        + window[3] * (values[i + 3 * step] + values[i + 7 * step])
        + window[4] * (values[i + 4 * step] + values[i + 6 * step])
        + window[5] * values[i + 5 * step]
    )


@inlined_kernel
def _at_least(value, bound):
    """Undo rounding that took a value below its lower bound; NaN stays NaN."""
    return bound if value < bound else value
