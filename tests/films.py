"""For the tests: makes small films, and looks into films as a player does."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def make_film(
    path: Path, codec: str = "libx264", frames: int = 45, pixels: str = "yuv420p"
) -> Path:
    """A bar that grows from the left, 128×64 pixels, 30 frames per second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"x265-params": "log-level=error"} if codec == "libx265" else {}
    with av.open(path, "w") as container:
        stream = container.add_stream(codec, rate=30, options=options)
        stream.width, stream.height, stream.pix_fmt = 128, 64, pixels
        for index in range(frames):
            picture = np.zeros((64, 128, 3), np.uint8)
            picture[:, : 128 * index // frames] = (200, 80, 40)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


@dataclass(frozen=True)
class Film:
    """What is in a file: its stream's facts, and all pictures (T, H, W, 3) uint8."""

    codec: str
    tag: str
    pixel_format: str
    rate: Fraction
    pictures: np.ndarray
    times: list[float]  # in seconds
    key_frames: list[int]
    boxes: list[str]  # of the file, in order

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.pictures.shape[1:3]

    def halves(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """The left and the right half of a picture, as floats in [0, 1]."""
        width = self.pictures.shape[2] // 2
        picture = self.pictures[index] / 255.0
        return picture[:, :width], picture[:, width:]


def read_film(path: Path) -> Film:
    """Decode a whole film."""
    with av.open(str(path)) as container:
        (stream,) = container.streams
        context = stream.codec_context
        frames = list(container.decode(stream))
        return Film(
            codec=context.name,
            tag=context.codec_tag,
            pixel_format=context.pix_fmt,
            rate=stream.average_rate,
            pictures=np.stack([frame.to_ndarray(format="rgb24") for frame in frames]),
            times=[frame.time for frame in frames],
            key_frames=[index for index, frame in enumerate(frames) if frame.key_frame],
            boxes=boxes(path),
        )


def boxes(path: Path) -> list[str]:
    """Names of the outermost boxes of an MP4 file, in order."""
    found = []
    with path.open("rb") as file:
        while header := file.read(8):
            size, name = struct.unpack(">I4s", header)
            found.append(name.decode())
            skip = struct.unpack(">Q", file.read(8))[0] - 16 if size == 1 else size - 8
            file.seek(skip, 1)
    return found


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """In dB, of pictures in [0, 1]."""
    return float(-10 * np.log10(((one - other) ** 2).mean()))
