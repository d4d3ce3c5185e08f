"""Trains a sweep: every run in its turn, each recorded in its own folder."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Self

from events import Event, RunEnded, Status
from quick_start.config import TrainingConfig, picture_path
from quick_start.dashboard import View, open_view
from quick_start.runs import Run, Runs, new_session, run_folder
from settings import Settings, SettingsError


class TrainingError(RuntimeError):
    """A run failed; the message names it and its log.

    Attributes
    ----------
    runs : the runs so far, the failed one included.
    """

    def __init__(self, message: str, runs: Sequence[Run] = ()):
        super().__init__(message)
        self.runs = list(runs)


def train(
    config: TrainingConfig,
    *,
    show: bool = True,
    display: Callable[..., Any] | None = None,
    stop: threading.Event | None = None,
) -> Runs:
    """Train every run of a configuration, in order, in one new session.

    The kernel's interrupt, Ctrl-C, the Stop button of the live view and ``stop`` all end the sweep
    at the end of the step, and keep what was reached. In a thread other than the main one, Ctrl-C
    is left alone.

    Parameters
    ----------
    config : from :func:`set_config`.
    show : whether to show the progress.
    display : shows the widget of the live view, called as ``display(widget, display_id=True,
        metadata=...)``; None is IPython's. Where it returns nothing, the record of the sweep is
        shown inside that widget in the end.
    stop : ends the sweep when it is set.

    Returns
    -------
    The runs, in order. After an interruption: those so far, the interrupted one included.

    Raises
    ------
    SettingsError, PictureError, CheckpointError
        Before anything is written, where a run cannot start; all are ValueErrors.
    TrainingError
        Where a run failed. Its folder, and those of the runs before it, keep what was reached.
    """
    if not isinstance(config, TrainingConfig):
        kind = type(config).__name__
        raise SettingsError(f"train() got a {kind}; give it what set_config() returned")
    planned = config.runs()
    for settings in planned:  # all, so that the last of a long sweep is not the one that fails
        _check(settings, Path(settings.output_dir))
    session = new_session(config.output_dir)
    folders: list[Path] = []
    for settings in planned:
        folders.append(run_folder(session, settings, folders))
    return _train_all(planned, folders, show=show, display=display, stop=stop)


def train_one(
    settings: Settings, *, resume: str | os.PathLike[str] | None = None, show: bool = True
) -> Run:
    """Train one run in a new session, or go on with an interrupted one.

    Parameters
    ----------
    settings : of the run.
    resume : the folder of a run to go on with from its newest checkpoint.
    show : whether to show the progress.

    Raises
    ------
    SettingsError, PictureError, CheckpointError, TrainingError
        As :func:`train` does.
    """
    if resume is not None:
        _check(settings, Path(resume), resume=True)
        return _one(_train_all([settings], [Path(resume)], show=show, resume=True))
    _check(settings, Path(settings.output_dir))
    folder = run_folder(new_session(settings.output_dir), settings)
    return _one(_train_all([settings], [folder], show=show))


def _one(runs: Sequence[Run]) -> Run:
    """The run of a sweep of one, which may have been stopped before it began."""
    if not runs:
        raise KeyboardInterrupt("the run was stopped before it began")
    return runs[0]


def _check(settings: Settings, folder: Path, *, resume: bool = False) -> None:
    """Prepare a run and throw it away, which raises where it cannot start; nothing is written."""
    from model import GaussianSplatting2D

    picture_path(settings.input_filename, settings.input_dir)
    GaussianSplatting2D(settings, folder, resume=resume)


def _train_all(
    planned: Sequence[Settings],
    folders: Sequence[Path],
    *,
    show: bool,
    display: Callable[..., Any] | None = None,
    stop: threading.Event | None = None,
    resume: bool = False,
) -> Runs:
    runs = Runs(Run(folder) for folder in folders)
    stopping = Stopping(stop)
    view = open_view(
        [str(run) for run in runs], [str(folder) for folder in folders],
        show=show, display=display, stop=stopping.event,
    )  # fmt: skip
    with view, stopping:
        for index, (run, settings) in enumerate(zip(runs, planned, strict=True)):
            try:
                stopping.check()
                _train_run(run, settings, resume, stopping, partial(view.take, index))
            except KeyboardInterrupt:
                return _interrupted(view, index, runs)
            except Exception as error:
                raise _failed(view, index, runs, error) from error
    return runs


def _train_run(
    run: Run, settings: Settings, resume: bool, stopping: Stopping, take: Callable[[Event], None]
) -> None:
    from model import GaussianSplatting2D

    model = GaussianSplatting2D(settings, run.folder, resume=resume)
    model.stop_asked = stopping.asked
    with closing(model.optimize()) as events:  # closing it keeps what was reached
        for event in events:
            take(event)
            stopping.check()


class Stopping:
    """Whether a sweep is to end: because of Ctrl-C, or of ``event``, which anybody may set.

    Both wait for :meth:`check`, which raises KeyboardInterrupt; a second Ctrl-C does not. In the
    middle of a compiled kernel it would turn into a SystemError, and the run would count as failed.
    The trainer gives a sign of life several times a second, so the wait is short.
    """

    def __init__(self, event: threading.Event | None = None) -> None:
        self.event = threading.Event() if event is None else event
        self._pressed = False

    def __enter__(self) -> Self:
        self._in_charge = threading.current_thread() is threading.main_thread()
        if self._in_charge:  # others may not, and are not interrupted either
            self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        if self._in_charge:
            signal.signal(signal.SIGINT, self._before or signal.SIG_DFL)

    def _note(self, number: int, frame: object) -> None:
        if self._pressed:
            raise KeyboardInterrupt
        self._pressed = True  # and not the event, whose lock may be held at this very moment

    def asked(self) -> bool:
        """Whether the sweep is to end."""
        return self._pressed or self.event.is_set()

    def check(self) -> None:
        """Raise KeyboardInterrupt if the sweep is to end."""
        if self.asked():
            raise KeyboardInterrupt


def _interrupted(view: View, index: int, runs: Sequence[Run]) -> Runs:
    kept = Runs(run for run in runs[: index + 1] if (run.folder / "run.json").exists())
    left = len(runs) - len(kept)
    more = f"; {left} of {len(runs)} runs were not started" if left else ""
    if runs[index] not in kept:
        after = f" after {kept[-1]}" if kept else " before the first run"
        view.note(f"Stopped{after}{more}.")
        return kept
    _show_end(view, index, runs[index])
    where = "in" if runs[index].status == "interrupted" else "after"
    view.note(f"Interrupted {where} {runs[index]}. What was reached is kept{more}.")
    return kept


def _failed(view: View, index: int, runs: Sequence[Run], error: Exception) -> TrainingError:
    run = runs[index]
    kept = [other for other in runs[: index + 1] if (other.folder / "run.json").exists()]
    _show_end(view, index, run, f"{type(error).__name__}: {error}")
    log = f" Its log: {run.log_path}." if run.log_path.exists() else ""
    finished = f" {index} of {len(runs)} runs before it are kept." if index else ""
    message = f"{run} failed: {type(error).__name__}: {error}{log}{finished}"
    return TrainingError(message, kept)


def _show_end(view: View, index: int, run: Run, error: str = "") -> None:
    """Tell the view of an end that the trainer could no longer announce."""
    state = view.runs[index]
    step, seconds, scores = state.step, state.seconds, {}
    status: Status = "failed" if error else "interrupted"
    if (run.folder / "run.json").exists():
        record, scores = run.record, run.scores
        step, status = record["steps_done"], record["status"]
        seconds = (record.get("seconds") or {}).get("training", seconds)
    view.take(index, RunEnded(step, seconds, status, run.folder, scores, error))
