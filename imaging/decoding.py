"""Turns the bytes of a picture into samples.

The format is told from the content. Whatever is wrong with a file ends as a `PictureError`.
"""

from __future__ import annotations

import re
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from imaging.plausibility import Bounded, check_jpeg, check_segments, check_tiff

FORMATS = "PNG, JPEG, WebP, TIFF or BMP"
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
_SIGNATURES = (
    (rb"\x89PNG\r\n\x1a\n", "PNG"),
    (rb"\xff\xd8\xff", "JPEG"),
    (rb"RIFF....WEBP", "WEBP"),
    (rb"II[*+]\0|MM\0[*+]", "TIFF"),
    (rb"BM", "BMP"),
)
_FOREIGN = (
    (rb"GIF8", "a GIF"),
    (rb"....ftypavi", "an AVIF picture"),
    (rb"....ftyp(hei|hev|mif|msf)", "a HEIC picture"),
    (rb"....ftyp", "a film (MP4 or MOV)"),
    (rb"\x76\x2f\x31\x01", "an OpenEXR picture"),
    (rb"#\?R", "a Radiance HDR picture"),
    (rb"8BPS", "a Photoshop document"),
    (rb"%PDF", "a PDF document"),
    (rb"\s*<", "an SVG, HTML or XML text"),
    (rb"[\t\n\r -~]+\Z", "plain text"),
)
_GREY_MODES = ("1", "L", "LA", "La")
_COLOUR_MODES = ("P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr")
_ORIENTATION_TAG = 0x0112
_pillow_lock = threading.Lock()


class PictureError(ValueError):
    """A picture cannot be used; the message names the file, what was found and what to do."""


def refusal(path: Path, found: str, remedy: str) -> PictureError:
    """The error that names a file, what was found there and what to do."""
    return PictureError(f"{path}: {found}. {remedy}.")


