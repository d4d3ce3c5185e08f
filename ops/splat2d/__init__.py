"""Draw 2D Gaussians as a picture, differentiably: ``render``."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ops.splat2d.reference import RasterConfig
from ops.threads import kernel_lock

__all__ = ["RasterConfig", "render"]

MAX_CHANNELS = 32


def render(
    xy: Float[Tensor, "n 2"],
    scale: Float[Tensor, "n 2"],
    rot: Float[Tensor, "n 1"],
    feat: Float[Tensor, "n c"],
    height: int,
    width: int,
    config: RasterConfig | None = None,
    *,
    rows: tuple[int, int] | None = None,
) -> Float[Tensor, "c rows {width}"]:
    """Draw N Gaussians as a picture of C channels, or some rows of it.

    The pixel in column j and row i has its centre at (j + 0.5, i + 0.5). A Gaussian with a
    parameter that is not finite is not drawn and gets a gradient of 0.

    Parameters
    ----------
    xy : centres as fractions of width and height, x to the right, y down.
    scale : per axis 1/sigma in 1/pixels, or sigma in pixels (``config.inverse_scale``). Only the
        absolute value matters.
    rot : angle of the first axis in radians, from x towards y.
    feat : colours; 1 to 32 channels, any range.
    height, width : size of the picture in pixels, at least 1.
    config : how to blend; shared by all backends.
    rows : draw only the rows from the first to before the second of these; None draws all. Bands
        of rows take memory one at a time, and their gradients add up to those of the picture.

    Returns
    -------
    The picture or its rows, (C, rows, W), not clamped. Gradients flow to all four tensors.

    Raises
    ------
    ValueError
        Where shapes, dtypes or devices do not fit together, or the picture has no such rows.
    """
    config = config or RasterConfig()
    _check(xy, scale, rot, feat, height, width)
    rows = _check_rows(rows, height)
    if xy.device.type == "cpu" and xy.dtype == torch.float32:
        return _Cpu.apply(xy, scale, rot, feat, height, width, config, rows)
    if xy.device.type == "cuda" and xy.dtype == torch.float32:
        return _Cuda.apply(xy, scale, rot, feat, height, width, config, rows)
    from ops.splat2d import reference

    return reference.render(xy, scale, rot, feat, height, width, config, rows)


def _check(xy: Tensor, scale: Tensor, rot: Tensor, feat: Tensor, height: int, width: int) -> None:
    n = len(xy)
    named = {"xy": (xy, 2), "scale": (scale, 2), "rot": (rot, 1), "feat": (feat, None)}
    for name, (tensor, columns) in named.items():
        if tensor.ndim != 2 or len(tensor) != n or columns not in (None, tensor.shape[1]):
            wanted = f"({n}, {columns or 'channels'})"
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}; it must be {wanted}")
        if tensor.dtype != xy.dtype or tensor.device != xy.device:
            raise ValueError(
                f"{name} is {tensor.dtype} on {tensor.device}, xy is {xy.dtype} on {xy.device}; "
                "they must agree"
            )
    if xy.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"xy is {xy.dtype}; Gaussians are float32 (or float64, slowly)")
    if not 1 <= feat.shape[1] <= MAX_CHANNELS:
        raise ValueError(f"feat has {feat.shape[1]} channels; 1 to {MAX_CHANNELS} are possible")
    if height < 1 or width < 1:
        raise ValueError(f"height={height}, width={width}: a picture has at least one pixel")


def _check_rows(rows: tuple[int, int] | None, height: int) -> tuple[int, int]:
    rows = (0, height) if rows is None else tuple(rows)
    if len(rows) != 2 or not 0 <= rows[0] < rows[1] <= height:
        raise ValueError(
            f"rows={rows}: rows must be (first, end) with 0 <= first < end <= height={height}"
        )
    return rows


class _Cpu(torch.autograd.Function):
    """Autograd around the Numba kernels."""

    @staticmethod
    def forward(ctx: Any, xy, scale, rot, feat, height, width, config, rows):
        from ops.splat2d import cpu

        arrays = [t.detach().contiguous().numpy() for t in (xy, scale, rot, feat)]
        with kernel_lock():
            image, ctx.state = cpu.render(*arrays, height, width, config, rows)
        return torch.from_numpy(image)

    @staticmethod
    def backward(ctx: Any, grad: Tensor):
        from ops.splat2d import cpu

        with kernel_lock():
            grads = cpu.differentiate(grad.contiguous().numpy(), ctx.state)
        return *(torch.from_numpy(g) for g in grads), None, None, None, None


class _Cuda(torch.autograd.Function):
    """Autograd around the Triton kernels."""

    @staticmethod
    def forward(ctx: Any, xy, scale, rot, feat, height, width, config, rows):
        from ops.splat2d import cuda

        tensors = (tensor.detach().contiguous() for tensor in (xy, scale, rot, feat))
        ctx.parameters, ctx.rows = cuda.Parameters(*tensors), rows
        with torch.cuda.device_of(xy):
            image, ctx.painter = cuda.render(ctx.parameters, height, width, config, rows)
        return image

    @staticmethod
    def backward(ctx: Any, grad: Tensor):
        from ops.splat2d import cuda

        with torch.cuda.device_of(grad):
            grads = cuda.differentiate(ctx.parameters, grad, ctx.painter, ctx.rows)
        return *grads, None, None, None, None
