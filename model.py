"""GaussianSplatting2D: fits Gaussians to a picture, as in Image-GS; read it top to bottom.

Settings and picture, Gaussians at the start, optimiser, the loop, growth, learning rates, saving.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from events import (
    Evaluated,
    Event,
    FileSaved,
    GaussiansAdded,
    LearningRateDecayed,
    Notice,
    Progress,
    RunEnded,
    RunStarted,
    Status,
)
from fitting import checkpoints, placement, results
from fitting.gaussians import NAMES
from fitting.recorder import Recorder
from fitting.schedule import GrowthPlan, LearningRateSchedule, Verdict
from imaging.files import find_picture, load_target
from imaging.metrics import psnr
from ops.adam import Adam, extend
from ops.photometric import LossTerms, PhotometricLoss, ssim
from settings import Settings, SettingsError

SECONDS_BETWEEN_SIGNS = 0.2


class DivergedError(ArithmeticError):
    """The loss or a parameter is no longer a finite number."""


class GaussianSplatting2D:
    """One run: a picture, its Gaussians and the loop that fits them.

    Parameters
    ----------
    settings : of the run.
    folder : the run's folder. Nothing is written before :meth:`optimize` begins.
    resume : go on from the newest checkpoint in ``folder/other``.

    Raises
    ------
    PictureError, SettingsError, CheckpointError
        If the run cannot start; all are ValueErrors.
    """

    def __init__(self, settings: Settings, folder: str | Path, *, resume: bool = False):
        self.settings = settings
        self.folder = Path(folder)
        self.device = torch.device("cpu")
        self.rng = np.random.default_rng(settings.seed)

        # Picture
        self.target = load_target(
            find_picture(settings.input_filename, settings.input_dir),
            background=settings.background,
            gamma=settings.gamma,
            downsample_ratio=settings.downsample_ratio,
        )
        self.height, self.width = self.target.size
        self._check_count()
        self.loss = PhotometricLoss(
            self.target.pixels,
            l1_ratio=settings.l1_loss_ratio,
            l2_ratio=settings.l2_loss_ratio,
            ssim_ratio=settings.ssim_loss_ratio,
        )

        # Gaussians, optimiser, schedules
        self.growth = GrowthPlan.of(settings)
        self.gaussians = placement.start(settings, self.target, self.growth.initial, self.rng)
        rates = (settings.pos_lr, settings.scale_lr, settings.rot_lr, settings.feat_lr)
        self.optimizer = Adam(dict(zip(NAMES, rates, strict=True)))
        self.schedule = LearningRateSchedule()
        self.step = 0
        self.seconds = self.render_seconds = 0.0
        if resume:
            checkpoints.restore(self)

    def _check_count(self) -> None:
        pixels = self.height * self.width
        if self.settings.gaussians > pixels:
            raise SettingsError(
                f"gaussians={self.settings.gaussians} is more than the {pixels} pixels of "
                f"{self.settings.input_filename} ({self.width}×{self.height}); "
                f"use at most {pixels}"
            )

    # The loop

    def optimize(self) -> Iterator[Event]:
        """Train, and say what happens. The run's folder is complete however this ends."""
        recorder = Recorder(self.folder, results.facts(self))
        recorder.load_rows(self.step - 1)
        recorder.open()
        clock = Clock(self.seconds)
        status: Status = "failed"
        error: BaseException | None = None
        try:
            for event in self._run(recorder):
                if isinstance(event, RunEnded):
                    status = event.status
                    break
                with clock.stopped():
                    recorder.note(event)
                    yield event
                self.seconds = clock.seconds()
        except (GeneratorExit, KeyboardInterrupt) as stop:
            status, error = "interrupted", stop
        except Exception as problem:
            error = problem
            if isinstance(problem.__cause__ or problem.__context__, KeyboardInterrupt):
                # Ctrl-C within a compiled kernel arrives as a SystemError.
                status, error = "interrupted", KeyboardInterrupt()
            else:
                recorder.fail(problem)
        self.seconds = clock.seconds()
        scores = results.write(self, recorder, status)
        if error is not None:
            raise error
        ended = RunEnded(self.step, self.seconds, status, self.folder, scores)
        yield ended

    def _run(self, recorder: Recorder) -> Iterator[Event]:
        s = self.settings
        yield RunStarted(
            self.step, self.seconds, self.folder, s.steps, self.width, self.height,
            len(self.target.pixels), len(self.gaussians), str(self.device), self.target.full_pixels,
        )  # fmt: skip
        for message in filter(None, (*self.target.notes, self.growth.notice)):
            recorder.notice(message)
            yield Notice(self.step, self.seconds, message)
        first, sign, stop = self.step, time.perf_counter(), False
        while True:
            if s.save_ckpt_steps and self.step % s.save_ckpt_steps == 0 and self.step > first:
                yield FileSaved(self.step, self.seconds, checkpoints.save(self))
            if self.step in self.growth.additions:
                yield self._grow(self.growth.additions[self.step])
            begun = time.perf_counter()
            image = self.gaussians.draw()
            self.render_seconds += time.perf_counter() - begun
            terms = self.loss(image)
            self.check_finite(terms)
            if self.step % s.eval_steps == 0 or self.step == s.steps:
                evaluated = self._evaluate(image.detach(), terms)
                recorder.measure(results.row(evaluated, self.render_seconds))
                yield evaluated
                verdict = self._judge(evaluated)
                if verdict == "decay":
                    yield self._decay()
                stop = verdict == "stop"
            if s.save_image_steps and self.step % s.save_image_steps == 0 and self.step:
                yield self._save_image()
            if stop or self.step == s.steps:
                break
            terms.total.backward()
            self.optimizer.update(self.gaussians.tensors())
            self.step += 1
            self.gaussians.step = self.step
            if time.perf_counter() - sign > SECONDS_BETWEEN_SIGNS:
                sign = time.perf_counter()
                yield Progress(self.step, self.seconds, s.steps)
        yield RunEnded(
            self.step, self.seconds, "stopped early" if stop else "finished", self.folder
        )

    def check_finite(self, terms: LossTerms) -> None:
        """Stop a run whose loss or parameters are no longer numbers, and say which."""
        bad = [n for n, t in self.gaussians.tensors().items() if not bool(t.isfinite().all())]
        if bad or not math.isfinite(terms.total.item()):
            what = f"parameter {', '.join(bad)}" if bad else "loss"
            raise DivergedError(
                f"step {self.step}: the {what} is no longer finite. Lower its learning rate, or "
                "look at the picture for values that are not numbers."
            )

    @torch.no_grad()
    def _evaluate(self, image: Tensor, terms: LossTerms) -> Evaluated:
        """Measure against the stored picture at its full size."""
        full = self.target.full_pixels
        if image.shape != full.shape:
            image = self.gaussians.draw_at(*self.target.full_size)
        image = self.target.encode(image)
        similarity = float(ssim(image, full))
        # Without a weight, the loss does not compute its SSIM.
        ssim_loss = 1 - (terms.ssim.item() if self.settings.ssim_loss_ratio else similarity)
        return Evaluated(
            self.step, self.seconds, self.settings.steps,
            terms.total.item(), terms.l1.item(), terms.l2.item(), ssim_loss,
            psnr(image, full), similarity,
            len(self.gaussians), -(-self.gaussians.bits() // 8), image,
        )  # fmt: skip

    # Growth

    def _grow(self, count: int) -> GaussiansAdded:
        """Add ``count`` Gaussians where the error is; adaptive refinement also re-uses some.

        The optimiser keeps what it knows of all that stay.
        """
        with torch.no_grad():
            error = self.target.pixels - self.gaussians.draw()
        moved, fresh = placement.where_error_is(
            self.settings, self.gaussians, error, count, self.rng
        )
        for name, tensor in self.gaussians.tensors().items():
            setattr(self.gaussians, name, extend(tensor, moved, fresh[name]).requires_grad_())
            self.optimizer.replace(name, moved, count)
        return GaussiansAdded(self.step, self.seconds, count, len(moved), len(self.gaussians))

    # Learning rates

    def _judge(self, evaluated: Evaluated) -> Verdict:
        """What the schedule makes of a measurement, once all Gaussians exist."""
        s = self.settings
        if not s.lr_schedule or self.step < self.growth.last_step or self.step == 0:
            return "go on"
        return self.schedule.update(evaluated.psnr, evaluated.ssim, self.step, s)

    def _decay(self) -> LearningRateDecayed:
        self.optimizer.divide_rates(self.settings.decay_ratio)
        return LearningRateDecayed(self.step, self.seconds, self.settings.decay_ratio)

    # Files

    def _save_image(self) -> FileSaved:
        path = self.folder / "other" / f"step-{self.step:06d}.jpg"
        results.save_pictures(self.gaussians, path)
        return FileSaved(self.step, self.seconds, path)

    # Use

    def render(self, height: int | None = None) -> Tensor:
        """The picture as it should look, at any height in pixels: (C, h, w) in [0, 1]."""
        return self.gaussians.picture(height)


class Clock:
    """Counts training time: what a consumer does with an event is not training."""

    def __init__(self, seconds: float = 0.0):
        self._origin = time.perf_counter() - seconds

    def seconds(self) -> float:
        return time.perf_counter() - self._origin

    @contextmanager
    def stopped(self) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        self._origin += time.perf_counter() - begun
