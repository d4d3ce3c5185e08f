"""Reads and writes pictures: a file or a folder of them in, (C, H, W) tensors in [0, 1] out.

Colour profiles are not applied: values are taken as they are stored, and 8-, 16-bit and float
samples keep their full precision. Every picture that cannot be used raises `PictureError`.
"""

from __future__ import annotations

import difflib
import os
import re
import secrets
import struct
import threading
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from PIL import Image, ImageColor

if TYPE_CHECKING:  # torch takes a second to import, and the command line's help needs none of it
    from jaxtyping import Float
    from torch import Tensor

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
FORMATS = "PNG, JPEG, WebP, TIFF or BMP"
MAX_PIXELS = 2**30

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


@dataclass(frozen=True, eq=False)
class Picture:
    """One decoded picture.

    Attributes
    ----------
    pixels : (C, H, W) float32 in [0, 1], as stored (gamma-encoded); C is 1 or 3.
    name : the file's name without its suffix.
    bit_depth : bits per stored sample (a palette counts as 8).
    notes : what was done to the stored samples, e.g. "alpha composited over white".
    """

    pixels: Float[Tensor, "C H W"]
    name: str
    path: Path
    bit_depth: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Target:
    """What a run fits: one picture, or a stack of equally large ones with channels concatenated.

    Attributes
    ----------
    pixels : (C, H, W) float32 in [0, 1]: stored values ** gamma, then downsampled. To be fitted.
    full_pixels : (C, H0, W0) float32 in [0, 1]: the stored values at full size, *before* gamma.
        Score `encode(render)` against these. The same tensor as `pixels` where both are off.
    channels : channels of each picture (1 or 3); they sum to C.
    names : one unique name per picture: the stem, or the whole file name where stems clash.
    name : the picture's or the folder's own name.
    """

    pixels: Float[Tensor, "C H W"]
    full_pixels: Float[Tensor, "C H0 W0"]
    channels: tuple[int, ...]
    names: tuple[str, ...]
    paths: tuple[Path, ...]
    name: str
    gamma: float = 1.0
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of `pixels`."""
        return tuple(self.pixels.shape[1:])

    @property
    def full_size(self) -> tuple[int, int]:
        """(height, width) of `full_pixels`."""
        return tuple(self.full_pixels.shape[1:])

    def encode(self, image: Float[Tensor, "C h w"]) -> Float[Tensor, "C h w"]:
        """Clamp a rendered image to [0, 1] and undo gamma, giving values as stored in files."""
        image = image.clamp(0, 1)
        return image if self.gamma == 1 else image.pow(1 / self.gamma)

    def split(self, image: Float[Tensor, "C h w"]) -> list[tuple[str, Float[Tensor, "c h w"]]]:
        """Part a (C, h, w) image of any size into the stack's pictures, named, in file order."""
        if len(image) != sum(self.channels):
            raise ValueError(
                f"split: the image has {len(image)} channels, the stack {sum(self.channels)} "
                f"({' + '.join(map(str, self.channels))}). Pass a render of the whole stack."
            )
        ends = np.cumsum(self.channels).tolist()
        starts = [0, *ends[:-1]]
        return [
            (name, image[start:end])
            for name, start, end in zip(self.names, starts, ends, strict=True)
        ]


