"""Metrics agree with closed forms and independent implementations, or say why there is none."""

import itertools
import math
import os
import secrets
import sys

import numpy as np
import pytest
import torch
from skimage import data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from imaging import metrics
from imaging.lpips import Lpips, WeightsError, load_lpips
from imaging.metrics import MetricUnavailable, Score, evaluate, flip, lpips, ms_ssim, psnr, ssim

KEYS = {"psnr", "ssim", "ms_ssim", "flip", "lpips"}
ALEXNET = ((0, (64, 3, 11, 11)), (3, (192, 64, 5, 5)), (6, (384, 192, 3, 3)))
ALEXNET = (*ALEXNET, (8, (256, 384, 3, 3)), (10, (256, 256, 3, 3)))


@pytest.fixture
def rng():
    """Fresh random numbers; pytest shows the seed where a test fails."""
    seed = int(os.environ.get("SPLATBOOK_TEST_SEED", secrets.randbits(32)))
    print(f"SPLATBOOK_TEST_SEED={seed}")
    return np.random.default_rng(seed)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Small pictures gain nothing from threads, which wait for each other on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def no_weights_from_outside(monkeypatch):
    monkeypatch.delenv("SPLATBOOK_LPIPS_WEIGHTS", raising=False)


def noise(rng, *shape):
    return torch.from_numpy(rng.random(shape, np.float32))


def photograph(name="astronaut"):
    """(3, H, W) in [0, 1]; a file of scikit-image's own package, nothing is downloaded."""
    return torch.from_numpy(getattr(data, name)().copy()).permute(2, 0, 1) / 255


def worse(rng, image, strength):
    grain = torch.from_numpy(rng.standard_normal(image.shape).astype(np.float32))
    return (image + strength * grain).clamp(0, 1)


class TestPsnr:
    @pytest.mark.parametrize("channels", [1, 3, 7])
    def test_agrees_with_scikit_image(self, rng, channels):
        image, target = noise(rng, channels, 33, 41), noise(rng, channels, 33, 41)
        expected = peak_signal_noise_ratio(
            target.double().numpy(), image.double().numpy(), data_range=1
        )
        assert psnr(image, target) == pytest.approx(expected, abs=1e-5)

    @pytest.mark.parametrize("difference", [1.0, 0.1, 1e-3, 1e-5])
    def test_constant_difference_in_closed_form(self, difference):
        image = torch.full((3, 100, 100), difference)
        expected = -20 * math.log10(difference)
        assert psnr(image, torch.zeros_like(image)) == pytest.approx(expected, abs=1e-5)

    def test_equal_pictures_are_infinite(self, rng):
        image = noise(rng, 3, 8, 8)
        assert psnr(image, image.clone()) == math.inf

    def test_clamps_to_the_unit_range(self, rng):
        image, target = noise(rng, 3, 8, 8), noise(rng, 3, 8, 8)
        wild = image.clone()
        wild[0, 0, 0], wild[1, 2, 3] = -9, 9
        image[0, 0, 0], image[1, 2, 3] = 0, 1
        assert psnr(wild, target) == psnr(image, target)

    def test_sums_in_double_precision(self):
        image = torch.full((1, 4096, 4096), 0.1)
        assert psnr(image, torch.zeros_like(image)) == pytest.approx(20, abs=1e-6)

    def test_not_a_number_is_not_hidden(self):
        assert math.isnan(psnr(torch.tensor([[[math.nan, 0]]]), torch.zeros(1, 1, 2)))

    def test_leaves_its_inputs_alone_and_detaches(self, rng):
        image, target = noise(rng, 3, 8, 8).requires_grad_(), noise(rng, 3, 8, 8)
        before = image.detach().clone()
        assert isinstance(psnr(image, target), float)
        assert torch.equal(image, before)
        assert image.grad is None


