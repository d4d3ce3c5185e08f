"""The photometric loss and SSIM for float32 in main memory: prepares the kernels' work."""

from __future__ import annotations

import functools
import itertools
import math

import numba
import numpy as np
import torch
from torch import Tensor

from ops.photometric.cpu_kernels import (
    PLANE,
    RADIUS,
    TILE_COLUMNS,
    TILE_ROWS,
    TargetStatistics,
    blur_target,
    loss,
    similarity_map,
)
from ops.threads import kernel_lock


def target_statistics(target: Tensor, counted: tuple[int, int]) -> TargetStatistics:
    """Return what SSIM at the counted rows needs to know of a contiguous (C, H, W) target."""
    target = target.numpy()
    statistics = TargetStatistics(np.empty_like(target), np.empty_like(target))
    with kernel_lock():
        blur_target(target, counted, statistics, numba.get_num_threads())
    return statistics


def means_and_gradient(
    image: Tensor,
    target: Tensor,
    statistics: TargetStatistics | None,
    ratios: tuple[float, float, float],
    counted: tuple[int, int],
    numel: int,
    wants_gradient: bool,
) -> tuple[tuple[float, float, float], Tensor | None]:
    """Return the means of |x-y|, (x-y)² and SSIM, and the gradient of the weighted loss.

    Parameters
    ----------
    image, target : contiguous (C, H, W) float32 tensors.
    statistics : the target's; None where the ratio of SSIM is 0, and SSIM is then NaN.
    ratios : weights of L1, L2 and 1 - SSIM.
    counted : first and one past the last row that the means are of.
    numel : what the sums over these rows are divided by.
    wants_gradient : whether to compute the gradient, (C, H, W); it is None otherwise.
    """
    channels, height, width = image.shape
    first, end = counted
    unused = np.empty((channels, 0, 0), np.float32)
    wants_ssim = statistics is not None
    # From NumPy, which asks for huge pages: page faults cost more than the arithmetic otherwise.
    gradient = np.empty(image.shape, np.float32) if wants_gradient else unused
    if wants_gradient:
        gradient[:, :first] = 0
        gradient[:, end:] = 0
    l1_ratio, l2_ratio, ssim_ratio = ratios
    weights = np.array([l1_ratio, 2 * l2_ratio, -ssim_ratio]) / numel
    halo = RADIUS if wants_ssim and wants_gradient else 0
    tiles = _cut(channels, max(first - halo, 0), min(end + halo, height), width)
    sums = np.zeros((len(tiles), 3))
    with kernel_lock():
        loss(
            image.numpy(),
            target.numpy(),
            statistics if wants_ssim else TargetStatistics(unused, unused),
            counted,
            tuple(weights.astype(np.float32)),
            gradient,
            (wants_ssim, wants_gradient),
            tiles,
            _scratch(numba.get_num_threads()),
            sums,
        )
    l1, l2, ssim = (sums.sum(axis=0) / numel).tolist()
    means = l1, l2, ssim if wants_ssim else math.nan
    return means, torch.from_numpy(gradient) if wants_gradient else None


def ssim_map(image: Tensor, target: Tensor, statistics: TargetStatistics) -> Tensor:
    """Return SSIM at every pixel of contiguous (C, H, W) float32 tensors."""
    similarity = torch.empty_like(image)
    with kernel_lock():
        similarity_map(
            image.numpy(),
            target.numpy(),
            statistics,
            similarity.numpy(),
            _cut(image.shape[0], 0, *image.shape[1:]),
            _scratch(numba.get_num_threads()),
        )
    return similarity


@functools.lru_cache(maxsize=16)
def _cut(channels: int, first: int, end: int, width: int) -> np.ndarray:
    """Return the tiles of some rows of a picture, (tiles, 5) int64: a `Tile` in each row.

    The cut does not depend on the number of threads, so neither do the sums. The number of bands
    is even, so that two threads get the same share of any picture.
    """
    height = end - first
    bands = min(2 * math.ceil(height / (2 * TILE_ROWS)), height)
    strips = math.ceil(width / TILE_COLUMNS)
    rows = [first + height * band // bands for band in range(bands + 1)]
    columns = [width * strip // strips for strip in range(strips + 1)]
    return np.array(
        [
            (channel, top, bottom, left, right)
            for channel in range(channels)
            for top, bottom in itertools.pairwise(rows)
            for left, right in itertools.pairwise(columns)
        ]
    )


@functools.lru_cache(maxsize=1)
def _scratch(threads: int) -> np.ndarray:
    """Return planes for each thread, kept between calls: fresh memory costs more than the loss."""
    return np.zeros((threads, 10 * PLANE), np.float32)
