"""The film of a run: which steps it shows, its frames while the run trains, its file at the end."""

from __future__ import annotations

import contextlib
import math
import shutil
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from events import Evaluated, Event, FileSaved, FilmProgress, Notice, Status
from fitting.checkpoints import resume_folder, saved_checkpoints
from fitting.recorder import Recorder
from imaging.decoding import brief
from imaging.files import Target
from imaging.film import Coding, FilmError, make_film
from imaging.frames import MOST_CENTERS, Frame, Frames, FramesError, FramesInMemory, FramesOnDisk
from imaging.panels import Look, Mosaic
from settings import CommonSettings, Settings

FILE = "training_video.mp4"
NOT_YET = "the run ended before its film was made"
SECONDS_BETWEEN_SIGNS = 0.25


def frames_folder(run_folder: Path) -> Path:
    """Where a run keeps frames until its film is made."""
    return run_folder / "other" / "frames"


def kept_folder(run_folder: Path) -> Path:
    """Where a run that can be resumed keeps the frames of the film made so far."""
    return resume_folder(run_folder) / "frames"


def look(settings: CommonSettings) -> Look:
    """How the settings want a film to look."""
    return Look(settings.video_layout, settings.video_text_size, settings.video_text_place)


def coding(settings: CommonSettings) -> Coding:
    """How the settings want a film to be encoded."""
    return Coding(settings.video_codec, settings.video_crf)


