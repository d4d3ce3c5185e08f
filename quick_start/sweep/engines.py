"""How the runs of a sweep are carried out: one after another here, or by an executor's workers."""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    wait,
)
from functools import partial

from quick_start.dashboard import View
from quick_start.sweep.gpus import own_gpu
from quick_start.sweep.locks import BusyError
from quick_start.sweep.mailbox import Inbox
from quick_start.sweep.plan import Plan, Task
from quick_start.sweep.stopping import Stopping
from quick_start.sweep.summary import RemoteError, described, status_of
from quick_start.sweep.work import Order, WorkerError, alone, train_apart, train_run

SECONDS_BETWEEN_LOOKS = 0.2
MOST_ATTEMPTS = 3  # at a run whose worker dies

Errors = dict[int, Exception]
Ended = Callable[[Task, Exception | None], None]


def one_by_one(tasks: Sequence[Task], view: View, stopping: Stopping, ended: Ended) -> Errors:
    """Train runs in this process, in order; those that fail do not end the sweep.

    Parameters
    ----------
    ended : called with a task, and its error or None, when a run has ended.

    Returns
    -------
    Per index of a run that failed, its error.
    """
    errors: Errors = {}
    device = tasks[0].settings.device if tasks else "cpu"
    with own_gpu(device, None) as shared:
        if shared:
            view.note("All GPUs of this machine train other runs: this sweep shares one with them.")
        for task in tasks:
            try:
                stopping.check()
                train_run(task, partial(view.take, task.index), stopping)
            except KeyboardInterrupt:
                ended(task, None)
                break
            except Exception as error:
                errors[task.index] = error
                ended(task, error)
            else:
                ended(task, None)
    return errors


