"""Films in a notebook: what is embedded, what is said instead, and that a browser plays them."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
from nbconvert import HTMLExporter

from quick_start import Run
from quick_start.analysis.playback import play_video
from quick_start.runs import RunError
from tests.films import make_film
from tests.test_runs import make_run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run with a film."""
    made = make_run(tmp_path / "output" / "session_1" / "cat-50-30")
    make_film(made.film_path)
    return made


class Players(HTMLParser):
    """Collects the attributes of all film elements."""

    def __init__(self, html: str):
        super().__init__()
        self.found: list[dict[str, str | None]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "video":
            self.found.append(dict(attrs))


def player(html: str) -> dict[str, str | None]:
    (found,) = Players(html).found
    return found


def test_the_whole_film_is_in_the_page(run: Run) -> None:
    film = play_video(run)
    source = player(film._repr_html_())["src"]
    kind, _, data = source.partition(",")
    assert kind == "data:video/mp4;base64"
    assert base64.b64decode(data) == run.film_path.read_bytes()
    assert film.path == run.film_path
    assert film.note == ""


def test_a_run_is_found_by_itself_by_name_and_by_folder_and_a_film_by_its_path(run: Run) -> None:
    output = run.folder.parent.parent
    expected = play_video(run).html
    for name in ("session_1/cat-50-30", run.folder, str(run.folder)):
        assert play_video(name, output_dir=output).html == expected
    for name in (run.film_path, str(run.film_path)):
        assert player(play_video(name).html)["src"] == player(expected)["src"]


def test_switches_are_off_unless_asked_for(run: Run) -> None:
    plain = player(play_video(run).html)
    assert "controls" in plain
    assert "muted" in plain  # or browsers refuse to start by themselves
    assert "autoplay" not in plain
    assert "loop" not in plain
    assert "max-width: 100%" in plain["style"]
    asked = player(play_video(run, autoplay=True, loop=True, width=300).html)
    assert "autoplay" in asked
    assert "loop" in asked
    assert "width: 300px" in asked["style"]


def test_a_large_film_is_not_embedded_and_the_page_says_what_to_do(run: Run) -> None:
    megabytes = run.film_path.stat().st_size / 1e6
    shown = play_video(run, max_mb=megabytes / 2)
    assert not Players(shown.html).found
    for part in (str(run.film_path), "max_mb=", "video_crf", "video_iterations"):
        assert part in shown.html
    assert Players(play_video(run, max_mb=megabytes).html).found


@pytest.mark.parametrize(
    ("codec", "pixels", "said"),
    [("libx265", "yuv420p", "H.265"), ("mpeg4", "yuv420p", "mpeg4"), ("libx264", "yuv444p", "444")],
)
def test_a_film_that_browsers_may_not_play_is_shown_and_says_so(
    codec: str, pixels: str, said: str, tmp_path: Path
) -> None:
    shown = play_video(make_film(tmp_path / "film.mp4", codec, pixels=pixels))
    assert said in shown.note
    assert "VLC" in shown.html
    assert player(shown.html)["src"]


@pytest.mark.parametrize("codec", ["libx264", "libvpx-vp9"])
def test_a_film_that_they_play_says_nothing(codec: str, tmp_path: Path) -> None:
    assert play_video(make_film(tmp_path / "film.mp4", codec)).note == ""


def test_a_run_without_a_film_says_how_to_get_one(run: Run) -> None:
    run.film_path.unlink()
    with pytest.raises(RunError, match=r"session_1/cat-50-30 has no film.*make_training_video=Tru"):
        play_video(run)
    record = run.record
    record["settings"]["make_training_video"] = True
    for status, said in (("running", "no film yet"), ("interrupted", "interrupted.*log")):
        (run.folder / "run.json").write_text(json.dumps(record | {"status": status}))
        with pytest.raises(RunError, match=said):
            play_video(run)


def test_what_does_not_exist_is_refused(run: Run, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no film .*gone\.mp4"):
        play_video(tmp_path / "gone.mp4")
    with pytest.raises(RunError, match=r"no run 'session_1/cat-50-3'.*session_1/cat-50-30"):
        play_video("session_1/cat-50-3", output_dir=run.folder.parent.parent)


@pytest.mark.parametrize("content", [b"", b"no film", b"\0" * 1000])
def test_a_damaged_film_is_named(content: bytes, run: Run) -> None:
    run.film_path.write_bytes(content)
    with pytest.raises(RunError, match=r"training_video\.mp4 is damaged.*Train again"):
        play_video(run)


def test_a_film_cut_short_is_named_or_shown(run: Run) -> None:
    run.film_path.write_bytes(run.film_path.read_bytes()[:-400])  # where the index of frames is
    with pytest.raises(RunError, match="damaged"):
        play_video(run)


@pytest.mark.parametrize(
    "wrong", [{"width": 0}, {"width": -5}, {"max_mb": 0}, {"max_mb": float("nan")}]
)
def test_a_size_that_is_none_is_refused(wrong: dict[str, float], run: Run) -> None:
    with pytest.raises(ValueError, match=rf"{next(iter(wrong))}=.*above 0"):
        play_video(run, **wrong)


def test_names_cannot_break_out_of_the_page(tmp_path: Path) -> None:
    film = make_film(tmp_path / '"><script>x' / 'a"><script>.mp4')
    for html in (play_video(film).html, play_video(film, max_mb=1e-6).html):
        assert "<script" not in html
    assert len(re.findall("<video", play_video(film).html)) == 1


def test_a_browser_plays_it_from_the_page_alone(run: Run, page, tmp_path: Path) -> None:
    html = tmp_path / "page.html"
    html.write_text(f"<!doctype html><body>{play_video(run, autoplay=True).html}")
    run.film_path.unlink()
    page.goto(html.as_uri())
    page.wait_for_function("document.querySelector('video').currentTime > 0.3")
    state = "v => [v.error, v.videoWidth, v.videoHeight]"
    assert page.locator("video").evaluate(state) == [None, 128, 64]


def test_a_notebook_exported_as_html_still_plays_it(run: Run, page, tmp_path: Path) -> None:
    shown = nbformat.v4.new_output("display_data", {"text/html": play_video(run)._repr_html_()})
    cell = nbformat.v4.new_code_cell("play_video(run)", outputs=[shown])
    notebook = nbformat.v4.new_notebook(cells=[cell])
    html, _ = HTMLExporter().from_notebook_node(notebook)
    (tmp_path / "page.html").write_text(html)
    run.film_path.unlink()
    page.route("http*://**", lambda route: route.abort())  # it needs no network either
    page.goto((tmp_path / "page.html").as_uri(), wait_until="domcontentloaded")
    film = page.locator("video")
    film.evaluate("film => film.play()")
    page.wait_for_function("document.querySelector('video').currentTime > 0.3")
    assert film.evaluate("film => film.error") is None
