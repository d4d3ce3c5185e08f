"""Writes on the panels of a film, as large as suits them, and never beyond their edges."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

FONT = cv2.FONT_HERSHEY_SIMPLEX
CAPITAL = 20.0  # height in pixels of a capital of this font at scale 1
TEXT_SHARE = 1 / 32  # height of a capital in a panel of 1×1
LEAST_CAPITAL = 6.0  # pixels; smaller letters cannot be read
MOST_HEIGHT = 0.75  # of the panel
BRIGHTNESS = 0.4  # of the picture behind text

Lines = Sequence[str]


@dataclass(frozen=True)
class Wordings:
    """Ways to say the same, as lines, the best first.

    The short ones are for panels in which the long ones cannot be read at any size.
    """

    long: Sequence[Lines]
    short: Sequence[Lines] = ()

    def __getitem__(self, index: int) -> Lines:
        return (*self.long, *self.short)[index]

    def __len__(self) -> int:
        return len(self.long) + len(self.short)


def label(*names: str) -> Wordings:
    """A name, and what to call it where there is little room."""
    return Wordings([[names[0]]], [[name] for name in names[1:]])


def measured(name: str, step: str, psnr: str, ssim: str) -> Wordings:
    """The name of a rendering and how good it is; numbers without units as texts."""
    full = [f"step {step}", f"PSNR {psnr} dB", f"SSIM {ssim}"]
    return Wordings(
        long=[[name, "   ".join(full)], [name, *full], ["   ".join([name, *full])]],
        short=[
            [name, step, f"{psnr} dB", ssim], [step, f"{psnr} dB", ssim], [step, psnr, ssim],
            [f"{step}  {psnr}  {ssim}"], [step, psnr], [psnr],
        ],
    )  # fmt: skip


@dataclass(frozen=True)
class Caption:
    """How text stands in a panel; the same in all frames of a film, so that nothing jumps.

    Attributes
    ----------
    wording : index of the wording that is used.
    capital : height of a capital letter in pixels.
    box : (height, width) in pixels of the darkened part of the panel.
    """

    wording: int
    capital: float
    box: tuple[int, int]

    @classmethod
    def fitting(cls, shape: tuple[int, int], wordings: Wordings, size: float) -> Caption | None:
        """The largest text of the best wording that fits; None where nothing does.

        Parameters
        ----------
        shape : (height, width) of the panel.
        wordings : with numbers as long as they will ever be.
        size : the height of a capital that is wanted, in pixels; less is taken where it must be.
        """
        while size > LEAST_CAPITAL:
            for index in range(len(wordings.long)):
                if found := cls._within(shape, wordings, index, size):
                    return found
            size *= 0.9
        tries = (cls._within(shape, wordings, i, LEAST_CAPITAL) for i in range(len(wordings)))
        return next(filter(None, tries), None)

    @classmethod
    def _within(
        cls, shape: tuple[int, int], wordings: Wordings, index: int, capital: float
    ) -> Caption | None:
        lines = wordings[index]
        caption = cls(index, capital, (0, 0))
        height = len(lines) * caption._advance + 2 * caption._margin
        width = max(caption._width(text) for text in lines) + 3 * caption._margin
        if height > shape[0] * MOST_HEIGHT or width > shape[1]:
            return None
        return cls(index, capital, (height, width))

    @property
    def _margin(self) -> int:
        return max(1, round(self.capital / 3))

    @property
    def _advance(self) -> int:
        """Pixels from line to line."""
        return math.ceil(self.capital * 1.6)

    @property
    def _style(self) -> tuple[int, float, int]:
        """Font, scale and thickness."""
        return FONT, self.capital / CAPITAL, max(1, round(self.capital / 10))

    def _width(self, text: str) -> int:
        (width, _), _ = cv2.getTextSize(text, *self._style)
        return width

    def write(self, panel: np.ndarray, wordings: Wordings, place: str) -> None:
        """Write on a panel (h, w, 3) uint8, at its "top" or "bottom" left."""
        height, width = self.box
        box = np.multiply(
            panel[:height, :width] if place == "top" else panel[-height:, :width], BRIGHTNESS
        ).astype(np.uint8)  # drawing on a copy of the box alone cannot leave it
        font, scale, thickness = self._style
        for index, text in enumerate(wordings[self.wording]):
            base = self._margin + round((index + 0.8) * self._advance)
            at = 3 * self._margin // 2, base
            white = (255, 255, 255)
            cv2.putText(box, text, at, font, scale, white, thickness, cv2.LINE_AA)
        if place == "top":
            panel[:height, :width] = box
        else:
            panel[-height:, :width] = box


def wanted_capital(shape: tuple[int, int], text_size: float) -> float:
    """Height in pixels of a capital that suits a panel (height, width)."""
    return max(LEAST_CAPITAL, TEXT_SHARE * math.sqrt(shape[0] * shape[1])) * text_size
