"""Turns samples as a file stores them into upright planes of [0, 1], laid over a background."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import ImageColor

from imaging.decoding import Samples


def upright_planes(samples: Samples) -> np.ndarray:
    """(K, H, W) float32 in [0, 1], turned upright. TIFF and EXIF count orientations 1 to 8."""
    values, orientation = samples.values, samples.orientation
    if orientation >= 5:
        values = values.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    values = np.moveaxis(values, -1, 0)
    if values.dtype == np.float32:
        return values
    largest = np.float32(np.iinfo(values.dtype).max)
    return np.divide(values, largest, dtype=np.float32, order="C")


def composite(
    planes: np.ndarray, background: np.ndarray, premultiplied: bool
) -> tuple[np.ndarray, bool]:
    """Colour planes laid over a background (Porter & Duff 1984), and whether that changed any."""
    colour, alpha = planes[:-1], planes[-1]
    if alpha.min() == 1:
        return colour, False
    is_grey = (background == background[0]).all()
    if len(colour) == 1 and not is_grey:
        colour = np.repeat(colour, 3, axis=0)
    behind = background[: len(colour), None, None] * (1 - alpha)
    return ((colour if premultiplied else colour * alpha) + behind).clip(0, 1), True


def parse_colour(background: str | Sequence[float]) -> np.ndarray:
    """A background as (3,) float32 in [0, 1]; a ValueError says what is allowed."""
    try:
        if isinstance(background, str):
            red, green, blue = ImageColor.getrgb(background)
            return np.array([red, green, blue], np.float32) / np.float32(255)
        values = np.array(background)
        largest = {"f": 1, "i": 255, "u": 255}[values.dtype.kind]
        if values.shape == (3,) and (values >= 0).all() and (values <= largest).all():
            return values.astype(np.float32) / np.float32(largest)
    except (KeyError, TypeError, ValueError):
        pass
    raise ValueError(
        f"background: found {background!r}; allowed are a colour name such as 'white', '#rrggbb', "
        "three integers in 0..255 or three floats in 0..1."
    )


def colour_name(background: str | Sequence[float]) -> str:
    """A background as its user wrote it."""
    return background if isinstance(background, str) else str(tuple(background))