def load_target(
    path: str | os.PathLike[str],
    *,
    background: str | Sequence[float] = "white",
    gamma: float = 1.0,
    downsample_ratio: float = 1.0,
    max_pixels: int = MAX_PIXELS,
) -> Target:
    """Load what a run fits: one picture, or every picture of a folder as one stack.

    Parameters
    ----------
    path : a picture, or a folder of equally large pictures (taken in natural order of names).
    background : what shows through transparency; see `load_picture`.
    gamma : > 0; the target is the stored value ** gamma. 1 is off.
    downsample_ratio : >= 1; both sides are divided by it (rounded, at least 1 px), after gamma,
        by averaging over the area that each new pixel covers (`cv2.INTER_AREA`: antialiased,
        without the ringing of a Lanczos filter, so values stay in [0, 1]). 1 is off.
    max_pixels : the most pixels that the header of a picture may announce.

    Raises
    ------
    PictureError : for every picture, or folder of pictures, that cannot be used.
    ValueError : for a setting out of its range.
    """
    if not 0 < gamma < float("inf"):
        raise ValueError(f"gamma: found {gamma}; allowed are numbers above 0. 1 switches it off.")
    if not 1 <= downsample_ratio < float("inf"):
        raise ValueError(
            f"downsample_ratio: found {downsample_ratio}; allowed are numbers from 1 up. "
            "1 switches it off, 2 halves both sides."
        )
    path = _checked(path)
    files = _stack_files(path) if path.is_dir() else [path]
    pictures = [load_picture(f, background=background, max_pixels=max_pixels) for f in files]
    _check_equal_sizes(path, pictures)
    full = _concatenate(pictures)
    linear = full if gamma == 1 else full.pow(gamma)
    stems = Counter(picture.name for picture in pictures)
    return Target(
        pixels=linear if downsample_ratio == 1 else _downsample(linear, downsample_ratio),
        full_pixels=full,
        channels=tuple(len(picture.pixels) for picture in pictures),
        names=tuple(p.name if stems[p.name] == 1 else p.path.name for p in pictures),
        paths=tuple(picture.path for picture in pictures),
        name=path.resolve().name if path.is_dir() else path.stem,
        gamma=gamma,
        notes=tuple(f"{p.path.name}: {note}" for p in pictures for note in p.notes),
    )


def load_picture(
    path: str | os.PathLike[str],
    *,
    background: str | Sequence[float] = "white",
    max_pixels: int = MAX_PIXELS,
) -> Picture:
    """Decode one PNG, JPEG, WebP, TIFF or BMP, turned upright and without transparency.

    The format is told from the content, not the suffix. Grey pictures keep one channel.

    Parameters
    ----------
    background : a CSS name, "#rrggbb", three integers in 0..255 or three floats in [0, 1].
        Transparent pixels are composited over it on stored (gamma-encoded) values, as browsers
        do. A grey picture with alpha becomes RGB only where the background is not grey.
    max_pixels : the most pixels that the header may announce; checked before decoding.

    Raises
    ------
    PictureError : if the file is missing, unreadable, broken, animated, too large, of another
        format, or holds float samples that are not finite or lie outside [0, 1].
    ValueError : if `background` is no colour.
    """
    import torch

    colour = _parse_colour(background)
    path = _checked(path)
    if path.is_dir():
        raise _refusal(path, "is a folder", "Name one picture in it, or use load_target")
    samples = _decode(path, max_pixels)
    notes = list(samples.notes)
    planes = _planes(samples)
    if len(planes) in (2, 4):
        planes, blended = _composite(planes, colour, samples.premultiplied)
        if blended:
            notes.append(f"alpha composited over {_colour_name(background)}")
    if samples.orientation != 1:
        notes.append(f"turned upright from EXIF orientation {samples.orientation}")
    pixels = torch.from_numpy(np.ascontiguousarray(planes))
    return Picture(pixels, path.stem, path, samples.bit_depth, tuple(notes))


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
    path = Path(path).expanduser()
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise _refusal(path, f"has the suffix '{suffix}'", f"Use one of {', '.join(SUFFIXES)}")
    if bit_depth not in (8, 16) or (bit_depth == 16 and suffix not in (".png", ".tif", ".tiff")):
        allowed = "Use 8, or 16 with .png or .tif"
        raise _refusal(path, f"cannot be written with bit_depth={bit_depth}", allowed)
    if not 1 <= quality <= 100:
        raise _refusal(path, f"cannot be written with quality={quality}", "Use 1 to 100")
    values = _quantised(path, pixels, bit_depth)
    write = _write_16_bit if bit_depth == 16 else _write_8_bit
    try:
        with atomic_write(path) as temporary:
            write(temporary, values, quality)
    except (OSError, ValueError) as error:
        remedy = "Check that the folder exists and is writable, and that the format allows the size"
        raise _refusal(path, f"could not be written ({_brief(error)})", remedy) from error
    return path


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a hidden path beside `path` with its suffix; move it there if the block succeeds.

    On any failure, Ctrl-C included, the temporary file is deleted and an old file stays as it
    was. The folder must exist. Where `path` is a link, the file that it points to is replaced.
    """
    path = Path(path).expanduser().resolve()
    # Cut, because the random part must not push a long name over the file system's 255 bytes.
    temporary = path.with_name(f".{path.stem[:40]}-{secrets.token_hex(6)}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def find_picture(name: str | os.PathLike[str], folder: str | os.PathLike[str]) -> Path:
    """Where a picture (or a folder of them) is: by name in `folder`, else by its own path."""
    inside = Path(folder) / name
    return Path(name) if not inside.exists() and Path(name).exists() else inside


def list_pictures(folder: str | os.PathLike[str]) -> list[Path]:
    """Pictures of a folder by suffix, in natural order (2 before 10); hidden files left out."""
    folder = _checked(folder)
    if not folder.is_dir():
        raise _refusal(folder, "is not a folder", "Name the folder that holds the pictures")
    found = [
        entry
        for entry in _entries(folder)
        if entry.suffix.lower() in SUFFIXES and entry.name[0] != "." and entry.is_file()
    ]
    return sorted(found, key=_natural_key)


# Finding files and saying what is wrong with them


def _refusal(path: Path, found: str, remedy: str) -> PictureError:
    return PictureError(f"{path}: {found}. {remedy}.")


def _brief(error: BaseException) -> str:
    """One line of another library's message, which may run over many."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return next(iter(str(error).strip().splitlines()), "")[:200] or type(error).__name__


