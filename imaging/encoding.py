"""Writes pictures: planes of [0, 1] become samples, samples bytes, and bytes a whole file."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from imaging.decoding import SUFFIXES, brief, refusal

if TYPE_CHECKING:  # torch takes a second to import
    from jaxtyping import Float
    from torch import Tensor


LONGEST_NAME = 255  # bytes of a file's name, on common systems


def part_name(stem: str, name: str, suffix: str) -> str:
    """The file of one picture of a stack, such as ``rendered_wood.jpg``.

    Too long a name is cut, and marked so that two that begin alike stay apart.
    """
    whole, stored = f"{stem}_{name}{suffix}", os.fsencode(name)
    if len(os.fsencode(whole)) <= LONGEST_NAME:
        return whole
    end = f"~{hashlib.blake2b(stored, digest_size=4).hexdigest()}{suffix}"
    room = LONGEST_NAME - len(os.fsencode(f"{stem}_{end}"))
    return f"{stem}_{stored[:room].decode('utf-8', 'ignore')}{end}"


def save_picture(
    path: str | os.PathLike[str],
    pixels: Float[Tensor, "c h w"] | np.ndarray,
    *,
    quality: int = 95,
    bit_depth: int = 8,
) -> Path:
    """Write a (1 | 3, H, W) or (H, W) float picture, clamped to [0, 1]; the suffix says how.

    Parameters
    ----------
    quality : 1..100, for JPEG (stored 4:4:4) and lossy WebP.
    bit_depth : 8, or 16 for PNG and TIFF.

    Raises
    ------
    PictureError : if the values are not finite floats, the shape is not a picture's, or the
        suffix, the folder or the format's limits do not allow it. An old file is then kept.
    """
    path = Path(os.path.expanduser(path))
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise refusal(path, f"has the suffix '{suffix}'", f"Use one of {', '.join(SUFFIXES)}")
    if bit_depth not in (8, 16) or (bit_depth == 16 and suffix not in (".png", ".tif", ".tiff")):
        allowed = "Use 8, or 16 with .png or .tif"
        raise refusal(path, f"cannot be written with bit_depth={bit_depth}", allowed)
    if not 1 <= quality <= 100:
        raise refusal(path, f"cannot be written with quality={quality}", "Use 1 to 100")
    values = _quantised(path, pixels, bit_depth)
    write = _write_16_bit if bit_depth == 16 else _write_8_bit
    try:
        with atomic_write(path) as temporary:
            write(temporary, values, quality)
    except (OSError, ValueError) as error:
        remedy = "Check that the folder exists and is writable, and that the format allows the size"
        raise refusal(path, f"could not be written ({brief(error)})", remedy) from error
    return path


_UNFINISHED = re.compile(r"\..{0,40}-[0-9a-f]{12}(\.[^.]*)?", re.DOTALL)


@contextmanager
def atomic_write(path: str | os.PathLike[str], *, durable: bool = True) -> Iterator[Path]:
    """Yield a hidden path beside `path` with its suffix; move it there if the block succeeds.

    On any failure, Ctrl-C included, the temporary file is deleted and an old file stays as it
    was. The folder must exist. Where `path` is a link, the file that it points to is replaced.

    Parameters
    ----------
    durable : wait until the disk has it, so that after a power cut, too, there is the old file or
        the whole new one. This takes some milliseconds.
    """
    path = Path(path).expanduser().resolve()
    # Cut, because the random part must not push a long name over the file system's 255 bytes.
    temporary = path.with_name(f".{path.stem[:40]}-{secrets.token_hex(6)}{path.suffix}")
    try:
        yield temporary
        if durable:
            _flush(temporary)
        os.replace(temporary, path)
        if durable:
            with contextlib.suppress(OSError):  # not every file system can do this to a folder
                _flush(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def unfinished(folder: Path) -> list[Path]:
    """What :func:`atomic_write` left in a folder when its process was killed."""
    return [path for path in folder.glob(".*") if _UNFINISHED.fullmatch(path.name)]


def delete_unfinished(folder: Path) -> None:
    """Delete what :func:`unfinished` finds."""
    for path in unfinished(folder):
        path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Wait until a file, or the list of a folder's files, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _quantised(path: Path, pixels: Any, bit_depth: int) -> np.ndarray:
    """(H, W) or (H, W, 3) uint8 or uint16."""
    if hasattr(pixels, "detach"):
        pixels = pixels.detach().cpu().float() if pixels.is_floating_point() else pixels.cpu()
    values = np.asarray(pixels)
    if values.dtype.kind != "f":
        remedy = "Pass floats in [0, 1], for bytes pixels / 255"
        raise refusal(path, f"cannot be written from {values.dtype} values", remedy)
    values = values[None] if values.ndim == 2 else values
    if values.ndim != 3 or len(values) not in (1, 3) or values.size == 0:
        remedy = "Pass (1, H, W) or (3, H, W); Target.split parts a stack"
        raise refusal(path, f"cannot be written from the shape {np.shape(pixels)}", remedy)
    if not np.isfinite(values).all():
        count = np.count_nonzero(~np.isfinite(values))
        remedy = "The fit has diverged: lower the learning rates"
        raise refusal(path, f"was not written: {count} values are NaN or infinite", remedy)
    largest = 2**bit_depth - 1
    values = np.rint(values.clip(0, 1) * largest).astype(np.uint8 if bit_depth == 8 else np.uint16)
    return values[0] if len(values) == 1 else np.ascontiguousarray(np.moveaxis(values, 0, -1))


def _write_8_bit(path: Path, values: np.ndarray, quality: int) -> None:
    options = {}
    if path.suffix.lower() in (".jpg", ".jpeg", ".webp"):
        options["quality"] = quality
    if path.suffix.lower() in (".jpg", ".jpeg"):
        options["subsampling"] = "4:4:4"  # halved chroma would cost more than the fit's own error
    if path.suffix.lower() == ".png":
        options["compress_level"] = 2  # a quarter of the usual time, for 6 % more bytes
    Image.fromarray(values).save(path, **options)


def _write_16_bit(path: Path, values: np.ndarray, quality: int) -> None:
    import cv2

    deflate = [cv2.IMWRITE_TIFF_COMPRESSION, 8] if path.suffix.lower() != ".png" else []
    ok, data = cv2.imencode(path.suffix, values[..., ::-1] if values.ndim == 3 else values, deflate)
    if not ok:
        raise ValueError("OpenCV could not encode it")
    path.write_bytes(data)
