"""The photometric loss and SSIM: parity with the definition, and the promises of the API."""

from __future__ import annotations

import copy
import itertools
import math
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity
from torch import Tensor

from ops.photometric import PhotometricLoss, cpu, cpu_kernels, reference, ssim, ssim_map, ssim_sum

ALL_TERMS = {"l1_ratio": 0.7, "l2_ratio": 0.4, "ssim_ratio": 0.3}
REACH = 2 * reference.WINDOW_RADIUS  # how far a pixel's value is felt in the gradient


@pytest.fixture
def seed() -> int:
    """A fresh seed; pytest shows what is printed when the test fails."""
    value = random.SystemRandom().randrange(2**32)
    print(f"seed = {value}")
    torch.manual_seed(value)
    return value


def noisy_pair(*shape: int, noise: float = 0.2) -> tuple[Tensor, Tensor]:
    """Return an unclamped image and its target in [0, 1]."""
    target = torch.rand(shape)
    return target + noise * torch.randn(shape), target


def evaluate(image: Tensor, target: Tensor, **ratios: float):
    """Return the loss terms and the gradient of the total."""
    image = image.detach().clone().requires_grad_()
    terms = PhotometricLoss(target, **ratios)(image)
    terms.total.backward()
    return terms, image.grad


def assert_agrees_with_reference(
    image: Tensor, target: Tensor, slack: float = 1.0, **ratios: float
) -> None:
    """Compare float32 on the CPU with the float64 reference.

    The tolerance is ten times tighter than training needs for values, a hundred times for
    gradients; slack is for pictures far from [0, 1] and without detail, where the variances are
    differences of large squares.
    """
    tolerance = 1e-6 * slack
    terms, gradient = evaluate(image, target, **ratios)
    exact_terms, exact_gradient = evaluate(image.double(), target.double(), **ratios)
    for name, value, exact in zip(terms._fields, terms, exact_terms, strict=True):
        assert value.item() == pytest.approx(
            exact.item(), rel=tolerance, abs=tolerance, nan_ok=True
        ), name
    error = torch.linalg.norm(gradient - exact_gradient)
    assert error <= 10 * tolerance * torch.linalg.norm(exact_gradient) + 1e-10
    assert gradient.dtype == torch.float32
    assert gradient.shape == image.shape


# --- parity of the CPU kernels with the definition


@pytest.mark.parametrize(
    "shape",
    [
        (1, 1, 1),
        (3, 1, 1),
        (1, 1, 40),
        (2, 40, 1),
        (3, 5, 4),
        (1, 10, 11),
        (2, 11, 12),
        (12, 37, 23),
        (32, 9, 31),
        (1, cpu_kernels.TILE_ROWS, cpu_kernels.TILE_COLUMNS),
        (3, cpu_kernels.TILE_ROWS + 1, 67),
        (3, 2 * cpu_kernels.TILE_ROWS + 1, 33),
        (1, 6, cpu_kernels.TILE_COLUMNS + 1),
        (1, 70, 2 * cpu_kernels.TILE_COLUMNS + 7),
        (3, 300, 451),
    ],
    ids=str,
)
@pytest.mark.usefixtures("seed")
def test_cpu_agrees_with_the_reference_at_any_size(shape):
    assert_agrees_with_reference(*noisy_pair(*shape), **ALL_TERMS)


def test_cpu_agrees_with_the_reference_at_random_sizes_and_ratios(seed):
    dice = random.Random(seed)
    for _ in range(20):
        shape = dice.randint(1, 32), dice.randint(1, 90), dice.randint(1, 90)
        names = ("l1_ratio", "l2_ratio", "ssim_ratio")
        ratios = {name: dice.choice([0.0, dice.random()]) for name in names}
        print(shape, ratios)
        assert_agrees_with_reference(*noisy_pair(*shape), **ratios)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("noise", [0.0, 1e-3, 1.0])
@pytest.mark.usefixtures("seed")
def test_cpu_keeps_its_digits_on_flat_targets(value, noise):
    target = torch.full((3, 40, 50), value)
    assert_agrees_with_reference(target + noise * torch.randn(3, 40, 50), target, **ALL_TERMS)


