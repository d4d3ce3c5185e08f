"""The K-th largest of a pixel's weights on the GPU, by sorting networks that stay in registers.

Weights come in batches. A batch is sorted (Batcher 1968), and merged with the largest ones so far:
if both are sorted, the larger ones of a_1, b_K; a_2, b_K-1; ... are the K largest of all, falling
and then rising, so that a bitonic merge sorts them again.
"""

from __future__ import annotations

from collections.abc import Iterable

import triton
import triton.language as tl

BATCH = 8  # weights that are sorted together
MOST = 32  # the largest K


def sorter(n: int) -> tuple[int, ...]:
    """Pairs of places to compare, one after the other: the larger value goes to the first."""
    pairs: list[int] = []
    length = 1
    while length < n:
        step = length
        while step:
            for j in range(step % length, n - step, 2 * step):
                for i in range(j, j + min(step, n - j - step)):
                    if i // (2 * length) == (i + step) // (2 * length):
                        pairs += [i, i + step]
            step //= 2
        length *= 2
    return tuple(pairs)


def merger(n: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The same for n values that fall and then rise, and the order in which they lie afterwards.

    A bitonic merge needs a power of two. Infinite values at the end fill up; what would be
    compared with one of those only changes its place.
    """
    size = 1 << (n - 1).bit_length()
    places: list[int | None] = [*range(n), *[None] * (size - n)]
    pairs: list[int] = []
    step = size // 2
    while step:
        for i in range(size):
            if i & step:
                continue
            first, second = places[i], places[i + step]
            if first is not None and second is not None:
                pairs += [first, second]
            elif second is None:
                places[i], places[i + step] = second, first
        step //= 2
    return tuple(pairs), tuple(place for place in places if place is not None)


def _joined(parts: Iterable[tuple[int, ...]]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Sequences one after the other, and where each begins."""
    flat: list[int] = []
    starts = [0]
    for part in parts:
        flat += part
        starts.append(len(flat))
    return tuple(flat), tuple(starts)


_SORTER = tl.constexpr(sorter(BATCH))
_SORTED = tl.constexpr(len(sorter(BATCH)))
# Of all K, for a kernel knows its own only while it is compiled.
_flat, _starts = _joined(merger(k)[0] for k in range(1, MOST + 1))
_MERGERS, _MERGER_STARTS = tl.constexpr(_flat), tl.constexpr(_starts)
_flat, _starts = _joined(merger(k)[1] for k in range(1, MOST + 1))
_ORDERS, _ORDER_STARTS = tl.constexpr(_flat), tl.constexpr(_starts)


@triton.jit
def _exchange(values, first: tl.constexpr, second: tl.constexpr, COUNT: tl.constexpr):
    """Put the larger of the values at two places into the first of them."""
    changed = ()
    for k in tl.static_range(COUNT):
        if k == first:
            changed = changed + (tl.maximum(values[first], values[second]),)
        elif k == second:
            changed = changed + (tl.minimum(values[first], values[second]),)
        else:
            changed = changed + (values[k],)
    return changed


@triton.jit
def sort_batch(batch, BATCH: tl.constexpr):
    """A batch in falling order."""
    for p in tl.static_range(0, _SORTED, 2):
        batch = _exchange(batch, _SORTER[p], _SORTER[p + 1], BATCH)
    return batch


@triton.jit
def merge(largest, batch, TOPK: tl.constexpr, BATCH: tl.constexpr):
    """The K largest of K and a batch, both falling: they fall and then rise."""
    merged = ()
    for k in tl.static_range(TOPK):
        if TOPK - 1 - k < BATCH:
            merged = merged + (tl.maximum(largest[k], batch[TOPK - 1 - k]),)
        else:
            merged = merged + (largest[k],)
    return merged


@triton.jit
def sort_merged(merged, TOPK: tl.constexpr):
    """What :func:`merge` returned, in falling order."""
    begin: tl.constexpr = _MERGER_STARTS[TOPK - 1]
    end: tl.constexpr = _MERGER_STARTS[TOPK]
    for p in tl.static_range(begin, end, 2):
        merged = _exchange(merged, _MERGERS[p], _MERGERS[p + 1], TOPK)
    ordered = ()
    for k in tl.static_range(TOPK):
        ordered = ordered + (merged[_ORDERS[_ORDER_STARTS[TOPK - 1] + k]],)
    return ordered


@triton.jit
def smallest(values, COUNT: tl.constexpr):
    """The smallest of some values, pixel by pixel."""
    least = values[0]
    for k in tl.static_range(1, COUNT):
        least = tl.minimum(least, values[k])
    return least
