"""Uniform quantisation between a tensor's extremes, with a straight-through gradient."""

from __future__ import annotations

import torch
from torch import Tensor


def quantize(values: Tensor, bits: int) -> Tensor:
    """Round to 2^bits levels between the smallest and the largest value.

    The gradient passes as if nothing had been rounded (Bengio et al. 2013). A constant tensor is
    returned as it is. ``bits`` is 1 to 24: float32 tells no more levels apart.
    """
    if values.numel() == 0:
        return values
    with torch.no_grad():
        low, high = values.min(), values.max()
        step = (high - low) / (2**bits - 1)
        rounded = torch.where(step > 0, low + ((values - low) / step).round() * step, values)
    return values + (rounded - values).detach()