def brief(error: BaseException) -> str:
    """One line of another library's message, which may run over many."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return next(iter(str(error).strip().splitlines()), "")[:200] or type(error).__name__


@dataclass(frozen=True)
class Samples:
    """Samples as stored: (H, W, K) uint8, uint16 or float32; K = grey, grey + alpha, RGB, RGBA."""

    values: np.ndarray
    bit_depth: int
    orientation: int = 1
    premultiplied: bool = False
    notes: tuple[str, ...] = ()


def decode(path: Path, max_pixels: int) -> Samples:
    """The samples of a picture; a header that announces more than `max_pixels` is refused."""
    try:
        with _opened(path) as file:
            kind = _recognise(path, file.read(64))
            if kind == "TIFF":
                return _decode_tiff(path, file, max_pixels)
            return _decode_with_pillow(path, file, kind, max_pixels)
    except PictureError:
        raise
    except PermissionError as error:
        remedy = "Give yourself read permission, or copy it elsewhere"
        raise refusal(path, "may not be read (permission denied)", remedy) from error
    except MemoryError as error:
        raise refusal(path, "does not fit into memory", "Scale it down") from error
    except Exception as error:  # decoders meet a broken file with errors of nearly every class
        remedy = "It is damaged, cut short or of an unusual kind: export it again as PNG"
        raise refusal(path, f"cannot be decoded ({brief(error)})", remedy) from error


def read_header(path: Path) -> tuple[int, int, int, bool]:
    """Height, width, channels (1 or 3) and whether there is alpha, upright; pixels stay unread."""
    try:
        with _opened(path) as file:
            kind = _recognise(path, file.read(64))
            file.seek(0)
            if kind == "TIFF":
                return _tiff_header(file)
            with pillow_rules(), Image.open(file, formats=[kind]) as image:
                width, height = image.size
                grey = image.mode in _GREY_MODES or image.mode.startswith("I")
                alpha = image.has_transparency_data
                turned = image.getexif().get(_ORIENTATION_TAG, 1) in range(5, 9)
    except PictureError:
        raise
    except Exception as error:  # as in decode
        remedy = "It is damaged, cut short or of an unusual kind: export it again as PNG"
        raise refusal(path, f"cannot be decoded ({brief(error)})", remedy) from error
    height, width = (width, height) if turned else (height, width)
    return height, width, 1 if grey else 3, alpha


def _tiff_header(file: BinaryIO) -> tuple[int, int, int, bool]:
    import tifffile

    with tifffile.TiffFile(file) as tiff:
        page = tiff.pages[0]
        sides = page.imagelength, page.imagewidth
        turned = page.tags.valueof(_ORIENTATION_TAG, 1) in range(5, 9)
        channels = 1 if page.photometric in (0, 1) else 3
        return *(sides[::-1] if turned else sides), channels, bool(page.extrasamples)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """A file to decode. NumPy does not warn of its numbers: they are checked when all is read."""
    with Bounded(path) as file, np.errstate(all="ignore"):
        yield file


def _recognise(path: Path, head: bytes) -> str:
    if not head:
        raise refusal(path, "is empty (0 bytes)", "Copy or export it again")
    for pattern, kind in _SIGNATURES:
        if re.match(pattern, head, re.DOTALL):
            return kind
    unknown = f"of an unknown format (it starts with {head[:8].hex(' ')})"
    described = (text for pattern, text in _FOREIGN if re.match(pattern, head, re.DOTALL))
    found = f"is {next(described, unknown)}"
    raise refusal(path, found, f"Allowed are {FORMATS}: convert it to PNG")


def _check_header(path: Path, size: tuple[int, int], frames: int, max_pixels: int) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise refusal(path, f"is {width} × {height} px", "Export it again: it holds no pixel")
    if width * height > max_pixels:
        found = f"is {width} × {height} px by its header, and at most {max_pixels} pixels are read"
        raise refusal(path, found, "Scale it down")
    if frames > 1:
        remedy = "Save the one you want as a file of its own"
        raise refusal(path, f"holds {frames} frames or pages, and one is allowed", remedy)


@contextmanager
def pillow_rules() -> Iterator[None]:
    """Silence Pillow's warnings and lift its own size limit, which ours replaces.

    Both are global to the process, hence the lock.
    """
    with _pillow_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _decode_with_pillow(path: Path, file: BinaryIO, kind: str, max_pixels: int) -> Samples:
    file.seek(0)
    with pillow_rules(), Image.open(file, formats=[kind]) as image:
        # A phone's JPEG may carry more pictures (previews, gain maps): the first is the picture.
        frames = 1 if kind == "JPEG" else getattr(image, "n_frames", 1)
        _check_header(path, image.size, frames, max_pixels)
        if kind == "JPEG":
            check_jpeg(_all_bytes(file), *image.size)
        Image.MAX_IMAGE_PIXELS = max_pixels  # for what is found only while loading (TIFF tiles)
        exif = image.getexif()  # the first one, as for the header: a PNG may hold more
        image.load()  # which turns a TIFF, and then says so here
        orientation = exif.get(_ORIENTATION_TAG, 1)
        orientation = orientation if orientation in range(1, 9) else 1
        if kind == "PNG":
            return _png_samples(file, image, orientation)
        notes = ("CMYK converted to RGB without a profile",) if image.mode == "CMYK" else ()
        bits = 1 if image.mode == "1" else 8
        return Samples(_eight_bit(image), bits, orientation, notes=notes)


def _all_bytes(file: BinaryIO) -> bytes:
    """The whole file; the place where a decoder reads on stays."""
    position = file.tell()
    file.seek(0)
    data = file.read()
    file.seek(position)
    return data


def _eight_bit(image: Image.Image) -> np.ndarray:
    """(H, W, K) uint8 of a picture that Pillow holds with at most 8 bits per sample."""
    if image.mode not in _GREY_MODES + _COLOUR_MODES:
        raise ValueError(f"colour mode {image.mode}")
    mode = "L" if image.mode in _GREY_MODES else "RGB"
    if image.has_transparency_data:
        mode = "LA" if mode == "L" else "RGBA"
    values = np.asarray(image if image.mode == mode else image.convert(mode))
    return values[..., None] if values.ndim == 2 else values


def _png_samples(file: BinaryIO, image: Image.Image, orientation: int) -> Samples:
    """PNG needs care: Pillow narrows 16-bit colour and mistakes 2- and 4-bit transparent greys."""
    file.seek(24)
    bits, colour_type = file.read(2)
    key = image.info.get("transparency")
    if bits == 16:
        return Samples(_png_16_bit(file, colour_type, key), 16, orientation)
    if image.mode == "L" and bits < 8 and key is not None and key < 2**bits:
        image.info["transparency"] = key * 255 // (2**bits - 1)
    return Samples(_eight_bit(image), 8 if image.mode == "P" else bits, orientation)


def _png_16_bit(file: BinaryIO, colour_type: int, key: int | None) -> np.ndarray:
    import cv2

    file.seek(0)
    data = file.read()
    if not _png_is_whole(data):  # OpenCV would reserve whatever length a broken chunk announces
        raise ValueError("its chunks do not fit into the file")
    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != np.uint16:
        raise ValueError("its 16-bit samples are unreadable")
    if colour_type == 4:
        return values[..., [0, 3]]  # OpenCV spreads grey with alpha to BGRA
    if values.ndim == 3:
        return values[..., [2, 1, 0, 3][: values.shape[2]]]
    if key is None:
        return values[..., None]
    return np.dstack([values, np.where(values == key, 0, 65535).astype(np.uint16)])


def _png_is_whole(data: bytes) -> bool:
    position, kind = 8, b""
    while kind != b"IEND" and position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        position += 12 + length
    return kind == b"IEND" and position <= len(data)


def _decode_tiff(path: Path, file: BinaryIO, max_pixels: int) -> Samples:
    """TIFF up to 8 bits by Pillow; deeper ones, which Pillow narrows or refuses, by tifffile."""
    import tifffile

    file.seek(0)
    with tifffile.TiffFile(file) as tiff:
        page = tiff.pages[0]
        size = (page.imagewidth, page.imagelength)
        _check_header(path, size, len(tiff.pages), max_pixels)
        check_tiff(page, path.stat().st_size)
        if page.bitspersample <= 8:
            return _decode_with_pillow(path, file, "TIFF", max_pixels)
        values = _tiff_values(page, file, tiff.byteorder, max_pixels)
        orientation = page.tags.valueof(_ORIENTATION_TAG, 1)
    colours = 3 if page.photometric == 2 else 1
    if page.photometric == 0:  # white is zero
        whitest = 65535 if values.dtype == np.uint16 else 1
        values[..., 0] = whitest - values[..., 0]
    alpha = page.extrasamples[0] if page.extrasamples else 0  # 1 premultiplied, 2 plain, 0 unknown
    values = values[..., : colours + (alpha in (1, 2))]
    if values.dtype != np.uint16:
        values = _checked_floats(path, values)
    orientation = orientation if orientation in range(1, 9) else 1
    return Samples(values, page.bitspersample, orientation, premultiplied=alpha == 1)


def _tiff_values(page: Any, file: BinaryIO, byteorder: str, max_pixels: int) -> np.ndarray:
    """(H, W, K) samples of a TIFF page, as stored: not turned, not unmultiplied, not inverted."""
    wanted = {"uint16": 16, "float16": 16, "float32": 32, "float64": 64}
    known = page.photometric in (0, 1, 2) and page.axes in ("YX", "YXS", "SYX")
    if not known or wanted.get(str(page.dtype)) != page.bitspersample or page.samplesperpixel > 8:
        colour = getattr(page.photometric, "name", page.photometric)
        raise ValueError(f"a TIFF of {page.bitspersample}-bit {page.dtype} samples in {colour}")
    check_segments(page, file, max_pixels)
    try:
        values = page.asarray()
    except ValueError as error:
        if "imagecodecs" not in str(error):
            raise
        values = _tiff_by_opencv(page, file, byteorder)
    if values.ndim == 2:
        return values[..., None]
    return np.moveaxis(values, 0, -1) if page.axes == "SYX" else values


def _tiff_by_opencv(page: Any, file: BinaryIO, byteorder: str) -> np.ndarray:
    """For compressions that tifffile leaves to the optional package imagecodecs, such as LZW."""
    import cv2

    file.seek(0)
    data = bytearray(file.read())
    if tag := page.tags.get(_ORIENTATION_TAG):
        # OpenCV turns some orientations and fails at others: let it see none, we turn ourselves.
        struct.pack_into(f"{byteorder}H", data, tag.valueoffset, 1)
    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != page.dtype or values.shape != page.shape:
        raise ValueError(f"a {page.dtype} TIFF with {page.compression.name} compression")
    return values if values.ndim == 2 else values[..., [2, 1, 0, 3][: values.shape[2]]]


def _checked_floats(path: Path, values: np.ndarray) -> np.ndarray:
    low, high = values.min(), values.max()
    if not np.isfinite([low, high]).all():
        count = np.count_nonzero(~np.isfinite(values))
        remedy = "Replace them with values in [0, 1]"
        raise refusal(path, f"holds {count} samples that are NaN or infinite", remedy)
    if low < -1e-6 or high > 1 + 1e-6:
        found = f"holds float samples from {low:.6g} to {high:.6g}, and [0, 1] is allowed"
        raise refusal(path, found, "Scale or tone-map them to [0, 1]")
    return values.astype(np.float32).clip(0, 1)