def _natural_key(path: Path) -> tuple[list[Any], str]:
    parts = re.split(r"(\d+)", path.stem.casefold())
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], path.name


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError as error:
        remedy = "Check the permissions of the folder"
        raise _refusal(folder, f"cannot be listed ({_brief(error)})", remedy) from error


def _checked(path: str | os.PathLike[str]) -> Path:
    """The path, known to exist and to be a plain file or a folder."""
    if not os.fspath(path):
        raise PictureError("No picture was named: the path is empty. Name a picture or a folder.")
    path = Path(path)
    try:
        path = path.expanduser()
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise _missing(path) from None
    except (OSError, ValueError, RuntimeError) as error:  # no permission, NUL byte, no home
        remedy = "Check the name and the permissions of its folders"
        raise _refusal(path, f"cannot be reached ({_brief(error)})", remedy) from error
    if not path.is_file() and not path.is_dir():
        raise _refusal(path, "is neither a file nor a folder", f"Name a {FORMATS} file")
    return path


def _missing(path: Path) -> PictureError:
    folder = path.parent.resolve()
    if not folder.is_dir():
        return _refusal(path, f"does not exist, nor does the folder {folder}", "Check the path")
    by_folded = {entry.name.casefold(): entry.name for entry in _entries(folder)}
    near = difflib.get_close_matches(path.name.casefold(), by_folded, n=3)
    pictures = [picture.name for picture in list_pictures(folder)]
    shown = ", ".join(pictures[:10]) or "none"
    more = f" and {len(pictures) - 10} more" if len(pictures) > 10 else ""
    hint = f"Did you mean {' or '.join(by_folded[name] for name in near)}? " if near else ""
    return _refusal(path, "does not exist", f"{hint}Pictures in {folder}: {shown}{more}")


def _stack_files(folder: Path) -> list[Path]:
    files = list_pictures(folder)
    if not files:
        found = ", ".join(sorted(entry.name for entry in _entries(folder))[:5]) or "nothing"
        remedy = f"Put {FORMATS} files there ({', '.join(SUFFIXES)})"
        raise _refusal(folder, f"holds no picture (found {found})", remedy)
    return files


