"""Measures how alike two pictures are: PSNR, SSIM, MS-SSIM, FLIP and LPIPS.

All take (C, H, W) tensors of stored (gamma-encoded) values and clamp them to [0, 1]. A metric
that cannot be had raises `MetricUnavailable` with the reason; no number is ever made up.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from imaging import lpips as lpips_network
from ops.photometric import ssim as photometric_ssim

MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
WINDOW, WINDOW_SIGMA = 11, 1.5
C1, C2 = 0.01**2, 0.03**2
SSIM_MAX_CHANNELS = 32  # what ops.photometric takes at once
MS_SSIM_MIN_SIDE = WINDOW * 2 ** (len(MS_SSIM_WEIGHTS) - 1)
FLIP_TILE = 512  # pixels; half a second of work, in which nothing else can run
FLIP_RIM = 16  # pixels; FLIP's filters reach 10 at 67 pixels per degree

Pixels = Float[Tensor, "C H W"]
Check = Callable[[], None]
WeightsPath = str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None


class MetricUnavailable(RuntimeError):
    """A metric cannot be computed here; the message says why and what would help."""


@dataclass(frozen=True)
class Score:
    """A metric's value, or None and the reason why there is none."""

    value: float | None
    reason: str = ""


def psnr(image: Pixels, target: Pixels) -> float:
    """Peak signal-to-noise ratio in dB, 10·log10(1 / MSE); infinite where the MSE is 0."""
    image, target = _pair(image, target)
    squares = (image - target).square_()
    mse = float(squares.sum(dtype=torch.float64)) / squares.numel()
    return math.inf if mse == 0 else -10 * math.log10(mse)


@torch.no_grad()
def ssim(image: Pixels, target: Pixels) -> float:
    """Structural similarity in [-1, 1] (Wang et al. 2004), as in the loss: zero padding."""
    image, target = (p.split(SSIM_MAX_CHANNELS) for p in _pair(image, target))
    parts = [(len(a), float(photometric_ssim(a, b))) for a, b in zip(image, target, strict=True)]
    return sum(count * value for count, value in parts) / sum(count for count, _ in parts)


@torch.no_grad()
def ms_ssim(image: Pixels, target: Pixels, check: Check = lambda: None) -> float:
    """Multi-scale structural similarity in [0, 1] (Wang, Simoncelli & Bovik 2003), five scales.

    Per channel, then averaged: the product over scales of contrast-structure ** weight, with
    luminance at the coarsest scale only. Windows lie wholly inside the picture; each scale is
    the 2 × 2 mean of the one before. A negative factor, whose power is no real number, is 0.
    ``check`` is called now and then, and may raise.

    Raises
    ------
    MetricUnavailable : if a side is under 176 px, so that the coarsest scale holds no window.
    """
    image, target = _pair(image, target)
    if min(image.shape[1:]) < MS_SSIM_MIN_SIDE:
        height, width = image.shape[1:]
        raise MetricUnavailable(
            f"MS-SSIM needs at least {MS_SSIM_MIN_SIDE} px on both sides; "
            f"the picture has {width} × {height}"
        )
    # One channel at a time: the maps of a gigapixel picture would not fit into memory together.
    channels = [_ms_ssim_of_channel(a, b, check) for a, b in zip(image, target, strict=True)]
    return sum(channels) / len(channels)


