"""The photometric loss and SSIM on the GPU: buffers, and the order of the Triton kernels."""

from __future__ import annotations

import functools

import torch
import triton
from torch import Tensor

from ops.flags import LOSS
from ops.photometric import cuda_kernels
from ops.photometric.cuda_kernels import L1, L2, PAIRS, SSIM
from ops.photometric.reference import WINDOW_RADIUS
from ops.planes import Rows, planes, row_stride

TAPS = 2 * WINDOW_RADIUS + 1
PAIRS_OF_STRIP = 32  # pairs of columns that one program handles
STRIP = 2 * PAIRS_OF_STRIP
# Of the maps between the kernels: small enough to be found in the GPU's cache for the most part,
# large enough for few launches.
MAP_BYTES = 96 << 20
WARPS = 1
PROGRAMS = 16  # that one multiprocessor has registers for
FEW_LINES, MANY_LINES = 8, 128


class FusedLoss:
    """Sums of |d|, d² and SSIM over rows of a window, and the gradient of their weighted sum.

    Nothing here waits for the GPU.

    Parameters
    ----------
    channels, width : of the picture.
    ratios : weights of L1, L2 and 1 - SSIM.
    half : keep what lies between the kernels in half precision.
    flags : (1,) int32 tensor that receives ``LOSS``.
    """

    def __init__(
        self, channels: int, rows: int, width: int, ratios: tuple[float, float, float],
        *, half: bool, flags: Tensor, gradient: bool = True,
    ):  # fmt: skip
        self.ratios, self.flags, self.gradient = ratios, flags, gradient
        kind = torch.float16 if half else torch.float32
        self.sums = torch.zeros(3, dtype=torch.int64, device=flags.device)
        row_bytes = 3 * channels * row_stride(width) * kind.itemsize
        self.band = min(rows, max(64, MAP_BYTES // row_bytes))
        kept = min(rows, self.band + 2 * WINDOW_RADIUS) if gradient and ratios[2] else 0
        self.maps = planes(3 * channels, kept, width, kind, flags.device)

    def __call__(
        self, image: Tensor, target: Tensor, counted: Rows, grad: Tensor | None, grad_rows: Rows
    ) -> None:
        """Add to ``sums``, and write the gradient for some rows into ``grad`` (C, rows, W).

        Parameters
        ----------
        image, target : (C, h, W) windows; like ``grad`` they lie in memory as ``ops.planes`` says.
        counted : rows that count.
        grad_rows : rows whose gradient is wanted; must hold all that count.
        """
        for first in range(grad_rows.first, grad_rows.end, self.band):
            rows = Rows(first, min(first + self.band, grad_rows.end))
            maps = Rows(
                max(counted.first, rows.first - WINDOW_RADIUS),
                min(counted.end, rows.end + WINDOW_RADIUS),
            )
            if self.ratios[2] and len(maps) > 0:
                self._similarity(image, target, maps, rows, grad is not None)
            self._gradient(image, target, maps, rows, counted, grad, grad_rows)

    def _similarity(
        self, image: Tensor, target: Tensor, maps: Rows, summed: Rows, store: bool
    ) -> None:
        channels, height, width = image.shape
        lines = _lines(channels, len(maps), width, image.device)
        grid = (triton.cdiv(width, STRIP), triton.cdiv(len(maps), lines), channels)
        cuda_kernels.similarity[grid](
            image, target, self.maps, self.sums, self.flags, height, width, image.stride(1),
            target.stride(0), *maps, *summed, lines, WIDTH=PAIRS_OF_STRIP, STORE=store,
            TAPS=TAPS, PAIRS=PAIRS, SSIM=SSIM, FLAG=LOSS, num_warps=WARPS,
        )  # fmt: skip

    def _gradient(
        self, image: Tensor, target: Tensor, maps: Rows, rows: Rows, counted: Rows,
        grad: Tensor | None, grad_rows: Rows,
    ) -> None:  # fmt: skip
        channels, height, width = image.shape
        lines = _lines(channels, len(rows), width, image.device)
        grid = (triton.cdiv(width, STRIP), triton.cdiv(len(rows), lines), channels)
        out = self.maps if grad is None else grad
        cuda_kernels.gradient[grid](
            image, target, self.maps, out, self.sums, self.flags, height, width, image.stride(1),
            target.stride(0), *rows, grad_rows.first, len(grad_rows), *maps, *counted,
            lines, *self.ratios, WIDTH=PAIRS_OF_STRIP, STORE=grad is not None,
            WITH_SSIM=self.ratios[2] != 0, TAPS=TAPS, PAIRS=PAIRS, L1=L1, L2=L2, FLAG=LOSS,
            num_warps=WARPS,
        )  # fmt: skip


def _lines(channels: int, rows: int, width: int, device: torch.device) -> int:
    """Rows that one program handles: such that all programs run at once, with equal work.

    Each also passes over the ten rows around its own, so they should not be few either.
    """
    strips = channels * triton.cdiv(width, STRIP)
    rounds = 1
    while True:
        parts = max(1, rounds * PROGRAMS * _multiprocessors(device) // strips)
        lines = triton.cdiv(rows, parts)
        if lines <= MANY_LINES:
            return max(lines, FEW_LINES)
        rounds += 1


@functools.cache
def _multiprocessors(device: torch.device) -> int:
    if device.type != "cuda":
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count
