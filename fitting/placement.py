"""Where Gaussians are put: at the start, and while the picture grows."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fitting.bands import band_rows
from fitting.gaussians import NAMES, CheckpointError, Gaussians, raster_config
from imaging import maps
from imaging.files import PictureError, Target, find_picture, load_picture
from ops.splat2d import render
from settings import Settings

MOVED_SHARE = 0.05  # of the Gaussians, at most, are re-used in one adaptive refinement


def start(settings: Settings, target: Target, count: int, rng: np.random.Generator) -> Gaussians:
    """The ``count`` Gaussians a run begins with, given ones first.

    Raises
    ------
    CheckpointError, PictureError
        If ``init_gaussian_file`` or ``saliency_map`` cannot be used.
    """
    height, width = target.size
    given = _given(settings, target, count) if settings.init_gaussian_file else {}
    missing = count - len(given["xy"]) if given else count
    random_ratio = 1.0 if settings.init_mode == "random" else settings.init_random_ratio
    scattered = round(missing * random_ratio)
    even = np.ones((height, width))
    pixels = np.concatenate(
        [
            maps.draw_pixels(rng, even, scattered),
            maps.draw_pixels(rng, _density(settings, target), missing - scattered),
        ]
    )
    pixels = pixels[maps.neighbours_first(pixels)]
    if settings.color_init:
        colors = target.pixels[:, pixels[:, 1], pixels[:, 0]].T
    else:
        colors = torch.from_numpy(rng.random((missing, len(target.pixels)), dtype=np.float32))
    tensors = fresh(settings, (height, width), pixels, colors)
    if given:
        tensors = {name: torch.cat([given[name], tensors[name]]) for name in NAMES}
    return Gaussians(
        **{name: tensor.requires_grad_() for name, tensor in tensors.items()},
        width=width,
        height=height,
        settings=settings,
        channels=target.channels,
        names=target.names,
    )


def fresh(
    settings: Settings, size: tuple[int, int], pixels: np.ndarray, colors: Tensor
) -> dict[str, Tensor]:
    """Parameters of new Gaussians centred on pixels (n, 2), with colours (n, C)."""
    n, sigma = len(pixels), settings.init_scale
    extent = np.array(size[::-1], np.float32)
    return {
        "xy": torch.from_numpy((pixels.astype(np.float32) + 0.5) / extent),
        "scale": torch.full((n, 2), 1 / sigma if settings.inverse_scale else sigma),
        "rot": torch.zeros(n, 1),
        "feat": colors.clone(memory_format=torch.contiguous_format),
    }


def where_error_is(
    settings: Settings, gaussians: Gaussians, error: Tensor, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, dict[str, Tensor]]:
    """Which Gaussians to re-use, and the parameters of those and of ``count`` new ones.

    Pixels are drawn in proportion to the squared mean absolute error. With adaptive refinement
    they lie in the patches with most error, and the Gaussians that contribute least move there.
    ``error`` is target minus rendering, (C, H, W); new colours are the error there.
    """
    magnitude = error.abs().mean(dim=0).double().numpy()
    density = magnitude**2
    moved = np.empty(0, np.int64)
    if settings.adaptive_refinement:
        inside = np.zeros_like(density)
        for patch in maps.worst_patches(magnitude, settings.adaptive_error_threshold):
            inside[patch] = 1.0
        density *= inside
        room = int(np.count_nonzero(density)) - count
        moved = _least_useful(gaussians, min(int(len(gaussians) * MOVED_SHARE), max(room, 0)))
    pixels = maps.draw_pixels(rng, density, count + len(moved))
    pixels = pixels[maps.neighbours_first(pixels)]
    colors = error[:, pixels[:, 1], pixels[:, 0]].T
    return moved, fresh(settings, error.shape[1:], pixels, colors)


def _least_useful(gaussians: Gaussians, count: int) -> np.ndarray:
    """Gaussians with the smallest share in the picture: the sum of their normalised weights.

    It is the gradient of the sum of a one-channel picture by that channel.
    """
    fixed = [tensor.detach() for tensor in gaussians.quantized().tensors().values()][:3]
    probe = fixed[0].new_zeros(len(gaussians), 1).requires_grad_()
    config = raster_config(gaussians.settings)
    height, width = gaussians.height, gaussians.width
    size = band_rows(1, width) if gaussians.in_bands else height
    for first in range(0, height, size):
        rows = first, min(first + size, height)
        render(*fixed, probe, height, width, config, rows=rows).sum().backward()
    return np.argsort(probe.grad[:, 0].cpu().numpy(), kind="stable")[:count]


def _density(settings: Settings, target: Target) -> np.ndarray:
    """Where Gaussians should start, (H, W)."""
    height, width = target.size
    if settings.init_mode == "gradient":
        return maps.gradient_energy(target.pixels.numpy())
    if settings.init_mode == "random":
        return np.ones((height, width))
    if settings.saliency_map is None:
        return maps.spectral_residual(target.pixels.numpy())
    given = load_picture(find_picture(settings.saliency_map, settings.input_dir))
    if given.pixels.shape[1:] != target.full_pixels.shape[1:]:
        raise PictureError(
            f"saliency_map {given.path} is {given.pixels.shape[2]}×{given.pixels.shape[1]}, the "
            f"picture {target.full_size[1]}×{target.full_size[0]}; they must be equally large"
        )
    grey = given.pixels.mean(dim=0)[None, None]
    return torch.nn.functional.interpolate(grey, (height, width), mode="area")[0, 0].numpy()


def _given(settings: Settings, target: Target, count: int) -> dict[str, Tensor]:
    """The Gaussians of ``init_gaussian_file``, made to fit this run."""
    path, channels = settings.init_gaussian_file, len(target.pixels)
    loaded = Gaussians.load(path)
    if loaded.feat.shape[1] != channels:
        raise CheckpointError(
            f"init_gaussian_file={path} has {loaded.feat.shape[1]} channels, the picture "
            f"{channels}; choose a model of a picture with as many"
        )
    if len(loaded) != count and not settings.allow_partial:
        raise CheckpointError(
            f"init_gaussian_file={path} has {len(loaded)} Gaussians, gaussians={count}; set "
            f"gaussians={len(loaded)}, or allow_partial=True to drop or add the difference"
        )
    sigma = 1 / loaded.scale if loaded.settings.inverse_scale else loaded.scale
    sigma = sigma * (target.size[0] / loaded.height)
    loaded.scale = 1 / sigma if settings.inverse_scale else sigma
    return {name: tensor[:count] for name, tensor in loaded.tensors().items()}