def flip(image: Pixels, target: Pixels, check: Check = lambda: None) -> float:
    """Mean FLIP error in [0, 1] at 67 pixels per degree (Andersson et al. 2020); 0 is equal.

    For (1 | 3, H, W) sRGB pictures; grey is repeated to RGB. Large ones are compared in tiles,
    which overlap by more than the metric's filters reach. ``check`` is called between them, and
    may raise.

    Raises
    ------
    MetricUnavailable : if the package flip-evaluator cannot be imported.
    """
    image, target = _pair(image, target)
    _check_one_picture(image)
    try:
        import flip_evaluator
    except ImportError as error:
        raise MetricUnavailable(
            f"FLIP needs the package flip-evaluator ({error}); pip install flip-evaluator"
        ) from error
    reference, test = (p.expand(3, -1, -1).permute(1, 2, 0).cpu().numpy() for p in (target, image))
    height, width = reference.shape[:2]
    total = 0.0
    for rows, own_rows in _tiles(height):
        for columns, own_columns in _tiles(width):
            check()
            parts = (np.ascontiguousarray(p[rows, columns]) for p in (reference, test))
            errors = flip_evaluator.evaluate(*parts, "LDR", applyMagma=False)[0]
            total += float(errors[own_rows, own_columns].sum(dtype=np.float64))
    return total / (height * width)


def lpips(
    image: Pixels, target: Pixels, weights: WeightsPath | lpips_network.Lpips = None
) -> float:
    """LPIPS distance with AlexNet features (Zhang et al. 2018, v0.1); 0 is equal.

    For (1 | 3, H, W) sRGB pictures; grey is repeated to RGB.

    Parameters
    ----------
    weights : a loaded network, one file, or several that complete each other; None takes the
        environment variable SPLATBOOK_LPIPS_WEIGHTS. `imaging.lpips` names the keys.

    Raises
    ------
    MetricUnavailable : if no weights are given or they are unsuitable, or a side is under 31 px.
    """
    image, target = _pair(image, target)
    _check_one_picture(image)
    network = weights if isinstance(weights, lpips_network.Lpips) else _load_lpips(weights)
    try:
        return network(image, target)
    except lpips_network.PictureTooSmall as error:
        raise MetricUnavailable(str(error)) from error


def evaluate(
    image: Pixels,
    target: Pixels,
    *,
    lpips_weights: WeightsPath = None,
    splits: Sequence[int] | None = None,
    stop_asked: Callable[[], bool] = lambda: False,
) -> dict[str, Score]:
    """All metrics of a picture or stack: keys psnr, ssim, ms_ssim, flip and lpips.

    Parameters
    ----------
    image, target : stored values, gamma undone.
    splits : channels of each picture of a stack (`Target.channels`); None is one picture. FLIP
        and LPIPS are averaged over the pictures, the others run over all channels at once.
    stop_asked : once it says so, what takes long is left out.

    Raises
    ------
    ValueError : if the shapes differ or `splits` does not match the channels.
    """
    named = {"image": image, "target": target}
    image, target = _pair(image, target)
    splits = [len(image)] if splits is None else list(splits)
    if sum(splits) != len(image) or min(splits) < 1:
        raise ValueError(
            f"splits: found {splits}; the channels must be above 0 and sum to {len(image)}."
        )
    for name, pixels in named.items():  # before clamping, which would turn infinity into white
        if not pixels.isfinite().all():
            score = Score(None, f"the {name} holds values that are NaN or infinite")
            return dict.fromkeys(("psnr", "ssim", "ms_ssim", "flip", "lpips"), score)
    pairs = list(zip(image.split(splits), target.split(splits), strict=True))

    def check() -> None:
        if stop_asked():
            raise MetricUnavailable("the measurement was stopped")

    def mean_lpips() -> float:
        check()
        return _stack_lpips(pairs, lpips_weights)

    return {
        "psnr": _score(lambda: psnr(image, target)),
        "ssim": _score(lambda: ssim(image, target)),
        "ms_ssim": _score(lambda: ms_ssim(image, target, check)),
        "flip": _score(lambda: _mean([flip(a, b, check) for a, b in pairs])),
        "lpips": _score(mean_lpips),
    }


def _pair(image: Pixels, target: Pixels) -> tuple[Pixels, Pixels]:
    """Both detached, float32 and clamped to [0, 1]; NaN stays NaN."""
    if image.ndim != 3 or image.shape != target.shape or image.numel() == 0:
        raise ValueError(
            f"Metrics compare two (C, H, W) pictures of one shape; found {tuple(image.shape)} "
            f"and {tuple(target.shape)}."
        )
    image, target = (p.detach().to(target.device, torch.float32) for p in (image, target))
    return image.clamp(0, 1), target.clamp(0, 1)


