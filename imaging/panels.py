"""Composes the pictures of a film: panels side by side, with what is written on them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from imaging import drawing
from imaging.captions import Caption, Wordings, label, measured, wanted_capital
from imaging.frames import Frame

MOST_HEIGHT = 16_384  # of a panel; no codec takes more
WIDESCREEN = 16 / 9


@dataclass(frozen=True)
class Look:
    """How a film looks.

    Attributes
    ----------
    layout : "pair" is truth and rendering; "grid" has their error and the positions below them.
    text_size : relative to what suits the picture; 0 is none.
    text_place : where text stands in each panel.
    """

    layout: Literal["pair", "grid"] = "pair"
    text_size: float = 1.0
    text_place: Literal["top", "bottom"] = "top"


@dataclass(frozen=True)
class Mosaic:
    """How the pictures of a stack share a panel, and how large each of them is in the film.

    Attributes
    ----------
    height, width : of each picture in pixels, never above its own size.
    count, columns : number of pictures, and of those in a row.
    """

    height: int
    width: int
    count: int = 1
    columns: int = 1

    @classmethod
    def of(cls, count: int, height: int, width: int, max_width: int) -> Mosaic:
        """Lay pictures out so that two panels side by side come near to 16:9.

        All are reduced, their proportions kept, where two panels are wider than ``max_width``.
        """

        def cost(columns: int) -> float:
            rows = math.ceil(count / columns)
            aspect = 2 * columns * width / (rows * height)
            return abs(math.log(aspect / WIDESCREEN)) + 0.4 * (rows * columns - count)

        columns = min(range(1, count + 1), key=cost)
        rows = math.ceil(count / columns)
        across, down = max_width // (2 * columns), MOST_HEIGHT // rows
        shrink = min(1.0, across / width, down / height)
        small = (max(1, round(side * shrink)) for side in (height, width))
        return cls(*small, count, columns)

    @property
    def rows(self) -> int:
        return math.ceil(self.count / self.columns)

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of the panel."""
        return self.rows * self.height, self.columns * self.width

    def panel(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """Lay (h, w) and (h, w, 3) uint8 pictures out row by row, reducing those larger."""
        colour = any(picture.ndim == 3 for picture in pictures)
        canvas = np.zeros((*self.shape, 3) if colour else self.shape, np.uint8)
        for index, picture in enumerate(pictures):
            row, column = divmod(index, self.columns)
            top, left = row * self.height, column * self.width
            small = self._reduced(picture)
            shown = small[..., None] if colour and small.ndim == 2 else small
            canvas[top : top + self.height, left : left + self.width] = shown
        return canvas

    def _reduced(self, picture: np.ndarray) -> np.ndarray:
        if picture.shape[:2] == (self.height, self.width):
            return picture
        return cv2.resize(picture, (self.width, self.height), interpolation=cv2.INTER_AREA)

    def spread(self, centers: np.ndarray) -> np.ndarray:
        """Positions (N, 2) in [0, 1] of a picture as those (count N, 2) in the whole panel."""
        tiles = [divmod(index, self.columns)[::-1] for index in range(self.count)]
        return np.concatenate([(tile + centers) / (self.columns, self.rows) for tile in tiles])


LABELS = {
    "truth": label("Ground Truth", "Truth", "GT"),
    "error": label("Error", "Err"),
    "positions": label("Gaussians", "Gauss"),
}


class Composer:
    """Makes the pictures of a film, (H, W, 3) uint8 with even sides, from its frames.

    Parameters
    ----------
    truth : (h, w) or (h, w, 3) uint8.
    last_step : of the film, which is the longest number that it shows.
    """

    def __init__(self, truth: np.ndarray, look: Look, last_step: int):
        self.look = look
        self.truth = truth
        self._panel = truth.shape[:2]
        self._captions = self._fit_captions(last_step) if look.text_size else {}
        height, width = self._panel
        self._rows = 2 * height if look.layout == "grid" else height
        # Colours have half the resolution in a film, so both sides must be even.
        self._canvas = np.zeros((self._rows + self._rows % 2, 2 * width, 3), np.uint8)
        self._place(self._canvas, (0, 0), _rgb(truth), "truth", LABELS["truth"])

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the film."""
        return self._canvas.shape[:2]

    def compose(self, frame: Frame) -> np.ndarray:
        """The picture of a frame."""
        canvas = self._canvas.copy()
        rendering = _rgb(frame.picture)
        self._place(canvas, (0, 1), rendering, "rendered", _quality(frame))
        if self.look.layout == "grid":
            error = drawing.error_map(_planes(frame.picture), _planes(self.truth))
            self._place(canvas, (1, 0), error, "error", LABELS["error"])
            dots = drawing.positions(rendering, frame.centers / 65535 * self._panel[::-1])
            self._place(canvas, (1, 1), dots, "positions", LABELS["positions"])
        canvas[self._rows :] = canvas[self._rows - 1]  # padded, not stretched
        return canvas

    def _fit_captions(self, last_step: int) -> dict[str, Caption | None]:
        """Fit the longest text first; the others are to be no larger."""
        capital = wanted_capital(self._panel, self.look.text_size)
        longest = measured("Rendered", "0" * len(str(last_step)), "00.00", "0.0000")
        rendered = Caption.fitting(self._panel, longest, capital)
        capital = rendered.capital if rendered else capital
        fitted = {name: Caption.fitting(self._panel, t, capital) for name, t in LABELS.items()}
        return {"rendered": rendered, **fitted}

    def _place(
        self,
        canvas: np.ndarray,
        at: tuple[int, int],
        picture: np.ndarray,
        name: str,
        text: Wordings,
    ) -> None:
        """Put a picture into a row and a column of the canvas, and write on it."""
        height, width = self._panel
        top, left = at[0] * height, at[1] * width
        panel = canvas[top : top + height, left : left + width]
        panel[:] = picture
        if caption := self._captions.get(name):
            caption.write(panel, text, self.look.text_place)


def _quality(frame: Frame) -> Wordings:
    """What is written on a rendering; no number is longer than room was made for."""
    psnr = f"{frame.psnr:.2f}" if frame.psnr < 99.995 else f"{frame.psnr:.0f}"
    ssim = f"{frame.ssim:.4f}" if frame.ssim >= 0 else f"{frame.ssim:.3f}"
    return measured("Rendered", str(frame.step), psnr, ssim)


def _rgb(picture: np.ndarray) -> np.ndarray:
    return picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=2)


def _planes(picture: np.ndarray) -> np.ndarray:
    """(C, h, w) in [0, 1]."""
    return np.atleast_3d(picture).transpose(2, 0, 1) / np.float32(255)
