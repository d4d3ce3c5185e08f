"""Pictures to choose from: what lies in a folder, thumbnails of it, and uploads that join it."""

from __future__ import annotations

import filecmp
import io
import os
import re
import secrets
import tempfile
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from imaging.files import (
    SUFFIXES,
    PictureError,
    list_pictures,
    load_picture,
    load_target,
    picture_shape,
)
from quick_start._format import plural

THUMBNAIL = 112  # pixels of a thumbnail's longer side
MAX_THUMBNAIL_PIXELS = 1 << 26  # a picture with more is shown by its name alone
MAX_UPLOAD_BYTES = 200_000_000
MAX_UPLOAD_PIXELS = 100_000_000
LONGEST_STEM = 120  # bytes of a name, as in the folders of runs
# Names of devices on Windows, whatever their suffix.
RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])( *\..*)?", re.IGNORECASE)


@dataclass(frozen=True)
class Choice:
    """A picture, or a folder of pictures that are fitted together.

    Attributes
    ----------
    name : as it is given to ``input_filenames``.
    files : the picture, or those of the folder.
    """

    name: str
    files: tuple[Path, ...]
    is_stack: bool = False

    def describe(self) -> str:
        """Name and size, or what is wrong with it; only headers are read."""
        try:
            shapes = {picture_shape(file)[1:] for file in self.files}
        except PictureError as error:
            return str(error)
        sizes = ", ".join(f"{width}×{height}" for height, width in sorted(shapes))
        stack = f", {plural(len(self.files), 'picture')} fitted together" if self.is_stack else ""
        return f"{self.name}: {sizes}{stack}"


def list_choices(folder: str | os.PathLike[str]) -> list[Choice]:
    """Pictures of a folder, then its folders with pictures; each in natural order.

    Raises
    ------
    PictureError
        Where the folder does not exist or cannot be listed.
    """
    folder = Path(folder).expanduser()
    pictures = [Choice(path.name, (path,)) for path in list_pictures(folder)]
    stacks = []
    for inner in sorted(folder.iterdir(), key=lambda path: path.name.casefold()):
        if inner.name.startswith(".") or not inner.is_dir():
            continue
        try:
            files = tuple(list_pictures(inner))
        except PictureError:  # a folder that may not be read has nothing to choose
            continue
        if files:
            stacks.append(Choice(inner.name, files, is_stack=True))
    return [choice for choice in pictures + stacks if _is_text(choice.name)]


def thumbnail(choice: Choice) -> bytes | None:
    """A small JPEG of a picture, or of a stack's first one; None where none can be made."""
    path = choice.files[0]
    try:
        facts = path.stat()
        return _thumbnail(path, facts.st_mtime_ns, facts.st_size)
    except (OSError, PictureError):
        return None


@lru_cache(maxsize=512)
def _thumbnail(path: Path, changed: int, size: int) -> bytes | None:
    from PIL import Image

    _, height, width = picture_shape(path)
    if height * width > MAX_THUMBNAIL_PIXELS:
        return None
    ratio = max(1.0, max(height, width) / THUMBNAIL)
    small = load_target(path, downsample_ratio=ratio, max_pixels=MAX_THUMBNAIL_PIXELS).pixels
    values = (small * 255).round().byte().permute(1, 2, 0).numpy()
    image = Image.fromarray(values[:, :, 0] if values.shape[2] == 1 else values)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


# Uploads


@dataclass(frozen=True)
class Upload:
    """What became of an uploaded picture.

    Attributes
    ----------
    name : of the file in the folder.
    is_new : False where the same picture was there before, under this name.
    """

    name: str
    is_new: bool


def save_upload(name: str, content: bytes | memoryview, folder: str | os.PathLike[str]) -> Upload:
    """Put an uploaded picture into a folder, whole and under a name that is free.

    Parameters
    ----------
    name : as the browser gave it; separators, control characters and the like are taken out.
    content : the file.
    folder : is made where it does not exist.

    Raises
    ------
    PictureError
        Where it is no picture, a broken one, or too large, or the folder cannot be written to.
        Nothing is left behind then.
    """
    clean = clean_name(name)
    _check(clean, content)
    folder = Path(folder).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return _keep(clean, content, folder)
    except OSError as error:
        raise PictureError(
            f"{clean}: cannot be saved in {folder} ({error.strerror or error}). "
            "Choose an input_dir that you may write to."
        ) from error


def clean_name(name: str) -> str:
    """A file name that is safe on every system, with a picture's suffix.

    Folders are left out; so are control and invisible characters, those that Windows forbids,
    dots and spaces at either end, and the names of devices.
    """
    text = unicodedata.normalize("NFC", re.split(r"[/\\]", name)[-1])
    text = "".join(c for c in text if unicodedata.category(c)[0] != "C" and c not in '<>:"|?*')
    text = " ".join(text.split()).rstrip(". ")
    stem, dot, end = text.rpartition(".")
    suffix = dot + end
    if suffix.lower() not in SUFFIXES:
        raise PictureError(
            f"{text[:80] or 'The upload'}: its name does not end like that of a picture. "
            f"Allowed: {', '.join(SUFFIXES)}. Convert it, or name it after what it is."
        )
    stem = (
        stem.strip(". ").encode()[:LONGEST_STEM].decode(errors="ignore").rstrip(". ") or "picture"
    )
    if RESERVED.fullmatch(stem):
        stem = f"picture-{stem}"
    return stem + suffix.lower()


def _check(name: str, content: bytes | memoryview) -> None:
    """Decode it far from the other pictures, so that nothing broken ever lies among them."""
    if len(content) > MAX_UPLOAD_BYTES:
        raise PictureError(
            f"{name}: has {len(content) / 1e6:.0f} MB, and at most {MAX_UPLOAD_BYTES / 1e6:.0f} "
            "are taken here. Copy it into input_dir yourself, or scale it down."
        )
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary, name)
        path.write_bytes(content)
        try:
            load_picture(path, max_pixels=MAX_UPLOAD_PIXELS)
        except PictureError as error:
            raise PictureError(str(error).replace(str(path), name)) from error


def _keep(name: str, content: bytes | memoryview, folder: Path) -> Upload:
    temporary = folder / f".upload-{secrets.token_hex(8)}"
    try:
        temporary.write_bytes(content)
        for path in list_pictures(folder):
            if filecmp.cmp(path, temporary, shallow=False):
                return Upload(path.name, is_new=False)
        return Upload(_publish(temporary, folder, name).name, is_new=True)
    finally:
        temporary.unlink(missing_ok=True)


def _publish(temporary: Path, folder: Path, name: str) -> Path:
    """Give a finished file a name that no other has: cat.png, cat-2.png, cat-3.png."""
    stem, suffix = os.path.splitext(name)
    # On file systems that ignore case, Cat.png and cat.png are one; so they are here.
    used = {entry.name.casefold() for entry in folder.iterdir()}
    count = 1
    while True:
        path = folder / (name if count == 1 else f"{stem}-{count}{suffix}")
        count += 1
        if path.name.casefold() in used:
            continue
        try:
            _rename(temporary, path)
            return path
        except FileExistsError:  # somebody else was faster
            continue


def _rename(temporary: Path, path: Path) -> None:
    """Rename a file unless the name is taken; ``os.rename`` would replace the other file."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if path.exists():
            raise FileExistsError(path) from None
        os.rename(temporary, path)


def _is_text(name: str) -> bool:
    """Whether a name can be shown and typed; a few file systems hold names that are only bytes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
