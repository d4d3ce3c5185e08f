"""What the tests of sweeps share: stopping them at a step, and comparing what they leave."""

from __future__ import annotations

import csv
import hashlib
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from events import Event, RunEnded, RunStarted
from quick_start import TrainingConfig, train, training
from quick_start.dashboard import View
from quick_start.runs import Run, Runs
from settings import Settings

TINY: dict[str, Any] = {"gaussians": 50, "steps": 30, "eval_steps": 10, "lr_schedule": False}
STOPPED = "the measurement was stopped"  # of a run that had ended just before
TIMES = ("render_time_accum", "total_time_accum")


class Watching(View):
    """Keeps every event of every run, and may ask for the end when a run reaches a step."""

    def __init__(
        self,
        count: int,
        stop: threading.Event | None = None,
        at: tuple[int, int] = (-1, 0),
        *,
        shows_pictures: bool = False,
    ):
        super().__init__([f"r{index}" for index in range(count)])
        self._end, self._at = stop, at
        self.shows_pictures = shows_pictures
        self.events: list[tuple[int, Event]] = []

    def take(self, index: int, event: Event) -> None:
        super().take(index, event)
        self.events.append((index, event))
        begun = not isinstance(event, RunStarted)
        if self._end and begun and index == self._at[0] and event.step >= self._at[1]:
            self._end.set()

    def of(self, index: int, kind: type[Event] = Event) -> list[Any]:
        """The events of one kind of one run."""
        return [e for i, e in self.events if i == index and isinstance(e, kind)]

    def ends(self) -> list[str]:
        """How each run ended."""
        return [e.status for _, e in self.events if isinstance(e, RunEnded)]


def watched(
    config: TrainingConfig | None, view: View, stop: threading.Event | None = None, **options: Any
) -> Runs:
    """Train with a view."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "open_view", lambda *names, **others: view)
        return train(config, stop=stop, **options)


def stopped_at(config: TrainingConfig | None, index: int, step: int, **options: Any) -> Runs:
    """Train until a run reaches a step, as the Stop button would end it."""
    stop = threading.Event()
    return watched(config, Watching(20, stop, (index, step)), stop, **options)


def files(folder: Path) -> dict[str, tuple[int, str]]:
    """All files below a folder: when each was written, and a sum of its content."""
    return {
        str(path.relative_to(folder)): (
            path.stat().st_mtime_ns,
            hashlib.sha256(path.read_bytes()).hexdigest(),
        )
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def assert_same(run: Run, other: Run) -> None:
    """Both are complete, with the same parameters and scores."""
    assert run.is_complete, run.record
    assert other.is_complete
    ours, theirs = (torch.load(r.model_path, weights_only=True) for r in (run, other))
    for name in ("xy", "scale", "rot", "feat"):
        assert torch.equal(ours[name], theirs[name]), (str(run), name)
    stopped = [name for name, why in run.record["reasons"].items() if why == STOPPED]
    assert run.scores == other.scores | dict.fromkeys(stopped), run


def measurements(run: Run) -> list[dict[str, str]]:
    """The rows of ``metrics.csv`` without times."""
    with run.metrics_path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


def settings_of(**values: Any) -> Settings:
    """Settings of a tiny run of cat.png."""
    return Settings.build(**{"input_filename": "cat.png"} | TINY | values)
