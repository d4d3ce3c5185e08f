"""Trains a sweep: every run in its own folder, here or spread over an executor's workers."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import Any

from events import RunEnded
from quick_start.config import TrainingConfig, picture_path
from quick_start.dashboard import View, open_view
from quick_start.runs import Run, RunError, Runs
from quick_start.sweep.engines import Spread, one_by_one
from quick_start.sweep.plan import Plan, Task, new_plan, refused, resumed_plan
from quick_start.sweep.stopping import Stopping
from quick_start.sweep.summary import Summary, described
from settings import Settings, SettingsError


class TrainingError(RuntimeError):
    """No run could be completed, and at least one failed; the message names them and their logs.

    Attributes
    ----------
    runs : the runs so far, the failed ones included.
    """

    def __init__(self, message: str, runs: Sequence[Run] = ()):
        super().__init__(message)
        self.runs = Runs(runs)


def train(
    config: TrainingConfig | None = None,
    *,
    resume: str | os.PathLike[str] | None = None,
    executor: Executor | None = None,
    show: bool = True,
    display: Callable[..., Any] | None = None,
    stop: threading.Event | None = None,
) -> Runs:
    """Train every run of a configuration, in a new session or going on in an earlier one.

    A run that fails is recorded in its folder, and the others go on. The kernel's interrupt,
    Ctrl-C, the Stop button of the live view and ``stop`` all end the sweep at the end of the step,
    and keep what was reached; ``resume`` goes on from there. In a thread other than the main one,
    Ctrl-C is left alone.

    Parameters
    ----------
    config : from :func:`set_config`. With ``resume`` it may be left out, or name further runs.
    resume : a session such as ``session_3``, whose runs that are complete are skipped. The others
        go on from their newest checkpoint, or begin anew where there is none.
    executor : trains runs at the same time, as many as it has workers; None trains one after
        another in this process. Any :class:`concurrent.futures.Executor` will do whose workers see
        the same files: :func:`process_pool` on this machine, :func:`cluster` with Dask, or
        ipyparallel's. Each run has a GPU for itself, and waits until there is one.
    show : whether to show the progress.
    display : shows the widget of the live view, called as ``display(widget, display_id=True,
        metadata=...)``; None is IPython's. Where it returns nothing, the record of the sweep is
        shown inside that widget in the end.
    stop : ends the sweep when it is set.

    Returns
    -------
    The runs, in order, failed ones included: ``.failed`` lists these. After an interruption: those
    so far, the interrupted ones included.

    Raises
    ------
    SettingsError, PictureError, CheckpointError
        Before anything is written, where no run can start; all are ValueErrors.
    BusyError
        Where another process trains in the session that is to be resumed.
    TrainingError
        Where runs failed and none is complete. Their folders keep what was reached.
    """
    if (config is None and resume is None) or not isinstance(config, TrainingConfig | None):
        kind = type(config).__name__
        raise SettingsError(f"train() got a {kind}; give it what set_config() returned")
    if resume is None:
        _check(config.runs(), deeply=executor is None)
        plan = new_plan(config)
    else:
        plan = resumed_plan(config, resume)
    return _carry_out(plan, executor, show=show, display=display, stop=stop)


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
        As :func:`train` does, and where there is no checkpoint to go on from.
    """
    config = TrainingConfig.of(settings)
    if resume is None:
        return _one(train(config, show=show))
    folder = Path(resume)
    _build(settings, folder, resume=True)
    plan = Plan(folder.parent, config, (Task(0, settings, folder),), written=False)
    return _one(_carry_out(plan, None, show=show))


def _one(runs: Sequence[Run]) -> Run:
    """The run of a sweep of one, which may have been stopped before it began."""
    if not runs:
        raise KeyboardInterrupt("the run was stopped before it began")
    return runs[0]


def _check(planned: Sequence[Settings], *, deeply: bool) -> None:
    """Raise where no run can start; nothing is written. Single ones may fail when it is their turn.

    Parameters
    ----------
    deeply : whether to make a run ready, rather than read the headers of pictures only.
    """
    first: Exception | None = None
    for settings in planned:
        error = refused(settings)
        if error is None and deeply:
            try:
                _build(settings, Path(settings.output_dir))
            except ValueError as problem:
                error = problem
        if error is None:
            return
        first = first or error
    raise first


def _build(settings: Settings, folder: Path, *, resume: bool = False) -> None:
    """Prepare a run and throw it away, which raises where it cannot start; nothing is written."""
    from model import GaussianSplatting2D

    picture_path(settings.input_filename, settings.input_dir)
    GaussianSplatting2D(settings, folder, resume=resume)


def _carry_out(
    plan: Plan,
    executor: Executor | None,
    *,
    show: bool,
    display: Callable[..., Any] | None = None,
    stop: threading.Event | None = None,
) -> Runs:
    runs = plan.runs
    stopping = Stopping(stop)
    tasks = plan.to_do()
    with stopping, plan.begun():  # so that all is put in order before SIGTERM ends the process
        view = open_view(
            [str(run) for run in runs], [str(run.folder) for run in runs],
            show=show, display=display, stop=stopping.event,
        )  # fmt: skip

        def ended(task: Task, error: Exception | None) -> None:
            _show_end(view, task.index, task.run, error)

        with view:
            for index in set(range(len(runs))) - {task.index for task in tasks}:
                view.know(index, _end(runs[index]))
            if executor is None:
                errors = one_by_one(tasks, view, stopping, ended)
            else:
                errors = Spread(plan, executor, view, stopping, ended).train(tasks)
            summary = Summary.of(plan, errors)
            if not summary.is_hopeless:
                for note in summary.notes():
                    view.note(note)
    if summary.is_hopeless:
        raise TrainingError(summary.failures(), summary.begun) from summary.failed[0][1]
    return summary.begun


def _show_end(view: View, index: int, run: Run, error: Exception | None) -> None:
    """Tell the view of an end that the trainer did not announce."""
    if view.runs[index].ended:
        return
    try:
        event = _end(run)
    except (RunError, KeyError):
        if error is None:
            return  # it was stopped before it began
        event = RunEnded(view.runs[index].step, view.runs[index].seconds, "failed", run.folder)
    if error is not None:
        event = replace(event, status="failed", error=described(error))
    view.take(index, event)


def _end(run: Run) -> RunEnded:
    """How a run ended, by its record."""
    record = run.record
    seconds = (record.get("seconds") or {}).get("training", 0.0)
    return RunEnded(record["steps_done"], seconds, record["status"], run.folder, run.scores)
