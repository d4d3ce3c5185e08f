"""Reads and writes pictures: a file or a folder of them in, (C, H, W) tensors in [0, 1] out.

Colour profiles are not applied: values are taken as they are stored, and 8-, 16-bit and float
samples keep their full precision. Every picture that cannot be used raises `PictureError`.
"""

from __future__ import annotations

import difflib
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from imaging.decoding import (
    FORMATS,
    SUFFIXES,
    PictureError,
    brief,
    decode,
    read_header,
    refusal,
)
from imaging.encoding import atomic_write, delete_unfinished, part_name, save_picture
from imaging.planes import colour_name, composite, parse_colour, upright_planes

if TYPE_CHECKING:  # torch takes a second to import, and the command line's help needs none of it
    from jaxtyping import Float
    from torch import Tensor

__all__ = [
    "FORMATS",
    "MAX_PIXELS",
    "SUFFIXES",
    "Picture",
    "PictureError",
    "Target",
    "atomic_write",
    "delete_unfinished",
    "find_picture",
    "list_pictures",
    "load_picture",
    "load_target",
    "part_name",
    "picture_shape",
    "save_picture",
]

MAX_PIXELS = 2**30


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

    colour = parse_colour(background)
    path = _checked(path)
    if path.is_dir():
        raise refusal(path, "is a folder", "Name one picture in it, or use load_target")
    samples = decode(path, max_pixels)
    notes = list(samples.notes)
    planes = upright_planes(samples)
    if len(planes) in (2, 4):
        planes, blended = composite(planes, colour, samples.premultiplied)
        if blended:
            notes.append(f"alpha composited over {colour_name(background)}")
    if samples.orientation != 1:
        notes.append(f"turned upright from EXIF orientation {samples.orientation}")
    pixels = torch.from_numpy(np.ascontiguousarray(planes))
    return Picture(pixels, path.stem, path, samples.bit_depth, tuple(notes))


def picture_shape(
    path: str | os.PathLike[str], *, background: str | Sequence[float] = "white"
) -> tuple[int, int, int]:
    """(C, H, W) that `load_target` will find before it reduces anything; no pixel is read.

    Raises
    ------
    PictureError : if a file is missing, of another kind, or its header cannot be read.
    """
    colour = parse_colour(background)
    path = _checked(path)
    found = [read_header(file) for file in (_stack_files(path) if path.is_dir() else [path])]
    channels = 0
    for _, _, colours, alpha in found:
        # Grey laid over a colour becomes RGB. Alpha that hides nothing is not told apart here.
        channels += 3 if alpha and not (colour == colour[0]).all() else colours
    return channels, *found[0][:2]


def find_picture(name: str | os.PathLike[str], folder: str | os.PathLike[str]) -> Path:
    """Where a picture (or a folder of them) is: by name in `folder`, else by its own path.

    `~` is the home folder. Where neither exists, the place in `folder` is returned.

    Raises
    ------
    PictureError : if the name is empty, which would otherwise mean the folder itself.
    """
    if not os.fspath(name):
        raise PictureError(
            "input_filenames: found an empty name. Name a picture, or a folder of equally large "
            "pictures."
        )
    alone = Path(os.path.expanduser(name))
    inside = Path(os.path.expanduser(folder), alone)
    # Not Path.exists, which fails where a name is too long for the file system.
    return alone if os.path.exists(alone) and not os.path.exists(inside) else inside


def list_pictures(folder: str | os.PathLike[str]) -> list[Path]:
    """Pictures of a folder by suffix, in natural order (2 before 10); hidden files left out."""
    folder = _checked(folder)
    if not folder.is_dir():
        raise refusal(folder, "is not a folder", "Name the folder that holds the pictures")
    found = [
        entry
        for entry in _entries(folder)
        if entry.suffix.lower() in SUFFIXES and entry.name[0] != "." and entry.is_file()
    ]
    return sorted(found, key=_natural_key)


# Finding files and saying what is missing


def _natural_key(path: Path) -> tuple[list[Any], str]:
    parts = re.split(r"(\d+)", path.stem.casefold())
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], path.name


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError as error:
        remedy = "Check the permissions of the folder"
        raise refusal(folder, f"cannot be listed ({brief(error)})", remedy) from error


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
        raise refusal(path, f"cannot be reached ({brief(error)})", remedy) from error
    if not path.is_file() and not path.is_dir():
        raise refusal(path, "is neither a file nor a folder", f"Name a {FORMATS} file")
    return path


def _missing(path: Path) -> PictureError:
    folder = path.parent.resolve()
    if not folder.is_dir():
        return refusal(path, f"does not exist, nor does the folder {folder}", "Check the path")
    by_folded = {entry.name.casefold(): entry.name for entry in _entries(folder)}
    near = difflib.get_close_matches(path.name.casefold(), by_folded, n=3)
    pictures = [picture.name for picture in list_pictures(folder)]
    shown = ", ".join(pictures[:10]) or "none"
    more = f" and {len(pictures) - 10} more" if len(pictures) > 10 else ""
    hint = f"Did you mean {' or '.join(by_folded[name] for name in near)}? " if near else ""
    return refusal(path, "does not exist", f"{hint}Pictures in {folder}: {shown}{more}")


def _stack_files(folder: Path) -> list[Path]:
    files = list_pictures(folder)
    if not files:
        found = ", ".join(sorted(entry.name for entry in _entries(folder))[:5]) or "nothing"
        remedy = f"Put {FORMATS} files there ({', '.join(SUFFIXES)})"
        raise refusal(folder, f"holds no picture (found {found})", remedy)
    return files


def _check_equal_sizes(folder: Path, pictures: list[Picture]) -> None:
    sizes = {tuple(picture.pixels.shape[1:]): picture.path.name for picture in reversed(pictures)}
    if len(sizes) > 1:
        found = "; ".join(f"{name} is {w} × {h} px" for (h, w), name in reversed(sizes.items()))
        remedy = "Bring all to one size, or move those of another size elsewhere"
        raise refusal(folder, f"the pictures of a stack must have one size, but {found}", remedy)


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
