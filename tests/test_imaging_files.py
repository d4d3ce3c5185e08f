"""Pictures come in with exact values, go out whole, and bad files are refused with a remedy."""

import io
import os
import re
import secrets
import struct
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from imaging import files
from imaging.files import (
    PictureError,
    atomic_write,
    find_picture,
    list_pictures,
    load_picture,
    load_target,
    part_name,
    picture_shape,
    save_picture,
)

HEIGHT, WIDTH = 5, 7


@pytest.fixture
def rng():
    """Fresh random numbers; pytest shows the seed where a test fails."""
    seed = int(os.environ.get("SPLATBOOK_TEST_SEED", secrets.randbits(32)))
    print(f"SPLATBOOK_TEST_SEED={seed}")
    return np.random.default_rng(seed)


def bytes_of(rng, *shape):
    return rng.integers(0, 256, shape, dtype=np.uint8)


def words_of(rng, *shape):
    return rng.integers(0, 65536, shape, dtype=np.uint16)


def as_planes(values, largest):
    """What a loader must give for stored (H, W) or (H, W, C) integers, exactly."""
    values = values[..., None] if values.ndim == 2 else values
    return np.moveaxis(values.astype(np.float32) / np.float32(largest), -1, 0)


def over(colour, alpha, background):
    """The definition of "over" on stored values, in float64: (H, W, C), (H, W, 1) in [0, 1]."""
    return np.moveaxis(colour * alpha + np.asarray(background) * (1 - alpha), -1, 0)


def png(width, height, bits, colour_type, rows, chunks=(), last=()):
    """A PNG by hand, for what writers do not offer; `rows` are the packed bytes of each row."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    packed = zlib.compress(b"".join(b"\0" + row for row in rows))
    all_chunks = ((b"IHDR", header), *chunks, (b"IDAT", packed), *last, (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, data) for kind, data in all_chunks)


def deep_png(values, colour_type, chunks=(), last=()):
    rows = [row.astype(">u2").tobytes() for row in values]
    return png(values.shape[1], values.shape[0], 16, colour_type, rows, chunks, last)


def exif_chunk(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")


def assert_exact(path, expected, bits, **options):
    picture = load_picture(path, **options)
    assert picture.pixels.dtype == torch.float32
    assert picture.pixels.is_contiguous()
    assert picture.bit_depth == bits
    np.testing.assert_array_equal(picture.pixels.numpy(), expected)
    return picture


def refused(path, *words, load=load_picture, **options):
    """The message of the refusal, which names the file and holds all words."""
    with pytest.raises(PictureError) as caught:
        load(path, **options)
    message = str(caught.value)
    for word in (Path(path).name, *words):
        assert word in message, message
    return message


class TestStoredValuesArriveExactly:
    @pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_eight_bit(self, tmp_path, rng, suffix, channels):
        values = bytes_of(rng, HEIGHT, WIDTH, channels).squeeze()
        Image.fromarray(values).save(tmp_path / f"a{suffix}")
        picture = assert_exact(tmp_path / f"a{suffix}", as_planes(values, 255), 8)
        assert (picture.name, picture.path, picture.notes) == ("a", tmp_path / f"a{suffix}", ())

    def test_lossless_webp(self, tmp_path, rng):
        values = bytes_of(rng, HEIGHT, WIDTH, 3)
        Image.fromarray(values).save(tmp_path / "a.webp", lossless=True)
        assert_exact(tmp_path / "a.webp", as_planes(values, 255), 8)

    @pytest.mark.parametrize("channels", [1, 3])
    def test_jpeg_as_its_decoder_gives_it(self, tmp_path, rng, channels):
        Image.fromarray(bytes_of(rng, 16, 24, channels).squeeze()).save(tmp_path / "a.jpg")
        with Image.open(tmp_path / "a.jpg") as image:
            expected = as_planes(np.asarray(image), 255)
        assert_exact(tmp_path / "a.jpg", expected, 8)

    @pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
    def test_one_bit(self, tmp_path, rng, suffix):
        values = rng.random((HEIGHT, WIDTH)) < 0.5
        Image.fromarray(values).save(tmp_path / f"a{suffix}")
        assert_exact(tmp_path / f"a{suffix}", as_planes(values, 1), 1)

    @pytest.mark.parametrize("bits", [2, 4])
    def test_grey_of_few_bits_reaches_white(self, tmp_path, bits):
        largest = 2**bits - 1
        row = bytes([0b00011011]) if bits == 2 else bytes([0x01, 0xEF])
        values = np.array([[0, 1, 2, 3]] if bits == 2 else [[0, 1, 14, 15]])
        (tmp_path / "a.png").write_bytes(png(4, 1, bits, 0, [row]))
        pixels = assert_exact(tmp_path / "a.png", as_planes(values, largest), bits).pixels
        assert pixels.max() == 1

    @pytest.mark.parametrize("suffix", [".png", ".tif"])
    def test_palette(self, tmp_path, rng, suffix):
        palette, indices = bytes_of(rng, 256, 3), bytes_of(rng, HEIGHT, WIDTH)
        image = Image.fromarray(indices)
        image.putpalette(palette.tobytes())
        image.save(tmp_path / f"a{suffix}")
        assert_exact(tmp_path / f"a{suffix}", as_planes(palette[indices], 255), 8)

    @pytest.mark.parametrize("suffix", [".png", ".tif"])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_sixteen_bit_keeps_every_bit(self, tmp_path, rng, suffix, channels):
        values = words_of(rng, HEIGHT, WIDTH, channels).squeeze()
        cv2.imwrite(str(tmp_path / f"a{suffix}"), values[..., ::-1] if channels == 3 else values)
        pixels = assert_exact(tmp_path / f"a{suffix}", as_planes(values, 65535), 16).pixels
        recovered = np.rint(pixels.double().numpy() * 65535).astype(np.uint16)
        np.testing.assert_array_equal(recovered, np.atleast_3d(values).transpose(2, 0, 1))

    @pytest.mark.parametrize(
        "layout",
        [
            {"planarconfig": "contig"},
            {"planarconfig": "separate"},
            {"byteorder": ">"},
            {"compression": "deflate", "predictor": True},
            {"tile": (16, 16)},
            {"bigtiff": True},
        ],
        ids=str,
    )
    def test_sixteen_bit_tiff_in_every_layout(self, tmp_path, rng, layout):
        values = words_of(rng, 37, 35, 3)
        stored = values
        if layout.get("planarconfig") == "separate":
            stored = np.ascontiguousarray(np.moveaxis(values, -1, 0))
        tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", **layout)
        assert_exact(tmp_path / "a.tif", as_planes(values, 65535), 16)

    @pytest.mark.parametrize("orientation", [1, 2, 6])
    def test_sixteen_bit_lzw_tiff(self, tmp_path, rng, orientation):
        values = words_of(rng, HEIGHT, WIDTH, 3)
        path = tmp_path / "a.tif"
        cv2.imwrite(str(path), values[..., ::-1], [cv2.IMWRITE_TIFF_COMPRESSION, 5])
        if orientation != 1:
            set_tiff_orientation(path, orientation)
        assert_exact(path, turned(as_planes(values, 65535), orientation), 16)

    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
    def test_tiff_whose_zero_is_white(self, tmp_path, rng, dtype):
        largest = 1 if dtype == np.float32 else np.iinfo(dtype).max
        values = (rng.random((HEIGHT, WIDTH)) * largest).astype(dtype)
        tifffile.imwrite(tmp_path / "a.tif", values, photometric="miniswhite")
        assert_exact(tmp_path / "a.tif", as_planes(largest - values, largest), values.itemsize * 8)

    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_float_tiff(self, tmp_path, rng, dtype, channels):
        values = rng.random((HEIGHT, WIDTH, channels)).astype(dtype).squeeze()
        photometric = "rgb" if channels == 3 else "minisblack"
        tifffile.imwrite(tmp_path / "a.tif", values, photometric=photometric)
        assert_exact(tmp_path / "a.tif", as_planes(values, 1), values.itemsize * 8)

    def test_cmyk_becomes_rgb_with_a_note(self, tmp_path):
        inks = np.array(
            [[[0, 0, 0, 0], [255, 0, 0, 0], [0, 255, 255, 0], [9, 9, 9, 255]]], np.uint8
        )
        Image.fromarray(inks, mode="CMYK").save(tmp_path / "a.tif")
        expected = np.array([[[1, 1, 1], [0, 1, 1], [1, 0, 0], [0, 0, 0]]], np.float32)
        picture = assert_exact(tmp_path / "a.tif", as_planes(expected, 1), 8)
        assert "CMYK" in picture.notes[0]

    def test_content_not_suffix_tells_the_format(self, tmp_path, rng):
        values = bytes_of(rng, HEIGHT, WIDTH, 3)
        Image.fromarray(values).save(tmp_path / "a.jpg", format="PNG")
        assert_exact(tmp_path / "a.jpg", as_planes(values, 255), 8)

    def test_first_picture_of_a_phones_jpeg(self, tmp_path, rng):
        first, second = (Image.fromarray(bytes_of(rng, 16, 16, 3)) for _ in range(2))
        first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[second])
        with Image.open(tmp_path / "a.jpg") as image:
            assert image.n_frames == 2
            expected = as_planes(np.asarray(image), 255)
        assert_exact(tmp_path / "a.jpg", expected, 8)

    def test_picture_of_one_pixel(self, tmp_path):
        Image.new("RGB", (1, 1), (255, 0, 51)).save(tmp_path / "a.png")
        assert load_picture(tmp_path / "a.png").pixels.flatten().tolist() == pytest.approx(
            [1, 0, 0.2]
        )


def turned(planes, orientation):
    """EXIF's eight orientations, spelled out one by one."""
    return {
        1: lambda p: p,
        2: lambda p: np.flip(p, 2),
        3: lambda p: np.rot90(p, 2, (1, 2)),
        4: lambda p: np.flip(p, 1),
        5: lambda p: p.transpose(0, 2, 1),
        6: lambda p: np.rot90(p, -1, (1, 2)),
        7: lambda p: np.rot90(p.transpose(0, 2, 1), 2, (1, 2)),
        8: lambda p: np.rot90(p, 1, (1, 2)),
    }[orientation](planes)


