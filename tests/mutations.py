"""Valid pictures and model files, and ways to damage them: for tests that feed them to loaders."""

from __future__ import annotations

import io
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence

import cv2
import numpy as np
import tifffile
from PIL import Image, PngImagePlugin

Damage = Callable[[np.random.Generator, bytes, Sequence[bytes]], bytes]
# What counters, lengths and offsets break at.
EDGES = (0, 1, 2, 7, 8, 127, 128, 255, 256, 4096, 32767, 32768, 65535, 65536, 2**20, 2**30,
         2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)  # fmt: skip


def _saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


# Whole files


def valid_pictures(rng: np.random.Generator) -> dict[str, list[bytes]]:
    """Small pictures of every format, in many of its variants."""
    height, width = rng.integers(5, 40, 2)
    y, x = np.mgrid[:height, :width]
    noise = rng.integers(0, 40, (height, width, 3))
    values = (np.stack([5 * x, 5 * y, x + y], axis=2) % 216 + noise).astype(np.uint8)
    image = Image.fromarray(values)
    return {
        "png": _pngs(image),
        "jpeg": _jpegs(image),
        "webp": [
            _saved(image, "WEBP"),
            _saved(image, "WEBP", lossless=True),
            _saved(image.convert("RGBA"), "WEBP", exif=_exif()),
        ],
        "tiff": [*_tiffs(image), *_deep_tiffs(values)],
        "bmp": [*(_saved(image.convert(mode), "BMP") for mode in ("RGB", "L", "P", "1")), _rle()],
    }


def _exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def _pngs(image: Image.Image) -> list[bytes]:
    text = PngImagePlugin.PngInfo()
    text.add_text("Title", "a picture")
    text.add_text("Comment", "packed " * 20, zip=True)
    deep = np.asarray(image).astype(np.uint16) * 257
    modes = [_saved(image.convert(mode), "PNG") for mode in ("RGB", "L", "P", "1", "RGBA", "LA")]
    encoded = [cv2.imencode(".png", part)[1].tobytes() for part in (deep, deep[..., 0])]
    profile = _saved(image, "PNG", pnginfo=text, exif=_exif(), icc_profile=bytes(200))
    return [*modes, *encoded, profile, _saved(image.convert("L"), "PNG", transparency=7)]


def _jpegs(image: Image.Image) -> list[bytes]:
    return [
        _saved(image, "JPEG"),
        _saved(image.convert("L"), "JPEG"),
        _saved(image.convert("CMYK"), "JPEG"),
        _saved(image, "JPEG", progressive=True, exif=_exif(), icc_profile=bytes(200)),
        _saved(image, "JPEG", restart_marker_blocks=2, subsampling=0),
    ]


def _tiffs(image: Image.Image) -> list[bytes]:
    packed = ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
    files = [_saved(image, "TIFF", compression=compression) for compression in packed]
    return [*files, _saved(image.convert("1"), "TIFF", compression="group4")]


def _deep_tiffs(values: np.ndarray) -> list[bytes]:
    words, floats = values.astype(np.uint16) * 257, (values / 255).astype(np.float32)
    options = [
        (words, {}),
        (words, {"compression": "zlib", "predictor": True}),
        (words, {"compression": "lzma"}),
        (words, {"tile": (16, 16), "compression": "zlib"}),
        (words, {"planarconfig": "separate", "byteorder": ">"}),
        (floats, {"compression": "zlib", "rowsperstrip": 3}),
    ]
    files = []
    for array, option in options:
        stack = np.moveaxis(array, 2, 0) if "planarconfig" in option else array
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, stack, photometric="rgb", metadata=None, **option)
        files.append(buffer.getvalue())
    lzw = cv2.imencode(".tif", words, [cv2.IMWRITE_TIFF_COMPRESSION, 5])[1]
    return [*files, lzw.tobytes()]


def _rle() -> bytes:
    """A BMP of runs, which Pillow reads and does not write: 8×4, each row one run."""
    rows = b"".join(bytes([8, colour, 0, 0]) for colour in range(4)) + b"\0\1"
    offset = 54 + 1024
    head = struct.pack("<2sIHHI", b"BM", offset + len(rows), 0, 0, offset)
    facts = struct.pack("<IiiHHIIiiII", 40, 8, 4, 1, 8, 1, len(rows), 0, 0, 256, 0)
    return head + facts + bytes(range(256)) * 4 + rows


