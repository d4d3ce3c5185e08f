"""Keeps the frames of a film until it is made: in memory, or as JPEG with JSON beside it."""

from __future__ import annotations

import base64
import json
import math
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from imaging.encoding import atomic_write, delete_unfinished

JPEG_QUALITY = 95
MOST_CENTERS = 20_000
MOST_PIXELS = 2**28  # of one picture that is read back
MOST_JSON_BYTES = 1 << 20
NAME = re.compile(r"frame-([0-9]{8,12})\.json")
FILE = re.compile(r"frame-([0-9]{8,12})\.(json|jpg)")


class FramesError(RuntimeError):
    """Kept frames are missing or damaged; the message names the file and says what to do."""


@dataclass(frozen=True, eq=False)
class Frame:
    """What a film shows of one step.

    Attributes
    ----------
    step, psnr, ssim : what is written on it; PSNR in dB.
    picture : (h, w) or (h, w, 3) uint8: the rendering.
    centers : (N, 2) uint16: where Gaussians are, 0 and 65,535 being the picture's edges.
    """

    step: int
    psnr: float
    ssim: float
    picture: np.ndarray
    centers: np.ndarray


class Frames(Protocol):
    """Frames in the order of their steps, and the picture that they grow towards."""

    truth: np.ndarray  # of the shape of every frame's picture

    @property
    def steps(self) -> list[int]:
        """The steps that there are frames of, in order."""

    def add(self, frame: Frame) -> None:
        """Keep one more, whose step is above the others'."""

    def __iter__(self) -> Iterator[Frame]:
        """Frames in order, one at a time."""


class FramesInMemory:
    """Frames as bytes in main memory. See :class:`Frames`."""

    def __init__(self, truth: np.ndarray):
        self.truth = truth
        self._frames: list[Frame] = []

    @property
    def steps(self) -> list[int]:
        return [frame.step for frame in self._frames]

    def add(self, frame: Frame) -> None:
        self._frames.append(frame)

    def __iter__(self) -> Iterator[Frame]:
        return iter(self._frames)


class FramesOnDisk:
    """Frames in a folder: ``frame-<step>.jpg`` and ``.json`` each, and ``truth.png``.

    See :class:`Frames`. A frame counts once its JSON is there, which is written last.

    Parameters
    ----------
    folder : of the frames; created with the first one.
    truth : what they grow towards, or None to read it from the folder.

    Raises
    ------
    FramesError
        Where there is nothing that can be read.
    """

    def __init__(self, folder: Path, truth: np.ndarray | None = None):
        self.folder = folder
        found = {int(m[1]) for entry in _entries(folder) if (m := NAME.fullmatch(entry.name))}
        self._steps = sorted(step for step in found if self._paths(step)[1].exists())
        self._truth_kept = truth is None
        self.truth = _read_picture(folder / "truth.png", "PNG") if truth is None else truth

    @property
    def steps(self) -> list[int]:
        return list(self._steps)

    def add(self, frame: Frame) -> None:
        if not self._truth_kept:
            self.folder.mkdir(parents=True, exist_ok=True)
            with atomic_write(self.folder / "truth.png", durable=False) as path:
                Image.fromarray(self.truth).save(path)
            self._truth_kept = True
        picture, facts = self._paths(frame.step)
        # Chroma at full size: the film halves it once more.
        Image.fromarray(frame.picture).save(picture, quality=JPEG_QUALITY, subsampling=0)
        with atomic_write(facts, durable=False) as path:
            path.write_text(_to_json(frame))
        self._steps.append(frame.step)

    def __iter__(self) -> Iterator[Frame]:
        for step in self._steps:
            yield self._read(step)

    def delete(self, first_step: int = 0) -> None:
        """Delete the frames from a step on; the folder too if nothing is left in it.

        Files that are no frames stay.
        """
        if self.folder.is_dir():
            delete_unfinished(self.folder)
        for entry in _entries(self.folder):  # pictures without JSON, too
            if (match := FILE.fullmatch(entry.name)) and int(match[1]) >= first_step:
                entry.unlink()
        self._steps = [step for step in self._steps if step < first_step]
        if not self._steps and self.folder.is_dir():
            (self.folder / "truth.png").unlink(missing_ok=True)
            self._truth_kept = False
            if not _entries(self.folder):
                self.folder.rmdir()

    def delete_damaged(self) -> None:
        """Delete frames that cannot be read: a power cut may leave files without content."""
        for step in self.steps:
            try:
                self._read(step)
            except FramesError:
                for path in self._paths(step):
                    path.unlink(missing_ok=True)
                self._steps.remove(step)

    def _paths(self, step: int) -> tuple[Path, Path]:
        stem = f"frame-{step:08d}"
        return self.folder / f"{stem}.jpg", self.folder / f"{stem}.json"

    def _read(self, step: int) -> Frame:
        picture, facts = self._paths(step)
        found = _read_picture(picture, "JPEG", self.truth.shape)
        try:
            if facts.stat().st_size > MOST_JSON_BYTES:
                raise ValueError("it is too large")
            return _from_json(json.loads(facts.read_text()), step, found)
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise _damaged(facts, error) from error


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _damaged(path: Path, why: object) -> FramesError:
    return FramesError(
        f"{path} cannot be used: {why}. Delete frame-* of this step to make the film without it."
    )


def _to_json(frame: Frame) -> str:
    centers = base64.b64encode(np.ascontiguousarray(frame.centers, "<u2").tobytes()).decode()
    facts = {"step": frame.step, "psnr": frame.psnr, "ssim": frame.ssim, "centers": centers}
    return json.dumps(facts)


def _from_json(facts: Any, step: int, picture: np.ndarray) -> Frame:
    if not isinstance(facts, dict) or facts["step"] != step:
        raise ValueError("it does not belong to this step")
    psnr, ssim = float(facts["psnr"]), float(facts["ssim"])
    if math.isnan(psnr) or not -1.01 <= ssim <= 1.01:
        raise ValueError(f"psnr is {psnr} and ssim is {ssim}")
    centers = np.frombuffer(base64.b64decode(facts["centers"], validate=True), "<u2")
    return Frame(step, psnr, ssim, picture, centers.reshape(-1, 2))


def _read_picture(path: Path, kind: str, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """A grey or RGB picture, whose size is checked before it is decoded."""
    try:
        content = path.read_bytes()
        with (
            warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning),
            Image.open(BytesIO(content), formats=[kind]) as picture,
        ):
            expected = picture.size[::-1] + {"L": (), "RGB": (3,)}.get(picture.mode, (0,))
            if 0 in expected or math.prod(expected) > MOST_PIXELS:
                raise ValueError(f"it is {picture.size[0]}×{picture.size[1]} {picture.mode}")
            if shape is not None and expected != shape:
                raise ValueError(f"its shape is {expected}, but that of truth.png is {shape}")
            return np.array(picture)
    except FileNotFoundError:
        raise _damaged(path, "it is missing") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise _damaged(path, error) from error
