"""The GPU's loss kernels agree with the twin: sums, gradient, bands, half precision.

Without a GPU they run under Triton's interpreter, on small pictures.
"""

from __future__ import annotations

import pytest
import torch

from ops.flags import LOSS
from ops.photometric import reference
from ops.planes import Rows, planes

pytest.importorskip("triton", reason="the GPU kernels need Triton, which is there for Linux only")

from ops.photometric.cuda import FusedLoss
from ops.photometric.cuda_kernels import FIXED_POINT

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def pictures(generator, channels, height, width, noise=0.1):
    """A smooth target and a noisy image of it."""
    target = torch.rand(channels, height, width, generator=generator)
    target = torch.nn.functional.avg_pool2d(target[None], 5, 1, 2)[0]
    return target + noise * torch.randn(target.shape, generator=generator), target


def on_device(picture):
    memory = planes(*picture.shape, picture.dtype, DEVICE)
    memory.copy_(picture)
    return memory


def compare(image, target, ratios, *, half=False, band=None, counted=None):
    """Means of |d|, d² and SSIM, and the gradient of the weighted loss, for some counted rows."""
    channels, height, width = image.shape
    flags = torch.zeros(1, dtype=torch.int32, device=DEVICE)
    loss = FusedLoss(channels, height, width, ratios, half=half, flags=flags)
    loss.band = band or loss.band
    grad = planes(channels, height, width, torch.float16 if half else torch.float32, DEVICE)
    rows = Rows(0, height)
    loss(on_device(image), on_device(target), counted or rows, grad, rows)
    numel = image.numel()
    sums = (loss.sums.double() / FIXED_POINT / numel).tolist()
    return sums, grad.cpu().double() / numel, int(flags)


def expect(image, target, ratios, counted=None):
    exact = image.double().requires_grad_()
    terms = reference.loss_terms(exact, target.double(), *ratios, counted, image.numel())
    terms[0].backward()
    return [float(term.detach()) for term in terms[1:]], exact.grad


def assert_same(found, expected, tolerance=1e-5):
    (sums, grad, flags), (terms, exact) = found, expected
    assert flags == 0
    assert sums == pytest.approx(terms, abs=tolerance, nan_ok=True)
    assert (grad - exact).norm() <= 20 * tolerance * exact.norm()


@pytest.mark.parametrize("ratios", [(1.0, 0.0, 0.1), (0.0, 0.0, 1.0), (0.3, 0.7, 0.2)])
def test_the_loss_agrees_with_the_twin(ratios, generator):
    image, target = pictures(generator, 2, 21, 19)
    assert_same(compare(image, target, ratios), expect(image, target, ratios))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 140), (40, 2), (12, 131)])
def test_any_size_agrees_with_the_twin(height, width, generator):
    image, target = pictures(generator, 1, height, width)
    assert_same(compare(image, target, (0.5, 0.0, 1.0)), expect(image, target, (0.5, 0.0, 1.0)))


def test_without_ssim_it_is_not_computed(generator):
    image, target = pictures(generator, 1, 9, 11)
    (l1, l2, similarity), grad, _ = compare(image, target, (1.0, 0.5, 0.0))
    (exact_l1, exact_l2, _), exact = expect(image, target, (1.0, 0.5, 0.0))
    assert (l1, l2) == pytest.approx((exact_l1, exact_l2), abs=1e-6)
    assert similarity == 0
    assert (grad - exact).norm() <= 1e-6 * exact.norm()


def test_a_nearly_perfect_picture_has_an_exact_gradient(generator):
    """Where image and target agree, the textbook form of SSIM's gradient cancels."""
    image, target = pictures(generator, 1, 24, 24, noise=1e-3)
    ratios = (0.0, 0.0, 1.0)
    assert_same(compare(image, target, ratios), expect(image, target, ratios), tolerance=2e-5)


@pytest.mark.parametrize("band", [4, 7])
def test_bands_of_maps_do_not_change_the_result(band, generator):
    image, target = pictures(generator, 1, 23, 18)
    ratios = (1.0, 0.0, 0.5)
    whole, banded = compare(image, target, ratios), compare(image, target, ratios, band=band)
    assert banded[0] == pytest.approx(whole[0], abs=1e-7)
    torch.testing.assert_close(banded[1], whole[1], atol=1e-9, rtol=1e-4)


def test_only_counted_rows_count(generator):
    image, target = pictures(generator, 1, 24, 16)
    ratios = (1.0, 0.5, 0.5)
    found = compare(image, target, ratios, counted=Rows(5, 17), band=6)
    assert_same(found, expect(image, target, ratios, (5, 17)))


def test_a_target_of_bytes_is_divided_by_255(generator):
    image, target = pictures(generator, 2, 14, 20)
    stored = (target * 255).round().to(torch.uint8)
    found = compare(image, stored, (1.0, 0.0, 0.1))
    assert_same(found, expect(image, stored.float() / 255, (1.0, 0.0, 0.1)))


def test_half_precision_is_close(generator):
    image, target = pictures(generator, 1, 24, 24)
    image = image.half()
    found = compare(image, target, (1.0, 0.0, 0.1), half=True)
    expected = expect(image.float(), target, (1.0, 0.0, 0.1))
    assert_same(found, expected, tolerance=2e-4)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_is_flagged(value, generator):
    image, target = pictures(generator, 1, 12, 12)
    image[0, 3, 4] = value
    assert compare(image, target, (1.0, 0.0, 0.1))[2] == LOSS


def test_sums_do_not_depend_on_timing(generator):
    image, target = pictures(generator, 2, 20, 30)
    times = 5 if DEVICE == "cuda" else 2  # the interpreter does one thing after the other
    first, *others = (compare(image, target, (1.0, 0.5, 0.1)) for _ in range(times))
    for other in others:
        assert other[0] == first[0]
        assert torch.equal(other[1], first[1])
