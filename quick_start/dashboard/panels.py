"""Pictures of a run as small JPEGs for the live view: target, rendering and error map."""

from __future__ import annotations

import html
import math
from base64 import b64encode
from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np

from imaging.drawing import error_map

if TYPE_CHECKING:
    from torch import Tensor

SIDE = 360  # pixels of the longer side of a panel
SMALL = 112  # of those in the list of all runs
MOST_PICTURES = 9  # of a stack that are shown
QUALITY = 88


def panel(
    image: Tensor, width: int, height: int, splits: Sequence[int] = (), side: int = SIDE
) -> np.ndarray:
    """A picture or stack reduced to (h, w, 3) uint8; it is never enlarged.

    Parameters
    ----------
    image : (C, H, W) in [0, 1], of any size. What is no number is black.
    width, height : of the picture, which give the aspect.
    splits : channels of each picture of a stack, which are shown beside each other.
    side : pixels of the longer side.
    """
    image = image.detach().cpu().float()
    parts = image.split(list(splits) if sum(splits) == len(image) else _guessed(len(image)))
    columns = math.ceil(math.sqrt(min(len(parts), MOST_PICTURES)))
    ratio = min(1.0, side / columns / max(width, height))
    size = max(1, round(width * ratio)), max(1, round(height * ratio))
    tiles = [_reduced(part[:3].numpy(), size) for part in parts[:MOST_PICTURES]]
    blank = np.zeros_like(tiles[0])
    tiles += [blank] * (-len(tiles) % columns)
    rows = [np.hstack(tiles[i : i + columns]) for i in range(0, len(tiles), columns)]
    return np.vstack(rows)


def error_panel(rendering: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The error of two panels as colours: black is 0, pale yellow 0.25 or more."""
    planes = (
        picture.transpose(2, 0, 1).astype(np.float32) / 255 for picture in (rendering, target)
    )
    return error_map(*planes)


def jpeg(picture: np.ndarray) -> bytes:
    """A panel as a JPEG file."""
    options = [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
    return cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), options)[1].tobytes()


def reduced(picture: np.ndarray, side: int) -> np.ndarray:
    """A panel at most so large."""
    ratio = min(1.0, side / max(picture.shape[:2]))
    height, width = (max(1, round(length * ratio)) for length in picture.shape[:2])
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)


def figure(picture: np.ndarray, caption: str) -> str:
    """A panel inside HTML, with a line below it."""
    source, text = b64encode(jpeg(picture)).decode(), html.escape(caption)
    width = picture.shape[1]
    return (
        f'<figure style="margin: 0; flex: 0 1 {width}px; min-width: {min(width, 160)}px">'
        f'<img src="data:image/jpeg;base64,{source}" alt="{text}" style="max-width: 100%"/>'
        f'<figcaption style="font-size: 0.85em">{text}</figcaption></figure>'
    )


def _guessed(channels: int) -> list[int]:
    """RGB pictures as far as channels suffice, then grey ones."""
    return [3] * (channels // 3) + [1] * (channels % 3)


def _reduced(planes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(C, H, W) floats as (h, w, 3) uint8; every pixel is a mean, for large pictures of a few."""
    width, height = size
    rows, columns = (
        max(1, n // (2 * m)) for n, m in zip(planes.shape[1:], (height, width), strict=True)
    )
    thinned = planes[:, ::rows, ::columns]
    small = [
        cv2.resize(np.ascontiguousarray(p), size, interpolation=cv2.INTER_AREA) for p in thinned
    ]
    values = np.nan_to_num(np.stack(small, axis=2), nan=0.0, posinf=1.0, neginf=0.0)
    picture = np.rint(values.clip(0, 1) * 255).astype(np.uint8)
    return picture if picture.shape[2] == 3 else np.repeat(picture[..., :1], 3, axis=2)
