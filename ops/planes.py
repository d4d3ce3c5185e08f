"""Rows of pictures, and their memory on the GPU: with zeros between rows, kernels need no edges."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

PADDING = 8  # zeros, at least, between two rows
ALIGNMENT = 32
SLACK = 512  # values that may be read behind the last row


class Rows(NamedTuple):
    """Rows [first, end) of a picture or a window of it; its length is their number."""

    first: int
    end: int

    def __len__(self) -> int:
        return max(0, self.end - self.first)


def row_stride(width: int) -> int:
    """Values from one row to the next."""
    return -(-(width + PADDING) // ALIGNMENT) * ALIGNMENT


def planes(
    count: int, rows: int, width: int, dtype: torch.dtype, device: torch.device | str
) -> Tensor:
    """Zeros (count, rows, width) with zeros around each row; only the values may be written."""
    stride = row_stride(width)
    memory = torch.zeros(ALIGNMENT + stride * count * rows + SLACK, dtype=dtype, device=device)
    return memory.as_strided((count, rows, width), (rows * stride, stride, 1), ALIGNMENT)


def shortened(memory: Tensor, rows: int) -> Tensor:
    """The same memory as planes of fewer rows."""
    count, _, width = memory.shape
    stride = memory.stride(1)
    size, steps = (count, rows, width), (rows * stride, stride, 1)
    return memory.as_strided(size, steps, memory.storage_offset())