def set_tiff_orientation(path, orientation):
    """Rewrite a classic little-endian TIFF's last, unneeded tag as its orientation."""
    data = bytearray(path.read_bytes())
    (directory,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, directory)
    entries = [bytes(data[directory + 2 + 12 * i :][:12]) for i in range(count)]
    unneeded = {282, 283, 296, 305, 266, 284}
    victim = next(i for i, e in enumerate(entries) if struct.unpack_from("<H", e)[0] in unneeded)
    entries[victim] = struct.pack("<HHIHH", 274, 3, 1, orientation, 0)
    entries.sort(key=lambda entry: struct.unpack_from("<H", entry)[0])
    data[directory + 2 : directory + 2 + 12 * count] = b"".join(entries)
    path.write_bytes(data)


@pytest.mark.parametrize("orientation", range(1, 9))
class TestOrientationIsApplied:
    @pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
    def test_eight_bit(self, tmp_path, rng, suffix, orientation):
        # Flat 8 × 8 blocks come through JPEG nearly unchanged.
        values = bytes_of(rng, 2, 3).repeat(8, 0).repeat(8, 1)
        exif = Image.Exif()
        exif[0x0112] = orientation
        image = Image.fromarray(np.dstack([values] * 3))
        image.save(tmp_path / f"a{suffix}", exif=exif, quality=100)
        picture = load_picture(tmp_path / f"a{suffix}")
        expected = turned(as_planes(np.dstack([values] * 3), 255), orientation)
        assert picture.pixels.shape == expected.shape
        assert np.abs(picture.pixels.numpy() - expected).max() < 0.02
        told = any("orientation" in note for note in picture.notes)
        assert told == (orientation != 1 and suffix != ".tif")

    def test_sixteen_bit_png(self, tmp_path, rng, orientation):
        values = words_of(rng, HEIGHT, WIDTH, 3)
        (tmp_path / "a.png").write_bytes(deep_png(values, 2, [exif_chunk(orientation)]))
        assert_exact(tmp_path / "a.png", turned(as_planes(values, 65535), orientation), 16)

    def test_png_that_says_so_after_its_pixels(self, tmp_path, rng, orientation):
        values = words_of(rng, HEIGHT, WIDTH, 3)
        (tmp_path / "a.png").write_bytes(deep_png(values, 2, last=[exif_chunk(orientation)]))
        expected = turned(as_planes(values, 65535), orientation)
        assert_exact(tmp_path / "a.png", expected, 16)
        assert picture_shape(tmp_path / "a.png") == expected.shape

    def test_png_that_says_so_twice_is_turned_as_it_says_first(self, tmp_path, rng, orientation):
        values = words_of(rng, HEIGHT, WIDTH, 3)
        other = exif_chunk(8 if orientation < 5 else 1)
        data = deep_png(values, 2, [exif_chunk(orientation)], [other])
        (tmp_path / "a.png").write_bytes(data)
        expected = turned(as_planes(values, 65535), orientation)
        assert_exact(tmp_path / "a.png", expected, 16)
        assert picture_shape(tmp_path / "a.png") == expected.shape

    @pytest.mark.parametrize("dtype", [np.uint16, np.float32])
    def test_deep_tiff(self, tmp_path, rng, orientation, dtype):
        values = words_of(rng, HEIGHT, WIDTH, 3)
        values = values if dtype == np.uint16 else rng.random((HEIGHT, WIDTH, 3), np.float32)
        tags = [(0x0112, "H", 1, orientation, True)]
        tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb", extratags=tags)
        largest = 65535 if dtype == np.uint16 else 1
        expected = turned(as_planes(values, largest), orientation)
        assert_exact(tmp_path / "a.tif", expected, values.itemsize * 8)


