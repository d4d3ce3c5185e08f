"""How much memory a run needs, from the shapes of what it will allocate."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from fitting.bands import BAND_VALUES, band_rows
from fitting.gaussians import raster_config
from imaging.frames import MOST_CENTERS
from settings import Settings

ROUNDED = 512  # torch gives memory in multiples of this,
LARGE, LARGE_ROUNDED = 10 << 20, 2 << 20  # and large pieces in multiples of this
SMALL_POOLS = 24 << 20  # what torch reserves for small pieces before they fill it
CONTEXT = 690 << 20  # what CUDA and compiled kernels take, outside torch
TILES_REACHED = 16  # by a Gaussian of 5 px
# Bytes per pixel, measured on a picture of 2048×2048:
START_BYTES = 60  # placing Gaussians by the picture's gradient
FLIP_BYTES = 200
ENCODER_BYTES = {"h264": 135, "h265": 300, "vp9": 180}  # per pixel of the film
FLOAT = 4


def bytes_text(count: int) -> str:
    """``1.25 GB`` or ``37 MB``, which are 10⁹ and 10⁶ bytes."""
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.0f} MB"


def storage_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of all memory behind some tensors; what several of them share counts once."""
    storages = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def buffer_bytes(
    settings: Settings, count: int, shape: tuple[int, int, int], kind: torch.dtype | None = None
) -> int:
    """Bytes of the buffers of a training step on a GPU, exactly as ``CudaStep`` allocates them.

    Parameters
    ----------
    count : number of Gaussians.
    shape : (C, H, W) of the picture that is fitted.
    kind : dtype of the picture on the GPU; None is 8 bits, unless gamma or reducing change it.

    Raises
    ------
    ImportError
        Where Triton, which the kernels are written in, is not installed.
    """
    from fitting.step_cuda import Buffers

    kind = kind or _likely_kind(settings)
    buffers = Buffers(settings, count, shape, kind, "meta")
    return storage_bytes(buffers.tensors())


def _likely_kind(settings: Settings) -> torch.dtype:
    if settings.gamma == 1 and settings.downsample_ratio == 1:
        return torch.uint8
    return torch.float16 if settings.use_amp else torch.float32


def gpu_bytes(
    settings: Settings, shape: tuple[int, int, int], kind: torch.dtype | None = None
) -> int:
    """Bytes on the GPU at the peak of a run: buffers, Gaussians, evaluation, CUDA itself.

    Lists whose length depends on where the Gaussians go may grow beyond what they begin with.
    Parameters and errors are those of :func:`buffer_bytes`.
    """
    channels, _, width = shape
    count = settings.gaussians
    values = count * (2 + 2 + 1 + channels)
    gaussians = 3 * values * FLOAT  # with Adam's two moments
    if settings.quantize:
        gaussians += 4 * values * FLOAT  # the rounded ones, and a step of their making in float64
    rows = min(shape[1], band_rows(channels, width))
    # Besides the drawn band: its target, their padded copies, the difference, two maps of a plane.
    evaluation = (4 * channels + 2) * rows * width * FLOAT + _lists(settings, count, shape, rows)
    total = buffer_bytes(settings, count, shape, kind) + gaussians + evaluation
    rounding = 30 * ROUNDED + (LARGE_ROUNDED * 8 if total > LARGE else 0)
    return total + rounding + SMALL_POOLS + CONTEXT


def _lists(settings: Settings, count: int, shape: tuple[int, int, int], rows: int) -> int:
    """Bytes of what lies between Gaussians and picture while a band is drawn to be measured."""
    from ops.splat2d.cuda import Rasterizer

    channels, height, width = shape
    painter = Rasterizer(
        count, channels, height, width, rows, raster_config(settings),
        memory=torch.empty(channels, rows, width, device="meta"), guess=False,
        flags=torch.zeros(1, dtype=torch.int32, device="meta"),
    )  # fmt: skip
    return storage_bytes(v for v in vars(painter).values() if isinstance(v, torch.Tensor))


def host_bytes(
    settings: Settings, shape: tuple[int, int, int], full: tuple[int, int], *, gpu: bool
) -> int:
    """Bytes in main memory at the peak of a run, without Python and its packages.

    Parameters
    ----------
    shape : (C, H, W) of the picture that is fitted.
    full : (H0, W0) of the picture as it is stored.
    gpu : whether a GPU trains.
    """
    channels, height, width = shape
    fitted, stored = channels * height * width * FLOAT, channels * full[0] * full[1] * FLOAT
    target = stored if fitted == stored and settings.gamma == 1 else stored + fitted
    start = START_BYTES * height * width
    # At the end: the rendering, clamped copies of both pictures, and what FLIP makes of them.
    scoring = 3 * stored + FLIP_BYTES * full[0] * full[1]
    training = 0 if gpu else _training_on_cpu(settings, fitted, stored, height * width)
    frames, encoding = _film(settings, channels, full)
    return target + frames + max(start, training, scoring, encoding)


def _film(settings: Settings, channels: int, full: tuple[int, int]) -> tuple[int, int]:
    """Bytes of the frames that are kept in memory, and of what encodes them."""
    if not settings.make_training_video:
        return 0, 0
    shrink = min(1.0, settings.video_max_width / (2 * full[1]))
    panel = int(full[0] * full[1] * shrink**2)
    panels = 4 if settings.video_layout == "grid" else 2
    kept = 1 if settings.video_save_to_disk else settings.steps // settings.video_iterations + 2
    centers = 2 * 2 * min(settings.gaussians, MOST_CENTERS)
    encoding = panels * panel * ENCODER_BYTES[settings.video_codec]
    return kept * (channels * panel + centers), encoding


def _training_on_cpu(settings: Settings, fitted: int, stored: int, pixels: int) -> int:
    channels = fitted // (FLOAT * pixels)
    # Parameters, gradients and moments; parts of the gradients per tile.
    values = settings.gaussians * FLOAT * (4 * (5 + channels) + TILES_REACHED * (9 + channels))
    if settings.use_gradient_checkpointing:
        fitted = stored = min(fitted, BAND_VALUES * FLOAT)
        pixels = min(pixels, BAND_VALUES)
    # Picture, gradient, two statistics; limits and normaliser; what a measurement adds.
    return values + 4 * fitted + 2 * pixels * FLOAT + 6 * stored
