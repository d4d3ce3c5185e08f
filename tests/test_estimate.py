"""Estimates of time: what they depend on, that measuring leaves no trace, and how they are told."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import pytest
import torch

from quick_start import estimate, set_config
from quick_start.estimate import (
    Pace,
    device_of,
    estimate_time,
    forget,
    is_measured,
    measure_pace,
    rough_duration,
    step_seconds,
)
from settings import Settings, SettingsError

PACE = Pace(per_step=1e-3, per_value=1e-8, per_covered=1e-9, per_measured=2e-8, per_scored=3e-7)


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch, input_dir: Path, tmp_path: Path) -> None:
    """A machine of known pace."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(estimate, "measure_pace", lambda settings: PACE)


def seconds(**settings: object) -> float:
    return estimate_time(set_config(input_filenames="small.png", **settings)).seconds


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (0, "1 s"), (0.3, "1 s"), (1.4, "1 s"), (8.26, "8 s"), (47.3, "47 s"), (89.4, "89 s"),
        (99, "1.6 min"), (600, "10 min"), (3599, "60 min"), (3600, "1 h"), (5400, "1.5 h"),
        (100_000, "28 h"), (170_000, "47 h"), (10_000_000, "116 days"), (1e10, "115,741 days"),
        (594, "9.9 min"), (598, "10 min"),
    ],
)  # fmt: skip
def test_durations_have_two_digits_at_most(given: float, wanted: str) -> None:
    assert rough_duration(given) == wanted


def test_a_step_costs_for_itself_for_the_picture_and_for_what_is_covered() -> None:
    s = Settings.build(input_filename="x", gaussians=1000, init_scale=5)
    covered = 1000 * 3.14159 * (4.29 * 5) ** 2
    wanted = 1e-3 + 3e6 * 1e-8 + covered * 1e-9
    assert step_seconds(s, PACE, 3e6, 1e6) == pytest.approx(wanted, rel=1e-4)
    # No Gaussian covers more than the picture.
    assert step_seconds(s, PACE, 300, 100) == pytest.approx(1e-3 + 300e-8 + 1000 * 100e-9)


def test_a_sweep_takes_as_long_as_its_runs_together(known) -> None:
    one, other = seconds(gaussians=10, steps=500), seconds(gaussians=20, steps=500)
    assert seconds(gaussians=[10, 20], steps=500) == pytest.approx(one + other)


@pytest.mark.parametrize(
    "more", [{"steps": 2000}, {"gaussians": 5000}, {"eval_steps": 10},
             {"make_training_video": True, "video_iterations": 5}],
)  # fmt: skip
def test_what_is_more_work_takes_longer(known, more: dict[str, object]) -> None:
    plain = {"steps": 1000, "gaussians": 500}
    assert seconds(**plain | more) > seconds(**plain)


def test_a_reduced_picture_takes_less(known) -> None:
    assert seconds(downsample_ratio=4) < seconds()


def test_a_run_that_may_stop_early_says_so(known) -> None:
    long = estimate_time(set_config(input_filenames="small.png", steps=5000))
    assert long.may_stop_early
    assert str(long).endswith(", less where quality stalls")
    for other in ({"lr_schedule": False}, {"steps": 2000}, {"max_decay_times": 5}):
        config = set_config(input_filenames="small.png", **{"steps": 5000} | other)
        assert not estimate_time(config).may_stop_early


def test_a_missing_picture_is_named(known, tmp_path: Path) -> None:
    config = set_config(input_filenames="small.png")
    (tmp_path / "input" / "small.png").unlink()
    with pytest.raises(SettingsError, match=r"small\.png"):
        estimate_time(config)


class TestMeasuring:
    """On this machine, for real."""

    def test_it_is_done_once_and_leaves_no_trace(self, input_dir, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        config = set_config(input_filenames="small.png", device="cpu")
        forget()
        assert not is_measured(config)
        torch.manual_seed(5)
        before = torch.random.get_rng_state()
        threads = torch.get_num_threads()
        said = str(estimate_time(config))
        assert re.fullmatch(r"about [\d.]+ (s|min|h)", said)
        assert is_measured(config)
        assert is_measured(config.runs()[0])
        assert torch.equal(torch.random.get_rng_state(), before)
        assert torch.get_num_threads() == threads
        assert sorted(p.name for p in tmp_path.iterdir()) == ["input"]
        pace = measure_pace(config.runs()[0])
        assert pace is measure_pace(config.replace(steps=7, gaussians=9).runs()[0])
        assert all(value >= 0 for value in vars(pace).values())
        assert pace.per_value + pace.per_covered > 0

    def test_settings_that_decide_the_pace_are_measured_anew(self, input_dir, tmp_path):
        config = set_config(input_filenames="small.png", input_dir=input_dir, device="cpu")
        measure_pace(config.runs()[0])
        assert not is_measured(config.replace(blending="additive"))
        assert is_measured(config.replace(seed=4, pos_lr=0.1))

    def test_two_threads_measure_one_after_the_other_and_once(self, monkeypatch):
        settings = Settings.build(input_filename="x", device="cpu")
        forget()
        calls, real = [], estimate._measure
        monkeypatch.setattr(estimate, "_measure", lambda s: calls.append(s) or real(s))
        threads = [threading.Thread(target=measure_pace, args=(settings,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(calls) == 1

    @pytest.mark.parametrize(
        "other",
        [{"blending": "additive"}, {"use_gradient_checkpointing": True}, {"quantize": True},
         {"inverse_scale": False}, {"ssim_loss_ratio": 0.0, "use_amp": False}],
    )  # fmt: skip
    def test_every_way_to_train_can_be_measured(self, other, monkeypatch):
        monkeypatch.setattr(estimate, "PROBE_SECONDS", 0.01)
        settings = Settings.build(input_filename="x", device="cpu", **other)
        assert estimate._measure(settings).per_scored > 0

    def test_a_gpu_that_is_not_there_is_explained(self):
        if device_of(Settings.build(input_filename="x")) == "cuda":
            pytest.skip("there is a GPU")
        with pytest.raises(SettingsError, match="device='cuda'"):
            measure_pace(Settings.build(input_filename="x", device="cuda"))
