"""Pictures of the Gaussians themselves: positions, ellipses, ids, and the error they leave."""

from __future__ import annotations

import cv2
import numpy as np

MOST_ELLIPSES = 20_000


def positions(background: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """Centres (N, 2), in pixels, as dots on a dimmed RGB picture (H, W, 3) uint8."""
    canvas = np.ascontiguousarray(background * 0.35, np.uint8)
    radius = max(1, round(max(background.shape[:2]) / 800))
    for x, y in np.round(centers - 0.5).astype(int):
        cv2.circle(canvas, (int(x), int(y)), radius, (255, 220, 90), -1, cv2.LINE_AA)
    return canvas


def ellipses(
    shape: tuple[int, int],
    centers: np.ndarray,
    sigmas: np.ndarray,
    angles: np.ndarray,
    colors: np.ndarray,
    deviations: float = 1.0,
) -> np.ndarray:
    """Gaussians as outlines at some standard deviations, in RGB colours (N, 3) in [0, 1]."""
    canvas = np.full((*shape, 3), 255, np.uint8)
    shift = 4  # OpenCV draws at 1/16 pixel
    unit = 2**shift
    largest = 4 * max(shape)
    for i in range(min(len(centers), MOST_ELLIPSES)):
        axes = np.clip(sigmas[i] * deviations, 0.5, largest)
        center = tuple(int(v) for v in np.round((centers[i] - 0.5) * unit))
        color = tuple(int(v) for v in np.clip(colors[i] * 255, 0, 255))
        size = tuple(int(v) for v in np.round(axes * unit))
        angle = float(np.degrees(angles[i]))
        cv2.ellipse(canvas, center, size, angle, 0, 360, color, 1, cv2.LINE_AA, shift)
    return canvas


def id_colors(count: int) -> np.ndarray:
    """A fixed, distinct colour per Gaussian (N, 3) in [0, 1]: hues by the golden ratio."""
    index = np.arange(count)
    hsv = np.stack([index * 0.61803399 % 1 * 179, 150 + index % 3 * 50, 255 - index % 4 * 40], 1)
    return cv2.cvtColor(hsv.astype(np.uint8)[None], cv2.COLOR_HSV2RGB)[0] / 255


def error_map(image: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Mean absolute error of (C, H, W) pictures as RGB (H, W, 3) uint8.

    Black is 0, pale yellow 0.25 or more.
    """
    return heat(np.abs(image - target).mean(axis=0))


def heat(error: np.ndarray) -> np.ndarray:
    """An error map (H, W) as RGB (H, W, 3) uint8: black is 0, pale yellow 0.25 or more."""
    scaled = (np.clip(error * 4, 0, 1) * 255).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(scaled, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
