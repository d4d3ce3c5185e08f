"""Sorting networks of the GPU kernels, by the 0-1 principle: what sorts bits sorts numbers."""

from __future__ import annotations

import itertools

import pytest

pytest.importorskip("triton", reason="triton is not installed: GPU kernels cannot be tested")

from ops.splat2d.cuda_select import BATCH, MOST, merger, sorter


def exchange(values, pairs):
    values = list(values)
    for first, second in zip(pairs[::2], pairs[1::2], strict=True):
        if values[first] < values[second]:
            values[first], values[second] = values[second], values[first]
    return values


@pytest.mark.parametrize("n", [1, 2, 3, 5, BATCH, 11])
def test_a_batch_is_sorted(n):
    for bits in itertools.product((0, 1), repeat=n):
        assert exchange(bits, sorter(n)) == sorted(bits, reverse=True)


@pytest.mark.parametrize("n", range(1, MOST + 1))
def test_what_falls_and_then_rises_is_sorted(n):
    pairs, order = merger(n)
    for before, zeros in itertools.product(range(n + 1), repeat=2):
        if before + zeros <= n:
            bits = [1] * before + [0] * zeros + [1] * (n - before - zeros)
            merged = exchange(bits, pairs)
            assert [merged[place] for place in order] == sorted(bits, reverse=True)


def test_sorting_takes_no_more_comparisons_than_known():
    assert len(sorter(8)) == 2 * 19  # Batcher 1968
