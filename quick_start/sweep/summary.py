"""How a sweep ended, in a few words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from quick_start._format import plural
from quick_start.runs import Run, RunError, Runs
from quick_start.sweep.plan import Plan

MOST_NAMED = 5


class RemoteError(RuntimeError):
    """How a run failed in another process; its log has the traceback."""


def described(error: BaseException) -> str:
    """The kind of an error and what it says."""
    return f"{error}" if isinstance(error, RemoteError) else f"{type(error).__name__}: {error}"


@dataclass(frozen=True)
class Summary:
    """What became of the runs of a sweep.

    Attributes
    ----------
    begun : all that have a record, in order.
    stopped : those that were interrupted.
    failed : those that failed, with their errors.
    left : how many were neither begun nor failed.
    """

    plan: Plan
    begun: Runs
    stopped: Sequence[Run]
    failed: Sequence[tuple[Run, Exception]]
    left: int

    @classmethod
    def of(cls, plan: Plan, errors: Mapping[int, Exception]) -> Summary:
        """Look at the runs' records.

        Parameters
        ----------
        errors : per index of a run that failed, why.
        """
        begun, stopped, left = Runs(), [], 0
        for task in plan.tasks:
            status = status_of(task.run)
            if status:
                begun.append(task.run)
            if task.index not in errors:
                stopped += [task.run] * (status == "interrupted")
                left += not status
        begun.left = left
        failed = [(plan.tasks[index].run, error) for index, error in sorted(errors.items())]
        return cls(plan, begun, stopped, failed, left)

    @property
    def is_hopeless(self) -> bool:
        """Whether runs failed and none was completed."""
        return bool(self.failed) and not any(run.is_complete for run in self.begun)

    def notes(self) -> list[str]:
        """What is to be known of the end, where not all runs are complete."""
        notes = [self._end()] if self.stopped or self.left else []
        if self.failed:
            names = _listed([str(run) for run, _ in self.failed])
            total = plural(len(self.plan.tasks), "run")
            notes.append(
                f"{len(self.failed)} of {total} failed: {names}. Their run.json says why, and "
                "other/log.txt where."
            )
        if notes and self.plan.written and self.begun:
            call, folder = f"train(resume={self.plan.session.name!r})", self.plan.session
            notes.append(f"{call}, or main.py resume {folder}, goes on with what is left.")
        return notes

    def failures(self) -> str:
        """Which runs failed, and why."""
        reasons = [_reason(run, error) for run, error in self.failed[:MOST_NAMED]]
        if len(self.failed) > MOST_NAMED:
            reasons.append(f"And {len(self.failed) - MOST_NAMED} more failed.")
        return " ".join(reasons)

    def _end(self) -> str:
        total = len(self.plan.tasks)
        more = f"; {self.left} of {plural(total, 'run')} were not started" if self.left else ""
        if self.stopped:
            names = _listed([str(run) for run in self.stopped])
            return f"Interrupted in {names}. What was reached is kept{more}."
        if self.begun:
            return f"Interrupted after {self.begun[-1]}. What was reached is kept{more}."
        return f"Stopped before the first run{more}."


def status_of(run: Run) -> str:
    """The status; nothing where there is no record, or none that can be read."""
    try:
        return run.status
    except RunError:
        return ""


def _listed(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {plural(more, 'other')}" if more > 0 else "")


def _reason(run: Run, error: Exception) -> str:
    log = f" Its log: {run.log_path}." if run.log_path.exists() else ""
    text = described(error).rstrip()
    return f"{run} failed: {text}{'' if text.endswith('.') else '.'}{log}"