def _check_equal_sizes(folder: Path, pictures: list[Picture]) -> None:
    sizes = {tuple(picture.pixels.shape[1:]): picture.path.name for picture in reversed(pictures)}
    if len(sizes) > 1:
        found = "; ".join(f"{name} is {w} × {h} px" for (h, w), name in reversed(sizes.items()))
        remedy = "Bring all to one size, or move those of another size elsewhere"
        raise _refusal(folder, f"the pictures of a stack must have one size, but {found}", remedy)


def _check_header(path: Path, size: tuple[int, int], frames: int, max_pixels: int) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise _refusal(path, f"is {width} × {height} px", "Export it again: it holds no pixel")
    if width * height > max_pixels:
        found = f"is {width} × {height} px by its header, and at most {max_pixels} pixels are read"
        raise _refusal(path, found, "Scale it down, or raise max_pixels if you trust the file")
    if frames > 1:
        remedy = "Save the one you want as a file of its own"
        raise _refusal(path, f"holds {frames} frames or pages, and one is allowed", remedy)


# Decoding


@dataclass(frozen=True)
class _Samples:
    """Samples as stored: (H, W, K) uint8, uint16 or float32; K = grey, grey + alpha, RGB, RGBA."""

    values: np.ndarray
    bit_depth: int
    orientation: int = 1
    premultiplied: bool = False
    notes: tuple[str, ...] = ()


def _decode(path: Path, max_pixels: int) -> _Samples:
    try:
        with path.open("rb") as file:
            kind = _recognise(path, file.read(64))
            if kind == "TIFF":
                return _decode_tiff(path, file, max_pixels)
            return _decode_with_pillow(path, file, kind, max_pixels)
    except PictureError:
        raise
    except PermissionError as error:
        remedy = "Give yourself read permission, or copy it elsewhere"
        raise _refusal(path, "may not be read (permission denied)", remedy) from error
    except MemoryError as error:
        raise _refusal(path, "does not fit into memory", "Scale it down") from error
    except Exception as error:  # decoders meet a broken file with errors of nearly every class
        remedy = "It is damaged, cut short or of an unusual kind: export it again as PNG"
        raise _refusal(path, f"cannot be decoded ({_brief(error)})", remedy) from error


def _recognise(path: Path, head: bytes) -> str:
    if not head:
        raise _refusal(path, "is empty (0 bytes)", "Copy or export it again")
    for pattern, kind in _SIGNATURES:
        if re.match(pattern, head, re.DOTALL):
            return kind
    unknown = f"of an unknown format (it starts with {head[:8].hex(' ')})"
    described = (text for pattern, text in _FOREIGN if re.match(pattern, head, re.DOTALL))
    found = f"is {next(described, unknown)}"
    raise _refusal(path, found, f"Allowed are {FORMATS}: convert it to PNG")


@contextmanager
def _pillow_rules() -> Iterator[None]:
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


def _decode_with_pillow(path: Path, file: BinaryIO, kind: str, max_pixels: int) -> _Samples:
    file.seek(0)
    with _pillow_rules(), Image.open(file, formats=[kind]) as image:
        # A phone's JPEG may carry more pictures (previews, gain maps): the first is the picture.
        frames = 1 if kind == "JPEG" else getattr(image, "n_frames", 1)
        _check_header(path, image.size, frames, max_pixels)
        Image.MAX_IMAGE_PIXELS = max_pixels  # for what is found only while loading (TIFF tiles)
        image.load()
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
        orientation = orientation if orientation in range(1, 9) else 1
        if kind == "PNG":
            return _png_samples(file, image, orientation)
        notes = ("CMYK converted to RGB without a profile",) if image.mode == "CMYK" else ()
        bits = 1 if image.mode == "1" else 8
        return _Samples(_eight_bit(image), bits, orientation, notes=notes)