def _check_one_picture(image: Pixels) -> None:
    if len(image) not in (1, 3):
        raise MetricUnavailable(
            f"defined for grey and RGB pictures, found {len(image)} channels; "
            "say with splits which belong together"
        )


def _score(metric: Callable[[], float]) -> Score:
    try:
        value = metric()
    except MetricUnavailable as error:
        return Score(None, str(error))
    return Score(None, "the result is not a number") if math.isnan(value) else Score(value)


def _tiles(length: int) -> Iterator[tuple[slice, slice]]:
    """Parts of a side for FLIP: what is compared, and what of that counts."""
    own = FLIP_TILE - 2 * FLIP_RIM
    for begin in range(0, length, own):
        first, last = max(0, begin - FLIP_RIM), min(length, begin + own + FLIP_RIM)
        yield slice(first, last), slice(begin - first, min(begin + own, length) - first)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _stack_lpips(pairs: Sequence[tuple[Pixels, Pixels]], weights: WeightsPath) -> float:
    network = _load_lpips(weights)
    return _mean([lpips(a, b, network) for a, b in pairs])


def _load_lpips(weights: WeightsPath) -> lpips_network.Lpips:
    paths = lpips_network.weights_paths(weights)
    if not paths:
        raise MetricUnavailable(
            "LPIPS needs AlexNet's and its own weights, which are never downloaded; "
            f"set lpips_weights or {lpips_network.ENVIRONMENT_VARIABLE} to a file that holds them"
        )
    try:
        return lpips_network.load_lpips(paths)
    except lpips_network.WeightsError as error:
        raise MetricUnavailable(str(error)) from error


def _ms_ssim_of_channel(
    image: Float[Tensor, "H W"], target: Float[Tensor, "H W"], check: Check
) -> float:
    pair = torch.stack([image, target])[:, None]
    product = 1.0
    for scale, weight in enumerate(MS_SSIM_WEIGHTS):
        if scale:
            pair = F.avg_pool2d(pair, 2)
        luminance, contrast_structure = _ssim_factors(pair, check)
        if scale == len(MS_SSIM_WEIGHTS) - 1:
            contrast_structure = contrast_structure * luminance
        factor = float(contrast_structure.mean(dtype=torch.float64))
        product *= max(factor, 0.0) ** weight
    return product


def _ssim_factors(pair: Float[Tensor, "2 1 H W"], check: Check) -> tuple[Tensor, Tensor]:
    """Luminance and contrast-structure maps of SSIM (Wang et al. 2004, eq. 6 and 9-13)."""
    products = torch.cat([pair, pair.square(), pair[:1] * pair[1:]])
    mean_a, mean_b, square_a, square_b, cross = _blur(products, check)
    variances = square_a - mean_a.square() + square_b - mean_b.square()
    covariance = cross - mean_a * mean_b
    means = mean_a.square() + mean_b.square()
    luminance = (2 * mean_a * mean_b + C1) / (means + C1)
    return luminance, (2 * covariance + C2) / (variances + C2)


def _blur(images: Float[Tensor, "N 1 H W"], check: Check) -> Float[Tensor, "N 1 h w"]:
    """Gaussian means over the windows that lie wholly inside: 10 px fewer per side length."""
    taps = [math.exp(-0.5 * ((i - WINDOW // 2) / WINDOW_SIGMA) ** 2) for i in range(WINDOW)]
    for axis in (-1, -2):
        # Not conv2d: on a GPU it rounds to TF32, and a variance is a difference of such means.
        length = images.shape[axis] - WINDOW + 1
        blurred = images.narrow(axis, 0, length) * (taps[0] / sum(taps))
        for i, tap in enumerate(taps[1:], start=1):
            check()
            blurred.add_(images.narrow(axis, i, length), alpha=tap / sum(taps))
        images = blurred
    return images
