"""Pictures to choose: what a folder offers, thumbnails, and uploads that may be hostile."""

from __future__ import annotations

import io
import os
import struct
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from imaging.files import SUFFIXES, PictureError, list_pictures, load_picture
from quick_start.form import pictures
from quick_start.form.pictures import Upload, clean_name, list_choices, save_upload, thumbnail
from tests.conftest import smooth_picture


def encoded(height: int = 20, width: int = 30, kind: str = "PNG", level: int = 0) -> bytes:
    """A picture as a file's content; another level gives another picture."""
    buffer = io.BytesIO()
    Image.fromarray(smooth_picture(height, width) // (level + 1)).save(buffer, kind)
    return buffer.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A tiny PNG whose header announces a giant picture."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 1000)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


class TestChoices:
    def test_pictures_come_in_natural_order_then_folders_with_pictures(self, tmp_path):
        for name in ("b10.png", "b9.png", ".hidden.png"):
            (tmp_path / name).write_bytes(encoded())
        (tmp_path / "notes.txt").write_text("no picture")
        for folder in ("wood", "Brick", "empty", ".cache"):
            (tmp_path / folder).mkdir()
        for folder in ("wood", "Brick", ".cache"):
            (tmp_path / folder / "colour.png").write_bytes(encoded())
            (tmp_path / folder / "height.png").write_bytes(encoded())
        found = list_choices(tmp_path)
        assert [(c.name, c.is_stack, len(c.files)) for c in found] == [
            ("b9.png", False, 1), ("b10.png", False, 1), ("Brick", True, 2), ("wood", True, 2),
        ]  # fmt: skip

    def test_a_description_has_the_size_or_what_is_wrong(self, tmp_path):
        (tmp_path / "a.png").write_bytes(encoded(20, 30))
        (tmp_path / "b.png").write_bytes(b"GIF89a")
        (tmp_path / "wood").mkdir()
        (tmp_path / "wood" / "c.png").write_bytes(encoded(5, 6))
        said = [choice.describe() for choice in list_choices(tmp_path)]
        assert said[0] == "a.png: 30×20"
        assert "is a GIF" in said[1]
        assert said[2] == "wood: 6×5, 1 picture fitted together"

    def test_a_missing_folder_is_named(self, tmp_path):
        with pytest.raises(PictureError, match="nowhere"):
            list_choices(tmp_path / "nowhere")

    @pytest.mark.skipif(os.name == "nt", reason="names are text on Windows")
    def test_a_name_that_is_no_text_is_left_out(self, tmp_path):
        try:
            Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")).write_bytes(encoded())
        except OSError:
            pytest.skip("this file system holds text only")
        assert list_choices(tmp_path) == []


class TestThumbnails:
    @pytest.mark.parametrize(("size", "wanted"), [((200, 400), (112, 56)), ((30, 20), (20, 30))])
    def test_a_thumbnail_is_small_keeps_the_proportions_and_is_never_enlarged(
        self, tmp_path, size, wanted
    ):
        (tmp_path / "a.png").write_bytes(encoded(*size))
        picture = Image.open(io.BytesIO(thumbnail(list_choices(tmp_path)[0])))
        assert picture.format == "JPEG"
        assert picture.size == wanted

    def test_it_looks_like_the_picture(self, tmp_path):
        (tmp_path / "a.png").write_bytes(encoded(224, 224))
        small = np.asarray(Image.open(io.BytesIO(thumbnail(list_choices(tmp_path)[0]))))
        assert np.abs(small.astype(int) - smooth_picture(112, 112)).mean() < 3

    @pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16"])
    def test_every_mode_has_one(self, tmp_path, mode):
        Image.new(mode, (40, 30)).save(tmp_path / "a.png")
        assert Image.open(io.BytesIO(thumbnail(list_choices(tmp_path)[0]))).size == (40, 30)

    def test_a_changed_file_has_a_new_one(self, tmp_path):
        (tmp_path / "a.png").write_bytes(encoded())
        before = thumbnail(list_choices(tmp_path)[0])
        (tmp_path / "a.png").write_bytes(encoded(level=3))
        os.utime(tmp_path / "a.png", ns=(1, 1))
        assert thumbnail(list_choices(tmp_path)[0]) != before

    @pytest.mark.parametrize("content", [b"", b"GIF89a", encoded()[:200], bomb(60_000, 60_000)])
    def test_what_is_broken_or_giant_has_none(self, tmp_path, content):
        (tmp_path / "a.png").write_bytes(content)
        assert thumbnail(list_choices(tmp_path)[0]) is None


class TestNames:
    @pytest.mark.parametrize(
        ("given", "wanted"),
        [
            ("cat.png", "cat.png"), ("Cat 2.JPEG", "Cat 2.jpeg"), ("ünï.png", "ünï.png"),
            ("u\u0308.png", "ü.png"), ("../../etc/passwd.png", "passwd.png"),
            ("C:\\Windows\\cat.png", "cat.png"), ("/cat.png", "cat.png"), ("..png", "picture.png"),
            (".png", "picture.png"), ("...hidden.png", "hidden.png"), ("a\0b\n\x1b.png", "ab.png"),
            ("a\u202egnp.png", "agnp.png"), ('<a>:"|?*.png', "a.png"), ("  a  b . png", None),
            ("con.png", "picture-con.png"), ("LPT1.tar.png", "picture-LPT1.tar.png"),
            ("cat", None), ("cat.exe", None), ("", None), ("..", None), ("cat.png.exe", None),
            ("cat.png ", "cat.png"), ("cat .png", "cat.png"), ("~.png", "~.png"),
        ],
    )  # fmt: skip
    def test_a_name_is_made_safe_or_refused(self, given, wanted):
        if wanted is None:
            with pytest.raises(PictureError, match="Allowed"):
                clean_name(given)
        else:
            assert clean_name(given) == wanted

    def test_a_long_name_is_cut_between_characters(self):
        name = clean_name("ü" * 300 + ".png")
        assert name == "ü" * 60 + ".png"

    @given(st.text(st.characters(codec=None)), st.sampled_from(SUFFIXES))
    def test_whatever_the_name_it_stays_in_its_folder_and_is_listed(self, text, suffix):
        name = clean_name(text + suffix)
        assert name == Path(name).name
        assert not name.startswith(".")
        assert name.isprintable()
        assert len(name.encode()) < 140
        assert Path(name).suffix in SUFFIXES
        assert clean_name(name) == name


class TestUploads:
    def test_a_picture_arrives_unchanged(self, tmp_path):
        content = encoded()
        saved = save_upload("cat.png", memoryview(content), tmp_path / "new" / "input")
        assert saved == Upload("cat.png", is_new=True)
        assert (tmp_path / "new" / "input" / "cat.png").read_bytes() == content

    def test_another_picture_of_that_name_gets_a_number(self, tmp_path):
        contents = [encoded(level=level) for level in range(3)]
        names = [save_upload(n, c, tmp_path).name for n, c in zip(
            ("cat.png", "cat.png", "CAT.png"), contents, strict=True
        )]  # fmt: skip
        assert names == ["cat.png", "cat-2.png", "CAT-3.png"]
        assert [(tmp_path / name).read_bytes() for name in names] == contents

    def test_the_same_picture_is_recognised_under_any_name(self, tmp_path):
        save_upload("cat.png", encoded(), tmp_path)
        assert save_upload("cat.png", encoded(), tmp_path) == Upload("cat.png", is_new=False)
        assert save_upload("dog.png", encoded(), tmp_path) == Upload("cat.png", is_new=False)
        assert os.listdir(tmp_path) == ["cat.png"]

    def test_a_folder_of_that_name_is_left_alone(self, tmp_path):
        (tmp_path / "cat.png").mkdir()
        assert save_upload("cat.png", encoded(), tmp_path).name == "cat-2.png"

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (b"", "is empty"), (b"GIF89a....", "is a GIF"), (b"<svg>", "SVG"),
            (b"\0" * 99, "format"),
            (encoded()[:300], "cannot be decoded"), (bomb(60_000, 60_000), "60000 × 60000"),
            (bomb(3000, 3000), "cannot be decoded"),
        ],
    )  # fmt: skip
    def test_a_broken_or_hostile_file_is_refused_by_its_name_and_leaves_nothing(
        self, tmp_path, content, said
    ):
        with pytest.raises(PictureError) as refused:
            save_upload("folder/evil.png", content, tmp_path)
        assert said in str(refused.value)
        assert str(refused.value).startswith("evil.png: ")
        assert os.listdir(tmp_path) == []

    def test_a_file_that_is_too_large_is_not_even_looked_at(self, tmp_path, monkeypatch):
        monkeypatch.setattr(pictures, "MAX_UPLOAD_BYTES", 100)
        with pytest.raises(PictureError, match=r"big\.png.*at most"):
            save_upload("big.png", b"x" * 101, tmp_path)

    def test_a_name_that_lies_about_the_format_is_no_matter(self, tmp_path):
        saved = save_upload("photo.png", encoded(kind="JPEG"), tmp_path)
        assert load_picture(tmp_path / saved.name).pixels.shape == (3, 20, 30)

    @pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="this user may write anywhere")
    def test_a_folder_that_may_not_be_written_to_is_named(self, tmp_path):
        tmp_path.chmod(0o500)
        with pytest.raises(PictureError, match="Choose an input_dir"):
            save_upload("cat.png", encoded(), tmp_path)

    def test_a_file_in_the_place_of_the_folder_is_named(self, tmp_path):
        (tmp_path / "input").write_text("a file")
        with pytest.raises(PictureError, match="Choose an input_dir"):
            save_upload("cat.png", encoded(), tmp_path / "input")

    def test_without_hard_links_nothing_is_overwritten_either(self, tmp_path, monkeypatch):
        def refuse(*_: object) -> None:
            raise PermissionError("no hard links here")

        monkeypatch.setattr(os, "link", refuse)
        names = [save_upload("a.png", encoded(level=k), tmp_path).name for k in range(2)]
        assert names == ["a.png", "a-2.png"]
        assert sorted(os.listdir(tmp_path)) == ["a-2.png", "a.png"]

    def test_many_at_once_all_arrive(self, tmp_path):
        contents = [encoded(level=level) for level in range(8)]
        threads = [
            threading.Thread(target=save_upload, args=("cat.png", content, tmp_path))
            for content in contents
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = [path.read_bytes() for path in list_pictures(tmp_path)]
        assert sorted(found) == sorted(contents)
        assert len(os.listdir(tmp_path)) == 8