def test_nonsense_orientation_is_ignored(tmp_path, rng):
    values = bytes_of(rng, HEIGHT, WIDTH, 3)
    exif = Image.Exif()
    exif[0x0112] = 77
    Image.fromarray(values).save(tmp_path / "a.png", exif=exif)
    assert_exact(tmp_path / "a.png", as_planes(values, 255), 8)


class TestAlphaIsCompositedOverTheBackground:
    BACKGROUNDS = (
        ("white", (1, 1, 1)),
        ("black", (0, 0, 0)),
        ("#3366ff", (0.2, 0.4, 1)),
        ((51, 102, 255), (0.2, 0.4, 1)),
        ((0.25, 0.5, 0.75), (0.25, 0.5, 0.75)),
    )

    @pytest.mark.parametrize(("background", "colour"), BACKGROUNDS, ids=str)
    @pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
    def test_eight_bit_rgba(self, tmp_path, rng, suffix, background, colour):
        values = bytes_of(rng, HEIGHT, WIDTH, 4)
        Image.fromarray(values).save(tmp_path / f"a{suffix}", lossless=True, exact=True)
        picture = load_picture(tmp_path / f"a{suffix}", background=background)
        expected = over(values[..., :3] / 255, values[..., 3:] / 255, colour)
        np.testing.assert_allclose(picture.pixels, expected, atol=3e-7)
        assert picture.notes[0].startswith("alpha composited over ")
        assert str(background) in picture.notes[0]

    @pytest.mark.parametrize("suffix", [".png", ".tif"])
    def test_sixteen_bit_rgba(self, tmp_path, rng, suffix):
        values = words_of(rng, HEIGHT, WIDTH, 4)
        if suffix == ".png":
            (tmp_path / "a.png").write_bytes(deep_png(values, 6))
        else:
            options = {"photometric": "rgb", "extrasamples": ["unassalpha"]}
            tifffile.imwrite(tmp_path / "a.tif", values, **options)
        picture = load_picture(tmp_path / f"a{suffix}", background="black")
        expected = over(values[..., :3] / 65535, values[..., 3:] / 65535, (0, 0, 0))
        np.testing.assert_allclose(picture.pixels, expected, atol=3e-7)
        assert picture.bit_depth == 16

    @pytest.mark.parametrize("bits", [8, 16])
    def test_premultiplied_tiff_is_not_multiplied_again(self, tmp_path, rng, bits):
        largest = 2**bits - 1
        alpha = rng.integers(largest // 2, largest + 1, (HEIGHT, WIDTH, 1))
        colour = rng.integers(0, alpha + 1, (HEIGHT, WIDTH, 3))
        stored = np.dstack([colour, alpha]).astype(np.uint8 if bits == 8 else np.uint16)
        options = {"photometric": "rgb", "extrasamples": ["assocalpha"]}
        tifffile.imwrite(tmp_path / "a.tif", stored, **options)
        expected = np.moveaxis(colour / largest + (1 - alpha / largest), -1, 0)
        # Pillow undoes the multiplication of 8-bit samples in 8 bits.
        tolerance = 2 / 255 if bits == 8 else 3e-7
        np.testing.assert_allclose(
            load_picture(tmp_path / "a.tif").pixels, expected, atol=tolerance
        )

    def test_tiff_channel_of_unknown_meaning_is_no_alpha(self, tmp_path, rng):
        values = words_of(rng, HEIGHT, WIDTH, 4)
        options = {"photometric": "rgb", "extrasamples": ["unspecified"]}
        tifffile.imwrite(tmp_path / "a.tif", values, **options)
        assert_exact(tmp_path / "a.tif", as_planes(values[..., :3], 65535), 16)

    @pytest.mark.parametrize("suffix", [".png", ".tif"])
    @pytest.mark.parametrize("bits", [8, 16])
    def test_grey_stays_grey_over_grey_and_turns_rgb_over_colour(self, tmp_path, rng, suffix, bits):
        largest = 2**bits - 1
        values = words_of(rng, HEIGHT, WIDTH, 2) if bits == 16 else bytes_of(rng, HEIGHT, WIDTH, 2)
        path = tmp_path / f"a{suffix}"
        if suffix == ".tif":
            options = {"photometric": "minisblack", "planarconfig": "contig"}
            tifffile.imwrite(path, values, extrasamples=["unassalpha"], **options)
        elif bits == 16:
            path.write_bytes(deep_png(values, 4))
        else:
            Image.fromarray(values, mode="LA").save(path)
        grey, alpha = values[..., :1] / largest, values[..., 1:] / largest
        for background, colour in (("white", [1]), ("#336699", [0.2, 0.4, 0.6])):
            picture = load_picture(path, background=background)
            assert picture.bit_depth == bits
            np.testing.assert_allclose(picture.pixels, over(grey, alpha, colour), atol=3e-7)

    def test_palette_with_transparency(self, tmp_path, rng):
        palette, indices = bytes_of(rng, 256, 3), bytes_of(rng, HEIGHT, WIDTH)
        opacity = bytes_of(rng, 256)
        image = Image.fromarray(indices)
        image.putpalette(palette.tobytes())
        image.save(tmp_path / "a.png", transparency=opacity.tobytes())
        expected = over(palette[indices] / 255, opacity[indices][..., None] / 255, (0, 0, 0))
        pixels = load_picture(tmp_path / "a.png", background="black").pixels
        np.testing.assert_allclose(pixels, expected, atol=3e-7)

    @pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
    def test_one_grey_level_declared_transparent(self, tmp_path, bits):
        largest = 2**bits - 1
        row = np.array([0, largest], ">u2")
        packed = row.tobytes() if bits == 16 else bytes([0, 255]) if bits == 8 else b""
        packed = packed or bytes([largest << (8 - 2 * bits)])
        key = (b"tRNS", struct.pack(">H", largest))
        (tmp_path / "a.png").write_bytes(png(2, 1, bits, 0, [packed], [key]))
        picture = load_picture(tmp_path / "a.png", background="#808080")
        assert picture.pixels.flatten().tolist() == pytest.approx([0, 128 / 255])
        assert picture.bit_depth == bits

    @pytest.mark.parametrize("bits", [8, 16])
    def test_one_colour_declared_transparent(self, tmp_path, rng, bits):
        values = rng.permutation(60).reshape(4, 5, 3).astype(">u2" if bits == 16 else np.uint8)
        key = (b"tRNS", values[1, 2].astype(">u2").tobytes())
        rows = [row.tobytes() for row in values]
        (tmp_path / "a.png").write_bytes(png(5, 4, bits, 2, rows, [key]))
        expected = as_planes(values, 2**bits - 1)
        expected[:, 1, 2] = 1
        np.testing.assert_array_equal(load_picture(tmp_path / "a.png").pixels, expected)

    def test_opaque_alpha_changes_nothing_and_is_not_noted(self, tmp_path, rng):
        values = np.dstack([bytes_of(rng, HEIGHT, WIDTH, 3), np.full((HEIGHT, WIDTH), 255, "u1")])
        Image.fromarray(values).save(tmp_path / "a.png")
        picture = assert_exact(tmp_path / "a.png", as_planes(values[..., :3], 255), 8)
        assert picture.notes == ()

    @pytest.mark.parametrize(
        "background", ["whyte", "", (1, 2), (0, 0, 256), (0.5, 0.5, 1.5), 7, (True,) * 3, "#fff8"]
    )
    def test_background_that_is_no_colour_is_named(self, tmp_path, background):
        Image.new("L", (2, 2)).save(tmp_path / "a.png")
        with pytest.raises(
            ValueError, match=r"background: found .*; allowed are a colour name"
        ) as caught:
            load_picture(tmp_path / "a.png", background=background)
        assert repr(background) in str(caught.value)


class TestTarget:
    def test_one_picture(self, tmp_path, rng):
        values = bytes_of(rng, HEIGHT, WIDTH, 3)
        Image.fromarray(values).save(tmp_path / "cat.png")
        target = load_target(tmp_path / "cat.png")
        np.testing.assert_array_equal(target.pixels, as_planes(values, 255))
        assert target.full_pixels is target.pixels
        assert (target.name, target.names, target.channels) == ("cat", ("cat",), (3,))
        assert target.size == target.full_size == (HEIGHT, WIDTH)

    def test_gamma_is_raised_and_undone(self, tmp_path, rng):
        values = bytes_of(rng, HEIGHT, WIDTH, 3)
        Image.fromarray(values).save(tmp_path / "a.png")
        target = load_target(tmp_path / "a.png", gamma=2.2)
        stored = as_planes(values, 255)
        np.testing.assert_allclose(target.pixels, stored.astype(np.float64) ** 2.2, atol=1e-6)
        np.testing.assert_array_equal(target.full_pixels, stored)
        np.testing.assert_allclose(target.encode(target.pixels), stored, atol=1e-6)

    def test_encoding_clamps(self, tmp_path):
        Image.new("L", (2, 2)).save(tmp_path / "a.png")
        for gamma in (1.0, 2.2):
            target = load_target(tmp_path / "a.png", gamma=gamma)
            assert target.encode(torch.tensor([[[-0.5, 1.5]]])).tolist() == [[[0, 1]]]

    def test_stack_joins_channels_in_natural_order(self, tmp_path, rng):
        stored = {"map10": 3, "map2": 1, "map1": 3}
        values = {name: bytes_of(rng, HEIGHT, WIDTH, c).squeeze() for name, c in stored.items()}
        for name, array in values.items():
            Image.fromarray(array).save(tmp_path / f"{name}.png")
        target = load_target(tmp_path)
        assert target.names == ("map1", "map2", "map10")
        assert target.channels == (3, 1, 3)
        assert target.name == tmp_path.name
        assert [path.name for path in target.paths] == ["map1.png", "map2.png", "map10.png"]
        parts = target.split(target.pixels)
        assert [name for name, _ in parts] == list(target.names)
        for name, part in parts:
            np.testing.assert_array_equal(part, as_planes(values[name], 255))

    def test_split_takes_a_render_of_another_size_and_refuses_other_channels(self, tmp_path):
        for name, mode in (("a.png", "L"), ("b.png", "RGB")):
            Image.new(mode, (4, 4)).save(tmp_path / name)
        target = load_target(tmp_path)
        assert [tuple(part.shape) for _, part in target.split(torch.zeros(4, 9, 8))] == [
            (1, 9, 8),
            (3, 9, 8),
        ]
        with pytest.raises(ValueError, match=r"3 channels, the stack 4 \(1 \+ 3\)"):
            target.split(torch.zeros(3, 4, 4))

    def test_names_stay_unique_where_stems_clash(self, tmp_path):
        for name in ("a.png", "a.bmp", "b.png"):
            Image.new("L", (4, 4)).save(tmp_path / name)
        assert load_target(tmp_path).names == ("a.bmp", "a.png", "b")

    def test_notes_name_their_picture(self, tmp_path):
        Image.new("L", (4, 4)).save(tmp_path / "a.png")
        Image.new("LA", (4, 4)).save(tmp_path / "b.png")
        assert load_target(tmp_path).notes == ("b.png: alpha composited over white",)

    @pytest.mark.parametrize("ratio", [2, 3])
    def test_downsampling_averages_whole_areas_of_linear_values(self, tmp_path, rng, ratio):
        values = bytes_of(rng, 4 * ratio, 5 * ratio, 3)
        Image.fromarray(values).save(tmp_path / "a.png")
        target = load_target(tmp_path / "a.png", gamma=2.2, downsample_ratio=ratio)
        linear = as_planes(values, 255).astype(np.float64) ** 2.2
        expected = linear.reshape(3, 4, ratio, 5, ratio).mean((2, 4))
        np.testing.assert_allclose(target.pixels, expected, atol=1e-6)
        np.testing.assert_array_equal(target.full_pixels, as_planes(values, 255))
        assert (target.size, target.full_size) == ((4, 5), (4 * ratio, 5 * ratio))

    def test_fractional_downsampling_keeps_the_mean_and_removes_aliases(self, tmp_path):
        stripes = np.tile(np.array([0, 255], np.uint8), (90, 90))
        Image.fromarray(stripes).save(tmp_path / "a.png")
        pixels = load_target(tmp_path / "a.png", downsample_ratio=4.5).pixels
        assert pixels.shape == (1, 20, 40)
        assert pixels.mean().item() == pytest.approx(0.5, abs=1e-4)
        assert (pixels - 0.5).abs().max() < 0.12  # point samples would give 0.5

    def test_downsampling_never_loses_the_last_pixel(self, tmp_path):
        Image.new("L", (3, 200), 255).save(tmp_path / "a.png")
        pixels = load_target(tmp_path / "a.png", downsample_ratio=100).pixels
        assert pixels.tolist() == [[[1.0], [1.0]]]

    @pytest.mark.parametrize(
        ("setting", "value"),
        [("gamma", 0), ("gamma", -1), ("gamma", float("nan")), ("gamma", float("inf"))]
        + [("downsample_ratio", v) for v in (0.5, 0, float("nan"), float("inf"))],
    )
    def test_settings_out_of_range_are_named(self, tmp_path, setting, value):
        Image.new("L", (4, 4)).save(tmp_path / "a.png")
        with pytest.raises(ValueError, match=rf"{setting}: found {value}; allowed"):
            load_target(tmp_path / "a.png", **{setting: value})

    def test_stack_of_different_sizes_is_refused(self, tmp_path):
        for name, size in (("a.png", (4, 6)), ("b.png", (4, 6)), ("c.png", (5, 6))):
            Image.new("L", size).save(tmp_path / name)
        message = refused(tmp_path, "one size", load=load_target)
        assert "a.png is 4 × 6 px; c.png is 5 × 6 px" in message

    def test_one_bad_picture_of_a_stack_is_named(self, tmp_path):
        Image.new("L", (4, 4)).save(tmp_path / "a.png")
        (tmp_path / "b.png").write_text("not a picture")
        with pytest.raises(PictureError, match=re.escape(str(tmp_path / "b.png"))):
            load_target(tmp_path)


class TestListing:
    def test_natural_order_of_pictures_only(self, tmp_path):
        names = ["p10.png", "p9.JPG", "p1.tif", "p.webp", "P2.bmp", "1.png", "p1b.png", "p01.png"]
        for name in [*names, "readme.txt", ".hidden.png", "._p1.png"]:
            (tmp_path / name).touch()
        (tmp_path / "folder.png").mkdir()
        listed = [path.name for path in list_pictures(tmp_path)]
        expected = ["1.png", "p.webp", "p01.png", "p1.tif", "p1b.png", "P2.bmp", "p9.JPG"]
        assert listed == [*expected, "p10.png"]

    def test_empty_folder_has_no_pictures(self, tmp_path):
        assert list_pictures(tmp_path) == []

    def test_an_empty_name_is_not_the_folder_itself(self, tmp_path):
        with pytest.raises(PictureError, match="input_filenames"):
            find_picture("", tmp_path)

    @pytest.mark.parametrize("given", ["name", "folder"])
    def test_a_tilde_is_the_home_folder(self, tmp_path, monkeypatch, given):
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("USERPROFILE", str(tmp_path))
        (tmp_path / "cat.png").touch()
        arguments = ("~/cat.png", "nowhere") if given == "name" else ("cat.png", "~")
        assert find_picture(*arguments) == tmp_path / "cat.png"

    @pytest.mark.parametrize("name", ["x" * 300, "a\0b", "~nobody-of-this-name/a.png"])
    def test_an_impossible_name_is_looked_for_in_the_folder(self, tmp_path, name):
        assert find_picture(name, tmp_path) == tmp_path / name

    def test_name_is_looked_up_in_the_folder_first_then_as_a_path(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        Path("input").mkdir()
        for name in ("input/both.png", "both.png", "here.png"):
            Path(name).touch()
        assert find_picture("both.png", "input") == Path("input/both.png")
        assert find_picture("here.png", "input") == Path("here.png")
        assert find_picture(tmp_path / "here.png", "input") == tmp_path / "here.png"
        # A missing one is named where it was expected, so that the hint lists that folder.
        assert find_picture("no.png", "input") == Path("input/no.png")

    def test_file_is_no_folder(self, tmp_path):
        (tmp_path / "a.png").touch()
        refused(tmp_path / "a.png", "is not a folder", load=list_pictures)


class TestBadInputIsRefusedWithARemedy:
    def test_missing_file_suggests_near_names_and_lists_pictures(self, tmp_path):
        for name in ("cat.png", "astronaut.jpg", "notes.txt"):
            (tmp_path / name).touch()
        message = refused(tmp_path / "Cta.png", "does not exist", "Did you mean cat.png?")
        assert f"Pictures in {tmp_path}: astronaut.jpg, cat.png." in message
        assert "notes.txt" not in message

    def test_missing_file_among_many_lists_ten(self, tmp_path):
        for i in range(25):
            (tmp_path / f"{i}.png").touch()
        assert "9.png and 15 more" in refused(tmp_path / "q.webp", "does not exist")

    def test_missing_folder(self, tmp_path):
        refused(tmp_path / "nowhere" / "a.png", str(tmp_path / "nowhere"), "Check the path")

    def test_file_taken_for_a_folder(self, tmp_path):
        (tmp_path / "a.png").touch()
        refused(tmp_path / "a.png" / "b.png", "does not exist")

    @pytest.mark.parametrize("load", [load_picture, load_target, list_pictures])
    def test_empty_path(self, load):
        with pytest.raises(PictureError, match="path is empty"):
            load("")

    def test_path_that_no_file_can_have(self, tmp_path):
        refused(tmp_path / "a\0.png", "cannot be reached")
        refused(tmp_path / ("x" * 300 + ".png"), "cannot be reached", "Check the name")

    @pytest.mark.parametrize("content", [None, "readme.txt"])
    def test_folder_without_pictures(self, tmp_path, content):
        if content:
            (tmp_path / content).touch()
        refused(tmp_path, "holds no picture", content or "nothing", ".png", load=load_target)

    def test_folder_where_one_picture_is_wanted(self, tmp_path):
        refused(tmp_path, "is a folder", "load_target")

    def test_unreadable_permissions(self, tmp_path, monkeypatch):
        path = tmp_path / "a.png"
        Image.new("L", (4, 4)).save(path)

        def forbidden(*_, **__):  # root reads everything, so the refusal is played
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "open", forbidden)
        refused(path, "permission denied", "Give yourself read permission")

    def test_unlistable_folder(self, tmp_path, monkeypatch):
        def forbidden(*_):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "iterdir", forbidden)
        refused(tmp_path, "cannot be listed", "permissions", load=load_target)

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are Unix's")
    def test_named_pipe_is_refused_not_waited_for(self, tmp_path):
        os.mkfifo(tmp_path / "a.png")
        refused(tmp_path / "a.png", "neither a file nor a folder")

    def test_empty_file(self, tmp_path):
        (tmp_path / "a.png").touch()
        refused(tmp_path / "a.png", "empty (0 bytes)", "again")

    @pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".bmp"])
    def test_truncated_at_any_point(self, tmp_path, rng, suffix):
        Image.fromarray(bytes_of(rng, 40, 60, 3)).save(tmp_path / f"whole{suffix}")
        data = (tmp_path / f"whole{suffix}").read_bytes()
        last = len(data) - 40  # a PNG is whole without its closing checksums
        for length in [1, 9, 20, 60, len(data) // 2, last, *rng.integers(1, last, 8)]:
            (tmp_path / f"cut{suffix}").write_bytes(data[:length])
            refused(tmp_path / f"cut{suffix}", "PNG")

    @pytest.mark.parametrize("kind", ["png16", "tiff16", "float", "lzw"])
    def test_truncated_deep_picture(self, tmp_path, rng, kind):
        path, values = tmp_path / "a.png", words_of(rng, 40, 60, 3)
        if kind == "png16":
            path.write_bytes(deep_png(values, 2))
        elif kind == "lzw":
            path = tmp_path / "a.tif"
            cv2.imwrite(str(path), values, [cv2.IMWRITE_TIFF_COMPRESSION, 5])
        else:
            path = tmp_path / "a.tif"
            values = values if kind == "tiff16" else (values / 65535).astype(np.float32)
            tifffile.imwrite(path, values, photometric="rgb")
        data = path.read_bytes()
        for length in (20, 100, len(data) // 2, len(data) - 20):
            path.write_bytes(data[:length])
            refused(path, "cannot be decoded", "export it again")

    def test_chunk_that_announces_gigabytes_is_refused_without_reserving_them(self, tmp_path, rng):
        data = bytearray(deep_png(words_of(rng, 20, 30, 3), 2))
        where = data.index(b"IDAT") - 4
        data[where] = 0x99  # the top byte of the chunk's length
        (tmp_path / "a.png").write_bytes(data)
        refused(tmp_path / "a.png", "chunks do not fit into the file")

    @pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".bmp"])
    def test_damaged_bytes_give_a_picture_or_a_refusal_never_another_error(
        self, tmp_path, rng, suffix
    ):
        Image.fromarray(bytes_of(rng, 20, 30, 3)).save(tmp_path / f"whole{suffix}")
        data = np.frombuffer((tmp_path / f"whole{suffix}").read_bytes(), np.uint8)
        for _ in range(40):
            damaged = data.copy()
            where = rng.integers(0, min(len(data), rng.choice([64, len(data)])), 4)
            damaged[where] = bytes_of(rng, 4)
            (tmp_path / f"a{suffix}").write_bytes(damaged.tobytes())
            try:
                pixels = load_picture(tmp_path / f"a{suffix}", max_pixels=10**6).pixels
            except PictureError:
                continue
            assert 0 <= pixels.min() <= pixels.max() <= 1

    @pytest.mark.parametrize("suffix", [".png", ".webp", ".gif"])
    def test_animation(self, tmp_path, rng, suffix):
        first, *rest = [Image.fromarray(bytes_of(rng, 8, 8, 3)) for _ in range(3)]
        first.save(tmp_path / f"a{suffix}", save_all=True, append_images=rest)
        found = "a GIF" if suffix == ".gif" else "3 frames"
        refused(tmp_path / f"a{suffix}", found, "PNG" if suffix == ".gif" else "file of its own")

    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
    def test_tiff_of_several_pages(self, tmp_path, dtype):
        tifffile.imwrite(tmp_path / "a.tif", np.zeros((4, 8, 8), dtype), photometric="minisblack")
        refused(tmp_path / "a.tif", "4 frames or pages", "file of its own")

    @pytest.mark.parametrize(("width", "height"), [(0, 5), (5, 0)])
    def test_picture_without_pixels(self, tmp_path, width, height):
        (tmp_path / "a.png").write_bytes(png(width, height, 8, 0, []))
        refused(tmp_path / "a.png", "cannot be decoded")

    @pytest.mark.parametrize("side", [40_000, 2**31 - 1])
    def test_bomb_is_refused_from_its_header(self, tmp_path, side):
        (tmp_path / "a.png").write_bytes(png(side, side, 8, 2, [b"\0"]))
        refused(tmp_path / "a.png", f"{side} × {side} px", str(2**30), "Scale it down")

    @pytest.mark.parametrize("dtype", [np.uint8, np.float32])
    def test_tiff_bomb_is_refused_from_its_header(self, tmp_path, dtype):
        path = tmp_path / "a.tif"
        tifffile.imwrite(path, np.zeros((4, 4), dtype), photometric="minisblack")
        with tifffile.TiffFile(path, mode="r+") as tiff:
            for tag in (256, 257):
                tiff.pages[0].tags[tag].overwrite(60_000)
        refused(path, "60000 × 60000 px", "Scale it down")

    def test_limit_is_the_users_and_inclusive(self, tmp_path):
        Image.new("L", (10, 10)).save(tmp_path / "a.png")
        assert load_picture(tmp_path / "a.png", max_pixels=100).pixels.shape == (1, 10, 10)
        refused(tmp_path / "a.png", "10 × 10 px", "at most 99 pixels", max_pixels=99)
        refused(tmp_path / "a.png", "at most 99", load=load_target, max_pixels=99)

    @pytest.mark.parametrize("factor", [1, 3])
    def test_pillows_own_limit_neither_warns_nor_refuses(self, tmp_path, monkeypatch, factor):
        Image.new("L", (30, 10 * factor)).save(tmp_path / "a.png")
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)  # 300 warns, 900 is an error
        assert load_picture(tmp_path / "a.png").pixels.shape == (1, 10 * factor, 30)
        assert Image.MAX_IMAGE_PIXELS == 200

    @pytest.mark.parametrize(
        ("content", "described"),
        [
            (b"hello, world", "plain text"),
            (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
            (b"GIF89a", "a GIF"),
            (b"\0\0\0\x20ftypavif\0\0\0\0", "AVIF"),
            (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
            (b"\0\0\0\x18ftypmp42\0\0\0\0", "film"),
            (b"\x76\x2f\x31\x01\x02", "OpenEXR"),
            (b"\x01\x02\x03\xff", "unknown format (it starts with 01 02 03 ff)"),
            (b"BMW 2002, a car", "cannot be decoded"),
        ],
    )
    def test_what_is_no_supported_picture_is_named(self, tmp_path, content, described):
        (tmp_path / "a.png").write_bytes(content)
        refused(tmp_path / "a.png", described, "PNG")

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_float_samples_that_are_not_finite(self, tmp_path, value):
        values = np.full((4, 5, 3), 0.5, np.float32)
        values[1, 2] = value
        tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb")
        refused(tmp_path / "a.tif", "3 samples that are NaN or infinite", "values in [0, 1]")

    @pytest.mark.parametrize("bits", [0x7F800001, 0x7F800000, 0x7F7FFFFF, 0xFF7FFFFF])
    def test_inverted_float_samples_that_cannot_be_reckoned_with(self, tmp_path, bits):
        """A signalling NaN, infinity and the largest numbers are refused without a warning."""
        values = np.full((4, 5), bits, np.uint32).view(np.float32)
        tifffile.imwrite(tmp_path / "a.tif", values, photometric="miniswhite")
        refused(tmp_path / "a.tif", "in [0, 1]" if bits % 2**31 >= 0x7F800000 else "tone-map")

    @pytest.mark.parametrize("value", [-0.25, 1.5])
    def test_float_samples_out_of_range(self, tmp_path, value):
        values = np.full((4, 5), 0.5, np.float32)
        values[1, 2] = value
        tifffile.imwrite(tmp_path / "a.tif", values, photometric="minisblack")
        refused(tmp_path / "a.tif", f"{value}", "[0, 1] is allowed", "tone-map")

    @pytest.mark.parametrize("dtype", [np.int16, np.uint32, np.complex64])
    def test_tiff_samples_without_a_known_range(self, tmp_path, dtype):
        tifffile.imwrite(tmp_path / "a.tif", np.zeros((4, 4), dtype), photometric="minisblack")
        refused(tmp_path / "a.tif", np.dtype(dtype).name, "export it again")


class TestSaving:
    @pytest.mark.parametrize("suffix", [".png", ".tif", ".tiff", ".bmp", ".PNG"])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_eight_bits_round_trip_exactly(self, tmp_path, rng, suffix, channels):
        pixels = torch.from_numpy(as_planes(bytes_of(rng, HEIGHT, WIDTH, channels), 255))
        path = save_picture(tmp_path / f"a{suffix}", pixels)
        assert torch.equal(load_picture(path).pixels, pixels)

    @pytest.mark.parametrize("suffix", [".png", ".tif"])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_sixteen_bits_round_trip_exactly(self, tmp_path, rng, suffix, channels):
        pixels = torch.from_numpy(as_planes(words_of(rng, HEIGHT, WIDTH, channels), 65535))
        picture = load_picture(save_picture(tmp_path / f"a{suffix}", pixels, bit_depth=16))
        assert picture.bit_depth == 16
        assert torch.equal(picture.pixels, pixels)

    @pytest.mark.parametrize("suffix", [".jpg", ".webp"])
    def test_quality_is_used(self, tmp_path, suffix):
        ramp = (
            torch.linspace(0, 1, 64).expand(3, 64, 64) * torch.tensor([1, 0.5, 0.2])[:, None, None]
        )
        errors = []
        for quality in (5, 95):
            path = save_picture(tmp_path / f"{quality}{suffix}", ramp, quality=quality)
            errors.append((load_picture(path).pixels - ramp).abs().mean().item())
        assert errors[1] < 0.01
        assert errors[1] < errors[0]

    def test_values_are_clamped_and_rounded_to_the_nearest(self, tmp_path):
        pixels = torch.tensor([[[-1.0, 0.4 / 255, 0.6 / 255, 254.6 / 255, 3.0]]])
        path = save_picture(tmp_path / "a.png", pixels)
        assert (load_picture(path).pixels * 255).tolist() == [[[0, 0, 1, 255, 255]]]

    @pytest.mark.parametrize(
        "pixels",
        [
            np.full((4, 5), 0.2, np.float64),
            torch.full((4, 5), 0.2, requires_grad=True),
            torch.full((1, 4, 5), 0.2, dtype=torch.bfloat16),
        ],
        ids=["numpy", "needs gradients", "bfloat16"],
    )
    def test_any_float_array_is_taken(self, tmp_path, pixels):
        loaded = load_picture(save_picture(tmp_path / "a.png", pixels)).pixels
        assert (loaded * 255).unique().tolist() == [51]

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_values_that_are_not_finite_are_refused_and_the_old_file_stays(self, tmp_path, value):
        path = save_picture(tmp_path / "a.png", torch.zeros(1, 2, 2))
        before = path.read_bytes()
        with pytest.raises(PictureError, match=r"a\.png.*1 values are NaN.*learning rates"):
            save_picture(path, torch.tensor([[[0.5, value]]]))
        assert path.read_bytes() == before
        assert os.listdir(tmp_path) == ["a.png"]

    @pytest.mark.parametrize(
        ("name", "pixels", "options", "words"),
        [
            ("a.gif", torch.zeros(3, 2, 2), {}, r"suffix '\.gif'.*\.png"),
            ("a", torch.zeros(3, 2, 2), {}, r"suffix ''.*\.png"),
            ("a.jpg", torch.zeros(3, 2, 2), {"bit_depth": 16}, "bit_depth=16.*16 with .png"),
            ("a.png", torch.zeros(3, 2, 2), {"bit_depth": 12}, "bit_depth=12"),
            ("a.jpg", torch.zeros(3, 2, 2), {"quality": 0}, "quality=0.*1 to 100"),
            ("a.png", torch.zeros(4, 2, 2), {}, r"shape .*4, 2, 2.*split"),
            ("a.png", torch.zeros(3, 0, 2), {}, r"shape .*3, 0, 2"),
            ("a.png", torch.zeros(2), {}, r"shape .*2"),
            ("a.png", torch.zeros(3, 2, 2, dtype=torch.uint8), {}, "uint8.*255"),
            ("no/a.png", torch.zeros(3, 2, 2), {}, "could not be written.*folder exists"),
            ("a.jpg", torch.zeros(1, 1, 70_000), {}, "could not be written.*allows the size"),
        ],
    )
    def test_what_cannot_be_written_is_named(self, tmp_path, name, pixels, options, words):
        with pytest.raises(PictureError, match=words) as caught:
            save_picture(tmp_path / name, pixels, **options)
        assert str(tmp_path / name) in str(caught.value)
        assert os.listdir(tmp_path) == []


class TestNamesOfPartsOfAStack:
    @pytest.mark.parametrize("name", ["wood", "木目", "a.b c", "x" * 238, "\udcff"])
    def test_what_fits_is_kept(self, name):
        assert part_name("ground_truth", name, ".png") == f"ground_truth_{name}.png"

    @pytest.mark.parametrize("letter", ["x", "ü", "木", "😀"])
    def test_what_is_too_long_is_cut_and_can_be_written(self, tmp_path, letter):
        long = (letter * 251).encode()[:251].decode(errors="ignore")
        names = [part_name("ground_truth", long[:-1] + end, ".png") for end in "ab"]
        assert names[0] != names[1]
        for name in names:
            assert name.startswith(f"ground_truth_{letter * 50}")
            assert name.endswith(".png")
            save_picture(tmp_path / name, torch.zeros(1, 2, 2))
        assert sorted(os.listdir(tmp_path)) == sorted(names)


class TestAtomicWrite:
    def test_file_appears_whole_with_the_usual_permissions(self, tmp_path):
        (tmp_path / "ordinary").touch()
        with atomic_write(tmp_path / "a.json") as temporary:
            assert temporary.suffix == ".json"
            assert temporary.parent == tmp_path
            assert temporary.name.startswith(".")
            temporary.write_text("new")
            assert not (tmp_path / "a.json").exists()
        assert (tmp_path / "a.json").read_text() == "new"
        assert (tmp_path / "a.json").stat().st_mode == (tmp_path / "ordinary").stat().st_mode
        assert sorted(os.listdir(tmp_path)) == ["a.json", "ordinary"]

    @pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt, SystemExit])
    def test_failure_in_the_middle_leaves_the_old_file(self, tmp_path, failure):
        (tmp_path / "a.txt").write_text("old")

        def write_half():
            with atomic_write(tmp_path / "a.txt") as temporary:
                temporary.write_text("half")
                raise failure

        with pytest.raises(failure):
            write_half()
        assert (tmp_path / "a.txt").read_text() == "old"
        assert os.listdir(tmp_path) == ["a.txt"]

    def test_writer_that_writes_nothing_is_an_error(self, tmp_path):
        (tmp_path / "a.txt").write_text("old")
        with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "a.txt"):
            pass
        assert (tmp_path / "a.txt").read_text() == "old"

    def test_readers_never_see_half_a_file(self, tmp_path):
        path, stop, seen = tmp_path / "a.txt", threading.Event(), set()
        path.write_text("0" * 1000)

        def read():
            while not stop.is_set():
                seen.add(path.read_text())

        reader = threading.Thread(target=read)
        reader.start()
        for i in range(50):
            with atomic_write(path) as temporary, temporary.open("w") as file:
                for _ in range(1000):
                    file.write(str(i % 10))
        stop.set()
        reader.join()
        assert all(len(text) == 1000 and len(set(text)) == 1 for text in seen)

    def test_link_stays_a_link(self, tmp_path):
        (tmp_path / "store").mkdir()
        (tmp_path / "store" / "real.txt").write_text("old")
        (tmp_path / "a.txt").symlink_to(tmp_path / "store" / "real.txt")
        with atomic_write(tmp_path / "a.txt") as temporary:
            temporary.write_text("new")
        assert (tmp_path / "a.txt").is_symlink()
        assert (tmp_path / "store" / "real.txt").read_text() == "new"

    def test_long_names_fit(self, tmp_path):
        name = "é" * 120 + ".txt"
        with atomic_write(tmp_path / name) as temporary:
            temporary.write_text("new")
        assert (tmp_path / name).read_text() == "new"

    def test_temporary_files_are_no_pictures(self, tmp_path):
        with atomic_write(tmp_path / "a.png") as temporary:
            temporary.touch()
            assert list_pictures(tmp_path) == []


