"""Says how long a training will take, before it starts, from a second of measuring this machine.

A step costs something by itself, something per value of the picture, and something per pixel that
a Gaussian covers; the three are fitted to a few short trainings of made-up pictures.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from quick_start.config import TrainingConfig, picture_path
from settings import Settings

REACH = 4.29  # standard deviations from a Gaussian's centre to where it is cut off
PROBE_SECONDS = 0.2  # of steps for each made-up picture
PROBES = {"cpu": ((96, 50), (384, 50), (192, 1500)), "cuda": ((256, 100), (1536, 100), (512, 9000))}
SCORED = 192  # side of the picture whose scoring is timed
READING = 2.5e-7  # seconds per pixel for reading a picture and placing Gaussians on it
# Settings that decide how fast a step is, besides picture and Gaussians.
DECISIVE = (
    "blending", "topk", "quantize", "ssim_loss_ratio", "use_amp", "use_gradient_checkpointing",
    "use_cuda_graph",
)  # fmt: skip

_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class Pace:
    """How fast this machine is with certain settings; all in seconds.

    Attributes
    ----------
    per_step, per_value, per_covered : of a step, for itself, each value of the picture (C·H·W),
        and each pixel that a Gaussian covers.
    per_measured, per_scored : for each value, of measuring quality on the way, and of the scores
        at the end.
    """

    per_step: float
    per_value: float
    per_covered: float
    per_measured: float
    per_scored: float


@dataclass(frozen=True)
class TimeEstimate:
    """How long a sweep will take.

    Attributes
    ----------
    seconds : of all runs, from reading the picture to the last file, without encoding films.
    may_stop_early : whether a run may end before its last step, because nothing improves.
    """

    seconds: float
    may_stop_early: bool

    def __str__(self) -> str:
        about = f"about {rough_duration(self.seconds)}"
        return f"{about}, less where quality stalls" if self.may_stop_early else about


def rough_duration(seconds: float) -> str:
    """``8 s``, ``1.5 min``, ``3 h``: two digits or so, for an estimate has no more."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 3600:
        return f"{_two_digits(seconds / 60)} min"
    if seconds < 48 * 3600:
        return f"{_two_digits(seconds / 3600)} h"
    return f"{seconds / 86400:,.0f} days"


def _two_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 9.95 else f"{value:.2g}"


def estimate_time(config: TrainingConfig | Settings) -> TimeEstimate:
    """How long a training will take on this machine, within a factor of two or so.

    The first call measures for about a second, and longer where kernels must be compiled first;
    later ones remember. What else the machine does meanwhile counts as its usual load.

    Parameters
    ----------
    config : from :func:`set_config`, or the settings of one run.

    Raises
    ------
    SettingsError, PictureError
        Where a picture is missing or is none, or the device cannot be used.
    """
    runs = config.runs() if isinstance(config, TrainingConfig) else [config]
    pace = measure_pace(runs[0])
    shapes = {name: _shape(s) for s in runs for name in [s.input_filename]}
    seconds = sum(_run_seconds(s, pace, *shapes[s.input_filename]) for s in runs)
    # The first check of the schedule that can stop a run comes after so many steps.
    patience = runs[0].check_decay_steps * (runs[0].max_decay_times + 1)
    stops = runs[0].lr_schedule and any(s.steps > patience for s in runs)
    return TimeEstimate(seconds, stops)


def device_of(settings: Settings | TrainingConfig) -> str:
    """``cpu`` or ``cuda``: what these settings will be trained on here."""
    return _device(settings.device)


def is_measured(settings: Settings | TrainingConfig) -> bool:
    """Whether an estimate for these settings needs no more measuring."""
    return _key(settings) in _paces


def measure_pace(settings: Settings) -> Pace:
    """How fast this machine is with the settings of a run; measured once in a process."""
    with _one_at_a_time:
        key = _key(settings)
        if key not in _paces:
            _paces[key] = _measure(settings)
        return _paces[key]


def forget() -> None:
    """Measure again when asked next; for where something disturbed the measuring."""
    _paces.clear()


_paces: dict[tuple[Any, ...], Pace] = {}


def _key(settings: Settings | TrainingConfig) -> tuple[Any, ...]:
    chosen = [getattr(settings, name) for name in DECISIVE]
    return (_device(settings.device), *chosen)


