"""Frames come back as they were kept, text stays in its panel, and films are what players need."""

from __future__ import annotations

import json
import math
import os
import struct
from dataclasses import replace
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image

from imaging import film as film_module
from imaging.captions import LEAST_CAPITAL, Caption, label, measured
from imaging.film import Coding, FilmError, encode, make_film
from imaging.frames import Frame, FramesError, FramesInMemory, FramesOnDisk
from imaging.panels import Composer, Look, Mosaic
from tests.conftest import smooth_picture
from tests.films import psnr, read_film

UNHURRIED = hypothesis_settings(deadline=None)
LOOKS = [Look(layout, 1.0, place) for layout in ("pair", "grid") for place in ("top", "bottom")]


def frame(step: int, picture: np.ndarray, **values) -> Frame:
    centers = np.array([[0, 0], [65535, 65535], [20000, step % 65536]], np.uint16)
    return Frame(**{"step": step, "psnr": 30.25, "ssim": 0.875, "picture": picture,
                    "centers": centers} | values)  # fmt: skip


def filled(frames, count: int = 3):
    """Frames that grow towards the truth."""
    for index in range(count):
        share = index / max(1, count - 1)
        frames.add(frame(10 * index, (frames.truth * share).astype(np.uint8), psnr=10.0 + index))
    return frames


@pytest.fixture
def truth() -> np.ndarray:
    return smooth_picture(48, 64)


@pytest.fixture
def kept(tmp_path, truth) -> FramesOnDisk:
    return filled(FramesOnDisk(tmp_path / "run" / "frames", truth))