@pytest.mark.parametrize("image_value", [-1.0, 0.0, 0.25, 1.0])
def test_cpu_agrees_with_the_reference_on_two_flat_pictures(image_value):
    target = torch.full((1, 30, 30), 0.5)
    image = torch.full_like(target, image_value)
    assert_agrees_with_reference(image, target, slack=100, **ALL_TERMS)


@pytest.mark.usefixtures("seed")
def test_cpu_keeps_its_digits_when_the_image_is_almost_the_target():
    image, target = noisy_pair(3, 50, 60, noise=1e-4)
    ratios = {"l1_ratio": 0.0, "ssim_ratio": 1.0}
    total, exact = (
        PhotometricLoss(target.to(dtype), **ratios)(image.to(dtype)).ssim.double()
        for dtype in (torch.float32, torch.float64)
    )
    assert (total - exact).abs() < 1e-7  # 1 is the nearest float32 to the exact value or next to it
    assert_agrees_with_reference(image, target, **ratios)


@pytest.mark.parametrize("scale", [1e4, -1e4])
@pytest.mark.usefixtures("seed")
def test_huge_values_stay_finite_and_agree_with_the_reference(scale):
    target = torch.rand(3, 40, 50)
    for image in (scale * torch.randn(3, 40, 50), torch.full((3, 40, 50), scale)):
        assert_agrees_with_reference(image, target, slack=100, **ALL_TERMS)


def test_rounding_cannot_make_a_denominator_of_ssim_vanish():
    width, stride = 20, cpu_kernels.PLANE
    blurred, out = np.zeros((2, 4 * stride), np.float32)
    for plane, value in enumerate(
        [1, 1, -cpu_kernels.C2 / 2]
    ):  # the covariance is too low by C2 / 2
        blurred[plane * stride : (plane + 1) * stride] = value
    cpu_kernels._similarity_row(blurred, *np.zeros((2, width), np.float32), out)
    assert np.isfinite(out).all()


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 7, 5), (2, 140, 61), (1, 20, 1100)], ids=str)
@pytest.mark.usefixtures("seed")
def test_ssim_map_agrees_with_the_reference(shape):
    image, target = noisy_pair(*shape)
    exact = ssim_map(image.double(), target.double())
    torch.testing.assert_close(ssim_map(image, target).double(), exact, rtol=0, atol=1e-5)
    assert ssim(image, target).item() == pytest.approx(exact.mean().item(), abs=1e-6)


# --- the definition itself


