"""Tells pictures that could not be decoded within reason, before memory or time is spent on them.

A header of a few bytes may announce gigabytes. What a format cannot pack into a file of that size
is damaged, or made to harm; a ValueError says what was found.
"""

from __future__ import annotations

import io
import lzma
import math
import os
import re
import zlib
from pathlib import Path
from typing import Any, BinaryIO

MOST_SCANS = 1000  # of a JPEG. Progressive ones have about ten, and each costs a pass over all
MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd8])", re.DOTALL)  # in a JPEG, without restarts
END, SCAN = 0xD9, 0xDA
# A scan has a bit or more for each block of 8×8 (with Huffman's code, which all cameras use).
JPEG_PIXELS_PER_BYTE = 64 * 8
# Bytes that one stored byte of a TIFF becomes, at most. Deflate: two bits for a match of 258.
# LZW: 12 bits for at most 4,096. PackBits: two bytes for a run of 128. Others have no such bound.
TIFF_BYTES_PER_BYTE = {1: 1, 5: 2731, 8: 1032, 32946: 1032, 32773: 64}
DEFLATE, LZMA = (8, 32946, 50013), (34925,)
ZSTANDARD = (34926, 50000)


class Bounded(io.BufferedReader):
    """A file of which no more is read than there is; Python first reserves what is asked for."""

    def __init__(self, path: Path):
        super().__init__(path.open("rb", buffering=0))
        self._size = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        left = max(0, self._size - self.tell())
        return super().read(left if size is None or size < 0 else min(size, left))


def check_jpeg(data: bytes, width: int, height: int) -> None:
    """Raise where a JPEG announces more pixels, or holds more scans, than it reasonably can."""
    if width * height > len(data) * JPEG_PIXELS_PER_BYTE:
        raise ValueError(f"its {len(data)} bytes cannot hold {width} × {height} px")
    position, scans = 2, 0
    while scans <= MOST_SCANS and (marker := MARKER.search(data, position)):
        kind = marker[1][0]
        if kind == END:
            return
        scans += kind == SCAN
        position = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2])
    if scans > MOST_SCANS:
        raise ValueError(f"it has more than {MOST_SCANS} scans")


def check_tiff(page: Any, size: int) -> None:
    """Raise where a page of a TIFF announces more than the file's ``size`` in bytes can hold."""
    height, width = page.imagelength, page.imagewidth
    facts = height, width, page.samplesperpixel, page.bitspersample, *page.chunks
    if not all(isinstance(fact, int) for fact in facts):  # a text, times a number, is a long text
        raise ValueError("a text stands in it where a size must be")
    announced = height * width * page.samplesperpixel * page.bitspersample / 8
    fold = TIFF_BYTES_PER_BYTE.get(int(page.compression), math.inf)
    if announced > size * fold:
        raise ValueError(f"its {size} bytes cannot hold {width} × {height} px")


def check_segments(page: Any, file: BinaryIO, max_pixels: int) -> None:
    """Raise where a strip or tile of a TIFF unpacks to more than it may.

    tifffile unpacks a strip whole, and then looks how much it was.
    """
    rows, columns = page.chunks[:2]
    if not page.is_tiled:
        rows = min(rows, page.imagelength)  # all rows may be announced as 2³² - 1
    if rows * columns > max_pixels:
        raise ValueError(f"a part of it is {columns} × {rows} px")
    samples = page.samplesperpixel if page.planarconfig == 1 else 1
    most = rows * columns * samples * (page.bitspersample // 8)
    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False):
        if count:
            file.seek(offset)
            _check_unpacked(int(page.compression), file.read(count), most)


def _check_unpacked(compression: int, packed: bytes, most: int) -> None:
    if compression in DEFLATE:
        found = len(zlib.decompressobj().decompress(packed, most + 1))
    elif compression in LZMA:
        found = len(lzma.LZMADecompressor().decompress(packed, most + 1))
    elif compression in ZSTANDARD:  # which unpacks itself only where Python is 3.14 or newer
        raise ValueError("a TIFF with Zstandard compression")
    else:  # not packed, or at most 64-fold
        return
    if found > most:
        raise ValueError(f"a part of {len(packed)} bytes unpacks to more than {most}")
