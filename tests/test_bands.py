"""Pictures handled in bands of rows are those handled whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from events import Evaluated, GaussiansAdded
from fitting import bands, measure
from fitting import gaussians as drawing
from fitting import step as steps
from model import GaussianSplatting2D
from settings import Settings
from tests.conftest import smooth_picture


@pytest.fixture
def small_bands(monkeypatch):
    """Bands of a few rows, in everything that uses them."""

    def rows(channels: int, width: int, multiple: int = 1) -> int:
        return -(-7 // multiple) * multiple

    for module in (measure, drawing, steps, "fitting.placement"):
        name = module if isinstance(module, str) else module.__name__
        monkeypatch.setattr(f"{name}.band_rows", rows)


@pytest.fixture
def make(tmp_path):
    Image.fromarray(smooth_picture(48, 64)).save(tmp_path / "small.png")

    def build(run: str, **values) -> GaussianSplatting2D:
        chosen = {"gaussians": 60, "steps": 12, "eval_steps": 5, "lr_schedule": False}
        s = Settings.build(input_filename=str(tmp_path / "small.png"), **chosen | values)
        return GaussianSplatting2D(s, tmp_path / run)

    return build


def test_bands_cover_every_row_once_with_its_neighbours(rng):
    for _ in range(50):
        height, size = (int(n) for n in rng.integers(1, 200, 2))
        tile = int(rng.choice([1, 8, 16]))
        found = list(bands.bands(height, -(-size // tile) * tile, tile))
        counted = [
            row for b in found for row in range(b.top + b.counted.first, b.top + b.counted.end)
        ]
        assert counted == list(range(height))
        for b in found:
            assert b.top % tile == 0
            assert b.top + b.differs.first == max(0, b.top + b.counted.first - 5)
            assert b.window[1] == b.top + b.differs.end == min(height, b.top + b.counted.end + 5)


OPTIONS = [
    {},
    {"ssim_loss_ratio": 0.0, "l2_loss_ratio": 1.0},
    {"blending": "additive"},
    {"quantize": True, "feat_bits": 8},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_gradients_in_bands_are_those_of_the_whole(make, small_bands, options):
    found = {}
    for banded in (False, True):
        run = make("run", use_gradient_checkpointing=banded, **options)
        run._prepare()
        measured = run.stepper.measure()
        if not banded:
            assert measured.image is not None
            run.stepper._total.backward()
        found[banded] = [*measured[:4]], [t.grad for t in run.gaussians.tensors().values()]
    assert found[True][0] == pytest.approx(found[False][0], rel=1e-5, nan_ok=True)
    for banded, whole in zip(found[True][1], found[False][1], strict=True):
        torch.testing.assert_close(banded, whole, rtol=1e-3, atol=1e-6 * float(whole.abs().max()))


@pytest.mark.parametrize("options", [{}, {"gamma": 2.2}, {"downsample_ratio": 1.7}], ids=str)
def test_measurements_and_pictures_in_bands_are_those_of_the_whole(make, small_bands, options):
    found = {}
    for banded in (False, True):
        run = make(f"run-{banded}", use_gradient_checkpointing=banded, steps=5, **options)
        first, *_ = (e for e in run.optimize() if isinstance(e, Evaluated))
        found[banded] = first, run.render(), run.render(31)
    (a, *pictures), (b, *others) = found[True], found[False]
    assert (a.psnr, a.ssim, a.total_loss) == pytest.approx((b.psnr, b.ssim, b.total_loss), rel=1e-5)
    torch.testing.assert_close(a.image, b.image, rtol=0, atol=1e-5)
    for picture, other in zip(pictures, others, strict=True):
        torch.testing.assert_close(picture, other, rtol=0, atol=1e-2)


def test_no_buffer_is_as_large_as_the_picture(make, small_bands, monkeypatch):
    run = make("run", use_gradient_checkpointing=True)
    drawn = []
    plain = type(run.gaussians).draw

    def draw(self, *args, **options):
        drawn.append(plain(self, *args, **options))
        return drawn[-1]

    monkeypatch.setattr(type(run.gaussians), "draw", draw)
    run._prepare()
    run.stepper.advance(1)
    run._evaluate()
    assert len(drawn) == 3 * 7
    assert max(image.shape[1] for image in drawn) <= 7 + 10


def test_growth_works_in_bands(make, small_bands):
    counts = []
    for banded in (False, True):
        run = make(
            f"run-{banded}", use_gradient_checkpointing=banded, use_progressive=True,
            adaptive_refinement=True, add_steps=2, add_times=2, post_min_steps=2,
        )  # fmt: skip
        events = list(run.optimize())
        counts.append([(e.added, e.moved) for e in events if isinstance(e, GaussiansAdded)])
        assert events[-1].scores["psnr"] > 15
    assert counts[0] == counts[1]


def test_a_large_picture_is_shown_reduced(make, small_bands, monkeypatch):
    monkeypatch.setattr(bands, "PREVIEW_PIXELS", 400)
    run = make("run", use_gradient_checkpointing=True, steps=0)
    (evaluated,) = (e for e in run.optimize() if isinstance(e, Evaluated))
    assert evaluated.image.shape == (3, 16, 22)
    whole = run.render().numpy()
    assert np.allclose(evaluated.image[:, 2, 3], whole[:, 6:9, 9:12].mean(axis=(1, 2)), atol=1e-5)
    edge = whole[:, 6:9, 63:].mean(axis=(1, 2))
    assert np.allclose(evaluated.image[:, 2, 21], edge, atol=1e-5)