class Spread:
    """Trains runs by the workers of an executor, and shows here what they tell.

    Where a worker dies, the run goes on elsewhere. One that has cost several workers is tried once
    more by itself, and then counts as failed.

    Parameters
    ----------
    executor : its workers see the session's folder and the pictures under the same paths.
    ended : as for :func:`one_by_one`.
    """

    def __init__(
        self, plan: Plan, executor: Executor, view: View, stopping: Stopping, ended: Ended
    ):
        self._executor, self._view, self._stopping, self._ended = executor, view, stopping, ended
        self._inbox = Inbox(plan.session)
        self._owned: list[Executor] = []  # replacements for broken ones
        self._waiting: dict[Future[str], Task] = {}
        self._suspects: list[Task] = []
        self._told_to_stop = False
        self.errors: Errors = {}

    def train(self, tasks: Sequence[Task]) -> Errors:
        """Train all; see :func:`one_by_one`."""
        try:
            for task in tasks:
                self._submit(task)
            while self._waiting or self._suspects:
                if not self._waiting:  # by itself, so that no other run dies with its worker
                    self._submit(self._suspects.pop())
                wait(self._waiting, SECONDS_BETWEEN_LOOKS, FIRST_COMPLETED)
                self._pass_on()
                if self._stopping.asked():
                    self._stop()
                # Not those that wait() tells, for it never learns of some that were called off.
                for future in [future for future in self._waiting if future.done()]:
                    self._end(self._waiting.pop(future), future)
        finally:
            for future in self._waiting:  # after a second Ctrl-C
                future.cancel()
            if self._waiting:
                self._inbox.stop()
            for executor in self._owned:
                executor.shutdown(wait=False, cancel_futures=True)
        return self.errors

    def _submit(self, task: Task) -> None:
        try:
            shares = _shares(self._executor)
            watched = self._view.shows_pictures
            order = Order(task, self._inbox.token, shares, os.getcwd(), watched)
            future = self._hand_over(order)
        except Exception as error:  # it was shut down, or cannot send an order
            self._finish(task, self._lost(task, f"the executor takes no run ({described(error)})"))
        else:
            self._waiting[future] = task

    def _hand_over(self, order: Order) -> Future[str]:
        try:
            return self._executor.submit(train_apart, order)
        except BrokenExecutor:
            replacement = _like(self._executor)
            if replacement is None:
                raise
            self._executor = replacement
            self._owned.append(replacement)
            return replacement.submit(train_apart, order)

    def _pass_on(self) -> None:
        for index, event in self._inbox.events():
            if index < len(self._view.runs):  # else of a worker that does not know of its end yet
                self._view.take(index, event)

    def _stop(self) -> None:
        if not self._told_to_stop:
            self._told_to_stop = True
            self._inbox.stop()
        self._suspects.clear()
        for future, task in list(self._waiting.items()):
            # Dask and ipyparallel would call off a run that goes on, and not wait for its end.
            if task.index not in self._inbox.attempts and future.cancel():
                del self._waiting[future]  # which need not ever count as done
                self._finish(task, None)

    def _end(self, task: Task, future: Future[str]) -> None:
        error: Exception | None = None
        try:
            failure = future.result()
            error = RemoteError(failure) if failure else None
        except CancelledError:
            if not self._told_to_stop:
                error = self._lost(task, "the executor gave the run up")
        except BrokenExecutor:
            if self._try_again(task):
                return
            count = self._inbox.attempts.get(task.index, 0)
            why = f"{count} processes died while they trained it, perhaps because memory was full"
            error = self._lost(task, why)
        except (BusyError, WorkerError) as problem:
            error = problem
        except Exception as problem:  # of the executor: it must not end the other runs
            error = self._lost(task, described(problem))
        self._finish(task, error)

    def _finish(self, task: Task, error: Exception | None) -> None:
        self._pass_on()
        self._inbox.forget(task.index)
        if error is not None:
            self.errors[task.index] = error
        self._ended(task, error)

    def _lost(self, task: Task, why: str) -> Exception | None:
        """Record a run of which its worker can say nothing any more."""
        from fitting.results import record_failure

        error = RemoteError(why)
        try:
            with alone(task):  # where a pool breaks, its other processes still keep what they have
                if task.is_complete or (self._told_to_stop and status_of(task.run) != "running"):
                    return None
                record_failure(task.folder, task.settings, error)
        except BusyError as busy:
            return busy
        except OSError:
            return error  # a full disk: the summary tells it all the same
        return error

    def _try_again(self, task: Task) -> bool:
        """Have a run whose worker died trained by another one, unless it died too often."""
        self._pass_on()
        if self._told_to_stop:
            return False
        attempts = self._inbox.attempts.get(task.index, 0)
        if attempts >= MOST_ATTEMPTS:
            return False
        if attempts == MOST_ATTEMPTS - 1:
            self._suspects.append(task)
        else:
            self._submit(task)
        return True


def _shares(executor: Executor) -> dict[str, int]:
    """How many runs may go on at once on the machines of workers; see :class:`Order`."""
    if isinstance(executor, ProcessPoolExecutor):
        return {platform.node(): getattr(executor, "_max_workers", 1)}
    if client := getattr(executor, "_client", None):  # Dask's
        workers = client.scheduler_info(n_workers=-1)["workers"]
        slots = Counter()
        for worker in workers.values():
            slots[worker["host"]] += worker["nthreads"]
        return {address: slots[worker["host"]] for address, worker in workers.items()}
    if engines := getattr(getattr(executor, "view", None), "client", None):  # ipyparallel's
        return {platform.node(): max(1, len(engines.ids))}
    return {}


def _like(executor: Executor) -> Executor | None:
    """Another one of the same kind, for a pool that lost a process takes no more work."""
    if not isinstance(executor, ProcessPoolExecutor):
        return None
    return ProcessPoolExecutor(
        getattr(executor, "_max_workers", None),
        mp_context=getattr(executor, "_mp_context", None),
        initializer=getattr(executor, "_initializer", None),
        initargs=getattr(executor, "_initargs", ()),
    )
