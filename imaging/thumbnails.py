"""Makes small pictures of large ones, for pages."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from imaging.decoding import PictureError, brief, pillow_rules, refusal
from imaging.plausibility import Bounded, check_jpeg


def small_jpeg(path: Path, size: tuple[int, int], *, quality: int = 90) -> bytes:
    """A JPEG as one of at most ``size`` (width, height).

    Raises
    ------
    PictureError
        Where it is missing, damaged, or no JPEG.
    """
    buffer = io.BytesIO()
    try:
        data = _whole(path)
        with pillow_rules(), Image.open(io.BytesIO(data), formats=["JPEG"]) as picture:
            check_jpeg(data, *picture.size)
            picture.thumbnail(size)
            picture.save(buffer, "JPEG", quality=quality)
    except Exception as error:  # decoders meet a broken file with errors of nearly every class
        raise refusal(path, f"cannot be decoded ({brief(error)})", "Train again") from error
    return buffer.getvalue()


def _whole(path: Path) -> bytes:
    if not path.is_file():  # a pipe would be waited for
        raise PictureError("it is missing")
    with Bounded(path) as file:
        return file.read()
