"""The GPU kernels draw and differentiate as the twin does, also on ugly input.

Without a GPU they run under Triton's interpreter, on small pictures.
"""

from __future__ import annotations

import math

import pytest
import torch

from ops.splat2d import RasterConfig, reference
from tests.test_splat2d import CONFIGS, assert_same_gradients, doubtful, gaussians

pytest.importorskip("triton", reason="the GPU kernels need Triton, which is there for Linux only")

from ops.splat2d import cuda
from ops.splat2d.cuda import Parameters

# Weights of Gaussians that are not finite overflow in NumPy; nothing is drawn from them.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NAMES = ("xy", "scale", "rot", "feat")


def on_device(parameters):
    return Parameters(*(p.to(DEVICE).contiguous() for p in parameters))


def draw(parameters, height, width, config, rows=None):
    """Picture and a function from its gradient to those of the parameters."""
    rows = rows or (0, height)
    p = on_device(parameters)
    image, painter = cuda.render(p, height, width, config, rows)

    def differentiate(upstream):
        grads = cuda.differentiate(p, upstream.to(DEVICE), painter, rows)
        return dict(zip(NAMES, (g.cpu() for g in grads), strict=True))

    return image.cpu(), differentiate


def assert_same(parameters, height, width, config, generator):
    """Image within 1e-4 and gradients within 1e-3 (relative, by norm) of the twin in float64."""
    slow = [p.double().requires_grad_() for p in parameters]
    expected = reference.render(*slow, height, width, config)
    certain = ~doubtful(parameters, height, width, config)
    image, differentiate = draw(parameters, height, width, config)
    assert image.shape == expected.shape
    torch.testing.assert_close(
        image[:, certain], expected[:, certain].float(), atol=1e-4, rtol=1e-4
    )
    upstream = torch.randn(image.shape, generator=generator) * certain
    expected.backward(upstream.double())
    grads = differentiate(upstream)
    assert_same_gradients([grads[name] for name in NAMES], [b.grad for b in slow])


@pytest.mark.parametrize("name", CONFIGS)
def test_gpu_kernels_agree_with_the_twin(name, generator):
    config = CONFIGS[name]
    assert_same(gaussians(generator, 40, inverse=config.inverse_scale), 19, 37, config, generator)


@pytest.mark.parametrize("channels", [1, 2, 4, 5, 12])
def test_any_number_of_channels_agrees_with_the_twin(channels, generator):
    assert_same(gaussians(generator, 30, channels), 17, 12, RasterConfig(), generator)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 40), (40, 1), (16, 16), (5, 70)])
def test_any_picture_size_agrees_with_the_twin(height, width, generator):
    assert_same(gaussians(generator, 20), height, width, RasterConfig(), generator)


@pytest.mark.parametrize("tile", [8, 16])
def test_crowded_tiles_keep_the_largest_weights(tile, generator):
    parameters = gaussians(generator, 90)
    parameters[0] = 0.5 + 0.02 * torch.randn(90, 2, generator=generator)
    assert_same(parameters, 16, 24, RasterConfig(tile=tile), generator)


def test_more_gaussians_than_a_segment_agree_with_the_twin(generator):
    parameters = gaussians(generator, 600)
    parameters[1] = parameters[1] * 3 + 0.5
    assert_same(parameters, 16, 90, RasterConfig(tile=8), generator)


def test_long_thin_gaussians_agree_with_the_twin(generator):
    parameters = gaussians(generator, 20)
    parameters[1] = torch.tensor([[1.0, 0.002]]).repeat(20, 1)
    assert_same(parameters, 40, 40, RasterConfig(), generator)


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e30, 1e-3, 1e3])
@pytest.mark.parametrize("inverse", [True, False])
def test_degenerate_scales_agree_with_the_twin(scale, inverse, generator):
    config = RasterConfig(inverse_scale=inverse)
    parameters = gaussians(generator, 12, inverse=inverse)
    parameters[1][:3] = scale
    parameters[1][3:5, 0] = scale
    image, differentiate = draw(parameters, 16, 16, config)
    expected = reference.render(*[p.double() for p in parameters], 16, 16, config)
    certain = ~doubtful(parameters, 16, 16, config)
    torch.testing.assert_close(
        image[:, certain], expected[:, certain].float(), atol=1e-4, rtol=1e-3
    )
    assert all(g.isfinite().all() for g in differentiate(torch.ones_like(image)).values())