def test_threads_may_load_at_once(tmp_path, rng):
    values = [bytes_of(rng, 50, 60, 3) for _ in range(4)]
    for i, array in enumerate(values):
        Image.fromarray(array).save(tmp_path / f"{i}.png")
    limit, loaded = Image.MAX_IMAGE_PIXELS, {}

    def load(i):
        for _ in range(10):
            loaded[i] = load_picture(tmp_path / f"{i}.png").pixels

    threads = [threading.Thread(target=load, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, array in enumerate(values):
        np.testing.assert_array_equal(loaded[i], as_planes(array, 255))
    assert limit == Image.MAX_IMAGE_PIXELS


def test_import_needs_neither_torch_nor_opencv():
    heavy = "{'torch', 'cv2', 'scipy', 'skimage', 'tifffile', 'IPython', 'matplotlib'}"
    code = f"import sys, imaging.files; print(sorted({heavy} & set(sys.modules)))"
    root = Path(files.__file__).parents[1]
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_bundled_photograph_loads_as_scikit_image_reads_it():
    data = pytest.importorskip("skimage.data")
    io_buffer = io.BytesIO()
    Image.fromarray(data.chelsea()).save(io_buffer, format="PNG")
    path = Path(data.__file__).parent / "chelsea.png"
    np.testing.assert_array_equal(load_picture(path).pixels, as_planes(data.chelsea(), 255))
