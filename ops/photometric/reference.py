"""The photometric loss and SSIM in plain torch: slow, for any dtype and device, the definition.

References
----------
Z. Wang, A. C. Bovik, H. R. Sheikh, E. P. Simoncelli, "Image quality assessment: from error
visibility to structural similarity", IEEE Transactions on Image Processing 13(4), 2004.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

WINDOW_RADIUS = 5
WINDOW_SIGMA = 1.5
C1 = 0.01**2  # (K1 L)² of the paper, for a data range L = 1
C2 = 0.03**2  # (K2 L)²


def gaussian_window() -> list[float]:
    """Return the 11 weights of the normalised 1D Gaussian window, σ = 1.5 px."""
    offsets = range(-WINDOW_RADIUS, WINDOW_RADIUS + 1)
    weights = [math.exp(-0.5 * (offset / WINDOW_SIGMA) ** 2) for offset in offsets]
    return [weight / sum(weights) for weight in weights]


def blur(maps: Tensor) -> Tensor:
    """Blur (C, H, W) maps with the window, as if they were 0 outside.

    Sums of shifted maps rather than a convolution: on a GPU, convolutions round their inputs to
    TF32 by default, which the differences of squares in SSIM do not survive.
    """
    for axis in (-2, -1):
        size = maps.shape[axis]
        border = list(maps.shape)
        border[axis] = WINDOW_RADIUS
        zeros = maps.new_zeros(border)
        padded = torch.cat([zeros, maps, zeros], dim=axis)
        window = enumerate(gaussian_window())
        maps = sum(weight * padded.narrow(axis, start, size) for start, weight in window)
    return maps


def ssim_map(image: Tensor, target: Tensor) -> Tensor:
    """Return the structural similarity (C, H, W) at every pixel: equation 13 of the paper."""
    mean_x, mean_y = blur(image), blur(target)
    variance_x = blur(image * image) - mean_x * mean_x
    variance_y = blur(target * target) - mean_y * mean_y
    covariance = blur(image * target) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + C1) / (mean_x * mean_x + mean_y * mean_y + C1)
    contrast_structure = (2 * covariance + C2) / (variance_x + variance_y + C2)
    return luminance * contrast_structure


def loss_terms(
    image: Tensor,
    target: Tensor,
    l1_ratio: float,
    l2_ratio: float,
    ssim_ratio: float,
    counted: tuple[int, int] | None = None,
    numel: int | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return total, mean |x-y|, mean (x-y)² and mean SSIM, all differentiable.

    Of the counted rows only (None: of all), and each the sum over them by ``numel`` (None: their
    number of values). SSIM is NaN, and no part of the total, where ``ssim_ratio`` is 0.
    """
    rows = slice(*counted or (0, image.shape[1]))
    error = (image - target)[:, rows]
    share = error.numel() / (numel or error.numel())
    l1 = error.abs().mean() * share
    l2 = (error * error).mean() * share
    total = l1_ratio * l1 + l2_ratio * l2
    if ssim_ratio == 0:
        return total, l1, l2, torch.full_like(l1, math.nan)
    ssim = ssim_map(image, target)[:, rows].mean() * share
    return total + ssim_ratio * (share - ssim), l1, l2, ssim
