"""Pictures that announce more than they hold are refused before memory or time is spent on them."""

from __future__ import annotations

import contextlib
import io
import lzma
import struct
import time
import tracemalloc
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from imaging.files import PictureError, load_picture
from tests.test_imaging_files import png

GIGABYTE = 10**9


@contextlib.contextmanager
def little_memory() -> Iterator[None]:
    """Python reserves no more than 50 MB in this block."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 50e6


def refused_cheaply(path: Path, *words: str) -> None:
    """The picture is refused within seconds, and Python reserves little memory for it."""
    begun = time.perf_counter()
    with little_memory(), pytest.raises(PictureError) as caught:
        load_picture(path)
    assert time.perf_counter() - begun < 5
    for word in (path.name, *words):
        assert word in str(caught.value)


@cache
def deflated(count: int) -> bytes:
    """So many bytes of zeros, packed a thousandfold."""
    packer = zlib.compressobj(9)
    parts = [packer.compress(bytes(10**6)) for _ in range(count // 10**6)]
    return b"".join([*parts, packer.flush()])


def tiff(data: bytes, compression: int, side: int = 10, rows: int = 10) -> bytes:
    """A grey 16-bit TIFF of one strip."""
    tags = [(256, side), (257, side), (258, 16), (259, compression), (262, 1), (273, 0), (277, 1),
            (278, rows), (279, len(data))]  # fmt: skip
    start = 8 + 2 + 12 * len(tags) + 4
    entries = (
        struct.pack("<HHII", tag, 4, 1, start if tag == 273 else value) for tag, value in tags
    )
    directory = struct.pack("<H", len(tags)) + b"".join(entries) + bytes(4)
    return b"II*\0" + struct.pack("<I", 8) + directory + data


class TestTiff:
    @pytest.mark.parametrize("compression", [8, 32946])
    def test_a_strip_that_unpacks_to_a_gigabyte(self, tmp_path, compression):
        path = tmp_path / "a.tif"
        path.write_bytes(tiff(zlib.compress(bytes(200)), compression))
        assert load_picture(path).pixels.shape == (1, 10, 10)  # as such it is a picture
        path.write_bytes(tiff(deflated(GIGABYTE), compression))
        refused_cheaply(path, "unpacks to more than 200")

    def test_a_strip_that_unpacks_to_a_gigabyte_with_lzma(self, tmp_path):
        path = tmp_path / "a.tif"
        path.write_bytes(tiff(lzma.compress(bytes(200)), 34925))
        assert load_picture(path).pixels.shape == (1, 10, 10)
        path.write_bytes(tiff(lzma.compress(bytes(GIGABYTE // 5), preset=0), 34925))
        refused_cheaply(path, "unpacks to more than 200")

    @pytest.mark.parametrize("tag", [256, 257, 258, 277])
    def test_a_text_in_place_of_a_size(self, tmp_path, tag):
        data = bytearray(tiff(bytes(200), 1))
        where = data.index(struct.pack("<HHI", tag, 4, 1))
        data[where : where + 12] = struct.pack("<HHI4s", tag, 7, 4, b"\xff" * 4)
        (tmp_path / "a.tif").write_bytes(data)
        refused_cheaply(tmp_path / "a.tif", "cannot be decoded")

    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
    @pytest.mark.parametrize("compression", [None, "zlib", "lzw", "packbits"])
    def test_a_few_bytes_that_announce_a_gigabyte(self, tmp_path, dtype, compression):
        path = tmp_path / "a.tif"
        if compression == "lzw":
            Image.new("L", (64, 64)).save(path, compression="tiff_lzw")
        elif compression == "packbits":
            Image.new("L", (64, 64)).save(path, compression="packbits")
        else:
            tifffile.imwrite(path, np.zeros((64, 64), dtype), compression=compression)
        with tifffile.TiffFile(path, mode="r+") as file:
            for tag in (256, 257, 278):
                file.pages[0].tags[tag].overwrite(32_000)
        refused_cheaply(path, "bytes cannot hold 32000 × 32000 px")

    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
    @pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
    def test_what_packs_best_is_a_picture_all_the_same(self, tmp_path, compression, dtype):
        values = np.zeros((3000, 3000), dtype)
        Image.fromarray(values).save(tmp_path / "a.tif", compression=compression)
        assert load_picture(tmp_path / "a.tif").pixels.shape == (1, 3000, 3000)

    def test_a_strip_longer_than_the_file_reserves_nothing(self, tmp_path):
        path = tmp_path / "a.tif"
        data = bytearray(tiff(bytes(200), 1))
        where = data.index(struct.pack("<HHI", 279, 4, 1)) + 8
        data[where : where + 4] = struct.pack("<I", 2**32 - 1)
        path.write_bytes(data)
        # Whether it loads does not matter: all that it announces is there.
        with little_memory(), contextlib.suppress(PictureError):
            load_picture(path)


class TestPng:
    @pytest.mark.parametrize("bits", [8, 16])
    @pytest.mark.parametrize(
        ("kind", "head"), [(b"iCCP", b"x\0\0"), (b"zTXt", b"x\0\0"), (b"iTXt", b"x\0\1\0\0\0")]
    )
    def test_a_chunk_that_unpacks_to_a_gigabyte(self, tmp_path, bits, kind, head):
        rows = [bytes(8 * bits // 8)] * 8
        path = tmp_path / "a.png"
        path.write_bytes(png(8, 8, bits, 0, rows, [(kind, head + deflated(10**5))]))
        assert load_picture(path).pixels.shape == (1, 8, 8)
        path.write_bytes(png(8, 8, bits, 0, rows, [(kind, head + deflated(GIGABYTE))]))
        refused_cheaply(path, "too large")

    def test_pixels_that_unpack_to_more_than_there_are_stop_there(self, tmp_path):
        (tmp_path / "a.png").write_bytes(png(8, 8, 8, 0, [bytes(GIGABYTE // 10)]))
        with little_memory():
            assert load_picture(tmp_path / "a.png").pixels.shape == (1, 8, 8)

    def test_a_chunk_longer_than_the_file_reserves_nothing(self, tmp_path):
        data = png(8, 8, 8, 0, [bytes(8)] * 8)
        end = data.index(b"IEND") - 4
        (tmp_path / "a.png").write_bytes(data[:end] + struct.pack(">I4s", 2**31 - 1, b"IDAT"))
        with little_memory(), contextlib.suppress(PictureError):
            load_picture(tmp_path / "a.png")


def jpeg(side: int, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), "red").save(buffer, "JPEG", **options)
    return buffer.getvalue()


class TestJpeg:
    @pytest.mark.parametrize("progressive", [False, True])
    def test_a_few_bytes_that_announce_a_gigabyte(self, tmp_path, progressive):
        # libjpeg would make up all that is missing, and take 15 GB and a minute for it.
        data = bytearray(jpeg(64, progressive=progressive))
        where = data.index(b"\xff\xc2" if progressive else b"\xff\xc0") + 5
        data[where : where + 4] = struct.pack(">HH", 32_000, 32_000)
        (tmp_path / "a.jpg").write_bytes(data)
        refused_cheaply(tmp_path / "a.jpg", "bytes cannot hold 32000 × 32000 px")

    @pytest.mark.parametrize("mode", ["L", "RGB"])
    @pytest.mark.parametrize("progressive", [False, True])
    def test_what_packs_best_is_a_picture_all_the_same(self, tmp_path, mode, progressive):
        image = Image.new(mode, (4000, 4000))
        image.save(tmp_path / "a.jpg", quality=1, progressive=progressive, optimize=True)
        assert load_picture(tmp_path / "a.jpg").pixels.shape[1:] == (4000, 4000)

    def test_a_picture_of_thousands_of_scans_is_not_waited_for(self, tmp_path):
        data = jpeg(2000, progressive=True)
        last = data[data.rindex(b"\xff\xda") : -2]
        (tmp_path / "a.jpg").write_bytes(data[:-2] + 50 * last + data[-2:])
        assert load_picture(tmp_path / "a.jpg").pixels.shape == (3, 2000, 2000)
        (tmp_path / "a.jpg").write_bytes(data[:-2] + 20_000 * last + data[-2:])
        refused_cheaply(tmp_path / "a.jpg", "more than 1000 scans")

    def test_scans_of_a_preview_or_of_what_follows_do_not_count(self, tmp_path):
        data = jpeg(40)
        preview = b"\xff\xe2" + struct.pack(">H", 40_002) + 20_000 * b"\xff\xda"
        (tmp_path / "a.jpg").write_bytes(data[:2] + preview + data[2:] + 2000 * b"\xff\xda\0\2")
        assert load_picture(tmp_path / "a.jpg").pixels.shape == (3, 40, 40)


@pytest.mark.parametrize("side", [16_383])
def test_a_webp_cut_short_is_refused(tmp_path, side):
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(buffer, "WEBP", lossless=True)
    data = bytearray(buffer.getvalue())
    data[21:25] = struct.pack("<I", (side - 1) | (side - 1) << 14)
    (tmp_path / "a.webp").write_bytes(data[:-4])
    refused_cheaply(tmp_path / "a.webp")


def test_a_bmp_of_a_gigabyte_in_a_few_bytes_is_refused(tmp_path):
    Image.new("RGB", (64, 64)).save(tmp_path / "a.bmp")
    data = bytearray((tmp_path / "a.bmp").read_bytes())
    data[18:26] = struct.pack("<ii", 32_000, 32_000)
    (tmp_path / "a.bmp").write_bytes(data)
    refused_cheaply(tmp_path / "a.bmp", "truncated")
