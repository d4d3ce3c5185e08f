"""Uniform quantisation between a tensor's extremes, with a straight-through gradient."""

from __future__ import annotations

import torch
from torch import Tensor


def quantize(values: Tensor, bits: int) -> Tensor:
    """Round to 2^bits levels between the smallest and the largest value, both of which stay.

    The gradient passes as if nothing had been rounded (Bengio et al. 2013). A constant tensor is
    returned as it is. ``bits`` is 1 to 24: float32 tells no more levels apart.
    """
    if values.numel() == 0:
        return values
    with torch.no_grad():
        exact = values.double()  # in float32, the last level would miss the largest value
        low, high = exact.min(), exact.max()
        step = (high - low) / (2**bits - 1)
        rounded = torch.where(step > 0, low + ((exact - low) / step).round() * step, exact)
        rounded = rounded.to(values.dtype)
    # The bracket is exactly 0. As values + (rounded - values), sums would miss the levels.
    return rounded + (values - values.detach())
