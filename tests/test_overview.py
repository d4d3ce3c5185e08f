"""The picture that sums up a run: drawn from arrays, and left behind by real runs."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imaging.overview import MARGIN, MOST_ROWS, PANEL, Triple, overview
from model import GaussianSplatting2D
from settings import Settings


def triple(shape: tuple[int, int, int], name: str = "picture") -> Triple:
    rng = np.random.default_rng()
    return Triple(name, rng.random(shape, np.float32), rng.random(shape, np.float32))


@pytest.mark.parametrize(
    "shape",
    [(3, 16, 16), (1, 16, 16), (3, 1, 1), (3, 1, 900), (3, 900, 1), (1, 48, 64), (3, 2160, 3840)],
)
def test_a_picture_of_any_size_gives_a_canvas_of_bounded_size(shape: tuple[int, int, int]) -> None:
    canvas = overview([triple(shape)], ["text"])
    assert canvas.dtype == np.uint8
    height, width = canvas.shape[:2]
    assert 800 < width < 1300
    assert height < 520


def test_the_panels_are_target_rendering_and_error() -> None:
    target, image = np.zeros((3, 400, 400), np.float32), np.zeros((3, 400, 400), np.float32)
    target[0], image[0] = 0.8, 0.8
    image[:, :, 200:] = target[:, :, 200:] + 0.25
    canvas = overview([Triple("a", target, image)], [])
    y = canvas.shape[0] - MARGIN - PANEL // 2
    x = [MARGIN + place * (PANEL + MARGIN) for place in range(3)]
    assert tuple(canvas[y, x[0] + 300]) == (204, 0, 0)
    assert tuple(canvas[y, x[1] + 100]) == (204, 0, 0)
    assert tuple(canvas[y, x[1] + 300]) == (255, 64, 64)
    assert canvas[y, x[2] + 100].max() < 20  # no error is black
    assert canvas[y, x[2] + 300].min() > 150  # an error of 0.25 is pale yellow


def test_the_mean_colour_survives_the_reduction_of_a_large_picture() -> None:
    picture = triple((3, 1500, 3000))
    canvas = overview([picture], [])
    height = round(1500 * PANEL / 3000)
    shown = canvas[-MARGIN - height : -MARGIN, MARGIN : MARGIN + PANEL].reshape(-1, 3) / 255
    assert shown.mean(axis=0) == pytest.approx(picture.target.mean(axis=(1, 2)), abs=0.01)


def test_a_small_picture_is_enlarged_by_whole_pixels() -> None:
    checks = np.indices((10, 10)).sum(axis=0)[None] % 2
    canvas = overview([Triple("a", checks.astype(np.float32), checks.astype(np.float32))], [])
    panel = canvas[-MARGIN - PANEL : -MARGIN, MARGIN : MARGIN + PANEL, 0]
    assert np.array_equal(panel, checks[0].repeat(40, axis=0).repeat(40, axis=1) * 255)


def test_a_stack_has_a_row_per_picture_up_to_a_limit() -> None:
    one, two = (overview([triple((1, 40, 400))] * n, []).shape[0] for n in (1, 2))
    assert two > one + 40
    most = overview([triple((1, 40, 400))] * MOST_ROWS, ["x"]).shape[0]
    more = overview([triple((1, 40, 400))] * (MOST_ROWS + 9), ["x"]).shape[0]
    assert 0 < more - most < 40  # a line that says so


@pytest.mark.parametrize("text", ["", "画" * 500, "a\nb\0\x1b[31m", "\udcff", "×" * 300, "é" * 99])
def test_text_of_any_kind_is_drawn_inside_the_canvas(text: str) -> None:
    plain = overview([triple((3, 32, 32))], ["plain"])
    assert (
        overview([triple((3, 32, 32), text), triple((1, 32, 32))], [text]).shape[1]
        == (plain.shape[1])
    )


# Of real runs


def run(input_dir: Path, folder: Path, stop_after: int | None = None, **changes: object) -> None:
    values = {"input_filename": "small.png", "gaussians": 20, "steps": 10, "eval_steps": 5}
    settings = Settings.build(input_dir=str(input_dir), device="cpu", **(values | changes))
    with closing(GaussianSplatting2D(settings, folder).optimize()) as events:
        for count, _ in enumerate(events):
            if count == stop_after:
                break


def summary(folder: Path) -> np.ndarray:
    with Image.open(folder / "other" / "summary.png") as picture:
        return np.asarray(picture)


def test_a_run_leaves_a_summary_as_text_and_as_a_picture(input_dir: Path, tmp_path: Path) -> None:
    run(input_dir, tmp_path / "run")
    text = (tmp_path / "run" / "other" / "summary.txt").read_text()
    assert "small: 64×48, 20 Gaussians, 10 of 10 steps" in text
    assert "lpips: -- " in text
    canvas = summary(tmp_path / "run")
    with Image.open(input_dir / "small.png") as picture:
        enlarged = np.asarray(picture).repeat(6, axis=0).repeat(6, axis=1)
    shown = canvas[-MARGIN - 48 * 6 : -MARGIN, MARGIN : MARGIN + 64 * 6]
    assert np.array_equal(shown, enlarged)


def test_an_interrupted_run_leaves_it_too(input_dir: Path, tmp_path: Path) -> None:
    run(input_dir, tmp_path / "run", stop_after=2, steps=100_000)
    assert summary(tmp_path / "run").std() > 10


def test_a_stack_with_a_grey_picture_leaves_two_rows(tmp_path: Path) -> None:
    folder = tmp_path / "input" / "brick"
    folder.mkdir(parents=True)
    Image.new("RGB", (40, 30), "red").save(folder / "albedo.png")
    Image.new("L", (40, 30), 99).save(folder / "rough.png")
    run(tmp_path / "input", tmp_path / "run", input_filename="brick")
    canvas = summary(tmp_path / "run")
    assert tuple(canvas[-MARGIN - 50, MARGIN + 50]) == (99, 99, 99)
    assert any((canvas[y, MARGIN + 50] == (255, 0, 0)).all() for y in range(canvas.shape[0] // 2))
