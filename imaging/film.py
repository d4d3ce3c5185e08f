"""Makes films: frames in, MP4 out, one frame in memory at a time."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np

from imaging.encoding import atomic_write
from imaging.frames import Frames
from imaging.panels import Composer, Look

Codec = Literal["h264", "h265", "vp9"]

FRAMES_PER_SECOND = 30
SECONDS_BETWEEN_KEYS = 1  # so that a player can jump to any second at once
MOST_THREADS = 4  # each holds frames
LEAST_SIDES = {"h265": 16}  # of what an encoder takes
SRGB_TRANSFER, BT709 = 13, 1  # as in ISO/IEC 23091-2, for players to show the very colours

ENCODERS = {  # looking ahead no further than 10 frames, because each takes memory
    "h264": ("libx264", {"preset": "fast", "rc-lookahead": "10"}),
    "h265": (
        "libx265",
        {"preset": "faster", "x265-params": "log-level=error:rc-lookahead=10:frame-threads=2"},
    ),
    "vp9": (
        "libvpx-vp9",
        {"b:v": "0", "deadline": "good", "cpu-used": "5", "row-mt": "1", "lag-in-frames": "10"},
    ),
}


class FilmError(RuntimeError):
    """A film could not be encoded; the message says why."""


@dataclass(frozen=True)
class Coding:
    """How a film is encoded.

    Attributes
    ----------
    crf : constant rate factor from 0, the best, to 51.
    """

    codec: Codec = "h264"
    crf: int = 18

    def options(self, count: int) -> tuple[str, dict[str, str]]:
        """Name of the encoder, and its options for a film of so many frames."""
        encoder, options = ENCODERS[self.codec]
        if self.codec == "h265" and count < 3:
            # Waiting for a third frame to refer to, x265 gives the first ones random times.
            options = {**options, "x265-params": options["x265-params"] + ":bframes=0"}
        # VP9 counts to 63 where the others count to 51.
        crf = round(self.crf * 63 / 51) if self.codec == "vp9" else self.crf
        return encoder, options | {"crf": str(crf)}


def make_film(frames: Frames, path: Path, look: Look, coding: Coding) -> Iterator[int]:
    """Compose and encode all frames; yields how many are done, after each.

    The file appears when the generator is exhausted, and not at all if it is closed before.

    Raises
    ------
    FilmError
        If it cannot be encoded or written.
    FramesError
        If a frame is damaged.
    """
    if not frames.steps:
        raise FilmError("there is no frame to make a film of")
    composer = Composer(frames.truth, look, frames.steps[-1])
    pictures = (composer.compose(frame) for frame in frames)
    yield from encode(pictures, len(frames.steps), composer.size, path, coding)


def encode(
    pictures: Iterable[np.ndarray], count: int, size: tuple[int, int], path: Path, coding: Coding
) -> Iterator[int]:
    """Write (H, W, 3) uint8 pictures as MP4 in yuv420p, with its index at the front.

    Parameters
    ----------
    pictures, count : and how many they are.
    size : (height, width) of all pictures, both even.

    Yields
    ------
    How many pictures are done. See :func:`make_film` for when the file appears, and for errors.
    """
    import av

    with _explained(path, coding), atomic_write(path) as temporary:
        options = {"movflags": "+faststart"}
        with av.open(os.fspath(temporary), "w", format="mp4", options=options) as container:
            stream = _add_stream(container, count, size, coding)
            for done, picture in enumerate(pictures, start=1):
                frame = _converted(picture, stream.height, stream.width)
                frame.pts, frame.time_base = done - 1, Fraction(1, FRAMES_PER_SECOND)
                container.mux(stream.encode(frame))
                yield done
            container.mux(stream.encode(None))


def _add_stream(container, count: int, size: tuple[int, int], coding: Coding):
    encoder, options = coding.options(count)
    stream = container.add_stream(encoder, rate=FRAMES_PER_SECOND, options=options)
    stream.height, stream.width = (max(side, LEAST_SIDES.get(coding.codec, 2)) for side in size)
    stream.pix_fmt = "yuv420p"
    context = stream.codec_context
    context.gop_size = SECONDS_BETWEEN_KEYS * FRAMES_PER_SECOND
    context.thread_count = min(os.cpu_count() or 1, MOST_THREADS)
    context.colorspace = context.color_primaries = BT709
    context.color_trc = SRGB_TRANSFER
    context.color_range = 1  # 16 to 235
    if coding.codec == "h265":
        context.codec_tag = "hvc1"  # with the usual one, Apple's players refuse the file
    return stream


def _converted(picture: np.ndarray, height: int, width: int):
    """A frame in yuv420p, padded where the picture is smaller than the film."""
    import av

    missing = height - picture.shape[0], width - picture.shape[1]
    if any(missing):
        picture = np.pad(picture, [(0, missing[0]), (0, missing[1]), (0, 0)], mode="edge")
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
    return frame.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")


@contextmanager
def _explained(path: Path, coding: Coding) -> Iterator[None]:
    """Turn the encoder's errors into one that can be understood."""
    import av

    try:
        yield
    except av.codec.codec.UnknownCodecError as error:
        raise FilmError(
            f"video_codec={coding.codec!r}: this PyAV has no {error} encoder. Choose another codec"
        ) from error
    except (av.FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise FilmError(f"{path} could not be encoded as {coding.codec}: {reason}") from error
