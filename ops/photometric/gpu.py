"""The photometric loss for float32 on the GPU, as ``cpu.py`` has it for main memory.

For pictures that are compared once: a training step has ``cuda.FusedLoss`` and its buffers at hand.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ops.photometric import reference
from ops.photometric.cuda import FusedLoss
from ops.photometric.cuda_kernels import FIXED_POINT
from ops.photometric.reference import WINDOW_RADIUS
from ops.planes import Rows, planes


def target_statistics(target: Tensor, counted: tuple[int, int]) -> Tensor:
    """Return the target (C, H, W) as the kernels want it: with zeros around each row."""
    padded = planes(*target.shape, target.dtype, target.device)
    return padded.copy_(target)


def means_and_gradient(
    image: Tensor,
    target: Tensor,
    statistics: Tensor | None,
    ratios: tuple[float, float, float],
    counted: tuple[int, int],
    numel: int,
    wants_gradient: bool,
) -> tuple[tuple[float, float, float], Tensor | None]:
    """Return the means of |x-y|, (x-y)² and SSIM, and the gradient of the weighted loss.

    See ``cpu.means_and_gradient``. Waits for the GPU.
    """
    channels, height, width = image.shape
    rows = Rows(*counted)
    wants_ssim = ratios[2] != 0
    differs = rows
    if wants_ssim and wants_gradient:
        differs = Rows(max(0, rows.first - WINDOW_RADIUS), min(height, rows.end + WINDOW_RADIUS))
    flags = torch.zeros(1, dtype=torch.int32, device=image.device)
    loss = FusedLoss(
        channels, height, width, ratios, half=False, flags=flags, gradient=wants_gradient
    )
    if statistics is None:
        statistics = target_statistics(target, counted)
    grad = None
    if wants_gradient:
        grad = planes(channels, len(differs), width, image.dtype, image.device)
    with torch.cuda.device_of(image):
        loss(target_statistics(image, counted), statistics, rows, grad, differs)
    l1, l2, ssim = (loss.sums.double() / (FIXED_POINT * numel)).tolist()
    if int(flags):
        l1 = l2 = ssim = math.nan
    if grad is not None:
        gradient = torch.zeros_like(image)
        torch.div(grad, numel, out=gradient[:, differs.first : differs.end])
        grad = gradient
    return (l1, l2, ssim if wants_ssim else math.nan), grad


def ssim_map(image: Tensor, target: Tensor, statistics: Tensor) -> Tensor:
    """Return SSIM at every pixel of (C, H, W) tensors."""
    return reference.ssim_map(image, target)
