"""The CPU kernels draw and differentiate as the twin does, also on ugly input."""

from __future__ import annotations

import itertools
import math
import threading

import numpy as np
import pytest
import torch

from ops.photometric import PhotometricLoss
from ops.splat2d import RasterConfig, reference, render

CONFIGS = {
    "normalized": RasterConfig(),
    "additive": RasterConfig(blending="additive"),
    "top-3": RasterConfig(topk=3),
    "sigma": RasterConfig(inverse_scale=False),
    "tile-8": RasterConfig(tile=8),
    "tile-32": RasterConfig(tile=32),
}


def gaussians(generator, n, channels=3, inverse=True):
    """Random parameters with standard deviations of 1 to 10 pixels."""
    sigma = torch.exp(torch.rand(n, 2, generator=generator) * math.log(10))
    return [
        torch.rand(n, 2, generator=generator) * 1.2 - 0.1,
        1 / sigma if inverse else sigma,
        torch.randn(n, 1, generator=generator) * 3,
        torch.randn(n, channels, generator=generator),
    ]


def doubtful(parameters, height, width, config):
    """Pixels where a weight lies so near a threshold that float32 may decide otherwise."""
    xy, scale, rot, _ = (p.double() for p in parameters)
    if len(xy) == 0:
        return torch.zeros(height, width, dtype=torch.bool)
    w = reference.weights(xy, scale, rot, height, width, config).nan_to_num()
    near = ((w / config.w_min - 1).abs() < 1e-4).any(dim=0)
    if config.blending == "normalized" and len(w) > config.topk:
        ranked = torch.topk(w, config.topk + 1, dim=0).values
        near |= (ranked[-1] / ranked[-2].clamp(min=1e-30) - config.tie).abs() < 1e-4
    return near


def assert_same_gradients(found, wanted):
    for name, a, b in zip(("xy", "scale", "rot", "feat"), found, wanted, strict=True):
        assert a.isfinite().all(), name
        error, norm = (a - b).norm(), b.norm()
        assert error <= 1e-3 * norm + 1e-6, f"{name}: {error / norm.clamp(min=1e-30):.2e}"


def assert_same(parameters, height, width, config, generator):
    """Image within 1e-4 and gradients within 1e-3 (relative, by norm) of the twin in float64."""
    fast = [p.clone().requires_grad_() for p in parameters]
    slow = [p.double().requires_grad_() for p in parameters]
    image = render(*fast, height, width, config)
    expected = reference.render(*slow, height, width, config)
    certain = ~doubtful(parameters, height, width, config)
    assert certain.float().mean() > 0.5 or height * width < 100
    assert image.shape == expected.shape == (parameters[3].shape[1], height, width)
    torch.testing.assert_close(
        image[:, certain], expected[:, certain].float(), atol=1e-4, rtol=1e-4, equal_nan=True
    )
    upstream = torch.randn(image.shape, generator=generator) * certain
    image.backward(upstream)
    expected.backward(upstream.double())
    if len(fast[0]):
        assert_same_gradients([a.grad for a in fast], [b.grad for b in slow])


@pytest.mark.parametrize("name", CONFIGS)
def test_kernels_agree_with_the_twin(name, generator):
    config = CONFIGS[name]
    assert_same(gaussians(generator, 120, inverse=config.inverse_scale), 45, 71, config, generator)


@pytest.mark.parametrize("channels", [1, 2, 3, 12, 32])
def test_any_number_of_channels_agrees_with_the_twin(channels, generator):
    assert_same(gaussians(generator, 60, channels), 33, 20, RasterConfig(), generator)


@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (1, 40), (40, 1), (16, 16), (17, 15), (31, 33), (5, 100)]
)
def test_any_picture_size_agrees_with_the_twin(height, width, generator):
    assert_same(gaussians(generator, 30), height, width, RasterConfig(), generator)


def test_many_gaussians_on_one_spot_keep_the_largest_weights(generator):
    parameters = gaussians(generator, 200)
    parameters[0] = 0.5 + 0.02 * torch.randn(200, 2, generator=generator)
    assert_same(parameters, 40, 40, RasterConfig(), generator)


def test_no_gaussians_give_black_and_empty_gradients():
    parameters = [torch.zeros(0, k, requires_grad=True) for k in (2, 2, 1, 3)]
    image = render(*parameters, 20, 30)
    assert image.shape == (3, 20, 30)
    assert not image.any()
    image.sum().backward()
    assert all(p.grad.shape == p.shape for p in parameters)