class Film:
    """What a run keeps for its film.

    A film never stops a run: where frames cannot be kept, or no film be made of them, the run says
    so and goes on. Until the film is made, frames are in ``other/frames``, or in memory.

    Parameters
    ----------
    folder : the run's.
    """

    def __init__(self, settings: Settings, target: Target, folder: Path):
        self.settings, self.target, self.folder = settings, target, folder
        count = len(target.channels)
        self.mosaic = Mosaic.of(count, *target.full_size, settings.video_max_width)
        self._frames: Frames | None = None
        self._problem = ""

    @property
    def notice(self) -> str:
        """That the film is smaller than the pictures, where it is."""
        height, width = self.target.full_size
        if (self.mosaic.height, self.mosaic.width) == (height, width):
            return ""
        return (
            f"the film shows pictures of {width}×{height} at "
            f"{self.mosaic.width}×{self.mosaic.height}, because two of them side by side are to be "
            f"at most video_max_width={self.settings.video_max_width} pixels wide"
        )

    @property
    def least(self) -> tuple[int, int]:
        """(height, width) that pictures to be captured must have at least."""
        return self.mosaic.height, self.mosaic.width

    def is_due(self, step: int) -> bool:
        """Whether the film shows this step; it shows the last one, too."""
        return step % self.settings.video_iterations == 0

    def open(self, step: int, *, again: bool = True) -> None:
        """Begin at a step. Frames that an interrupted run kept of earlier ones are taken over.

        Parameters
        ----------
        again : whether the step itself is still to be filmed.
        """
        folder = frames_folder(self.folder)
        if not folder.exists() and kept_folder(self.folder).exists():
            kept_folder(self.folder).rename(folder)
        truth = self._panel(self.target.full_pixels)
        kept = FramesOnDisk(folder, truth)
        try:
            same = np.array_equal(FramesOnDisk(folder).truth, truth)
        except FramesError:  # none, or of another kind
            same = False
        done = step + 1 if self.is_due(step) and not again else step
        kept.delete(done if same else 0)
        kept.delete_damaged()
        self._frames = kept
        if not self.settings.video_save_to_disk:
            self._frames = FramesInMemory(truth)
            _copy(kept, self._frames)
            kept.delete()

    def capture(self, evaluated: Evaluated, xy: Tensor) -> list[str]:
        """Keep a frame of a measurement; returns what a user should know.

        Parameters
        ----------
        evaluated : its ``image`` is at least as large as ``least``.
        xy : (N, 2) in [0, 1]: positions of the Gaussians.
        """
        e = evaluated
        return self.add(e.step, e.image, e.psnr, e.ssim, xy)

    def add(self, step: int, image: Tensor, psnr: float, ssim: float, xy: Tensor) -> list[str]:
        """Keep a frame, unless there is one of this step or a later one; see :meth:`capture`."""
        if self._problem or self._frames is None or self._frames.steps[-1:] >= [step]:
            return []
        every = -(-len(xy) * self.mosaic.count // MOST_CENTERS)
        centers = self.mosaic.spread(xy.detach()[::every].cpu().numpy().clip(0, 1))
        centers = np.rint(centers * 65535).astype(np.uint16)
        try:
            self._frames.add(Frame(step, psnr, ssim, self._panel(image), centers))
        except OSError as error:
            self._problem = f"from step {step} on, frames could not be kept ({brief(error)})"
            return [f"the film ends early: {self._problem}"]
        return []

    def _panel(self, image: Tensor) -> np.ndarray:
        """The pictures of (C, h, w) as one, in bytes."""
        # In NumPy, for starting torch's threads takes longer than this.
        values = np.rint(image.detach().cpu().numpy().clip(0, 1) * 255).astype(np.uint8)
        parts = self.target.split(values)
        pictures = [part[0] if len(part) == 1 else part.transpose(1, 2, 0) for _, part in parts]
        return self.mosaic.panel(pictures)

    # The end

    def finish(self, recorder: Recorder, status: Status, seconds: float) -> Iterator[Event]:
        """Make the film, after the results; ``run.json`` then tells what became of it.

        Frames are deleted, unless the film could not be made or recorded or the run can be resumed.
        Where this is closed on the way, they are kept, too.
        """
        steps = self._frames.steps if self._frames else []
        step = max(steps, default=0)
        problem, recorded = "it was interrupted", False
        tell = partial(self._tell, recorder, status, len(steps), time.perf_counter())
        try:
            for event in self._make(step, seconds):
                recorder.note(event)
                yield event
            problem = ""
            # Before its frames are deleted: one that is killed then is not made of the rest.
            recorded = tell(made=True, error="")
        except Exception as error:
            problem = str(error) or type(error).__name__
        finally:
            message = self._settle(problem, status, recorded)
            notice = Notice(step, seconds, message)
            if message:
                recorder.notice(message)
                recorder.note(notice)
                tell(made=not problem, error=message)
        if message:
            yield notice

    def _tell(
        self, recorder: Recorder, status: Status, frames: int, begun: float, made: bool, error: str
    ) -> bool:
        """Have ``run.json`` say what became of the film; whether it could be written."""
        recorder.facts["film"] = facts(
            self.folder,
            self.settings,
            made=made,
            frames=frames,
            seconds=time.perf_counter() - begun,
            error=error or self._problem,
        )
        try:
            recorder.close(status)
        except OSError:  # run.json goes on saying that there is no film
            return False
        return True

    def _make(self, step: int, seconds: float) -> Iterator[Event]:
        if self._frames is None:
            raise FilmError("the run ended before its first frame")
        count, path, sign = len(self._frames.steps), self.folder / FILE, -math.inf
        film = make_film(self._frames, path, look(self.settings), coding(self.settings))
        with contextlib.closing(film):
            for done in film:
                if time.perf_counter() - sign > SECONDS_BETWEEN_SIGNS or done == count:
                    sign = time.perf_counter()
                    yield FilmProgress(step, seconds, done, count)
        yield FileSaved(step, seconds, path)

    def _settle(self, problem: str, status: Status, recorded: bool) -> str:
        """Keep or delete the frames; returns what is to be known of what went wrong.

        Of a film that is not recorded they are kept: resuming makes it again.
        """
        text = f"the film was not made: {problem}." if problem else ""
        try:
            if problem or not recorded or self.settings.video_keep_frames:
                self._keep(frames_folder(self.folder))
            elif status in ("interrupted", "failed") and saved_checkpoints(self.folder):
                self._keep(kept_folder(self.folder))
            elif isinstance(self._frames, FramesOnDisk):
                self._frames.delete()
        except OSError as error:
            return f"{text} Its frames could not be kept or deleted ({brief(error)}).".strip()
        if problem and self._frames and self._frames.steps:
            again = f"make_video({str(self.folder)!r}) makes it"
            text += (
                f" Its frames are in {frames_folder(self.folder)}: {again}, in another codec too."
            )
        return text

    def _keep(self, folder: Path) -> None:
        """Have the frames in a folder."""
        if isinstance(self._frames, FramesInMemory):
            _copy(self._frames, FramesOnDisk(folder, self._frames.truth))
        elif self._frames is not None and self._frames.folder != folder:
            folder.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(folder, ignore_errors=True)
            self._frames.folder.rename(folder)


def facts(
    folder: Path,
    settings: CommonSettings,
    *,
    made: bool,
    frames: int = 0,
    seconds: float = 0.0,
    error: str = "",
) -> dict[str, Any]:
    """What ``run.json`` tells of a film; ``file`` is None where none was made."""
    path = folder / FILE
    return {
        "file": FILE if made else None,
        "frames": frames,
        "codec": settings.video_codec,
        "crf": settings.video_crf,
        "layout": settings.video_layout,
        "bytes": path.stat().st_size if made else None,
        "seconds": seconds,
        "error": error,
    }


def _copy(source: Frames, into: Frames) -> None:
    for frame in source:
        into.add(frame)
