"""When Gaussians are added, and when learning rates fall."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from settings import Settings

Verdict = Literal["go on", "decay", "stop"]


@dataclass
class LearningRateSchedule:
    """Watches PSNR and SSIM; where both stall for long enough, rates fall, then the run stops."""

    best_psnr: float = -math.inf
    best_ssim: float = -math.inf
    improved_at: int = 0
    decays: int = 0

    def update(self, psnr: float, ssim: float, step: int, settings: Settings) -> Verdict:
        """Judge one measurement."""
        least = settings.decay_threshold
        if _gained(psnr, self.best_psnr, 100 * least) or _gained(ssim, self.best_ssim, least):
            self.best_psnr = max(psnr, self.best_psnr)
            self.best_ssim = max(ssim, self.best_ssim)
            self.improved_at = step
            return "go on"
        if step - self.improved_at < settings.check_decay_steps:
            return "go on"
        if self.decays >= settings.max_decay_times:
            return "stop"
        self.decays += 1
        self.improved_at = step
        return "decay"


def _gained(value: float, best: float, least: float) -> bool:
    gain = value - best  # not a number where both are infinite: a perfect picture gains nothing
    return gain > 0 and gain >= least


@dataclass(frozen=True)
class GrowthPlan:
    """How many Gaussians a run starts with, and how many it adds at which step."""

    initial: int
    additions: dict[int, int]
    notice: str = ""

    @property
    def last_step(self) -> int:
        """The step from which on all Gaussians exist."""
        return max(self.additions, default=0)

    @classmethod
    def of(cls, s: Settings) -> GrowthPlan:
        """The plan that the settings ask for, scaled down where the run is too short for it."""
        if not (s.use_progressive or s.adaptive_refinement):
            return cls(s.gaussians, {})
        if s.init_gaussian_file:
            return cls(
                s.gaussians, {}, "growth is off, because init_gaussian_file is where to start"
            )
        initial = max(1, round(s.gaussians * s.initial_ratio)) if s.use_progressive else s.gaussians
        # At least one interval after the last addition, so that no Gaussian stays untrained.
        wanted = s.add_steps * s.add_times + max(s.post_min_steps, s.add_steps)
        ratio = min(1.0, s.steps / wanted)
        missing = s.gaussians - initial
        additions: dict[int, int] = {}
        for k in range(1, s.add_times + 1):
            step = int(k * s.add_steps * ratio)
            share = missing * k // s.add_times - missing * (k - 1) // s.add_times
            if share or s.adaptive_refinement:  # which also moves some that are there
                additions[step] = additions.get(step, 0) + share
        notice = ""
        if ratio < 1:
            notice = (
                f"growth is set to {wanted} steps and the run has {s.steps}: Gaussians are added "
                f"every {s.add_steps * ratio:.0f} steps instead of every {s.add_steps}"
            )
        return cls(initial, additions, notice)
