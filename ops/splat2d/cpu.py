"""2D splatting on the CPU: calls the Numba kernels of ``cpu_*.py`` in order.

Project and list (``cpu_bins``), draw (``cpu_forward``), differentiate (``cpu_backward``).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import get_num_threads

from ops.splat2d.cpu_backward import backward, collect
from ops.splat2d.cpu_bins import SLACK, F, bin_gaussians, project
from ops.splat2d.cpu_forward import forward
from ops.splat2d.reference import RasterConfig


class State(NamedTuple):
    """What the backward pass needs of a forward pass."""

    image: np.ndarray
    threshold: np.ndarray
    inverse: np.ndarray
    reach: np.ndarray
    bins: tuple[np.ndarray, ...]
    geometry: np.ndarray
    scale: np.ndarray
    feat: np.ndarray
    config: RasterConfig
    height: int  # of the whole picture; the image may be some of its rows


def _workers(tiles: int) -> int:
    """Units of work for the threads: enough to even out tiles that cost more than others."""
    return max(1, min(tiles, 4 * get_num_threads()))


def render(
    xy: np.ndarray,
    scale: np.ndarray,
    rot: np.ndarray,
    feat: np.ndarray,
    height: int,
    width: int,
    config: RasterConfig,
    rows: tuple[int, int],
) -> tuple[np.ndarray, State]:
    """Rows of a picture (C, rows, W) float32, and the state for :func:`differentiate`.

    Past ``project``, the rows are a picture of their own.
    """
    first, end = rows
    drawn = end - first
    geometry, drawable = project(xy, scale, rot, feat, width, height, first, config.inverse_scale)
    cut = config.cut * SLACK
    bins = bin_gaussians(geometry, drawable, cut, config.tile, width, drawn)
    tile_start, owners, _, _ = bins
    ranks = tuple(range(config.topk)) if config.blending == "normalized" else ()
    # NumPy asks for huge pages, which Numba's own allocator does not: at 2048×2048 most of the
    # time went into page faults.
    image = np.empty((feat.shape[1], drawn, width), np.float32)
    threshold, inverse = np.empty((2, drawn, width), np.float32)
    reach = np.empty((len(owners), 2), np.int32)
    forward(
        image, threshold, inverse, reach, geometry, feat, tile_start, owners, cut,
        F(config.w_min), F(config.tie), F(config.eps), config.tile, ranks,
        _workers(len(tile_start) - 1),
    )  # fmt: skip
    return image, State(
        image, threshold, inverse, reach, bins, geometry, scale, feat, config, height
    )


def differentiate(grad: np.ndarray, state: State) -> tuple[np.ndarray, ...]:
    """Gradients of xy, scale, rot and feat from the gradient of the rows (C, rows, W)."""
    tile_start, owners, slots, slot_start = state.bins
    config = state.config
    partial = np.empty((len(owners), 5 + len(grad)), np.float32)
    backward(
        partial, grad, state.image, state.threshold, state.inverse, state.geometry, state.feat,
        tile_start, owners, slots, state.reach, config.tile, config.blending == "normalized",
        _workers(len(tile_start) - 1),
    )  # fmt: skip
    return collect(
        partial, slot_start, state.geometry, state.scale, grad.shape[2], state.height,
        config.inverse_scale,
    )  # fmt: skip