def _eight_bit(image: Image.Image) -> np.ndarray:
    """(H, W, K) uint8 of a picture that Pillow holds with at most 8 bits per sample."""
    if image.mode not in _GREY_MODES + _COLOUR_MODES:
        raise ValueError(f"colour mode {image.mode}")
    mode = "L" if image.mode in _GREY_MODES else "RGB"
    if image.has_transparency_data:
        mode = "LA" if mode == "L" else "RGBA"
    values = np.asarray(image if image.mode == mode else image.convert(mode))
    return values[..., None] if values.ndim == 2 else values


def _png_samples(file: BinaryIO, image: Image.Image, orientation: int) -> _Samples:
    """PNG needs care: Pillow narrows 16-bit colour and mistakes 2- and 4-bit transparent greys."""
    file.seek(24)
    bits, colour_type = file.read(2)
    key = image.info.get("transparency")
    if bits == 16:
        return _Samples(_png_16_bit(file, colour_type, key), 16, orientation)
    if image.mode == "L" and bits < 8 and key is not None and key < 2**bits:
        image.info["transparency"] = key * 255 // (2**bits - 1)
    return _Samples(_eight_bit(image), 8 if image.mode == "P" else bits, orientation)


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


def _decode_tiff(path: Path, file: BinaryIO, max_pixels: int) -> _Samples:
    """TIFF up to 8 bits by Pillow; deeper ones, which Pillow narrows or refuses, by tifffile."""
    import tifffile

    file.seek(0)
    with tifffile.TiffFile(file) as tiff:
        page = tiff.pages[0]
        size = (page.imagewidth, page.imagelength)
        _check_header(path, size, len(tiff.pages), max_pixels)
        if page.bitspersample <= 8:
            return _decode_with_pillow(path, file, "TIFF", max_pixels)
        values = _tiff_values(page, file, tiff.byteorder)
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
    return _Samples(values, page.bitspersample, orientation, premultiplied=alpha == 1)


def _tiff_values(page: Any, file: BinaryIO, byteorder: str) -> np.ndarray:
    """(H, W, K) samples of a TIFF page, as stored: not turned, not unmultiplied, not inverted."""
    wanted = {"uint16": 16, "float16": 16, "float32": 32, "float64": 64}
    known = page.photometric in (0, 1, 2) and page.axes in ("YX", "YXS", "SYX")
    if not known or wanted.get(str(page.dtype)) != page.bitspersample or page.samplesperpixel > 8:
        colour = getattr(page.photometric, "name", page.photometric)
        raise ValueError(f"a TIFF of {page.bitspersample}-bit {page.dtype} samples in {colour}")
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
        raise _refusal(path, f"holds {count} samples that are NaN or infinite", remedy)
    if low < -1e-6 or high > 1 + 1e-6:
        found = f"holds float samples from {low:.6g} to {high:.6g}, and [0, 1] is allowed"
        raise _refusal(path, found, "Scale or tone-map them to [0, 1]")
    return values.astype(np.float32).clip(0, 1)


# From samples to planes


def _planes(samples: _Samples) -> np.ndarray:
    """(K, H, W) float32 in [0, 1], turned upright. TIFF and EXIF count orientations 1 to 8."""
    values, orientation = samples.values, samples.orientation
    if orientation >= 5:
        values = values.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    values = np.moveaxis(values, -1, 0)
    if values.dtype == np.float32:
        return values
    largest = np.float32(np.iinfo(values.dtype).max)
    return np.divide(values, largest, dtype=np.float32, order="C")


def _composite(
    planes: np.ndarray, background: np.ndarray, premultiplied: bool
) -> tuple[np.ndarray, bool]:
    """Colour planes laid over a background (Porter & Duff 1984), and whether that changed any."""
    colour, alpha = planes[:-1], planes[-1]
    if alpha.min() == 1:
        return colour, False
    is_grey = (background == background[0]).all()
    if len(colour) == 1 and not is_grey:
        colour = np.repeat(colour, 3, axis=0)
    behind = background[: len(colour), None, None] * (1 - alpha)
    return ((colour if premultiplied else colour * alpha) + behind).clip(0, 1), True


