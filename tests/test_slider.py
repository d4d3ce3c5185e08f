"""The line between two pictures: what it compares, what it embeds, and dragging it in a browser."""

from __future__ import annotations

import base64
import re
from contextlib import closing
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from model import GaussianSplatting2D
from quick_start import Run
from quick_start.analysis.slider import MOST_PIXELS, compare_slider
from quick_start.runs import RunError
from settings import Settings
from tests.conftest import smooth_picture
from tests.test_runs import make_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Two runs of one picture (48×36), one of another, one of a stack."""
    folder = tmp_path_factory.mktemp("slider")
    (folder / "stack").mkdir()
    Image.fromarray(smooth_picture(36, 48)).save(folder / "one.png")
    Image.fromarray(smooth_picture(48, 36)).save(folder / "tall.png")
    Image.fromarray(smooth_picture(36, 48)).save(folder / "stack" / "albedo.png")
    Image.fromarray(smooth_picture(36, 48, 1)[:, :, 0]).save(folder / "stack" / "rough.png")
    wanted = {"a": ("one.png", 20), "b": ("one.png", 90), "tall": ("tall.png", 20)}
    made = {}
    for name, (picture, count) in (wanted | {"stack": ("stack", 20)}).items():
        settings = Settings.build(
            input_dir=str(folder), input_filename=picture, gaussians=count, steps=10, device="cpu"
        )
        with closing(GaussianSplatting2D(settings, folder / "session_1" / name).optimize()) as run:
            *_, ended = run
        made[name] = Run(ended.folder)
    return made


def embedded(slider: object) -> list[np.ndarray]:
    """The left and the right picture."""
    data = re.findall(r'src="data:image/\w+;base64,([^"]+)"', slider._repr_html_())
    return [np.asarray(Image.open(BytesIO(base64.b64decode(part)))) for part in data]


def stored(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def test_one_run_is_its_ground_truth_and_its_rendering(runs: dict[str, Run]) -> None:
    run = runs["b"]
    slider = compare_slider(run)
    left, right = embedded(slider)
    assert np.array_equal(left, stored(run.folder / "other" / "ground_truth.png"))
    mse = ((left / 255.0 - right / 255.0) ** 2).mean()
    assert -10 * np.log10(mse) == pytest.approx(run.scores["psnr"], abs=0.05)
    assert "ground truth" in slider.html
    assert f"rendering, PSNR {run.scores['psnr']:.2f} dB" in slider.html


def test_two_runs_are_their_renderings(runs: dict[str, Run]) -> None:
    slider = compare_slider(runs["a"], runs["b"])
    left, right = embedded(slider)
    assert np.array_equal(left, embedded(compare_slider(runs["a"]))[1])
    assert np.array_equal(right, embedded(compare_slider(runs["b"]))[1])
    assert "session_1/a, PSNR" in slider.html
    assert "session_1/b, PSNR" in slider.html
    output = runs["a"].folder.parent.parent
    by_name = compare_slider("session_1/a", "session_1/b", output_dir=output)
    assert by_name.html == slider.html
    assert compare_slider((runs["a"], runs["b"])).html == slider.html


def test_runs_of_different_pictures_are_refused(runs: dict[str, Run]) -> None:
    with pytest.raises(RunError, match=r"session_1/a fitted one and session_1/tall fitted tall"):
        compare_slider(runs["a"], runs["tall"])


def test_a_picture_of_a_stack_is_chosen_by_number_or_name(runs: dict[str, Run]) -> None:
    grey = embedded(compare_slider(runs["stack"], picture="rough"))
    assert [part.ndim for part in grey] == [2, 2]
    assert compare_slider(runs["stack"], picture=1).html == (
        compare_slider(runs["stack"], picture="rough").html
    )
    assert [part.ndim for part in embedded(compare_slider(runs["stack"]))] == [3, 3]
    with pytest.raises(RunError, match=r"picture='normal': .* albedo, rough.*from 0 to 1"):
        compare_slider(runs["stack"], picture="normal")


def test_pictures_of_all_usual_kinds_are_taken(tmp_path: Path) -> None:
    picture = smooth_picture(20, 30)
    Image.fromarray(picture).save(tmp_path / "a.png")
    planes = torch.from_numpy(picture).permute(2, 0, 1) / 255
    for value in (picture, picture / 255, planes, planes.requires_grad_(), tmp_path / "a.png"):
        left, right = embedded(compare_slider(value, picture))
        assert np.array_equal(left, picture)
        assert np.array_equal(right, picture)
    grey = picture[:, :, :1]
    for value in (grey, grey[:, :, 0], np.moveaxis(grey, 2, 0), grey / 255.0):
        assert np.array_equal(embedded(compare_slider(value, grey))[0], grey[:, :, 0])
    pair = embedded(compare_slider([picture, 1 - picture / 255.0]))
    assert np.array_equal(pair[1], 255 - picture)


def test_a_run_and_a_picture_that_others_made(runs: dict[str, Run]) -> None:
    path = runs["a"].folder / "other" / "ground_truth.png"
    left, right = embedded(compare_slider(path, runs["a"].rendered_path, labels=("mine", "yours")))
    assert left.shape == right.shape == (36, 48, 3)


@pytest.mark.parametrize(
    "wrong",
    [np.zeros((4, 5, 7)), np.zeros(5), np.zeros((0, 4)), np.zeros((4, 5), int), np.array("x"),
     np.zeros((4, 5, 3), np.uint16), {}],
)  # fmt: skip
def test_an_array_that_is_no_picture_is_refused(wrong: object) -> None:
    with pytest.raises(ValueError, match="is no picture"):
        compare_slider(wrong, np.zeros((4, 5)))


def test_pictures_of_other_proportions_are_refused_and_other_sizes_are_not() -> None:
    with pytest.raises(ValueError, match=r"30×20 and 20×30.*same proportions"):
        compare_slider(smooth_picture(20, 30), smooth_picture(30, 20))
    sizes = [part.shape for part in embedded(compare_slider(np.ones((21, 30)), np.ones((40, 60))))]
    assert sizes == [(21, 30), (40, 60)]


@pytest.mark.parametrize("wrong", [{"width": 0}, {"labels": ("one",)}])
def test_wrong_options_are_named(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}="):
        compare_slider(np.ones((4, 4)), np.ones((4, 4)), **wrong)


def test_large_pictures_are_reduced_and_light() -> None:
    large = np.random.default_rng().random((1800, 3000, 3), np.float32)
    slider = compare_slider(large, large)
    assert [part.shape[:2] for part in embedded(slider)] == [(720, MOST_PIXELS)] * 2
    assert len(slider.html) < 4_000_000  # of noise, which nothing compresses


def test_labels_cannot_break_out_of_the_page(tmp_path: Path) -> None:
    grey = np.ones((4, 4))
    html = compare_slider(grey, grey, labels=('"><script>', "{0} & {x}")).html
    assert "<script" not in html
    assert "{0} &amp; {x}" in html


def test_a_run_without_a_model_says_so(tmp_path: Path) -> None:
    run = make_run(tmp_path / "session_1" / "cat", status="failed")
    with pytest.raises(RunError, match=r"session_1/cat left no model \(failed\)"):
        compare_slider(run)


# In a browser

LEFT, RIGHT = (255, 0, 0), (0, 0, 255)


@pytest.fixture
def slider(page, tmp_path: Path):
    """A page with red on the left and blue on the right."""
    red, blue = np.zeros((80, 400, 3)), np.zeros((80, 400, 3))
    red[:, :, 0] = blue[:, :, 2] = 1
    html = compare_slider(red, blue, labels=("red", "blue")).html
    (tmp_path / "page.html").write_text(f"<!doctype html><meta charset=utf-8><body>{html}")
    page.goto((tmp_path / "page.html").as_uri())
    return page.locator(".splatbook-slider")


def share_of_red(slider) -> float:
    """Of what is red or blue in a row near the bottom."""
    picture = np.asarray(Image.open(BytesIO(slider.screenshot())).convert("RGB"), int)
    row = picture[-12, :]
    red, blue = row[:, 0] > row[:, 2] + 100, row[:, 2] > row[:, 0] + 100
    return red.sum() / (red | blue).sum()


def test_dragging_moves_the_line_with_the_finger(slider, page) -> None:
    box = slider.bounding_box()
    assert share_of_red(slider) == pytest.approx(0.5, abs=0.02)
    y = box["y"] + 20
    page.mouse.move(box["x"] + box["width"] / 2, y)
    page.mouse.down()
    for share in (0.4, 0.25, 0.9, 0.1):
        page.mouse.move(box["x"] + box["width"] * share, y)
        assert share_of_red(slider) == pytest.approx(share, abs=0.02)
    page.mouse.move(box["x"] - 300, y)
    assert share_of_red(slider) < 0.02
    page.mouse.up()


def test_the_keyboard_moves_it_too(slider, page) -> None:
    page.keyboard.press("Tab")
    page.keyboard.press("Home")
    assert share_of_red(slider) < 0.02
    page.keyboard.press("PageUp")
    assert 0.05 < share_of_red(slider) < 0.2
    before = share_of_red(slider)
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    assert share_of_red(slider) == pytest.approx(before + 0.05, abs=0.02)
    page.keyboard.press("End")
    assert share_of_red(slider) > 0.98
    assert slider.get_by_role("slider", name="Share of red beside blue").count() == 1


def test_it_fits_into_a_narrow_page(slider, page) -> None:
    page.set_viewport_size({"width": 200, "height": 400})
    assert slider.bounding_box()["width"] <= 200
    assert share_of_red(slider) == pytest.approx(0.5, abs=0.03)
