"""Maps that say where Gaussians are needed: gradient energy, saliency, patches of large error."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from scipy.signal.windows import tukey

SALIENCY_SIDE = 64  # Hou and Zhang work on a picture of this size
SALIENCY_MARGIN = 16
SMALLEST_PATCH = 8


def gradient_energy(pixels: np.ndarray) -> np.ndarray:
    """Squared Sobel gradient summed over the channels of (C, H, W), as (H, W)."""
    energy = np.zeros(pixels.shape[1:], np.float64)
    for plane in pixels.astype(np.float64):
        for axis in (0, 1):
            energy += ndimage.sobel(plane, axis=axis, mode="nearest") ** 2
    return energy


def spectral_residual(pixels: np.ndarray) -> np.ndarray:
    """Saliency (H, W) in [0, 1] by spectral residual (Hou and Zhang, CVPR 2007).

    What the log spectrum of the small grey picture has beyond its local mean is what stands out;
    back in space, squared and blurred, it is the saliency. On a flat picture it is 0 everywhere.
    Mirrored margins that fade out keep the spectrum from taking opposite borders, which are
    neighbours to it, for edges; without them the corners stand out most.
    """
    height, width = pixels.shape[1:]
    grey = pixels.mean(axis=0, dtype=np.float64)
    ratio = SALIENCY_SIDE / max(height, width)
    small = _resize(grey, max(2, round(height * ratio)), max(2, round(width * ratio)))
    if np.ptp(small) < 1e-6:  # its spectrum is rounding errors, whose residual is noise
        return np.zeros((height, width))
    spectrum = np.fft.fft2(_with_faded_margins(small))
    magnitude = np.log(np.abs(spectrum) + 1e-12)
    residual = magnitude - ndimage.uniform_filter(magnitude, 3, mode="wrap")
    saliency = np.abs(np.fft.ifft2(np.exp(residual + 1j * np.angle(spectrum)))) ** 2
    inside = (slice(SALIENCY_MARGIN, -SALIENCY_MARGIN),) * 2
    saliency = _resize(ndimage.gaussian_filter(saliency, 2.5)[inside], height, width)
    saliency -= saliency.min()
    return saliency / max(saliency.max(), 1e-12)


def _with_faded_margins(plane: np.ndarray) -> np.ndarray:
    wide = np.pad(plane - plane.mean(), SALIENCY_MARGIN, mode="symmetric")
    # Fades over half as much again as the margin, which leaves less of the borders.
    rows, columns = (tukey(side, min(1, 3 * SALIENCY_MARGIN / side)) for side in wide.shape)
    return wide * rows[:, None] * columns


def draw_pixels(rng: np.random.Generator, density: np.ndarray, count: int) -> np.ndarray:
    """``count`` different pixels (rows of x, y) drawn with probability in proportion to density.

    Where too few pixels have a density above 0, the others are drawn evenly. A density that is
    negative or no finite number counts as 0. ``count`` is at most the number of pixels.
    """
    # float64, because in float32 the smallest numbers below are 0.
    flat = np.nan_to_num(density.astype(np.float64), posinf=0.0).clip(0.0).ravel()
    # A key u^(1/p) per pixel, largest keys win: a weighted draw without replacement in one pass
    # (Efraimidis and Spirakis 2006), here as -log(u)/p with the smallest winning.
    flat = flat / max(flat.max(), 1e-300) + 1e-12
    keys = rng.exponential(size=flat.size) / flat
    chosen = np.argpartition(keys, count - 1)[:count] if count < flat.size else np.arange(flat.size)
    width = density.shape[1]
    return np.stack([chosen % width, chosen // width], axis=1)


def worst_patches(error: np.ndarray, threshold: float) -> list[tuple[slice, slice]]:
    """Patches of an error map (H, W) whose mean error reaches ``threshold`` times the worst's.

    Starts from a coarse grid and splits each patch that is above the threshold in four, down to
    8 pixels a side, so that small spots of error are found within large patches.
    """
    height, width = error.shape
    # Summed-area table: the mean of any patch from four numbers.
    table = np.pad(error.astype(np.float64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))

    def mean(patch: tuple[int, int, int, int]) -> float:
        y0, y1, x0, x1 = patch
        total = table[y1, x1] - table[y0, x1] - table[y1, x0] + table[y0, x0]
        return total / ((y1 - y0) * (x1 - x0))

    side = max(SMALLEST_PATCH, 2 ** int(np.log2(max(height, width) / 8 + 1)))
    patches = [
        (y, min(y + side, height), x, min(x + side, width))
        for y in range(0, height, side)
        for x in range(0, width, side)
    ]
    # A little less, so that quarters of an even patch are not lost to rounding.
    least = threshold * max(map(mean, patches)) * (1 - 1e-9)
    found = []
    while patches:
        patch = patches.pop()
        if mean(patch) < least or mean(patch) <= 0:
            continue
        quarters = _quarters(*patch)
        patches += quarters
        if not quarters:
            found.append((slice(patch[0], patch[1]), slice(patch[2], patch[3])))
    return found


def _quarters(y0: int, y1: int, x0: int, x1: int) -> list[tuple[int, int, int, int]]:
    if min(y1 - y0, x1 - x0) < 2 * SMALLEST_PATCH:
        return []
    y, x = (y0 + y1) // 2, (x0 + x1) // 2
    return [(y0, y, x0, x), (y0, y, x, x1), (y, y1, x0, x), (y, y1, x, x1)]


def _resize(plane: np.ndarray, height: int, width: int) -> np.ndarray:
    from skimage.transform import resize

    return resize(plane, (height, width), order=1, anti_aliasing=True)


def neighbours_first(pixels: np.ndarray) -> np.ndarray:
    """An order in which pixels (n, 2) that lie close together also follow one another.

    It is Morton's (1966): by the bits of both coordinates in turn. What is near in memory is read
    together, and a GPU passes over most of what is far.
    """
    code = np.zeros(len(pixels), np.uint64)
    for bit in range(32):
        for axis in range(2):
            digit = (pixels[:, axis].astype(np.uint64) >> np.uint64(bit)) & np.uint64(1)
            code |= digit << np.uint64(2 * bit + axis)
    return np.argsort(code, kind="stable")