def _parse_colour(background: str | Sequence[float]) -> np.ndarray:
    """(3,) float32 in [0, 1]."""
    try:
        if isinstance(background, str):
            red, green, blue = ImageColor.getrgb(background)
            return np.array([red, green, blue], np.float32) / np.float32(255)
        values = np.array(background)
        largest = {"f": 1, "i": 255, "u": 255}[values.dtype.kind]
        if values.shape == (3,) and (values >= 0).all() and (values <= largest).all():
            return values.astype(np.float32) / np.float32(largest)
    except (KeyError, TypeError, ValueError):
        pass
    raise ValueError(
        f"background: found {background!r}; allowed are a colour name such as 'white', '#rrggbb', "
        "three integers in 0..255 or three floats in 0..1."
    )


def _colour_name(background: str | Sequence[float]) -> str:
    return background if isinstance(background, str) else str(tuple(background))


def _concatenate(pictures: list[Picture]) -> Float[Tensor, "C H W"]:
    import torch

    return torch.cat([p.pixels for p in pictures]) if len(pictures) > 1 else pictures[0].pixels


def _downsample(image: Float[Tensor, "C H W"], ratio: float) -> Float[Tensor, "C h w"]:
    import cv2
    import torch

    height, width = (max(1, round(side / ratio)) for side in image.shape[1:])
    small = torch.empty(len(image), height, width)
    for plane, out in zip(image.numpy(), small.numpy(), strict=True):
        out[:] = cv2.resize(plane, (width, height), interpolation=cv2.INTER_AREA)
    return small.clamp_(0, 1)


# Encoding


def _quantised(path: Path, pixels: Any, bit_depth: int) -> np.ndarray:
    """(H, W) or (H, W, 3) uint8 or uint16."""
    if hasattr(pixels, "detach"):
        pixels = pixels.detach().cpu().float() if pixels.is_floating_point() else pixels.cpu()
    values = np.asarray(pixels)
    if values.dtype.kind != "f":
        remedy = "Pass floats in [0, 1], for bytes pixels / 255"
        raise _refusal(path, f"cannot be written from {values.dtype} values", remedy)
    values = values[None] if values.ndim == 2 else values
    if values.ndim != 3 or len(values) not in (1, 3) or values.size == 0:
        remedy = "Pass (1, H, W) or (3, H, W); Target.split parts a stack"
        raise _refusal(path, f"cannot be written from the shape {np.shape(pixels)}", remedy)
    if not np.isfinite(values).all():
        count = np.count_nonzero(~np.isfinite(values))
        remedy = "The fit has diverged: lower the learning rates"
        raise _refusal(path, f"was not written: {count} values are NaN or infinite", remedy)
    largest = 2**bit_depth - 1
    values = np.rint(values.clip(0, 1) * largest).astype(np.uint8 if bit_depth == 8 else np.uint16)
    return values[0] if len(values) == 1 else np.ascontiguousarray(np.moveaxis(values, 0, -1))


def _write_8_bit(path: Path, values: np.ndarray, quality: int) -> None:
    options = {}
    if path.suffix.lower() in (".jpg", ".jpeg", ".webp"):
        options["quality"] = quality
    if path.suffix.lower() in (".jpg", ".jpeg"):
        options["subsampling"] = "4:4:4"  # halved chroma would cost more than the fit's own error
    Image.fromarray(values).save(path, **options)


def _write_16_bit(path: Path, values: np.ndarray, quality: int) -> None:
    import cv2

    deflate = [cv2.IMWRITE_TIFF_COMPRESSION, 8] if path.suffix.lower() != ".png" else []
    ok, data = cv2.imencode(path.suffix, values[..., ::-1] if values.ndim == 3 else values, deflate)
    if not ok:
        raise ValueError("OpenCV could not encode it")
    path.write_bytes(data)