# Damage that knows nothing of formats


def flip_bits(rng: np.random.Generator, data: bytes, others: Sequence[bytes]) -> bytes:
    changed = np.frombuffer(data, np.uint8).copy()
    # The head, which says most, as often as all the rest.
    reach = min(len(changed), int(rng.choice([64, 512, len(changed)])))
    places = rng.integers(0, reach, rng.integers(1, 9))
    changed[places] ^= (1 << rng.integers(0, 8, len(places))).astype(np.uint8)
    return changed.tobytes()


def put_edge(rng: np.random.Generator, data: bytes, others: Sequence[bytes]) -> bytes:
    size = int(rng.choice([1, 2, 4, 8]))
    value = EDGES[rng.integers(len(EDGES))] % 256**size
    order = "little" if rng.integers(2) else "big"
    start = int(rng.integers(0, min(len(data), int(rng.choice([64, 512, len(data)])))))
    return data[:start] + value.to_bytes(size, order) + data[start + size :]


def cut(rng: np.random.Generator, data: bytes, others: Sequence[bytes]) -> bytes:
    return data[: rng.integers(0, len(data))]


def _slice(rng: np.random.Generator, data: bytes) -> tuple[int, int]:
    start, end = sorted(int(place) for place in rng.integers(0, len(data) + 1, 2))
    return start, min(end, start + int(rng.choice([4, 40, len(data)])))


def remove(rng: np.random.Generator, data: bytes, others: Sequence[bytes]) -> bytes:
    start, end = _slice(rng, data)
    return data[:start] + data[end:]


def repeat(rng: np.random.Generator, data: bytes, others: Sequence[bytes]) -> bytes:
    start, end = _slice(rng, data)
    return data[:end] + data[start:end] * int(rng.integers(1, 4)) + data[end:]


def insert(rng: np.random.Generator, data: bytes, others: Sequence[bytes]) -> bytes:
    place = int(rng.integers(0, len(data) + 1))
    return data[:place] + rng.bytes(int(rng.integers(1, 40))) + data[place:]


def splice(rng: np.random.Generator, data: bytes, others: Sequence[bytes]) -> bytes:
    other = others[rng.integers(len(others))]
    return data[: rng.integers(1, len(data) + 1)] + other[rng.integers(0, len(other)) :]


ANYWHERE: tuple[Damage, ...] = (flip_bits, put_edge, cut, remove, repeat, insert, splice)


def mutated(
    rng: np.random.Generator, data: bytes, others: Sequence[bytes], known: Sequence[Damage] = ()
) -> bytes:
    """A file with one to three damages; half of them know the format, where ``known`` ones do."""
    for _ in range(rng.integers(1, 4)):
        if not data:
            break
        choice = known if known and rng.integers(2) else ANYWHERE
        data = choice[rng.integers(len(choice))](rng, data, others)
    return data


# Damage that keeps a file's framing, so that it is met deeper inside


def _png_parts(data: bytes) -> list[tuple[bytes, bytes]]:
    parts, place = [], 8
    while place + 12 <= len(data):
        length = struct.unpack_from(">I", data, place)[0]
        parts.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + length]))
        place += 12 + length
    return parts


def png_chunks(rng: np.random.Generator, data: bytes, others: Sequence[bytes]) -> bytes:
    """Chunks are dropped, doubled, swapped or damaged, and their checksums are right."""
    parts = _png_parts(data)
    if not parts:
        return data
    at, way = int(rng.integers(len(parts))), rng.integers(4)
    if way == 0:
        del parts[at]
    elif way == 1:
        parts.insert(int(rng.integers(len(parts))), parts[at])
    elif way == 2:
        other = int(rng.integers(len(parts)))
        parts[at], parts[other] = parts[other], parts[at]
    elif parts[at][1]:
        damage = flip_bits if rng.integers(2) else put_edge
        parts[at] = parts[at][0], damage(rng, parts[at][1], others)
    framed = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d))
              for k, d in parts)  # fmt: skip
    return data[:8] + b"".join(framed)


