"""Measures how well Gaussians match their picture, whole or band by band."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from fitting.bands import Band, band_rows, bands, preview_factor
from fitting.gaussians import Gaussians
from imaging.files import Target
from imaging.metrics import psnr
from ops.photometric import ssim, ssim_sum
from ops.planes import Rows

StoredRows = Callable[[Rows], Tensor | None]


class Quality(NamedTuple):
    """PSNR in dB, SSIM, and the picture that has them, for :class:`events.Evaluated`."""

    psnr: float
    ssim: float
    image: Tensor


@torch.no_grad()
def quality(
    gaussians: Gaussians,
    target: Target,
    drawn: Tensor | None,
    stored: StoredRows,
    least: tuple[int, int] | None = None,
) -> Quality:
    """Compare with the stored picture at its full size.

    Parameters
    ----------
    drawn : the Gaussians as drawn at the size that is fitted, where that is at hand.
    stored : rows of the fitted picture near the device, as :meth:`fitting.step.Step.stored`.
    least : (height, width) below which the picture is not reduced; not above its own size.
    """
    if gaussians.in_bands:
        return _in_bands(gaussians, target, stored, least)
    full = target.full_pixels
    if drawn is None or drawn.shape != full.shape:
        drawn = gaussians.draw_at(*target.full_size)
    image = target.encode(drawn)
    return Quality(psnr(image, full), float(ssim(image, full)), image)


def _in_bands(
    gaussians: Gaussians, target: Target, stored: StoredRows, least: tuple[int, int] | None
) -> Quality:
    channels, height, width = target.full_pixels.shape
    factor = preview_factor(height, width)
    if least is not None:
        factor = min(factor, height // least[0], width // least[1])
    device = gaussians.xy.device
    squares, similarity = torch.zeros(2, dtype=torch.float64, device=device)
    shown = []
    for band in bands(height, band_rows(channels, width, factor)):
        image = target.encode(gaussians.draw_at(height, width, rows=band.window))
        truth = _truth(target, band, stored, device)
        own = slice(*band.counted)
        difference = image[:, own] - truth[:, own]
        squares += difference.square_().sum(dtype=torch.float64)
        similarity += ssim_sum(image, truth, band.counted)
        shown.append(_reduced(image[:, own], factor).cpu())
    mse = float(squares) / target.full_pixels.numel()
    decibels = math.inf if mse == 0 else -10 * math.log10(mse)
    similar = float(similarity) / target.full_pixels.numel()
    return Quality(decibels, similar, torch.cat(shown, dim=1))


def _truth(target: Target, band: Band, stored: StoredRows, device: torch.device) -> Tensor:
    rows = Rows(*band.window)
    near = stored(rows) if target.pixels is target.full_pixels else None
    return target.full_pixels[:, rows.first : rows.end].to(device) if near is None else near


def _reduced(image: Tensor, factor: int) -> Tensor:
    """Means over squares; those at the edge may be cut off."""
    if factor == 1:
        return image
    return torch.nn.functional.avg_pool2d(image[None], factor, ceil_mode=True)[0]