@pytest.mark.parametrize("metric", [psnr, ssim, ms_ssim, flip, lpips])
@pytest.mark.parametrize("shapes", [((3, 8, 8), (3, 8, 9)), ((8, 8), (8, 8)), ((1, 0, 8),) * 2])
def test_shapes_that_cannot_be_compared_are_named(metric, shapes):
    first, second = (torch.zeros(shape) for shape in shapes)
    with pytest.raises(ValueError, match=r"\(C, H, W\) pictures of one shape; found \(") as caught:
        metric(first, second)
    assert str(shapes[1]) in str(caught.value)


class TestSsim:
    def test_equal_pictures_give_one(self, rng):
        image = noise(rng, 3, 24, 30)
        assert ssim(image, image.clone()) == pytest.approx(1, abs=1e-6)

    def test_is_the_loss_functions_own_on_clamped_values(self, rng):
        from ops.photometric import ssim as photometric_ssim

        image, target = noise(rng, 3, 24, 30) * 2 - 0.5, noise(rng, 3, 24, 30)
        expected = photometric_ssim(image.clamp(0, 1), target).item()
        assert ssim(image, target) == pytest.approx(expected, abs=1e-7)

    def test_tall_stack_is_the_mean_over_all_its_channels(self, rng):
        image, target = noise(rng, 35, 12, 13), noise(rng, 35, 12, 13)
        image[32:] = target[32:]
        each = [ssim(image[i : i + 1], target[i : i + 1]) for i in range(35)]
        assert ssim(image, target) == pytest.approx(np.mean(each), abs=1e-6)

    def test_near_scikit_image_whose_borders_differ(self, rng):
        target = photograph()
        image = worse(rng, target, 0.1)
        expected = structural_similarity(
            image.double().numpy(),
            target.double().numpy(),
            channel_axis=0,
            data_range=1,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        assert ssim(image, target) == pytest.approx(expected, abs=0.01)


def reference_ms_ssim(image, target):
    """The 2003 paper's definition in float64 NumPy, one explicit window at a time."""
    taps = np.exp(-0.5 * ((np.arange(11) - 5) / 1.5) ** 2)
    window = np.outer(taps, taps) / taps.sum() ** 2

    def mean(plane):
        return np.einsum(
            "ijkl,kl", np.lib.stride_tricks.sliding_window_view(plane, (11, 11)), window
        )

    result = []
    for a, b in zip(image.double().numpy(), target.double().numpy(), strict=True):
        product = 1.0
        for scale, weight in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
            if scale:
                rows, columns = a.shape[0] // 2, a.shape[1] // 2
                a, b = (
                    p[: 2 * rows, : 2 * columns].reshape(rows, 2, columns, 2).mean((1, 3))
                    for p in (a, b)
                )
            mean_a, mean_b = mean(a), mean(b)
            variances = mean(a * a) - mean_a**2 + mean(b * b) - mean_b**2
            similarity = (2 * (mean(a * b) - mean_a * mean_b) + 9e-4) / (variances + 9e-4)
            if scale == 4:
                similarity = similarity * (2 * mean_a * mean_b + 1e-4)
                similarity = similarity / (mean_a**2 + mean_b**2 + 1e-4)
            product *= similarity.mean() ** weight
        result.append(product)
    return np.mean(result)


class TestMsSsim:
    @pytest.mark.parametrize("size", [(176, 176), (181, 207)])
    def test_agrees_with_the_definition(self, rng, size):
        target = photograph()[:, : size[0], : size[1]]
        image = worse(rng, target, 0.1)
        assert ms_ssim(image, target) == pytest.approx(reference_ms_ssim(image, target), abs=1e-5)

    def test_agrees_in_flat_areas_where_variances_cancel(self, rng):
        target = torch.full((1, 180, 180), 0.9)
        image = worse(rng, target, 0.003)
        assert ms_ssim(image, target) == pytest.approx(reference_ms_ssim(image, target), abs=1e-4)

    def test_equal_pictures_give_one(self, rng):
        image = noise(rng, 3, 176, 180)
        assert ms_ssim(image, image.clone()) == pytest.approx(1, abs=1e-6)

    def test_is_symmetric(self, rng):
        target = photograph()[:, :200, 100:300]
        image = worse(rng, target, 0.2)
        assert ms_ssim(image, target) == pytest.approx(ms_ssim(target, image), abs=1e-6)

    def test_falls_as_noise_grows(self, rng):
        target = photograph()[:, :200, 100:300]
        values = [ms_ssim(worse(rng, target, s), target) for s in (0.01, 0.03, 0.1, 0.3)]
        assert 1 > values[0] > values[1] > values[2] > values[3] > 0

    def test_negative_picture_gives_zero_not_a_complex_number(self):
        target = photograph()[:, :200, 100:300]
        assert ms_ssim(1 - target, target) == 0

    @pytest.mark.parametrize("shape", [(1, 175, 300), (3, 300, 175)])
    def test_too_small_a_picture_has_none_and_says_why(self, shape):
        with pytest.raises(MetricUnavailable, match=f"176 px.*{shape[2]} × {shape[1]}"):
            ms_ssim(torch.zeros(shape), torch.zeros(shape))


class TestFlip:
    def test_equal_pictures_give_zero(self, rng):
        image = noise(rng, 3, 20, 30)
        assert flip(image, image.clone()) == 0

    def test_lies_in_the_unit_range_and_grows_with_noise(self, rng):
        target = photograph()[:, :128, :128]
        values = [flip(worse(rng, target, s), target) for s in (0.02, 0.1, 0.4)]
        assert 0 < values[0] < values[1] < values[2] < 1

    def test_black_against_white_is_near_its_maximum(self):
        assert 0.9 < flip(torch.zeros(3, 32, 32), torch.ones(3, 32, 32)) <= 1

    def test_grey_is_repeated_to_rgb(self, rng):
        image, target = noise(rng, 1, 20, 30), noise(rng, 1, 20, 30)
        assert flip(image, target) == flip(image.repeat(3, 1, 1), target.repeat(3, 1, 1))

    def test_channels_are_read_as_red_green_blue_and_rows_as_rows(self):
        # FLIP takes (H, W, C): a mixed-up layout would see other colours or another size.
        import flip_evaluator

        target, image = photograph()[:, :40, :64], photograph("chelsea")[:, :40, :64]
        arrays = [p.permute(1, 2, 0).contiguous().numpy() for p in (target, image)]
        expected = flip_evaluator.evaluate(*arrays, "LDR")[1]
        assert flip(image, target) == pytest.approx(expected, rel=1e-6)

    @pytest.mark.parametrize("shape", [(700, 1100), (513, 30), (480, 481)])
    def test_tiles_of_a_large_picture_leave_no_seams(self, rng, shape):
        import flip_evaluator

        target = noise(rng, 3, *shape)
        image = worse(rng, target, 0.1)
        arrays = [p.permute(1, 2, 0).contiguous().numpy() for p in (target, image)]
        expected = flip_evaluator.evaluate(*arrays, "LDR", applyMagma=False)[0]
        assert flip(image, target) == pytest.approx(expected.mean(dtype=np.float64), rel=1e-6)

    def test_missing_package_is_said(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "flip_evaluator", None)
        with pytest.raises(MetricUnavailable, match="pip install flip-evaluator"):
            flip(torch.zeros(3, 8, 8), torch.zeros(3, 8, 8))

    @pytest.mark.parametrize("metric", [flip, lpips])
    def test_channels_of_a_stack_are_not_taken_for_a_picture(self, metric):
        with pytest.raises(MetricUnavailable, match=r"4 channels; say with splits"):
            metric(torch.zeros(4, 40, 40), torch.zeros(4, 40, 40))


def random_state(rng):
    """AlexNet's and LPIPS's keys and shapes with small random values; heads are not negative."""
    state = {}
    for layer, (index, shape) in enumerate(ALEXNET):
        fan_in = math.prod(shape[1:])
        values = rng.standard_normal(shape).astype(np.float32) * math.sqrt(2 / fan_in)
        state[f"features.{index}.weight"] = torch.from_numpy(values)
        state[f"features.{index}.bias"] = noise(rng, shape[0]) * 0.1
        state[f"lin{layer}.model.1.weight"] = noise(rng, 1, shape[0], 1, 1)
    return state


def reference_lpips(state, image, target):
    """The metric once more through torch.nn modules, from the paper's description."""
    nn = torch.nn
    layers = [nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2)]
    layers += [nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)]
    layers += [nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()]
    layers += [nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()]
    layers += [nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()]
    alexnet = nn.Sequential(*layers)
    prefix = "features."
    alexnet.load_state_dict(
        {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    )
    mean = torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1)
    deviation = torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1)
    x, y = (((2 * p - 1)[None] - mean) / deviation for p in (image, target))
    total, heads = 0, 0
    with torch.no_grad():
        for layer in alexnet:
            x, y = layer(x), layer(y)
            if isinstance(layer, nn.ReLU):
                a, b = (nn.functional.normalize(f, dim=1, eps=1e-10) for f in (x, y))
                head = state[f"lin{heads}.model.1.weight"]
                total += nn.functional.conv2d((a - b) ** 2, head).mean().item()
                heads += 1
    return total