def jpeg_segments(rng: np.random.Generator, data: bytes, others: Sequence[bytes]) -> bytes:
    """A segment is dropped, doubled or gets other numbers."""
    starts, place = [], 2
    while place + 4 <= len(data) and data[place] == 0xFF and data[place + 1] != 0xD9:
        starts.append(place)
        place += 2 + struct.unpack_from(">H", data, place + 2)[0]
    if len(starts) < 2:
        return data
    at = int(rng.integers(len(starts) - 1))
    first, end, way = starts[at], starts[at + 1], rng.integers(3)
    if way == 0:
        return data[:first] + data[end:]
    if way == 1:
        return data[:end] + data[first:end] * int(rng.integers(1, 20)) + data[end:]
    return data[: first + 4] + put_edge(rng, data[first + 4 : end] or b"\0", others) + data[end:]


def tiff_fields(rng: np.random.Generator, data: bytes, others: Sequence[bytes]) -> bytes:
    """An entry of the directory gets another tag, type, count or value."""
    order = "<" if data[:2] == b"II" else ">"
    if len(data) < 8 or (start := struct.unpack_from(f"{order}I", data, 4)[0]) + 2 > len(data):
        return data
    count = struct.unpack_from(f"{order}H", data, start)[0]
    if not count:
        return data
    place = start + 2 + 12 * int(rng.integers(count))
    at, kind = [(0, "H"), (2, "H"), (4, "I"), (8, "I"), (8, "H")][rng.integers(5)]
    value = EDGES[rng.integers(len(EDGES))] if rng.integers(2) else int(rng.integers(0, 400))
    changed = struct.pack(f"{order}{kind}", value % 256 ** struct.calcsize(kind))
    return data[: place + at] + changed + data[place + at + len(changed) :]


def zip_members(rng: np.random.Generator, data: bytes, others: Sequence[bytes]) -> bytes:
    """A member is dropped, doubled or damaged, and the archive is whole again."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    except Exception:  # damaged before
        return data
    if not members:
        return data
    facts = [i for i, (name, _) in enumerate(members) if name.endswith(".pkl")]
    at, way = int(rng.integers(len(members))), rng.integers(6)
    if way == 0:
        del members[at]
    elif way == 1:
        members[at] = members[int(rng.integers(len(members)))][0], members[at][1]
    else:
        at = facts[0] if facts and way > 2 else at
        damage = ANYWHERE[rng.integers(len(ANYWHERE))]
        members[at] = members[at][0], damage(rng, members[at][1] or b"\0", others)
    buffer = io.BytesIO()
    packing = zipfile.ZIP_DEFLATED if rng.integers(20) == 0 else zipfile.ZIP_STORED
    with zipfile.ZipFile(buffer, "w", packing) as archive:
        for name, content in dict(members).items():
            archive.writestr(name, content)
    return buffer.getvalue()


# Of the records of an archive: what they begin with, and where and how long their fields are.
ZIP_RECORDS = {
    b"PK\1\2": [(4, 2), (6, 2), (8, 2), (10, 2), (16, 4), (20, 4), (24, 4), (28, 2), (30, 2),
                 (32, 2), (34, 2), (38, 4), (42, 4)],
    b"PK\3\4": [(4, 2), (6, 2), (8, 2), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2)],
    b"PK\5\6": [(4, 2), (6, 2), (8, 2), (10, 2), (12, 4), (16, 4), (20, 2)],
    b"PK\6\6": [(4, 8), (16, 4), (20, 4), (24, 8), (32, 8), (40, 8), (48, 8)],
    b"PK\6\7": [(4, 4), (8, 8), (16, 4)],
}  # fmt: skip


def zip_records(rng: np.random.Generator, data: bytes, others: Sequence[bytes]) -> bytes:
    """A field of a header, of the directory or of the archive's end gets another number."""
    kinds = [kind for kind in ZIP_RECORDS if kind in data]
    if not kinds:
        return data
    kind = kinds[rng.integers(len(kinds))]
    starts = [match.start() for match in re.finditer(re.escape(kind), data)]
    offset, size = ZIP_RECORDS[kind][rng.integers(len(ZIP_RECORDS[kind]))]
    place = starts[rng.integers(len(starts))] + offset
    value = EDGES[rng.integers(len(EDGES))] if rng.integers(2) else int(rng.integers(2 * len(data)))
    return data[:place] + (value % 256**size).to_bytes(size, "little") + data[place + size :]


KNOWN: dict[str, tuple[Damage, ...]] = {
    "png": (png_chunks,),
    "jpeg": (jpeg_segments,),
    "tiff": (tiff_fields,),
    "model": (zip_members, zip_records),
    "checkpoint": (zip_members, zip_records),
}