def test_gaussians_out_of_view_leave_the_picture_black(generator):
    parameters = gaussians(generator, 20)
    parameters[0] += 50
    image = render(*[p.requires_grad_() for p in parameters], 30, 30)
    assert not image.any()
    image.sum().backward()
    assert not any(p.grad.any() for p in parameters)


@pytest.mark.parametrize("column", range(4))
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_gaussian_that_is_not_finite_is_left_out_of_the_picture(column, value, generator):
    parameters = gaussians(generator, 30)
    whole = render(*[p[1:] for p in parameters], 40, 40)
    parameters[column][0, 0] = value
    broken = [p.requires_grad_() for p in parameters]
    image = render(*broken, 40, 40)
    torch.testing.assert_close(image, whole)
    image.sum().backward()
    assert all(p.grad.isfinite().all() for p in broken)
    assert all(p.grad[0].abs().sum() == 0 for p in broken)


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e30, 1e-3, 1e3])
@pytest.mark.parametrize("inverse", [True, False])
def test_degenerate_scales_agree_with_the_twin(scale, inverse, generator):
    config = RasterConfig(inverse_scale=inverse)
    parameters = gaussians(generator, 20, inverse=inverse)
    parameters[1][:5] = scale
    parameters[1][5:8, 0] = scale
    fast = [p.clone().requires_grad_() for p in parameters]
    image = render(*fast, 24, 24, config)
    expected = reference.render(*[p.double() for p in parameters], 24, 24, config)
    # A line a thousandth of a pixel wide turns rounding of its position into large changes of
    # its weight: the kernel may be as far from the truth as the twin in float32, not more.
    rounding = (reference.render(*parameters, 24, 24, config) - expected).abs()
    certain = ~doubtful(parameters, 24, 24, config)
    error = (image - expected).abs() - 4 * rounding - 1e-3 * expected.abs()
    assert error[:, certain].max() < 1e-4
    image.sum().backward()
    assert all(p.grad.isfinite().all() for p in fast)


def test_long_thin_gaussians_agree_with_the_twin(generator):
    parameters = gaussians(generator, 40)
    parameters[1] = torch.tensor([[1.0, 0.002]]).repeat(40, 1)
    assert_same(parameters, 150, 150, RasterConfig(), generator)


def test_huge_features_agree_with_the_twin(generator):
    parameters = gaussians(generator, 40)
    image = render(*parameters[:3], parameters[3] * 1e6, 40, 40)
    torch.testing.assert_close(image, 1e6 * render(*parameters, 40, 40), rtol=1e-4, atol=1)


def test_the_sign_of_a_scale_does_not_matter(generator):
    parameters = gaussians(generator, 40)
    flipped = [parameters[0], -parameters[1], parameters[2], parameters[3]]
    torch.testing.assert_close(render(*flipped, 40, 40), render(*parameters, 40, 40))


def test_the_picture_does_not_depend_on_the_order_of_gaussians(generator):
    parameters = gaussians(generator, 150)
    order = torch.randperm(150, generator=generator)
    shuffled = [p[order] for p in parameters]
    torch.testing.assert_close(
        render(*shuffled, 50, 50), render(*parameters, 50, 50), atol=1e-4, rtol=1e-4
    )