@pytest.fixture
def weights(tmp_path, rng):
    path = tmp_path / "weights.pt"
    torch.save(random_state(rng), path)
    return path


class TestLpips:
    def test_agrees_with_torch_modules(self, tmp_path, rng):
        state = random_state(rng)
        torch.save(state, tmp_path / "weights.pt")
        image, target = noise(rng, 3, 64, 83), noise(rng, 3, 64, 83)
        expected = reference_lpips(state, image, target)
        assert expected > 0.01
        assert lpips(image, target, tmp_path / "weights.pt") == pytest.approx(expected, rel=1e-4)

    def test_agrees_with_a_hand_computed_case(self):
        # Two of the first layer's channels see only the constant colour, the rest and all later
        # layers see nothing. Channel 0 gives red's normalised value, channel 1 always 1: lengths
        # are sqrt(r² + 1), and only the centre tap counts, so padding plays no part.
        weights = [torch.zeros(shape) for _, shape in ALEXNET]
        biases = [torch.zeros(shape[0]) for _, shape in ALEXNET]
        heads = [torch.ones(1, shape[0], 1, 1) for _, shape in ALEXNET]
        weights[0][0, 0, 5, 5], biases[0][1] = 1, 1
        heads[0][0, 1] = 3
        network = Lpips(tuple(weights), tuple(biases), tuple(heads))
        image, target = torch.zeros(3, 35, 35), torch.zeros(3, 35, 35)
        image[0], target[0] = 1.0, 0.75
        r, s = (1.0 + 0.030) / 0.458, (0.5 + 0.030) / 0.458
        a, b = math.hypot(r, 1), math.hypot(s, 1)
        expected = (r / a - s / b) ** 2 + 3 * (1 / a - 1 / b) ** 2
        assert network(image, target) == pytest.approx(expected, rel=1e-5)

    def test_equal_pictures_give_zero_and_order_does_not_matter(self, rng, weights):
        image, target = noise(rng, 3, 40, 50), noise(rng, 3, 40, 50)
        assert lpips(image, image.clone(), weights) == 0
        assert lpips(image, target, weights) == pytest.approx(lpips(target, image, weights))

    def test_grows_with_noise(self, rng, weights):
        target = photograph()[:, :128, :128]
        values = [lpips(worse(rng, target, s), target, weights) for s in (0.02, 0.1, 0.4)]
        assert 0 < values[0] < values[1] < values[2]

    def test_grey_is_repeated_to_rgb(self, rng, weights):
        image, target = noise(rng, 1, 40, 50), noise(rng, 1, 40, 50)
        rgb = lpips(image.repeat(3, 1, 1), target.repeat(3, 1, 1), weights)
        assert lpips(image, target, weights) == pytest.approx(rgb)

    @pytest.mark.parametrize("layout", ["two files", "lpips package", "variable", "two variables"])
    def test_weights_come_in_every_documented_form(self, tmp_path, rng, monkeypatch, layout):
        state = random_state(rng)
        image, target = noise(rng, 3, 40, 50), noise(rng, 3, 40, 50)
        torch.save(state, tmp_path / "all.pt")
        expected = lpips(image, target, tmp_path / "all.pt")
        given, paths = None, [tmp_path / "alexnet.pth", tmp_path / "alex.pth"]
        torch.save({k: v for k, v in state.items() if k.startswith("features")}, paths[0])
        torch.save({k: v for k, v in state.items() if k.startswith("lin")}, paths[1])
        if layout == "two files":
            given = paths
        elif layout == "lpips package":
            slices = {
                f"features.{i}.": f"net.slice{n + 1}.{i}." for n, (i, _) in enumerate(ALEXNET)
            }
            for old, new in slices.items():
                state = {k.replace(old, new): v for k, v in state.items()}
            state["scaling_layer.shift"] = torch.zeros(1, 3, 1, 1)
            given = tmp_path / "package.pt"
            torch.save(state, given)
        else:
            named = [tmp_path / "all.pt"] if layout == "variable" else paths
            monkeypatch.setenv("SPLATBOOK_LPIPS_WEIGHTS", os.pathsep.join(map(str, named)))
        assert lpips(image, target, given) == expected

    def test_without_weights_there_is_no_value_and_the_reason_names_the_remedy(self):
        with pytest.raises(MetricUnavailable, match=r"never downloaded; .*SPLATBOOK_LPIPS_WEIGHTS"):
            lpips(torch.zeros(3, 40, 40), torch.zeros(3, 40, 40))

    @pytest.mark.parametrize("side", [1, 30])
    def test_too_small_a_picture_has_none_and_says_why(self, weights, side):
        with pytest.raises(MetricUnavailable, match=f"31 px.*50 × {side}"):
            lpips(torch.zeros(3, side, 50), torch.zeros(3, side, 50), weights)

    def test_smallest_picture_works(self, rng, weights):
        assert lpips(noise(rng, 3, 31, 31), noise(rng, 3, 31, 31), weights) > 0

    def test_bad_weights_are_named(self, tmp_path, rng):
        path = tmp_path / "weights.pt"
        with pytest.raises(WeightsError, match=r"weights\.pt: no such"):
            load_lpips([path])
        good = random_state(rng)
        for change, words in (
            ({"lin3.model.1.weight": None}, "'lin3.model.1.weight' is missing"),
            ({"features.6.bias": torch.zeros(3)}, r"'features.6.bias' has the shape \(3,\)"),
            ({"features.0.bias": torch.full((64,), math.nan)}, "'features.0.bias'.*not finite"),
        ):
            torch.save(good | change, path)
            with pytest.raises(WeightsError, match=words) as caught:
                load_lpips([path])
            assert str(path) in str(caught.value)
        torch.save([1, 2], path)
        with pytest.raises(WeightsError, match="holds a list, not a state dict"):
            load_lpips([path])
        path.write_text("no weights")
        with pytest.raises(WeightsError, match="not readable as a state dict"):
            load_lpips([path])

    def test_weights_file_cannot_run_code(self, tmp_path):
        class Malicious:
            def __reduce__(self):
                return (os.mkdir, (str(tmp_path / "ran"),))

        torch.save({"features.0.weight": Malicious()}, tmp_path / "weights.pt")
        with pytest.raises(WeightsError, match="not readable"):
            load_lpips([tmp_path / "weights.pt"])
        assert not (tmp_path / "ran").exists()