class TestFrames:
    @pytest.mark.parametrize("channels", [1, 3])
    def test_they_come_back_from_disk(self, tmp_path, channels, rng):
        picture = smooth_picture(33, 21, channels).squeeze()
        frames = FramesOnDisk(tmp_path / "frames", picture)
        centers = rng.integers(0, 65536, (50, 2)).astype(np.uint16)
        kept = [
            frame(0, picture, psnr=math.inf, ssim=-0.25, centers=centers),
            frame(10_000_000, picture // 2, psnr=0.1 + 0.2),
        ]
        for each in kept:
            frames.add(each)
        again = FramesOnDisk(tmp_path / "frames")
        assert again.steps == [0, 10_000_000]
        assert np.array_equal(again.truth, picture)
        for found, each in zip(again, kept, strict=True):
            assert (found.step, found.psnr, found.ssim) == (each.step, each.psnr, each.ssim)
            assert np.array_equal(found.centers, each.centers)
            assert found.picture.shape == each.picture.shape
            assert abs(found.picture.astype(int) - each.picture).mean() < 2  # JPEG costs a little

    def test_a_frame_without_its_json_was_cut_short_and_does_not_count(self, kept):
        (kept.folder / "frame-00000020.json").unlink()
        assert FramesOnDisk(kept.folder).steps == [0, 10]

    def test_deleting_leaves_what_is_no_frame(self, kept):
        stranger = kept.folder / "frame-mine.json"
        stranger.write_text("keep me")
        kept.delete()
        assert [path.name for path in kept.folder.iterdir()] == ["frame-mine.json"]
        stranger.unlink()
        kept.delete()
        assert not kept.folder.exists()

    def test_deleting_takes_what_was_cut_short(self, kept):
        (kept.folder / "frame-00000030.jpg").write_bytes(b"half a frame")
        kept.delete()
        assert not kept.folder.exists()

    def test_those_from_a_step_on_can_be_deleted(self, kept):
        kept.delete(first_step=10)
        assert kept.steps == FramesOnDisk(kept.folder).steps == [0]
        kept.add(frame(15, kept.truth))
        assert [each.step for each in FramesOnDisk(kept.folder)] == [0, 15]

    @pytest.mark.parametrize(
        "name",
        ["frame-10.json", "frame-00000010.json.bak", "frame-000000010.json", "xframe-00000010.json",
         "frame-٠٠٠٠٠٠٧٠.json", "frame--0000010.json", "frame-00000010 .json"],
    )  # fmt: skip
    def test_other_names_are_no_frames(self, kept, name):
        (kept.folder / name).write_text("{}")
        assert FramesOnDisk(kept.folder).steps == [0, 10, 20]

    def test_names_inside_a_frame_are_not_followed(self, kept, tmp_path):
        secret = tmp_path / "secret.jpg"
        Image.fromarray(kept.truth).save(secret)
        facts = kept.folder / "frame-00000010.json"
        content = json.loads(facts.read_text())
        facts.write_text(json.dumps(content | {"picture": str(secret), "step": "../../secret"}))
        with pytest.raises(FramesError, match=r"frame-00000010\.json"):
            list(FramesOnDisk(kept.folder))

    @pytest.mark.parametrize(
        "content",
        ["", "[]", "null", "{}", "1e999", "[" * 100_000, '{"step": 10}', "\x00", "\ud800"],
    )
    def test_damaged_facts_are_named(self, kept, content):
        path = kept.folder / "frame-00000010.json"
        path.write_bytes(content.encode("utf-8", "surrogatepass"))
        with pytest.raises(FramesError, match=r"frame-00000010\.json.*Delete"):
            list(FramesOnDisk(kept.folder))

    @pytest.mark.parametrize(
        ("name", "value"),
        [("step", 11), ("step", None), ("psnr", "x"), ("psnr", math.nan), ("ssim", 7), ("ssim", {}),
         ("centers", "a"), ("centers", "AAAA"), ("centers", 5), ("centers", "é"), ("psnr", None)],
    )  # fmt: skip
    def test_facts_that_cannot_be_are_refused(self, kept, name, value):
        path = kept.folder / "frame-00000010.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
        with pytest.raises(FramesError, match=r"frame-00000010\.json"):
            list(FramesOnDisk(kept.folder))

    def test_very_large_facts_are_not_read(self, kept):
        (kept.folder / "frame-00000010.json").write_text(" " * 2_000_000 + "{}")
        with pytest.raises(FramesError, match="too large"):
            list(FramesOnDisk(kept.folder))

    def test_pictures_of_another_size_kind_or_length_are_refused(self, kept):
        path = kept.folder / "frame-00000010.jpg"
        whole = path.read_bytes()
        hostile = [b"", b"GIF89a", whole[: len(whole) // 2], whole[:100], _png(60_000, 60_000)]
        for content in hostile:
            path.write_bytes(content)
            with pytest.raises(FramesError, match=r"frame-00000010\.jpg"):
                list(FramesOnDisk(kept.folder))
        for other in (kept.truth[:-1], kept.truth[..., 0]):
            Image.fromarray(other).save(path)
            with pytest.raises(FramesError, match="shape"):
                list(FramesOnDisk(kept.folder))
        path.unlink()
        with pytest.raises(FramesError, match="missing"):
            list(FramesOnDisk(kept.folder))

    def test_a_truth_that_announces_too_much_is_not_decoded(self, kept):
        for content in (_png(60_000, 60_000), _png(16_000, 16_000), b"nonsense"):
            (kept.folder / "truth.png").write_bytes(content)
            with pytest.raises(FramesError, match=r"truth\.png"):
                FramesOnDisk(kept.folder)

    def test_a_very_large_frame_comes_back(self, tmp_path):
        picture = np.zeros((11_000, 8192), np.uint8)  # above what Pillow warns of
        frames = filled(FramesOnDisk(tmp_path / "frames", picture), 1)
        (found,) = FramesOnDisk(frames.folder)
        assert found.picture.shape == picture.shape

    @UNHURRIED
    @given(place=st.floats(0, 1), value=st.binary(min_size=1, max_size=8))
    def test_any_damage_gives_a_frame_or_one_kind_of_error(self, tmp_path_factory, place, value):
        folder = tmp_path_factory.mktemp("fuzz") / "frames"
        frames = filled(FramesOnDisk(folder, smooth_picture(17, 19)), 1)
        for path in sorted(folder.iterdir()):
            whole = path.read_bytes()
            at = int(place * len(whole))
            path.write_bytes(whole[:at] + value + whole[at + len(value) :])
            found = _frames_or_error(folder)
            if isinstance(found, FramesError):
                assert str(folder) in str(found)
            else:
                assert all(each.picture.shape == frames.truth.shape for each in found)
            path.write_bytes(whole)


def _frames_or_error(folder: Path) -> list[Frame] | FramesError:
    try:
        return list(FramesOnDisk(folder))
    except FramesError as error:
        return error


def _png(width: int, height: int) -> bytes:
    """The beginning of a PNG that announces a size."""
    import zlib

    header = struct.pack(">II5B", width, height, 8, 2, 0, 0, 0)
    check = struct.pack(">I", zlib.crc32(b"IHDR" + header))
    data = struct.pack(">I", 9) + b"IDAT" + zlib.compress(b"")[:9]
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + header + check + data


SIZES = [(64, 64), (48, 64), (64, 48), (100, 64), (65, 301), (512, 512), (300, 451), (1080, 1920)]


class TestCaptions:
    @pytest.mark.parametrize(
        ("size", "text_size"),
        # Larger text at 8K takes minutes to draw.
        [*product([*SIZES, (32, 128), (40, 40)], [0.5, 1, 4]), ((4320, 7680), 1)],
    )
    @pytest.mark.parametrize("step", ["7", "10000000"])
    def test_no_letter_is_cut_and_no_line_touches_another(self, size, text_size, step):
        wordings = measured("Rendered", step, "48.88", "0.8888")
        for text in (wordings, label("Ground Truth", "Truth", "GT"), label("Gaussians", "Gauss")):
            caption = Caption.fitting(
                size, text, text_size * max(6, math.sqrt(math.prod(size)) / 32)
            )
            if caption is None:
                assert min(size) < 64
                continue
            height, width = caption.box
            assert height <= size[0]
            assert width <= size[1]
            panel = np.zeros((2 * height, 2 * width, 3), np.uint8)
            replace(caption, box=panel.shape[:2]).write(panel, text, "top")
            rows, columns = (panel.max(axis=(axis, 2)) > 60 for axis in (1, 0))
            assert np.flatnonzero(rows).max() < height
            assert np.flatnonzero(columns).max() < width
            # Where one line of text ends, dark rows follow before the next.
            lines = np.count_nonzero(np.diff(rows.astype(int), prepend=0) == 1)
            assert lines >= len(text[caption.wording])

    @pytest.mark.parametrize("size", SIZES)
    def test_step_psnr_and_ssim_are_there_from_64_pixels_on(self, size):
        text = measured("Rendered", "12345", "31.46", "0.8765")
        caption = Caption.fitting(size, text, LEAST_CAPITAL)
        shown = " ".join(text[caption.wording])
        assert all(number in shown for number in ("12345", "31.46", "0.8765"))

    def test_no_number_is_wider_than_the_room_that_was_made(self, truth):
        composer = Composer(truth, Look(), 99999)
        before = composer._captions["rendered"]
        for psnr_value, ssim in ((math.inf, 1.0), (99.999, -0.1234), (0.0, -1.0), (123.4, 0.5)):
            text = composer.compose(frame(99999, truth, psnr=psnr_value, ssim=ssim))
            assert text.shape == (48, 128, 3)
        wide = measured("Rendered", "99999", "99.99", "0.9999")
        assert max(before._width(line) for line in wide[before.wording]) < before.box[1]

    def test_it_can_be_read(self):
        """Letters are bright on dark, whatever lies behind."""
        for value in (0, 128, 255):
            panel = np.full((256, 256, 3), value, np.uint8)
            text = label("Ground Truth")
            caption = Caption.fitting(panel.shape[:2], text, 12)
            caption.write(panel, text, "top")
            box = panel[: caption.box[0], : caption.box[1], 0]
            assert box.max() == 255
            assert np.median(box) <= 0.4 * value + 1


class TestPanels:
    @pytest.mark.parametrize("look", LOOKS, ids=str)
    @pytest.mark.parametrize("size", [(48, 64), (31, 17), (64, 65), (1, 1), (500, 3)])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_panels_stand_where_they_should(self, look, size, channels):
        truth = (
            smooth_picture(*size, channels).squeeze(2) if channels == 1 else smooth_picture(*size)
        )
        picture = truth // 2
        composer = Composer(truth, replace(look, text_size=0), 100)
        canvas = composer.compose(frame(50, picture))
        height, width = size
        rows = height * (2 if look.layout == "grid" else 1)
        assert canvas.shape == (*composer.size, 3) == (rows + rows % 2, 2 * width, 3)
        colour = np.atleast_3d(truth)
        assert np.array_equal(canvas[:height, :width], np.broadcast_to(colour, (*size, 3)))
        assert (canvas[:height, width:] == np.atleast_3d(picture)).all()
        if rows % 2:
            assert np.array_equal(canvas[-1], canvas[-2])

    @pytest.mark.parametrize("look", LOOKS, ids=str)
    @pytest.mark.parametrize("size", [(64, 64), (48, 97), (200, 150)])
    def test_text_changes_its_corner_of_a_panel_alone(self, look, size):
        truth = smooth_picture(*size)
        composed = [
            Composer(truth, replace(look, text_size=text), 100).compose(frame(50, truth // 2))
            for text in (0, 1)
        ]
        changed = (composed[0] != composed[1]).any(axis=2)
        height, width = size
        for top in range(0, composed[0].shape[0] - 1, height):
            for left in (0, width):
                panel = changed[top : top + height, left : left + width]
                assert panel.any()
                far = panel[-height // 5 :] if look.text_place == "top" else panel[: height // 5]
                assert not far.any()

    def test_the_grid_shows_error_and_positions(self, truth):
        composer = Composer(truth, Look("grid", 0), 100)
        perfect = composer.compose(frame(0, truth))
        assert perfect[48:, :64].max() < 10
        wrong = composer.compose(frame(0, 255 - truth))
        assert wrong[48:, :64].mean() > 100
        yellow = (perfect[48:, 64:, 0] > 200) & (perfect[48:, 64:, 2] < 150)
        assert yellow.any()

    @pytest.mark.parametrize("count", range(1, 14))
    @pytest.mark.parametrize("size", [(48, 64), (64, 20), (9, 200), (4320, 7680)])
    @pytest.mark.parametrize("most", [64, 3840])
    def test_a_mosaic_holds_all_within_the_width(self, count, size, most):
        mosaic = Mosaic.of(count, *size, most)
        height, width = mosaic.shape
        assert mosaic.columns * mosaic.rows >= count > mosaic.columns * (mosaic.rows - 1)
        assert 2 * width <= max(most, 2 * mosaic.columns)
        assert height <= 16_384
        assert mosaic.height <= size[0]
        assert mosaic.width <= size[1]
        aspect = mosaic.width / mosaic.height
        slack = 1 / mosaic.width + 1 / mosaic.height
        assert aspect == pytest.approx(size[1] / size[0], rel=slack)

    def test_what_fits_is_not_scaled(self):
        assert Mosaic.of(1, 1080, 1920, 3840).shape == (1080, 1920)
        assert Mosaic.of(1, 4320, 7680, 3840).shape == (1080, 1920)

    def test_every_picture_of_a_stack_is_in_its_place(self):
        mosaic = Mosaic.of(5, 10, 12, 3840)
        pictures = [
            np.full((10, 12, 3) if i % 2 else (10, 12), 40 * i + 9, np.uint8) for i in range(5)
        ]
        panel = mosaic.panel(pictures)
        centers = np.full((1, 2), 0.5)
        for value, (x, y) in zip(range(5), mosaic.spread(centers), strict=True):
            found = panel[int(y * panel.shape[0]), int(x * panel.shape[1])]
            assert (found == 40 * value + 9).all()


class TestFilm:
    @pytest.mark.parametrize(
        ("codec", "name", "tag"),
        [("h264", "h264", "avc1"), ("h265", "hevc", "hvc1"), ("vp9", "vp9", "vp09")],
    )
    def test_it_is_what_players_expect(self, tmp_path, codec, name, tag):
        frames = filled(FramesInMemory(smooth_picture(49, 65)), 40)
        path = tmp_path / "film.mp4"
        assert list(make_film(frames, path, Look(), Coding(codec))) == list(range(1, 41))
        film = read_film(path)
        assert film.codec in (name, f"lib{name}", "libdav1d", "libvpx-vp9", "vp9")
        assert (film.tag, film.pixel_format, film.rate) == (tag, "yuv420p", 30)
        assert film.pictures.shape == (40, 50, 130, 3)
        assert film.key_frames[:2] == [0, 30]
        assert film.times == [index / 30 for index in range(40)]
        assert film.boxes.index("moov") < film.boxes.index("mdat")
        assert [entry.name for entry in tmp_path.iterdir()] == ["film.mp4"]

    @pytest.mark.parametrize("codec", ["h264", "h265", "vp9"])
    @pytest.mark.parametrize("size", [(1, 1), (3, 5), (17, 2), (64, 64)])
    @pytest.mark.parametrize("count", [1, 2, 3, 4])
    def test_the_smallest_pictures_and_the_shortest_trainings_make_films(
        self, tmp_path, codec, size, count
    ):
        frames = filled(FramesInMemory(np.full(size, 200, np.uint8)), count)
        list(make_film(frames, tmp_path / "film.mp4", Look(), Coding(codec)))
        film = read_film(tmp_path / "film.mp4")
        assert film.times == [index / 30 for index in range(count)]
        height, width = film.size
        assert (height, width) == (size[0] + size[0] % 2, 2 * size[1]) or codec == "h265"
        assert height >= size[0]
        assert width >= 2 * size[1]

    @pytest.mark.parametrize("codec", ["h264", "h265", "vp9"])
    def test_colours_and_order_are_kept(self, tmp_path, codec):
        colours = [(200, 30, 60), (10, 220, 40), (20, 40, 230), (255, 255, 255), (0, 0, 0)]
        pictures = [np.full((64, 128, 3), colour, np.uint8) for colour in colours]
        list(encode(pictures, 5, (64, 128), tmp_path / "film.mp4", Coding(codec, 5)))
        found = read_film(tmp_path / "film.mp4").pictures
        for picture, colour in zip(found, colours, strict=True):
            assert abs(picture.reshape(-1, 3).mean(axis=0) - colour).max() < 4

    def test_a_picture_survives_with_the_quality_that_was_asked_for(self, tmp_path):
        rng = np.random.default_rng(1)
        rough = cv2.GaussianBlur(rng.integers(0, 256, (96, 128, 3)).astype(np.uint8), (0, 0), 2)
        sizes, qualities = [], []
        for crf in (10, 20, 40):
            list(encode([rough] * 10, 10, (96, 128), tmp_path / "film.mp4", Coding("h264", crf)))
            sizes.append((tmp_path / "film.mp4").stat().st_size)
            film = read_film(tmp_path / "film.mp4")
            qualities.append(psnr(film.pictures[-1] / 255, rough / 255))
        assert sizes == sorted(sizes, reverse=True)
        assert qualities == sorted(qualities, reverse=True)
        assert qualities[0] > 38

    def test_closing_on_the_way_leaves_the_old_film(self, tmp_path, truth):
        path = tmp_path / "film.mp4"
        path.write_bytes(b"old")
        film = make_film(filled(FramesInMemory(truth), 9), path, Look(), Coding())
        assert next(film) == 1
        film.close()
        assert path.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [path]

    def test_an_encoder_that_is_not_there_is_named(self, tmp_path, truth, monkeypatch):
        monkeypatch.setitem(film_module.ENCODERS, "vp9", ("libnonesuch", {}))
        frames = filled(FramesInMemory(truth))
        with pytest.raises(FilmError, match=r"video_codec='vp9'.*libnonesuch"):
            list(make_film(frames, tmp_path / "film.mp4", Look(), Coding("vp9")))
        assert not list(tmp_path.iterdir())

    def test_where_it_cannot_be_written_the_path_is_named(self, tmp_path, truth):
        frames = filled(FramesInMemory(truth))
        with pytest.raises(FilmError, match=r"missing.*film\.mp4.*h264"):
            list(make_film(frames, tmp_path / "missing" / "film.mp4", Look(), Coding()))

    @pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
    def test_a_full_disk_is_told(self, tmp_path, truth, monkeypatch):
        from contextlib import contextmanager

        @contextmanager
        def full(path: Path):
            yield Path("/dev/full")

        monkeypatch.setattr(film_module, "atomic_write", full)
        with pytest.raises(FilmError, match="No space left"):
            list(make_film(filled(FramesInMemory(truth), 50), tmp_path / "f", Look(), Coding()))

    def test_without_a_frame_there_is_no_film(self, tmp_path, truth):
        with pytest.raises(FilmError, match="no frame"):
            list(make_film(FramesInMemory(truth), tmp_path / "film.mp4", Look(), Coding()))
