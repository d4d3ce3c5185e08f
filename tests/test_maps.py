"""Maps of where Gaussians are needed, and pictures of the Gaussians that are there."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from imaging import drawing
from imaging.maps import (
    draw_pixels,
    gradient_energy,
    neighbours_first,
    spectral_residual,
    worst_patches,
)


def covered(patches: list[tuple[slice, slice]], shape: tuple[int, int]) -> np.ndarray:
    """How many patches lie over each pixel."""
    counts = np.zeros(shape, int)
    for patch in patches:
        counts[patch] += 1
    return counts


class TestGradientEnergy:
    def test_only_pixels_beside_an_edge_have_energy(self, rng):
        at = int(rng.integers(3, 17))
        pixels = np.full((3, 12, 20), rng.random(), np.float32)
        pixels[1, :, at:] += 0.3
        energy = gradient_energy(pixels)
        assert energy.shape == (12, 20)
        # A step of 0.3 through a Sobel filter, whose weights on one side sum to 4.
        assert energy[:, at - 1 : at + 1] == pytest.approx(1.2**2, rel=1e-5)
        energy[:, at - 1 : at + 1] = 0
        assert energy.max() < 1e-12

    def test_both_directions_and_all_channels_count(self, rng):
        pixels = rng.random((4, 9, 11))
        energy = gradient_energy(pixels)
        turned = gradient_energy(pixels.swapaxes(1, 2)).T
        assert energy == pytest.approx(turned)
        assert energy == pytest.approx(sum(gradient_energy(plane[None]) for plane in pixels))

    def test_a_border_is_no_edge(self):
        assert gradient_energy(np.ones((1, 5, 5), np.float32)).max() == 0


class TestSpectralResidual:
    def test_the_odd_one_out_in_a_regular_texture_stands_out(self, rng):
        y, x = np.mgrid[:96, :128]
        texture = 0.5 + 0.4 * np.sin(2 * np.pi * x / 16) * np.sin(2 * np.pi * y / 16)
        top, left = rng.integers(16, (64, 96))
        odd = (slice(top, top + 16), slice(left, left + 16))
        texture[odd] = (0.5 + 0.4 * np.sin(2 * np.pi * x / 6))[odd]
        saliency = spectral_residual(np.stack([texture] * 3).astype(np.float32))
        assert saliency[odd].mean() > 3 * saliency.mean()
        peak = np.unravel_index(saliency.argmax(), saliency.shape)
        assert abs(np.subtract(peak, (top + 8, left + 8))).max() <= 16

    def test_the_borders_of_a_picture_do_not_stand_out(self, rng):
        noise = ndimage.gaussian_filter(rng.random((96, 128)), 2)
        noise *= 0.6 / noise.max()
        top, left = rng.integers(20, (60, 92))
        noise[top : top + 16, left : left + 16] = 1
        saliency = spectral_residual(noise[None])
        for corner in (saliency[:6, :6], saliency[-6:, :6], saliency[:6, -6:], saliency[-6:, -6:]):
            assert corner.max() < 0.5

    @pytest.mark.parametrize("shape", [(3, 40, 60), (1, 7, 300), (3, 200, 9), (1, 2, 2), (1, 1, 1)])
    def test_it_fills_0_to_1_at_the_pictures_size(self, rng, shape):
        saliency = spectral_residual(rng.random(shape, dtype=np.float32))
        assert saliency.shape == shape[1:]
        assert saliency.min() == 0
        assert saliency.max() == (1 if saliency.size > 1 else 0)

    @pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
    @pytest.mark.parametrize("size", [(40, 60), (5, 300), (1, 1)])
    @pytest.mark.parametrize("noise", [0.0, 1e-9])
    def test_a_flat_picture_has_no_salient_place(self, rng, value, size, noise):
        saliency = spectral_residual(value + noise * rng.random((3, *size)))
        assert saliency.shape == size
        assert (saliency == 0).all()


class TestDrawPixels:
    def test_pixels_are_distinct_and_inside(self, rng):
        density = rng.random((17, 23)) ** 4
        pixels = draw_pixels(rng, density, 200)
        assert pixels.shape == (200, 2)
        assert len(np.unique(pixels, axis=0)) == 200
        assert (pixels >= 0).all()
        assert (pixels < (23, 17)).all()

    def test_rows_are_x_then_y(self, rng):
        density = np.zeros((6, 9))
        density[2, 7] = 1
        assert draw_pixels(rng, density, 1).tolist() == [[7, 2]]

    def test_draws_are_in_proportion_to_density(self, rng):
        density = np.array([[1.0, 2.0, 4.0], [0.0, 8.0, 1.0]])
        draws = 4000
        counts = np.zeros(density.shape)
        for _ in range(draws):
            ((x, y),) = draw_pixels(rng, density, 1)
            counts[y, x] += 1
        share = density / density.sum()
        # Six standard deviations: a chance of one in a hundred million per pixel.
        allowed = 6 * np.sqrt(draws * share * (1 - share))
        assert (abs(counts - draws * share) <= allowed).all()

    def test_the_scale_of_a_density_does_not_matter(self, seed):
        density = np.random.default_rng(seed).random((8, 8))
        first, second = (
            draw_pixels(np.random.default_rng(seed), density * factor, 20)
            for factor in (1e-30, 1e30)
        )
        assert {tuple(p) for p in first} == {tuple(p) for p in second}

    @pytest.mark.parametrize("kind", [np.float32, np.float64])
    def test_where_too_few_have_density_the_others_are_drawn_evenly(self, rng, kind):
        density = np.zeros((10, 12), kind)
        chosen = rng.choice(120, 7, replace=False)
        density.flat[chosen] = rng.random(7) + 0.01
        pixels = draw_pixels(rng, density, 60)
        drawn = set(pixels[:, 1] * 12 + pixels[:, 0])
        assert len(drawn) == 60
        assert drawn >= set(chosen)

    @pytest.mark.parametrize("kind", [np.float32, np.float64])
    @pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf])
    def test_without_any_density_pixels_are_drawn_evenly(self, rng, kind, value):
        density = np.full((4, 5), value, kind)
        counts = np.zeros(20)
        for _ in range(300):
            pixels = draw_pixels(rng, density, 10)
            counts[pixels[:, 1] * 5 + pixels[:, 0]] += 1
        assert counts.sum() == 3000
        assert (abs(counts - 150) < 6 * np.sqrt(300 * 0.25)).all()

    def test_as_many_as_there_are_pixels_gives_each_once(self, rng):
        pixels = draw_pixels(rng, rng.random((5, 6)), 30)
        assert {tuple(p) for p in pixels.tolist()} == {(x, y) for x in range(6) for y in range(5)}

    def test_none_gives_no_rows(self, rng):
        assert draw_pixels(rng, np.ones((3, 3)), 0).shape == (0, 2)


class TestWorstPatches:
    def test_a_small_spot_is_found_in_small_patches(self, rng):
        error = np.full((256, 256), 0.01)
        y, x = rng.integers(0, 250, 2)
        error[y : y + 6, x : x + 6] = 1
        counts = covered(worst_patches(error, 0.9), error.shape)
        assert counts[y : y + 6, x : x + 6].any()
        assert np.count_nonzero(counts) <= 4 * 16**2
        # Nothing but patches that touch the spot.
        counts[max(0, y - 16) : y + 22, max(0, x - 16) : x + 22] = 0
        assert not counts.any()

    def test_every_patch_reaches_its_share_of_the_worst_and_none_lies_over_another(self, rng):
        error = rng.random((61, 83)) ** 6
        threshold = float(rng.uniform(0.2, 0.9))
        side = 8  # of the coarse grid, for a picture of this size
        coarse = max(
            error[y : y + side, x : x + side].mean()
            for y in range(0, 61, side)
            for x in range(0, 83, side)
        )
        patches = worst_patches(error, threshold)
        assert patches
        assert min(error[patch].mean() for patch in patches) >= threshold * coarse * (1 - 1e-6)
        assert covered(patches, error.shape).max() == 1

    def test_a_higher_threshold_chooses_less_of_the_picture(self, rng):
        error = rng.random((70, 90)) ** 3
        areas = [
            np.count_nonzero(covered(worst_patches(error, threshold), error.shape))
            for threshold in (0.0, 0.4, 0.8, 1.0)
        ]
        assert areas == sorted(areas, reverse=True)
        assert areas[0] == error.size
        assert 0 < areas[-1] < error.size

    @pytest.mark.parametrize("threshold", [0.0, 0.3, 1.0])
    def test_an_even_error_chooses_every_pixel_of_any_size_once(self, rng, threshold):
        for _ in range(10):
            shape = tuple(rng.integers(1, 150, 2))
            patches = worst_patches(np.full(shape, rng.random() + 0.01), threshold)
            assert (covered(patches, shape) == 1).all(), shape

    def test_without_error_there_is_no_patch(self):
        assert worst_patches(np.zeros((40, 50)), 0.0) == []


class TestPositions:
    def test_dots_lie_where_the_centres_are(self, rng):
        columns, rows = np.arange(4, 40, 8), np.arange(3, 30, 8)
        pixels = np.stack(np.meshgrid(columns, rows), axis=2).reshape(-1, 2)
        pixels = pixels + rng.integers(-1, 2, pixels.shape)
        canvas = drawing.positions(np.zeros((30, 40, 3), np.uint8), pixels + 0.5)
        lit = canvas.max(axis=2) > 200
        assert lit[pixels[:, 1], pixels[:, 0]].all()
        for y, x in np.argwhere(lit):
            assert abs(pixels - (x, y)).sum(axis=1).min() <= 1

    def test_the_picture_behind_is_dimmed(self):
        canvas = drawing.positions(np.full((5, 5, 3), 200, np.uint8), np.zeros((0, 2)))
        assert (canvas == 70).all()


def ink(canvas: np.ndarray) -> np.ndarray:
    """Pixels (x, y) that are mostly covered by a black outline on white."""
    return np.argwhere(canvas.max(axis=2) < 140)[:, ::-1]


class TestEllipses:
    def test_an_outline_lies_on_its_ellipse(self, rng):
        for _ in range(10):
            center, sigma = rng.uniform(45, 55, 2), rng.uniform(5, 18, 2)
            angle = rng.uniform(-4, 4)
            canvas = drawing.ellipses(
                (100, 100), center[None], sigma[None], np.array([angle]), np.zeros((1, 3)), 2.0
            )
            points = ink(canvas) + 0.5 - center
            assert len(points) > 20
            # Back into the ellipse's own axes: x right, y down, the angle from x towards y.
            cos, sin = np.cos(angle), np.sin(angle)
            own = points @ np.array([[cos, -sin], [sin, cos]])
            radius = np.hypot(*(own / sigma).T)
            off = abs(radius - 2) * sigma.min()
            assert off.max() < 1.5

    def test_the_first_axis_is_x_and_an_angle_turns_it_towards_y(self):
        def extent(angle: float) -> tuple[int, int]:
            canvas = drawing.ellipses(
                (80, 80), np.array([[40.0, 40.0]]), np.array([[30.0, 5.0]]),
                np.array([angle]), np.zeros((1, 3)),
            )  # fmt: skip
            return tuple(np.ptp(ink(canvas), axis=0))

        assert extent(0.0) == pytest.approx((60, 10), abs=2)
        assert extent(np.pi / 2) == pytest.approx((10, 60), abs=2)
        slanted = drawing.ellipses(
            (80, 80), np.array([[40.0, 40.0]]), np.array([[30.0, 3.0]]),
            np.array([np.pi / 4]), np.zeros((1, 3)),
        )  # fmt: skip
        points = ink(slanted) - 39.5
        assert (points[:, 0] * points[:, 1]).sum() > 0  # from top left to bottom right

    def test_outlines_have_the_colours_of_their_gaussians(self):
        colors = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.7]])
        canvas = drawing.ellipses(
            (40, 80), np.array([[20.5, 20.5], [60.5, 20.5]]), np.full((2, 2), 10.0),
            np.zeros(2), colors,
        )  # fmt: skip
        # Half a pixel of the outline is white paper, at most.
        assert canvas[20, 30].tolist() == pytest.approx([255, 0, 0], abs=80)
        assert canvas[20, 70].tolist() == pytest.approx([0, 0, 255], abs=80)  # cut at 1
        assert canvas[20, 20].tolist() == [255, 255, 255]

    def test_enormous_and_tiny_gaussians_can_be_drawn(self):
        sigmas = np.array([[np.inf, 1e-9], [1e12, 1e12]])
        canvas = drawing.ellipses(
            (20, 30), np.full((2, 2), 10.0), sigmas, np.zeros(2), np.zeros((2, 3))
        )
        assert canvas.shape == (20, 30, 3)


class TestColours:
    def test_ids_that_follow_each_other_look_different(self):
        colors = drawing.id_colors(500)
        assert colors.shape == (500, 3)
        assert colors.min() >= 0
        assert colors.max() <= 1
        for apart in (1, 2):
            assert abs(colors[apart:] - colors[:-apart]).max(axis=1).min() > 0.2

    def test_an_id_keeps_its_colour(self):
        assert (drawing.id_colors(30)[:10] == drawing.id_colors(10)).all()

    def test_no_error_is_black_and_more_error_is_brighter(self, rng):
        target = rng.random((3, 1, 60)).astype(np.float32)
        error = np.linspace(0, 0.3, 60, dtype=np.float32)
        canvas = drawing.error_map(target + error, target)
        assert canvas.shape == (1, 60, 3)
        assert canvas[0, 0].max() <= 4
        brightness = canvas[0].astype(float).mean(axis=1)
        assert (np.diff(brightness) > -2).all()
        assert brightness[-1] > 200
        assert (canvas[0, 50:] == canvas[0, -1]).all()  # 0.25 and above


def test_neighbours_come_first(rng):
    pixels = rng.integers(0, 4096, (500, 2))
    order = neighbours_first(pixels)
    assert sorted(order) == list(range(500))
    length = np.abs(np.diff(pixels[order], axis=0)).sum()
    assert length < 0.3 * np.abs(np.diff(pixels, axis=0)).sum()
    blocks = pixels[order] // 2048  # the quarters of the picture follow one another
    assert (np.abs(np.diff(blocks[:, 0] + 2 * blocks[:, 1])) > 0).sum() == 3
