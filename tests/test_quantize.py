"""Quantisation: evenly spaced levels that keep the extremes, and a gradient that ignores it."""

from __future__ import annotations

import pytest
import torch

from ops.quantize import quantize


@pytest.fixture
def values(generator) -> torch.Tensor:
    """A few thousand numbers of any size, on any side of 0."""
    draw = torch.randn(3000, generator=generator)
    size, offset = torch.randn(2, generator=generator)
    return draw * 10**size + 3 * offset


@pytest.mark.parametrize("bits", [1, 2, 5, 8, 10])
def test_there_are_at_most_two_to_the_bits_levels(values, bits):
    assert len(quantize(values, bits).unique()) <= 2**bits


@pytest.mark.parametrize("bits", [1, 3, 7])
def test_values_that_lie_dense_use_every_level_and_levels_are_even(bits):
    levels = quantize(torch.linspace(-2, 5, 4001), bits).unique()
    torch.testing.assert_close(levels, torch.linspace(-2, 5, 2**bits))


@pytest.mark.parametrize("bits", [1, 4, 8, 16, 24])
def test_the_smallest_and_the_largest_value_are_kept(generator, bits):
    for values in torch.randn(100, 20, generator=generator):
        rounded = quantize(values, bits)
        assert rounded.min() == values.min()
        assert rounded.max() == values.max()


@pytest.mark.parametrize("bits", [1, 4, 8, 16])
def test_no_value_moves_by_more_than_half_a_step(values, bits):
    step = (values.max() - values.min()).double() / (2**bits - 1)
    moved = (quantize(values, bits).double() - values.double()).abs().max()
    assert moved <= step / 2 + 1e-7 * values.abs().max()


@pytest.mark.parametrize("bits", [1, 4, 8, 16])
def test_quantising_again_changes_nothing(values, bits):
    once = quantize(values, bits)
    assert torch.equal(quantize(once, bits), once)


@pytest.mark.parametrize("value", [0.0, -3.25, 1e-30, 1e30])
@pytest.mark.parametrize("shape", [(1,), (7, 2)])
def test_a_constant_stays_as_it_is(value, shape):
    constant = torch.full(shape, value)
    assert torch.equal(quantize(constant, 4), constant)


def test_nothing_stays_nothing():
    assert quantize(torch.empty(0, 3), 8).shape == (0, 3)


def test_shape_and_kind_are_kept(values):
    for kind in (torch.float32, torch.float64):
        rounded = quantize(values.to(kind).view(-1, 3), 6)
        assert rounded.shape == (1000, 3)
        assert rounded.dtype == kind


@pytest.mark.parametrize("bits", [1, 8])
def test_the_gradient_passes_exactly_as_if_nothing_was_rounded(values, generator, bits):
    values.requires_grad_()
    upstream = torch.randn(values.shape, generator=generator)
    quantize(values, bits).backward(upstream)
    assert torch.equal(values.grad, upstream)


def test_the_input_is_left_alone(values):
    before = values.clone()
    quantize(values, 2)
    assert torch.equal(values, before)