@pytest.mark.parametrize("column", range(4))
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gaussian_that_is_not_finite_is_left_out_of_the_picture(column, value, generator):
    parameters = gaussians(generator, 20)
    whole, _ = draw([p[1:] for p in parameters], 16, 16, RasterConfig())
    parameters[column][0, 0] = value
    image, differentiate = draw(parameters, 16, 16, RasterConfig())
    torch.testing.assert_close(image, whole)
    grads = differentiate(torch.ones_like(image))
    assert all(g.isfinite().all() for g in grads.values())
    assert all(g[0].abs().sum() == 0 for g in grads.values())


def test_no_gaussians_give_a_black_picture():
    image, differentiate = draw([torch.zeros(0, k) for k in (2, 2, 1, 3)], 9, 12, RasterConfig())
    assert image.shape == (3, 9, 12)
    assert not image.any()
    assert differentiate(torch.ones_like(image))["feat"].shape == (0, 3)


def test_bands_are_rows_of_the_picture_and_their_gradients_add_up(generator):
    config, height, width = RasterConfig(), 45, 20
    parameters = gaussians(generator, 30)
    whole, differentiate = draw(parameters, height, width, config)
    upstream = torch.randn(whole.shape, generator=generator)
    expected = differentiate(upstream)
    total = {name: torch.zeros_like(g) for name, g in expected.items()}
    for rows in ((0, 13), (13, 32), (32, 45)):
        band, differentiate = draw(parameters, height, width, config, rows)
        torch.testing.assert_close(band, whole[:, rows[0] : rows[1]], atol=1e-6, rtol=1e-6)
        for name, grad in differentiate(upstream[:, rows[0] : rows[1]]).items():
            total[name] += grad
    for name, grad in expected.items():
        assert (total[name] - grad).norm() <= 1e-5 * grad.norm(), name


def test_the_size_of_the_upstream_gradient_does_not_matter(generator):
    parameters = gaussians(generator, 20)
    image, differentiate = draw(parameters, 16, 16, RasterConfig())
    upstream = torch.randn(image.shape, generator=generator)
    small, large = differentiate(upstream * 1e-12), differentiate(upstream * 1e12)
    for name in NAMES:
        error = (small[name].double() * 1e24 - large[name].double()).norm()
        assert error <= 1e-4 * large[name].double().norm(), name


def test_same_input_gives_the_same_bits(generator):
    parameters = gaussians(generator, 60)
    results = []
    for _ in range(5 if DEVICE == "cuda" else 2):  # the interpreter does one thing after the other
        image, differentiate = draw(parameters, 24, 24, RasterConfig(tile=8))
        results.append([image, *differentiate(image).values()])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_lists_that_do_not_suffice_grow_and_give_the_same_picture(generator, monkeypatch):
    parameters = gaussians(generator, 60)
    expected, _ = draw(parameters, 24, 40, RasterConfig())
    monkeypatch.setattr(cuda, "_about", lambda length, side: 0)
    image, _ = draw(parameters, 24, 40, RasterConfig())
    assert torch.equal(image, expected)


@pytest.mark.parametrize("tile", [8, 16])
def test_what_is_remembered_of_the_last_picture_does_not_change_the_next(tile, generator):
    height, width, config = 16, 24, RasterConfig(tile=tile)
    flags = torch.zeros(1, dtype=torch.int32, device=DEVICE)
    memory = torch.empty(3, height, width, device=DEVICE)
    painter = cuda.Rasterizer(
        80, 3, height, width, height, config, memory=memory, guess=True, flags=flags
    )
    crowded = gaussians(generator, 80)
    for parameters in (crowded, crowded, gaussians(generator, 80)):  # the last one is a surprise
        expected, _ = draw(parameters, height, width, config)
        p = on_device(parameters)
        painter.project(p)
        image = painter.draw(p, 0, height)
        while int(flags):
            painter.grow()
            flags.zero_()
            image = painter.draw(p, 0, height)
        assert torch.equal(image.cpu(), expected)
    assert painter.guess.max() > 0


def test_a_tile_list_holds_only_gaussians_that_count(generator):
    parameters = gaussians(generator, 60)
    p = on_device(parameters)
    _, painter = cuda.render(p, 8, 8, RasterConfig(tile=8), (0, 8))
    start, count = int(painter.tile_start[0]), int(painter.tile_count[0])
    listed = painter.owners.view(-1)[start : start + count].tolist()
    weights = reference.weights(*[p.double() for p in parameters[:3]], 8, 8, RasterConfig())
    counting = reference.kept(weights, RasterConfig()).flatten(1).any(dim=1).nonzero()[:, 0]
    certain = ~doubtful(parameters, 8, 8, RasterConfig())
    if certain.all():
        assert listed == counting.tolist()