@pytest.mark.parametrize("shape", [(1, 3, 4), (2, 13, 12)], ids=str)
@pytest.mark.usefixtures("seed")
def test_reference_gradient_is_the_derivative_of_its_loss(shape):
    image, target = (picture.double() for picture in noisy_pair(*shape))
    loss = PhotometricLoss(target, **ALL_TERMS)
    assert torch.autograd.gradcheck(lambda x: loss(x).total, image.requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.usefixtures("seed")
def test_ssim_is_that_of_scikit_image_away_from_the_border(dtype):
    image, target = (picture.to(dtype) for picture in noisy_pair(3, 48, 57))
    _, theirs = structural_similarity(
        image.numpy().astype(np.float64),
        target.numpy().astype(np.float64),
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=1,
        channel_axis=0,
        full=True,
    )
    inner = (..., slice(5, -5), slice(5, -5))
    ours = ssim_map(image, target).double().numpy()
    np.testing.assert_allclose(ours[inner], theirs[inner], rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.usefixtures("seed")
def test_outside_the_picture_counts_as_zeros(dtype):
    pair = [picture.to(dtype) for picture in noisy_pair(2, 14, 9)]
    framed = [torch.nn.functional.pad(picture, (20, 20, 20, 20)) for picture in pair]
    inside = ssim_map(*framed)[:, 20:-20, 20:-20]
    torch.testing.assert_close(ssim_map(*pair), inside, rtol=0, atol=1e-6)


def test_ssim_of_two_flat_pictures_is_their_luminance_term():
    a, b = 0.3, 0.8
    centre = ssim_map(torch.full((1, 31, 31), a), torch.full((1, 31, 31), b))[0, 15, 15]
    assert centre.item() == pytest.approx((2 * a * b + 1e-4) / (a * a + b * b + 1e-4), abs=1e-6)


@pytest.mark.usefixtures("seed")
def test_terms_are_the_means_they_are_named_after():
    image, target = noisy_pair(3, 20, 30)
    terms, _ = evaluate(image, target, **ALL_TERMS)
    error = image - target
    assert terms.l1.item() == pytest.approx(error.abs().mean().item(), rel=1e-5)
    assert terms.l2.item() == pytest.approx(error.square().mean().item(), rel=1e-5)
    assert terms.ssim.item() == pytest.approx(ssim_map(image, target).mean().item(), abs=1e-6)
    weighed = 0.7 * terms.l1 + 0.4 * terms.l2 + 0.3 * (1 - terms.ssim)
    assert terms.total.item() == pytest.approx(weighed.item(), rel=1e-6)


# --- bands of rows


def random_bands(dice: random.Random, height: int) -> list[tuple[int, int]]:
    """Return bands (first, end) of one height, or uneven, down to a single row."""
    even = range(0, height, dice.choice([1, 2, 3, 5, 6, 11, 40, 70]))
    uneven = dice.choices(range(height), k=4)
    bands = list(itertools.pairwise(sorted({0, *dice.choice([even, uneven]), height})))
    print(f"{height} rows in the bands {bands}")
    return bands


def window_of(first: int, end: int, height: int) -> tuple[slice, tuple[int, int]]:
    """Return the rows that a band's SSIM depends on, and where in them the band lies."""
    top = max(first - reference.WINDOW_RADIUS, 0)
    return slice(top, min(end + reference.WINDOW_RADIUS, height)), (first - top, end - top)


def evaluate_in_bands(image: Tensor, target: Tensor, bands, **ratios: float):
    """Return the sums over bands of the terms, as numbers, and of the gradients."""
    terms, gradient = np.zeros(4), torch.zeros_like(image)
    for first, end in bands:
        rows, counted = window_of(first, end, image.shape[1])
        band, part = evaluate(
            image[:, rows], target[:, rows], counted=counted, numel=image.numel(), **ratios
        )
        terms += [term.item() for term in band]
        gradient[:, rows] += part
    return terms, gradient


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_terms_and_gradients_of_bands_add_up_to_those_of_the_picture(dtype, tolerance, seed):
    dice = random.Random(seed)
    for _ in range(8):
        shape = dice.randint(1, 4), dice.randint(1, 150), dice.randint(1, 60)
        names = ("l1_ratio", "l2_ratio", "ssim_ratio")
        ratios = {name: dice.choice([0.0, dice.random()]) for name in names}
        print(shape, ratios)
        image, target = (picture.to(dtype) for picture in noisy_pair(*shape))
        expected, gradient = evaluate(image, target, **ratios)
        terms, summed = evaluate_in_bands(image, target, random_bands(dice, shape[1]), **ratios)
        assert terms == pytest.approx(
            [term.item() for term in expected], rel=tolerance, abs=tolerance, nan_ok=True
        )
        assert torch.linalg.norm(summed - gradient) <= tolerance * torch.linalg.norm(gradient)


def test_cpu_agrees_with_the_reference_on_any_window(seed):
    dice = random.Random(seed)
    for _ in range(20):
        channels, height, width = dice.randint(1, 4), dice.randint(1, 150), dice.randint(1, 60)
        counted = tuple(sorted(dice.sample(range(height + 1), 2)))
        numel = channels * height * width
        print(counted, numel)
        pair = noisy_pair(channels, height, width)
        assert_agrees_with_reference(*pair, counted=counted, numel=numel, **ALL_TERMS)
        with torch.no_grad():
            loss = PhotometricLoss(pair[1], counted=counted, numel=numel)
            exact = PhotometricLoss(pair[1].double(), counted=counted, numel=numel)
            silent, expected = loss(pair[0]).total, exact(pair[0].double()).total
        assert silent.item() == pytest.approx(expected.item(), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.usefixtures("seed")
def test_rows_that_do_not_count_are_felt_through_ssim_only_and_only_nearby(dtype):
    image, target = (picture.to(dtype) for picture in noisy_pair(2, 60, 30))
    counted, near = slice(20, 31), slice(15, 36)
    uncounted, far = torch.ones(60, dtype=torch.bool), torch.ones(60, dtype=torch.bool)
    uncounted[counted], far[near] = False, False
    pixelwise, gradient = evaluate(image, target, ssim_ratio=0.0, counted=(20, 31))
    assert pixelwise.l1.item() == pytest.approx((image - target)[:, counted].abs().mean().item())
    assert not gradient[:, uncounted].any()
    _, gradient = evaluate(image, target, **ALL_TERMS, counted=(20, 31))
    assert gradient[:, near].all()
    assert not gradient[:, far].any()
    _, tight = evaluate(image[:, near], target[:, near], **ALL_TERMS, counted=(5, 16))
    torch.testing.assert_close(tight, gradient[:, near], rtol=1e-4, atol=1e-9)


@pytest.mark.usefixtures("seed")
def test_a_poisoned_image_does_not_spoil_the_next_band():
    image, target = noisy_pair(3, 40, 50)
    _, before = evaluate(image, target, counted=(5, 35))
    evaluate(torch.full((3, 300, 600), math.nan), torch.rand(3, 300, 600))
    _, after = evaluate(image, target, counted=(5, 35))
    assert torch.equal(before, after)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_sums_of_ssim_over_bands_add_up(dtype, tolerance, seed):
    image, target = (picture.to(dtype) for picture in noisy_pair(3, 83, 47))
    sums = []
    for first, end in random_bands(random.Random(seed), 83):
        rows, counted = window_of(first, end, 83)
        sums.append(ssim_sum(image[:, rows], target[:, rows], counted).item())
        exact = ssim_map(image, target)[:, first:end].sum().item()
        assert sums[-1] == pytest.approx(exact, rel=1e-4, abs=1e-4)
    assert sum(sums) / image.numel() == pytest.approx(ssim(image, target).item(), rel=tolerance)
    assert ssim_sum(image, target).item() == pytest.approx(sum(sums), rel=tolerance)


# --- properties of SSIM and of the loss


@pytest.mark.usefixtures("seed")
def test_a_picture_is_exactly_similar_to_itself_and_has_no_gradient():
    target = torch.rand(3, 100, 90)
    terms, gradient = evaluate(target, target, **ALL_TERMS)
    assert (ssim_map(target, target) - 1).abs().max() < 1e-6
    assert terms.ssim.item() == pytest.approx(1, abs=1e-7)
    assert terms.total.item() == pytest.approx(0, abs=1e-7)
    assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.usefixtures("seed")
def test_ssim_is_symmetric():
    image, target = noisy_pair(3, 40, 50)
    image = image.clamp(0, 1)
    assert ssim(image, target).item() == pytest.approx(ssim(target, image).item(), abs=1e-6)


@pytest.mark.usefixtures("seed")
def test_ssim_falls_as_noise_grows():
    target, grain = torch.rand(3, 60, 60), torch.randn(3, 60, 60)
    values = [ssim(target + noise * grain, target).item() for noise in (0, 0.01, 0.05, 0.2, 1.0)]
    assert values == sorted(values, reverse=True)
    assert values[0] > 0.999 > values[-1]


@pytest.mark.usefixtures("seed")
def test_gradient_of_l1_is_zero_where_the_image_equals_the_target():
    image, target = noisy_pair(1, 12, 12)
    image[0, 3, 4] = target[0, 3, 4]
    _, gradient = evaluate(image, target, ssim_ratio=0.0)
    assert torch.equal(gradient, torch.sign(image - target) / image.numel())


@pytest.mark.parametrize("ratios", [{}, {"l1_ratio": 0.0, "ssim_ratio": 1.0}, {"ssim_ratio": 0.0}])
@pytest.mark.usefixtures("seed")
def test_gradient_descent_reaches_the_target(ratios):
    target = torch.rand(3, 24, 31)
    image = torch.full_like(target, 0.5).requires_grad_()
    loss = PhotometricLoss(target, **ratios)
    optimizer = torch.optim.Adam([image], lr=0.04)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.98)
    for _ in range(300):
        optimizer.zero_grad()
        loss(image).total.backward()
        optimizer.step()
        schedule.step()
    assert (image - target).abs().mean() < 2e-3


# --- what must not be hidden or shared


@pytest.mark.parametrize("poison", [math.nan, math.inf])
@pytest.mark.parametrize("ssim_ratio", [0.0, 0.1])
@pytest.mark.usefixtures("seed")
def test_one_nan_or_infinity_in_the_image_is_seen_in_the_loss(poison, ssim_ratio):
    image, target = noisy_pair(2, 50, 70)
    image[1, 25, 30] = poison
    terms, gradient = evaluate(image, target, ssim_ratio=ssim_ratio)
    assert not terms.total.isfinite()
    assert not terms.l1.isfinite()
    if math.isnan(poison):
        assert gradient[1, 25, 30].isnan()
    far = torch.ones(2, 50, 70, dtype=torch.bool)
    far[1, 25 - REACH : 26 + REACH, 30 - REACH : 31 + REACH] = False
    assert gradient[far].isfinite().all()


@pytest.mark.usefixtures("seed")
def test_a_poisoned_image_does_not_spoil_the_next_one():
    image, target = noisy_pair(3, 70, 80)
    _, before = evaluate(image, target)
    evaluate(torch.full_like(image, math.nan), target)
    _, after = evaluate(image, target)
    assert torch.equal(before, after)


@pytest.mark.usefixtures("seed")
def test_the_result_is_the_same_every_time_and_for_any_number_of_threads():
    image, target = noisy_pair(3, 140, 530)
    results = []
    allowed = numba.get_num_threads()
    for threads in [allowed, allowed, 1]:
        numba.set_num_threads(threads)
        try:
            results.append(evaluate(image, target, **ALL_TERMS))
        finally:
            numba.set_num_threads(allowed)
    (terms, gradient), *others = results
    for other_terms, other_gradient in others:
        assert torch.equal(gradient, other_gradient)
        assert [t.item() for t in terms] == [t.item() for t in other_terms]


@pytest.mark.usefixtures("seed")
def test_python_threads_may_use_the_loss_at_once():
    pairs = [noisy_pair(3, 60 + 20 * i, 90) for i in range(4)]
    expected = [evaluate(*pair) for pair in pairs]
    with ThreadPoolExecutor(2) as pool:
        for _ in range(10):
            found = list(pool.map(lambda pair: evaluate(*pair), pairs))
            for (terms, gradient), (exact_terms, exact_gradient) in zip(
                found, expected, strict=True
            ):
                assert terms.total.item() == exact_terms.total.item()
                assert torch.equal(gradient, exact_gradient)


@pytest.mark.usefixtures("seed")
def test_any_memory_layout_gives_the_same_result():
    image, target = noisy_pair(3, 33, 44)
    strided = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    assert not strided.is_contiguous()
    wide = torch.rand(3, 33, 88)
    wide[..., ::2] = target
    leaf = strided.detach().requires_grad_()
    terms = PhotometricLoss(wide[..., ::2])(leaf)
    terms.total.backward()
    exact_terms, gradient = evaluate(image, target)
    assert terms.total.item() == exact_terms.total.item()
    assert torch.equal(leaf.grad, gradient)


# --- what is computed, and when


@pytest.fixture
def calls(monkeypatch):
    """The wants_gradient of every call of the CPU backend."""
    seen = []
    original = cpu.means_and_gradient

    def spy(*arguments):
        seen.append(arguments[-1])
        return original(*arguments)

    monkeypatch.setattr(cpu, "means_and_gradient", spy)
    return seen


def test_backward_scales_the_stored_gradient_and_computes_nothing(calls):
    image, target = noisy_pair(3, 20, 20)
    image.requires_grad_()
    total = PhotometricLoss(target)(image).total
    (once,) = torch.autograd.grad(total, image, retain_graph=True)
    (scaled,) = torch.autograd.grad(-3 * total, image)
    assert calls == [True]
    torch.testing.assert_close(scaled, -3 * once)


def test_backward_may_be_repeated_and_accumulates():
    image, target = noisy_pair(3, 20, 20)
    image.requires_grad_()
    total = PhotometricLoss(target)(image).total
    (once,) = torch.autograd.grad(total, image, retain_graph=True)
    once = once.clone()
    for times in (1, 2, 3):
        total.backward(retain_graph=True)
        torch.testing.assert_close(image.grad, times * once)


def test_no_gradient_is_computed_for_an_image_that_needs_none(calls):
    image, target = noisy_pair(3, 20, 20)
    loss = PhotometricLoss(target)
    plain = loss(image)
    with torch.no_grad():
        silent = loss(image.requires_grad_())
    assert calls == [False, False]
    assert not plain.total.requires_grad
    assert plain.total.item() == silent.total.item() == loss(image).total.item()


def test_ssim_costs_nothing_where_its_ratio_is_zero(monkeypatch):
    def unwanted(*_):
        raise AssertionError("SSIM was computed")

    monkeypatch.setattr(cpu, "target_statistics", unwanted)
    image, target = noisy_pair(3, 20, 20)
    for dtype in (torch.float32, torch.float64):
        terms, _ = evaluate(image.to(dtype), target.to(dtype), ssim_ratio=0.0)
        assert terms.ssim.isnan()
        assert terms.total.item() == pytest.approx(terms.l1.item())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_only_the_total_carries_a_gradient_and_it_may_be_added_to(dtype):
    image, target = (picture.to(dtype) for picture in noisy_pair(3, 20, 20))
    image.requires_grad_()
    terms = PhotometricLoss(target)(image)
    assert [term.requires_grad for term in terms] == [True, False, False, False]
    assert all(term.dtype == dtype and term.shape == () for term in terms)
    total = terms.total
    total += image.square().sum()
    total.backward()
    assert image.grad.isfinite().all()


def test_a_loss_can_be_copied():
    image, target = noisy_pair(3, 20, 20)
    loss = PhotometricLoss(target, **ALL_TERMS)
    assert copy.deepcopy(loss)(image).total.item() == loss(image).total.item()


def test_metrics_carry_no_gradient():
    image, target = noisy_pair(3, 20, 20)
    for dtype in (torch.float32, torch.float64):
        leaf = image.to(dtype).requires_grad_()
        assert not ssim(leaf, target.to(dtype)).requires_grad
        assert not ssim_map(leaf, target.to(dtype)).requires_grad


def test_importing_neither_loads_nor_compiles_kernels():
    code = "import sys, ops.photometric; sys.exit('numba' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# --- what is refused


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (torch.zeros(4, 4), r"shape \(C, H, W\).*found \(4, 4\)"),
        (torch.zeros(1, 3, 4, 4), r"shape \(C, H, W\).*found \(1, 3, 4, 4\)"),
        (torch.zeros(33, 4, 4), r"C from 1 to 32.*found \(33, 4, 4\)"),
        (torch.zeros(0, 4, 4), r"C from 1 to 32.*found \(0, 4, 4\)"),
        (torch.zeros(3, 0, 4), r"at least one pixel.*found \(3, 0, 4\)"),
        (torch.zeros(3, 4, 4, dtype=torch.float16), r"float32 or torch.float64.*float16"),
        (torch.zeros(3, 4, 4, dtype=torch.uint8), r"float32 or torch.float64.*uint8"),
    ],
)
def test_a_target_of_another_shape_or_dtype_is_refused(target, message):
    for use in (PhotometricLoss, lambda target: ssim_map(target, target)):
        with pytest.raises(ValueError, match=message):
            use(target)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(3, 4, 5), r"target's shape.*\[3, 4, 4\].*found.*\[3, 4, 5\]"),
        (torch.zeros(3, 4, 4).double(), r"target's dtype, torch.float32; found torch.float64"),
        (torch.zeros(3, 4, 4, device="meta"), r"target's device, cpu; found meta"),
    ],
)
def test_an_image_unlike_the_target_is_refused(image, message):
    target = torch.zeros(3, 4, 4)
    for use in (lambda x: PhotometricLoss(target)(x), lambda x: ssim(x, target)):
        with pytest.raises(ValueError, match=message):
            use(image)


@pytest.mark.parametrize("counted", [(-1, 3), (2, 2), (3, 1), (0, 5), (4, 5), (0, 2, 4), ()])
def test_counted_rows_that_the_target_does_not_have_are_refused(counted):
    target = torch.zeros(3, 4, 4)
    for use in (
        lambda: PhotometricLoss(target, counted=counted),
        lambda: ssim_sum(target, target, counted),
    ):
        with pytest.raises(ValueError, match=r"counted.*0 <= first < end <= 4.*found \("):
            use()


@pytest.mark.parametrize("numel", [0, -48])
def test_means_over_no_values_are_refused(numel):
    with pytest.raises(ValueError, match=rf"numel must be at least 1; found {numel}"):
        PhotometricLoss(torch.zeros(3, 4, 4), numel=numel)