@cache
def _device(wanted: str) -> str:
    from fitting.machine import choose_device

    return choose_device(wanted)[0].type


def _shape(settings: Settings) -> tuple[int, int, int]:
    from imaging.files import picture_shape

    path: Path = picture_path(settings.input_filename, settings.input_dir)
    return picture_shape(path, background=settings.background)


def _run_seconds(s: Settings, pace: Pace, channels: int, height: int, width: int) -> float:
    stored = channels * height * width
    fitted = stored / s.downsample_ratio**2
    every = [s.eval_steps] + [s.video_iterations] * s.make_training_video
    measured = len({*range(0, s.steps, every[0]), *range(0, s.steps, every[-1]), s.steps})
    return (
        s.steps * step_seconds(s, pace, fitted, fitted / channels)
        + measured * stored * pace.per_measured
        + stored * (pace.per_scored + READING / channels)
    )


def step_seconds(settings: Settings, pace: Pace, values: float, pixels: float) -> float:
    """Seconds of one step for a picture of so many values in so many pixels."""
    area = math.pi * (REACH * settings.init_scale) ** 2
    covered = settings.gaussians * min(area, pixels)
    return pace.per_step + values * pace.per_value + covered * pace.per_covered


# Measuring


def _measure(settings: Settings) -> Pace:
    from scipy.optimize import nnls

    device = _device(settings.device)
    terms, seconds, measured = [], [], 0.0
    for side, count in PROBES[device]:
        probe = settings.model_copy(
            update={"gaussians": count, "init_scale": 5.0, "downsample_ratio": 1.0}
        )
        step, measuring = _probe(probe, side, device)
        covered = count * math.pi * (REACH * 5) ** 2
        terms.append([1.0, 3.0 * side * side, covered])
        seconds.append(step)
        measured = max(measured, measuring / (3 * side * side))
    scale = np.array(seconds)  # relative errors count, so that small pictures are right as well
    factors, _ = nnls(np.array(terms) / scale[:, None], np.ones(len(scale)))
    return Pace(*map(float, factors), measured, _scoring() / (3 * SCORED * SCORED))


def _probe(settings: Settings, side: int, device: str) -> tuple[float, float]:
    """Seconds of a step, and of measuring the quality, with a made-up picture."""
    import torch

    from fitting.gaussians import NAMES, Gaussians
    from fitting.measure import quality
    from fitting.step import make_step
    from imaging.files import Target
    from ops.adam import Adam

    generator = torch.Generator().manual_seed(settings.seed)
    count = settings.gaussians
    size = 1 / settings.init_scale if settings.inverse_scale else settings.init_scale
    gaussians = Gaussians(
        torch.rand(count, 2, generator=generator), torch.full((count, 2), size),
        torch.zeros(count, 1), torch.rand(count, 3, generator=generator),
        width=side, height=side, settings=settings, channels=(3,), names=("probe",),
    )  # fmt: skip
    for name, tensor in gaussians.tensors().items():
        setattr(gaussians, name, tensor.requires_grad_())
    gaussians.move_to(torch.device(device))
    pixels = torch.rand(3, side, side, generator=generator)
    step = make_step(settings, gaussians, pixels, Adam(dict.fromkeys(NAMES, 1e-4)))
    target = Target(pixels, pixels, (3,), ("probe",), (Path("probe"),), "probe")
    step.advance(1)  # compiles what is not compiled yet
    quality(gaussians, target, step.measure().image, step.stored)
    seconds = _seconds_of(step.advance, gaussians)
    loss = step.measure()
    begun = time.perf_counter()
    quality(gaussians, target, loss.image, step.stored)
    measuring = time.perf_counter() - begun
    step.close()
    return seconds, measuring


def _seconds_of(advance: Callable[[int], float], gaussians: Any) -> float:
    begun, first = time.perf_counter(), gaussians.step
    while (spent := time.perf_counter() - begun) < PROBE_SECONDS:
        advance(10)
    return spent / (gaussians.step - first)


def _scoring() -> float:
    """Seconds of the scores of a made-up picture."""
    import torch

    from imaging.metrics import evaluate

    image, other = torch.rand(2, 3, SCORED, SCORED, generator=torch.Generator().manual_seed(0))
    evaluate(image[:, :170, :170], other[:, :170, :170])  # imports, and compiles
    begun = time.perf_counter()
    evaluate(image, other)
    return time.perf_counter() - begun
