"""The definition of 2D splatting: plain torch, any dtype, every Gaussian against every pixel.

The method is Image-GS (Zhang et al., SIGGRAPH 2025, arXiv 2407.01866); additive blending is
GaussianImage (Zhang et al., ECCV 2024).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class RasterConfig:
    """What every backend needs to know to draw the same picture.

    Attributes
    ----------
    blending : ``normalized`` keeps the ``topk`` largest weights of a pixel and divides by their
        sum; ``additive`` sums all.
    topk : Gaussians kept per pixel (normalized blending), 1 to 32.
    inverse_scale : ``scale`` holds 1/sigma in 1/pixels instead of sigma in pixels.
    w_min : weights below it do not reach a pixel, 1e-6 to 1/2.
    tie : weights within this factor of the K-th largest one are kept with it, so that the picture
        does not depend on the order of the Gaussians or on a backend's last bit.
    eps : added to the sum that divides (normalized blending).
    tile : side of a tile in pixels: 8, 16 or 32. It does not change the picture.
    """

    blending: Literal["normalized", "additive"] = "normalized"
    topk: int = 10
    inverse_scale: bool = True
    w_min: float = 1e-5
    tie: float = 1 - 1e-5
    eps: float = 1e-4
    tile: int = 16

    def __post_init__(self) -> None:
        checks = {
            "blending": self.blending in ("normalized", "additive"),
            "topk": 1 <= self.topk <= 32,
            "w_min": 1e-6 <= self.w_min <= 0.5,
            "tie": 0.9 <= self.tie <= 1,
            "eps": self.eps > 0,
            "tile": self.tile in (8, 16, 32),
        }
        for name, good in checks.items():
            if not good:
                allowed = (self.__doc__ or "").split(f"    {name} : ")[1].split("\n    ")[0]
                raise ValueError(f"RasterConfig.{name}={getattr(self, name)!r}: {allowed}")

    @property
    def cut(self) -> float:
        """Squared Mahalanobis distance at which the weight falls to ``w_min``."""
        return -2 * math.log(self.w_min)


def weights(
    xy: Tensor,
    scale: Tensor,
    rot: Tensor,
    height: int,
    width: int,
    config: RasterConfig,
    rows: tuple[int, int] | None = None,
) -> Tensor:
    """Weight of every Gaussian at every pixel, (N, rows, W), before any cut."""
    first, end = rows or (0, height)
    size = torch.tensor([width, height], dtype=xy.dtype, device=xy.device)
    inverse = scale if config.inverse_scale else 1 / scale
    x = torch.arange(width, dtype=xy.dtype, device=xy.device) + 0.5
    y = torch.arange(first, end, dtype=xy.dtype, device=xy.device) + 0.5
    center = xy * size
    dx = x[None, None, :] - center[:, 0, None, None]
    dy = y[None, :, None] - center[:, 1, None, None]
    cos, sin = torch.cos(rot)[:, :, None], torch.sin(rot)[:, :, None]
    along = inverse[:, 0, None, None] * (cos * dx + sin * dy)
    across = inverse[:, 1, None, None] * (cos * dy - sin * dx)
    return torch.exp(-0.5 * (along**2 + across**2))


def kept(w: Tensor, config: RasterConfig) -> Tensor:
    """Which Gaussians count at which pixels, (N, H, W) bool."""
    threshold = torch.full_like(w[0], config.w_min)
    if config.blending == "normalized" and len(w) > config.topk:
        kth = torch.topk(w, config.topk, dim=0).values[-1]
        threshold = torch.maximum(threshold, kth * config.tie)
    return w >= threshold


def render(
    xy: Tensor,
    scale: Tensor,
    rot: Tensor,
    feat: Tensor,
    height: int,
    width: int,
    config: RasterConfig,
    rows: tuple[int, int] | None = None,
) -> Tensor:
    """Draw the rows of the picture (C, rows, W). See :func:`ops.splat2d.render`."""
    first, end = rows or (0, height)
    drawable = torch.cat([xy, scale, rot, feat], dim=1).isfinite().all(dim=1)
    drawable &= (scale if config.inverse_scale else 1 / scale).isfinite().all(dim=1)
    xy, scale, rot, feat = xy[drawable], scale[drawable], rot[drawable], feat[drawable]
    if len(xy) == 0:
        return feat.sum(dim=0)[:, None, None].expand(-1, end - first, width)
    w = weights(xy, scale, rot, height, width, config, rows)
    w = torch.where(kept(w.detach(), config), w, 0)
    color = torch.einsum("nhw,nc->chw", w, feat)
    if config.blending == "normalized":
        color = color / (w.sum(dim=0) + config.eps)
    return color
