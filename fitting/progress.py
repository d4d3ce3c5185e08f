"""Where a run is: within the work that is due at a step, and in time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum


class Position(Enum):
    """How far a run is with what is due at its step: growth, measurement, film, files."""

    AT = "at"  # nothing of it is done
    AFTER = "after"  # all of it is done
    END = "end"  # all of it is done, and no step comes after it


class Clock:
    """Counts training time: what a consumer does with an event is not training."""

    def __init__(self, seconds: float = 0.0):
        self._counted = seconds
        self._begun: float | None = None  # None while it stands still

    def seconds(self) -> float:
        """Time counted so far."""
        if self._begun is None:
            return self._counted
        return self._counted + time.perf_counter() - self._begun

    def start(self) -> None:
        """Count from now on."""
        if self._begun is None:
            self._begun = time.perf_counter()

    def stop(self) -> None:
        """Count no more."""
        self._counted, self._begun = self.seconds(), None

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Do not count what is done in a block, nor anything after it where it fails."""
        self.stop()
        yield
        self.start()