def test_the_picture_does_not_depend_on_the_tile(generator):
    parameters = gaussians(generator, 100)
    images = [render(*parameters, 50, 60, RasterConfig(tile=tile)) for tile in (8, 16, 32)]
    torch.testing.assert_close(images[0], images[1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(images[0], images[2], atol=1e-5, rtol=1e-5)


def test_pixel_centres_lie_at_halves():
    one = [
        torch.tensor([[0.5, 0.25]]),
        torch.full((1, 2), 0.5),
        torch.zeros(1, 1),
        torch.ones(1, 1),
    ]
    image = render(*one, 8, 8, RasterConfig(blending="additive"))[0]
    assert image[1, 3] == image[1, 4] == image[2, 3] == image[2, 4] == image.max()
    assert math.isclose(image[1, 4], math.exp(-0.5 * (0.25**2 + 0.25**2)), rel_tol=1e-5)


def test_same_input_gives_the_same_bits(generator):
    parameters = [p.requires_grad_() for p in gaussians(generator, 150)]
    results = []
    for _ in range(3):
        image = render(*parameters, 70, 90)
        results.append([image, *torch.autograd.grad(image.square().sum(), parameters)])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_kernels_may_be_called_from_several_threads(generator):
    parameters = gaussians(generator, 100)
    expected = render(*parameters, 64, 64)
    images = []

    def work():
        images.extend(render(*parameters, 64, 64) for _ in range(20))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(images) == 80
    assert all(torch.equal(image, expected) for image in images)


def test_tensors_that_are_not_contiguous_are_read_rightly(generator):
    parameters = gaussians(generator, 30)
    strided = [torch.stack([p, p], dim=1)[:, 0] for p in parameters]
    turned = [p.T.contiguous().T for p in parameters]
    expected = render(*parameters, 30, 30)
    torch.testing.assert_close(render(*strided, 30, 30), expected)
    torch.testing.assert_close(render(*turned, 30, 30), expected)


# --- bands of rows


def bands(rng, height):
    """Bands (first, end) that make up a picture: of one height, or uneven, down to a single row."""
    step = rng.integers(1, 20)
    even, uneven = range(0, height, step), rng.integers(0, height, 4)
    cuts = sorted({0, *(even if rng.random() < 0.5 else uneven), height})
    print(f"{height} rows cut at {cuts}")
    return list(itertools.pairwise(map(int, cuts)))


def gradients(picture, upstream, parameters):
    return torch.autograd.grad(picture, parameters, upstream)


def assert_close_by_norm(found, expected, tolerance):
    """The same gradients of every parameter, relative to their norm."""
    for name, a, b in zip(("xy", "scale", "rot", "feat"), found, expected, strict=True):
        assert (a - b).norm() <= tolerance * b.norm(), f"{name}: {(a - b).norm() / b.norm():.2e}"


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("name", CONFIGS)
def test_bands_are_rows_of_the_picture_and_their_gradients_add_up(
    name, dtype, tolerance, rng, generator
):
    config, height, width = CONFIGS[name], int(rng.integers(1, 90)), int(rng.integers(1, 60))
    drawn = gaussians(generator, 80, int(rng.integers(1, 5)), config.inverse_scale)
    certain = ~doubtful(drawn, height, width, config)
    parameters = [p.to(dtype).requires_grad_() for p in drawn]
    whole = render(*parameters, height, width, config)
    upstream = torch.randn(whole.shape, generator=generator).to(dtype) * certain
    total = [torch.zeros_like(p) for p in parameters]
    for first, end in bands(rng, height):
        band = render(*parameters, height, width, config, rows=(first, end))
        assert band.shape == (len(whole), end - first, width)
        found, expected = (x[:, certain[first:end]] for x in (band, whole[:, first:end]))
        torch.testing.assert_close(found, expected, atol=10 * tolerance, rtol=10 * tolerance)
        for sum_, part in zip(
            total, gradients(band, upstream[:, first:end], parameters), strict=True
        ):
            sum_ += part
    assert_close_by_norm(total, gradients(whole, upstream, parameters), tolerance)


def test_rows_far_down_a_tall_picture_agree_with_the_twin(generator):
    height, rows = 3_000_000, (2_000_003, 2_000_023)
    parameters = gaussians(generator, 30)
    parameters[0][:, 1] = (rows[0] + 20 * torch.rand(30, generator=generator)) / height
    image = render(*parameters, height, 25, rows=rows)
    exact = [p.double() for p in parameters]
    expected = render(*exact, height, 25, rows=rows).float()
    w = reference.weights(*exact[:3], height, 25, RasterConfig(), rows)
    ranked = torch.topk(w, 11, dim=0).values
    certain = (ranked[-1] / ranked[-2].clamp(min=1e-30) - RasterConfig().tie).abs() > 1e-4
    certain &= ((w / RasterConfig().w_min - 1).abs() > 1e-4).all(dim=0)
    torch.testing.assert_close(image[:, certain], expected[:, certain], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_without_gaussians_are_black(dtype):
    parameters = [torch.zeros(0, k, dtype=dtype) for k in (2, 2, 1, 3)]
    image = render(*parameters, 20, 30, rows=(5, 9))
    assert image.shape == (3, 4, 30)
    assert not image.any()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_a_picture_drawn_and_compared_in_bands_has_the_gradients_of_the_whole(
    dtype, tolerance, rng, generator
):
    # Wide Gaussians that are brighter than the target: no weight and no error is near a threshold.
    height, width, channels = (int(rng.integers(1, end)) for end in (45, 35, 5))
    config = RasterConfig(topk=32)
    parameters = [
        torch.rand(20, 2, generator=generator),
        1 / (15 + 15 * torch.rand(20, 2, generator=generator)),
        3 * torch.randn(20, 1, generator=generator),
        1.5 + torch.rand(20, channels, generator=generator),
    ]
    parameters = [p.to(dtype).requires_grad_() for p in parameters]
    target = torch.rand(channels, height, width, generator=generator).to(dtype)
    ratios = {"l1_ratio": 0.7, "l2_ratio": 0.4, "ssim_ratio": 0.3}
    PhotometricLoss(target, **ratios)(render(*parameters, height, width, config)).total.backward()
    expected = [p.grad for p in parameters]
    for p in parameters:
        p.grad = None
    for first, end in bands(rng, height):
        top, bottom = max(first - 5, 0), min(end + 5, height)
        counted = (first - top, end - top)
        loss = PhotometricLoss(
            target[:, top:bottom], **ratios, counted=counted, numel=target.numel()
        )
        loss(render(*parameters, height, width, config, rows=(top, bottom))).total.backward()
    assert_close_by_norm([p.grad for p in parameters], expected, tolerance)


@pytest.mark.parametrize("rows", [(-1, 5), (3, 3), (6, 4), (0, 11), (10, 11), (0, 5, 10), ()])
def test_rows_that_the_picture_does_not_have_are_refused(rows):
    parameters = [torch.zeros(5, k) for k in (2, 2, 1, 3)]
    with pytest.raises(ValueError, match=r"rows=\(.*0 <= first < end <= height=10"):
        render(*parameters, 10, 10, rows=rows)


# --- the twin itself, and what is refused


@pytest.mark.parametrize("blending", ["normalized", "additive"])
def test_the_twin_s_gradients_are_derivatives(blending, rng):
    # Few and wide, so that no weight comes near a threshold while it is varied.
    config = RasterConfig(blending=blending)
    parameters = [
        torch.from_numpy(rng.uniform(0.3, 0.7, (4, 2))),
        torch.from_numpy(rng.uniform(0.2, 0.4, (4, 2))),
        torch.from_numpy(rng.uniform(-3, 3, (4, 1))),
        torch.from_numpy(rng.uniform(-1, 1, (4, 2))),
    ]
    parameters = [p.requires_grad_() for p in parameters]
    assert torch.autograd.gradcheck(lambda *p: reference.render(*p, 7, 6, config), parameters)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: torch.zeros(5, 3)}, r"xy has shape \(5, 3\)"),
        ({1: torch.zeros(4, 2)}, r"scale has shape \(4, 2\)"),
        ({2: torch.zeros(5, 1, dtype=torch.float64)}, "rot is torch.float64"),
        ({3: torch.zeros(5, 33)}, "33 channels"),
        (
            {k: torch.zeros(5, c, dtype=torch.float16) for k, c in enumerate((2, 2, 1, 3))},
            "float16",
        ),
    ],
)
def test_wrong_tensors_are_named(change, message):
    parameters = dict(enumerate([torch.zeros(5, k) for k in (2, 2, 1, 3)])) | change
    with pytest.raises(ValueError, match=message):
        render(*parameters.values(), 10, 10)


@pytest.mark.parametrize(
    ("name", "value"),
    [("topk", 0), ("blending", "over"), ("tile", 12), ("w_min", 1e-9), ("eps", 0.0), ("tie", 2.0)],
)
def test_wrong_raster_settings_are_named(name, value):
    with pytest.raises(ValueError, match=rf"RasterConfig.{name}={value!r}: ."):
        RasterConfig(**{name: value})


def test_exponential_is_accurate_over_its_range():
    from ops.splat2d import cpu_tiles

    x = np.linspace(-13.8, 0, 10_001, dtype=np.float32)
    approximate = np.array([cpu_tiles.exponential(value) for value in x])
    np.testing.assert_allclose(approximate, np.exp(x.astype(np.float64)), rtol=5e-6)
