"""GaussianSplatting2D: fits Gaussians to a picture, as in Image-GS; read it top to bottom.

Settings and picture, Gaussians at the start, optimiser, the loop, growth, learning rates, saving.
What a step does on which device is in ``fitting.step`` and ``fitting.step_cuda``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
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
from fitting import checkpoints, machine, placement, results
from fitting.faults import DivergedError, GpuError, leave_gpu
from fitting.filming import Film
from fitting.gaussians import NAMES, Gaussians
from fitting.measure import quality
from fitting.progress import Clock, Position
from fitting.recorder import Recorder
from fitting.schedule import GrowthPlan, LearningRateSchedule, Verdict
from fitting.step import STRETCH_SECONDS, Step, make_step
from imaging.decoding import PictureError
from imaging.files import find_picture, load_target
from ops.adam import Adam, extend
from ops.splat2d import MAX_CHANNELS
from settings import Settings, SettingsError

__all__ = ["DivergedError", "GaussianSplatting2D", "GpuError"]


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
        self.device, self.device_notice = machine.choose_device(settings.device)
        self.rng = np.random.default_rng(settings.seed)

        # Picture
        self.target = load_target(
            find_picture(settings.input_filename, settings.input_dir),
            background=settings.background,
            gamma=settings.gamma,
            downsample_ratio=settings.downsample_ratio,
        )
        self.height, self.width = self.target.size
        self._check_size()

        # Gaussians, optimiser, schedules
        self.growth = GrowthPlan.of(settings)
        self.gaussians = placement.start(settings, self.target, self.growth.initial, self.rng)
        rates = (settings.pos_lr, settings.scale_lr, settings.rot_lr, settings.feat_lr)
        self.optimizer = Adam(dict(zip(NAMES, rates, strict=True)))
        self.schedule = LearningRateSchedule()
        self.clock, self.render_seconds = Clock(), 0.0
        self.position = Position.AT
        self.stepper: Step | None = None  # while it trains
        self.kept: Gaussians | None = None  # a copy in main memory, while a GPU trains
        filmed = settings.make_training_video
        self.film = Film(settings, self.target, self.folder) if filmed else None
        self.stop_asked: Callable[[], bool] = lambda: False  # final scores are cut short by it
        self.resumed = resume
        self.resume_notice = checkpoints.restore(self) if resume else ""

    def _check_size(self) -> None:
        channels = sum(self.target.channels)
        if channels > MAX_CHANNELS:
            raise PictureError(
                f"{self.settings.input_filename} has {channels} channels, those of "
                f"{len(self.target.channels)} pictures; use pictures of at most {MAX_CHANNELS} "
                "channels together"
            )
        pixels = self.height * self.width
        if self.settings.gaussians > pixels:
            raise SettingsError(
                f"gaussians={self.settings.gaussians} is more than the {pixels} pixels of "
                f"{self.settings.input_filename} ({self.width}×{self.height}); "
                f"use at most {pixels}"
            )

    @property
    def step(self) -> int:
        """Steps done."""
        return self.gaussians.step

    @property
    def seconds(self) -> float:
        """Training time."""
        return self.clock.seconds()

    # The loop

    def optimize(self) -> Iterator[Event]:
        """Train, and say what happens. The run's folder is complete however this ends."""
        recorder = Recorder(self.folder, results.facts(self))
        if self.resumed:
            recorder.load(self.step if self.position is not Position.AT else self.step - 1)
        recorder.open()
        status: Status = "failed"
        error: BaseException | None = None
        self.clock.start()
        try:
            for event in self._run(recorder):
                if isinstance(event, RunEnded):
                    status = event.status
                    break
                with self.clock.stopped():
                    recorder.note(event)
                    yield event
        except (GeneratorExit, KeyboardInterrupt) as stop:
            status, error = "interrupted", stop
        except Exception as problem:
            if isinstance(problem.__cause__ or problem.__context__, KeyboardInterrupt):
                # Ctrl-C within a compiled kernel arrives as a SystemError.
                status, error = "interrupted", KeyboardInterrupt()
            else:
                error = leave_gpu(self, problem) or problem
                recorder.fail(error)
        self.clock.stop()
        self._free()
        if isinstance(error, GeneratorExit) and self.step:  # between two steps
            results.keep_for_later(self, recorder)
        scores = results.write(self, recorder, status)
        if self.film:
            with closing(self.film.finish(recorder, status, self.seconds)) as events:
                for event in events:
                    if error is None:  # else nobody listens any more
                        yield event
        if error is not None:
            raise error
        checkpoints.forget(self.folder)
        ended = RunEnded(self.step, self.seconds, status, self.folder, scores)
        yield ended

    def _run(self, recorder: Recorder) -> Iterator[Event]:
        s = self.settings
        yield RunStarted(
            self.step, self.seconds, self.folder, s.steps, self.width, self.height,
            len(self.target.pixels), len(self.gaussians), str(self.device), self.target.full_pixels,
            tuple(self.target.channels),
        )  # fmt: skip
        notices = [*self.target.notes, self.growth.notice, self.device_notice, self.resume_notice]
        if self.film:
            notices.append(self.film.notice)
            self.film.open(self.step, again=self.position is Position.AT)
        yield from self._notify(recorder, notices)
        self._prepare()
        sign = time.perf_counter()
        while True:
            if self.position is Position.AT:
                # All of it before any of it is told, so that whoever listens may end the run at
                # any event, and it can go on from there.
                yield from list(self._halt(recorder))
            if self.position is Position.END:
                break
            goal = self._next_halt()
            while self.step < goal:
                self.render_seconds += self.stepper.advance(goal - self.step)
                self.position = Position.AT
                if time.perf_counter() - sign > STRETCH_SECONDS:
                    sign = time.perf_counter()
                    yield Progress(self.step, self.seconds, s.steps)
        yield RunEnded(
            self.step, self.seconds, "finished" if self.step == s.steps else "stopped early",
            self.folder,
        )  # fmt: skip

    def _halt(self, recorder: Recorder) -> Iterator[Event]:
        """Do all that is due at a step."""
        s = self.settings
        if _is_due(self.step, s.save_ckpt_steps) and self.step:
            recorder.write_rows()  # a run that goes on from there has them
            yield FileSaved(self.step, self.seconds, checkpoints.save(self))
        if self.step in self.growth.additions:
            yield self._grow(self.growth.additions[self.step])
        measured = self.step % s.eval_steps == 0 or self.step == s.steps
        filmed = self.film is not None and self.film.is_due(self.step)
        verdict: Verdict = "go on"
        if measured or filmed:
            evaluated = self._evaluate()
            recorder.measure(results.row(evaluated, self.render_seconds))
            if filmed:
                messages = self.film.capture(evaluated, self.gaussians.xy)
                yield from self._notify(recorder, messages)
            yield evaluated
            if measured:  # a film must not change what is trained
                verdict = self._judge(evaluated)
        if verdict == "decay":
            yield self._decay()
        if _is_due(self.step, s.save_image_steps) and self.step:
            yield self._save_image()
        ends = verdict == "stop" or self.step == s.steps
        self.position = Position.END if ends else Position.AFTER

    def _notify(self, recorder: Recorder, messages: Iterable[str]) -> Iterator[Notice]:
        for message in filter(None, messages):
            recorder.notice(message)
            yield Notice(self.step, self.seconds, message)

    def _prepare(self) -> None:
        """Make what steps need, where the Gaussians are to be trained."""
        self.stepper = None  # before its successor, for they might not fit into memory together
        if self.device.type != "cpu":
            self.kept = self.gaussians.on_host()
            self.gaussians.move_to(self.device)
        self.stepper = make_step(self.settings, self.gaussians, self.target.pixels, self.optimizer)

    def _free(self) -> None:
        """Give back what only steps needed, before results are drawn."""
        if self.stepper is not None:
            self.stepper.close()
        self.stepper = None

    def _next_halt(self) -> int:
        """The next step at which there is more to do than to go on."""
        s = self.settings
        intervals = [s.eval_steps, s.save_ckpt_steps, s.save_image_steps]
        if self.film:
            intervals.append(s.video_iterations)
        halts = [self.step - self.step % every + every for every in intervals if every]
        growth = [step for step in self.growth.additions if step > self.step]
        return min([*halts, *growth, s.steps])

    def _evaluate(self) -> Evaluated:
        """Measure against the stored picture at its full size."""
        loss = self.stepper.measure()
        self.render_seconds += loss.seconds
        if self.device.type != "cpu":
            self.kept = self.gaussians.on_host()
        least = self.film.least if self.film else None
        found = quality(self.gaussians, self.target, loss.image, self.stepper.stored, least)
        # Without a weight, the loss does not compute its SSIM.
        similarity = loss.ssim if self.settings.ssim_loss_ratio else found.ssim
        return Evaluated(
            self.step, self.seconds, self.settings.steps,
            loss.total, loss.l1, loss.l2, 1 - similarity, found.psnr, found.ssim,
            len(self.gaussians), -(-self.gaussians.bits() // 8), found.image,
        )  # fmt: skip

    # Growth

    def _grow(self, count: int) -> GaussiansAdded:
        """Add ``count`` Gaussians where the error is; adaptive refinement also re-uses some.

        The optimiser keeps what it knows of all that stay.
        """
        error = self.target.pixels - self.gaussians.drawing()
        moved, fresh = placement.where_error_is(
            self.settings, self.gaussians, error, count, self.rng
        )
        grown = {
            name: extend(tensor, moved, fresh[name]).requires_grad_()
            for name, tensor in self.gaussians.tensors().items()
        }
        for name, tensor in grown.items():  # all or, where memory is full, none of them
            setattr(self.gaussians, name, tensor)
            self.optimizer.replace(name, moved, count)
        self._free()
        self._prepare()
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


def _is_due(step: int, every: int) -> bool:
    """Whether something is to be done at a step; ``every`` 0 is never."""
    return every > 0 and step % every == 0
