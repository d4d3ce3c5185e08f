"""Small films for tests: a bar that grows from the left."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np


def make_film(
    path: Path, codec: str = "libx264", frames: int = 45, pixels: str = "yuv420p"
) -> Path:
    """A film of 128×64 pixels at 30 frames per second."""
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