class TestEvaluate:
    def test_every_metric_of_a_photograph(self, rng, weights):
        target = photograph()[:, :200, :220]
        image = worse(rng, target, 0.05)
        scores = evaluate(image, target, lpips_weights=weights)
        assert set(scores) == KEYS
        for key in KEYS - {"lpips"}:
            assert scores[key] == Score(getattr(metrics, key)(image, target))
        assert scores["lpips"] == Score(lpips(image, target, weights))

    def test_equal_pictures(self, weights):
        target = photograph()[:, :200, :220]
        scores = evaluate(target, target, lpips_weights=weights)
        values = {key: score.value for key, score in scores.items()}
        ones = pytest.approx(1, abs=1e-6)
        assert values == {"psnr": math.inf, "ssim": ones, "ms_ssim": ones, "flip": 0, "lpips": 0}

    def test_what_cannot_be_had_is_empty_with_its_reason(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "flip_evaluator", None)
        scores = evaluate(torch.zeros(3, 20, 20), torch.ones(3, 20, 20))
        assert scores["psnr"] == Score(0)
        reasons = {key: score.reason for key, score in scores.items() if score.value is None}
        assert reasons.keys() == {"ms_ssim", "flip", "lpips"}
        assert "176" in reasons["ms_ssim"]
        assert "flip-evaluator" in reasons["flip"]
        assert "SPLATBOOK_LPIPS_WEIGHTS" in reasons["lpips"]

    def test_missing_weights_file_does_not_end_a_run(self, tmp_path):
        target = torch.zeros(3, 40, 40)
        score = evaluate(target, target, lpips_weights=tmp_path / "no.pt")["lpips"]
        assert score.value is None
        assert "no.pt" in score.reason

    def test_stack_averages_flip_and_lpips_over_its_pictures(self, rng, weights):
        target, image = noise(rng, 7, 40, 50), noise(rng, 7, 40, 50)
        scores = evaluate(image, target, lpips_weights=weights, splits=(3, 1, 3))
        parts = [slice(*ends) for ends in itertools.pairwise((0, 3, 4, 7))]
        expected = np.mean([flip(image[p], target[p]) for p in parts])
        assert scores["flip"].value == pytest.approx(expected)
        expected = np.mean([lpips(image[p], target[p], weights) for p in parts])
        assert scores["lpips"].value == pytest.approx(expected)
        assert scores["psnr"] == Score(psnr(image, target))

    def test_stack_without_splits_has_no_perceptual_score(self, weights):
        target = torch.zeros(4, 40, 40)
        scores = evaluate(target, target, lpips_weights=weights)
        assert "splits" in scores["flip"].reason
        assert "splits" in scores["lpips"].reason
        assert scores["psnr"].value == math.inf

    @pytest.mark.parametrize("splits", [(3,), (3, 2), (3, 0, 1), (5, -1), ()])
    def test_splits_must_match_the_channels(self, splits):
        with pytest.raises(ValueError, match=r"splits: found .*sum to 4"):
            evaluate(torch.zeros(4, 8, 8), torch.zeros(4, 8, 8), splits=splits)

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_picture_that_is_not_finite_gets_no_number(self, value):
        image = torch.zeros(3, 8, 8)
        image[1, 2, 3] = value
        for score in evaluate(image, torch.zeros(3, 8, 8)).values():
            assert score == Score(None, "the image holds values that are NaN or infinite")


@pytest.mark.parametrize("calls", [0, 1, 40])
def test_what_takes_long_is_left_out_once_it_is_to_stop(rng, calls):
    asked = []

    def stop_asked():
        asked.append(True)
        return len(asked) > calls

    image = noise(rng, 3, 200, 200)
    scores = evaluate(worse(rng, image, 0.1), image, stop_asked=stop_asked)
    assert scores["psnr"].value > 10  # quick, and known of every run
    assert scores["ssim"].value > 0
    for name in ("ms_ssim", "flip", "lpips"):
        assert scores[name] == Score(None, "the measurement was stopped")
    assert len(asked) == calls + 3  # once per metric after that
