"""Trains one run of a sweep, in whatever process, and goes on where an attempt broke off."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import platform
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from events import Event
from imaging.encoding import delete_unfinished
from quick_start import film
from quick_start.sweep import leftovers, plan
from quick_start.sweep.gpus import own_gpu
from quick_start.sweep.locks import BusyError, held
from quick_start.sweep.mailbox import Outbox, is_over
from quick_start.sweep.plan import LIVE, Task
from quick_start.sweep.stopping import Stopping
from quick_start.sweep.summary import described

SECONDS_TO_END = 20.0  # for a worker whose training was killed; it notices, and ends by itself


class WorkerError(RuntimeError):
    """A worker cannot train; the message names it and says why."""


def train_run(task: Task, take: Callable[[Event], None], stopping: Stopping) -> None:
    """Train a run, from its newest checkpoint if an earlier attempt left one.

    However this ends, the run's folder says so, if it can be written.

    Raises
    ------
    KeyboardInterrupt
        Where it was stopped.
    Exception
        Where it failed.
    BusyError
        Where another process trains the run already.
    """
    from fitting.results import record_failure

    with alone(task):
        if task.is_complete:
            if film.is_due(task.run):
                with closing(film.make_due(task.run)) as progress:
                    for event in progress:
                        take(event)
                        stopping.check()
            leftovers.delete(task.run)
            return
        for folder in (task.folder, task.folder / "other"):
            delete_unfinished(folder)
        begun = False
        try:
            model = _model(task)
            model.stop_asked = stopping.asked
            with closing(model.optimize()) as events:  # closing it keeps what was reached
                for event in events:
                    begun = True
                    take(event)
                    stopping.check()
        except Exception as error:
            if not begun:
                with contextlib.suppress(OSError):  # the error itself is what matters
                    record_failure(task.folder, task.settings, error)
            raise


@contextlib.contextmanager
def alone(task: Task) -> Iterator[None]:
    """Keep others from a run, once a worker that may just be ending has left it.

    Raises
    ------
    BusyError
        Where another process goes on with it.
    """
    live = task.folder.parent / LIVE
    live.mkdir(parents=True, exist_ok=True)
    with held(live / f"{task.folder.name}.lock", str(task.run), SECONDS_TO_END):
        yield


def _model(task: Task):
    """The trainer, where the last attempt left it, or at its beginning."""
    from fitting.checkpoints import saved_checkpoints
    from fitting.gaussians import CheckpointError
    from model import GaussianSplatting2D

    damaged = ""
    if saved_checkpoints(task.folder):
        try:
            return GaussianSplatting2D(task.settings, task.folder, resume=True)
        except CheckpointError as error:
            damaged = f"the run begins anew: {error}"
    model = GaussianSplatting2D(task.settings, task.folder)
    model.resume_notice = damaged
    return model


# In another process


@dataclass(frozen=True)
class Order:
    """A run for a worker.

    Attributes
    ----------
    shares : how many runs may go on at once on the machine of a worker, by the address that Dask
        knows the worker by, or by the machine's name.
    token : of the training, which says whether it goes on; see :class:`Outbox`.
    place : the folder that paths are relative to.
    watched : whether anybody looks at its pictures.
    """

    task: Task
    token: str
    shares: Mapping[str, int]
    place: str
    watched: bool


def train_apart(order: Order) -> str:
    """Train a run in this process for another one; returns how the run failed, or nothing.

    Raises
    ------
    WorkerError, BusyError
        Where this worker cannot train the run; nothing is known of it then.
    """
    with _in_place(order) as session:
        if is_over(session, order.token):  # before this run's turn
            return ""
        _prepare(order)
        return _train_apart(order, session)


@contextlib.contextmanager
def _in_place(order: Order) -> Iterator[Path]:
    """Work where the order was given; yields the session's folder."""
    session = order.task.folder.parent
    if not Path(order.place, session, plan.FILE).is_file():
        raise WorkerError(
            f"a worker on {platform.node()} does not see {Path(order.place, session)}. All workers "
            "must reach the folders of pictures and results under the same path: choose them on a "
            "disk that they share."
        )
    if os.getcwd() == order.place:  # as in threads of one process, which have only one
        yield session
        return
    with contextlib.chdir(order.place):
        yield session


def _train_apart(order: Order, session: Path) -> str:
    task = order.task
    with Outbox(session, task.index, order.token, pictures=order.watched) as outbox:
        stopping = Stopping(also=outbox.stop_asked)
        try:
            with stopping, own_gpu(task.settings.device, stopping.check):
                train_run(task, outbox.put, stopping)
        except KeyboardInterrupt:
            return ""
        except BusyError:
            raise
        except Exception as error:
            return described(error)
    return ""


def _prepare(order: Order) -> None:
    """Obey whoever gave the order, and take the run's share of the cores."""
    if threading.current_thread() is threading.main_thread():
        obey_parent()
    share = order.shares.get(_address_in_dask() or platform.node())
    if share is not None:
        import numba
        import torch

        threads = max(1, numba.config.NUMBA_NUM_THREADS // share)
        numba.set_num_threads(threads)
        torch.set_num_threads(threads)


def _address_in_dask() -> str | None:
    """The address of the Dask worker that this runs in, if it does."""
    if "distributed" not in sys.modules:
        return None
    from distributed import get_worker

    try:
        return get_worker().address
    except ValueError:  # there is none
        return None


@cache
def obey_parent() -> None:
    """Leave Ctrl-C to the process that started this one, and end as by SIGTERM once it is gone.

    Processes of a pool would otherwise wait forever for orders of one that was killed.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def follow() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=follow, daemon=True).start()
