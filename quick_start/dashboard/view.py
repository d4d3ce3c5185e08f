"""What is known of a sweep while it goes on, and the base of the views that draw it."""

from __future__ import annotations

import contextlib
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from events import (
    Evaluated,
    Event,
    FileSaved,
    FilmProgress,
    GaussiansAdded,
    LearningRateDecayed,
    Notice,
    Progress,
    RunEnded,
    RunStarted,
)
from quick_start._format import duration, number, plural

INTERVAL = 0.5  # seconds between two drawings, so that notebooks stay light
SHARE = 0.01  # of the time that a run takes may go into drawing it
PURSE = 0.06  # seconds of drawing that may be spent at once, or before any time has passed
CURVE_POINTS = 240
MARKS = 100


class Curve:
    """A measurement over the steps: a bounded number of points, the first and the last included."""

    def __init__(self, most: int = CURVE_POINTS):
        self._most, self._every, self._count = most, 1, 0
        self._kept: list[tuple[float, float]] = []
        self._last: tuple[float, float] | None = None

    def add(self, step: float, value: float) -> None:
        """Take a point; when there are too many, every other one of the old ones is dropped."""
        self._last = (step, value)
        if self._count % self._every == 0:
            self._kept.append(self._last)
        self._count += 1
        if len(self._kept) > self._most:
            self._kept, self._every = self._kept[::2], self._every * 2

    @property
    def points(self) -> list[tuple[float, float]]:
        """(step, value), in order."""
        if self._last is None or self._kept[-1] == self._last:
            return list(self._kept)
        return [*self._kept, self._last]


CURVES = ("psnr", "ssim", "loss", "num_gaussians")


@dataclass
class RunState:
    """What is known of one run while it goes on."""

    name: str
    steps: int = 0
    step: int = 0
    seconds: float = 0.0
    psnr: float | None = None
    ssim: float | None = None
    loss: float | None = None
    num_gaussians: int = 0
    status: str = "waiting"
    error: str = ""
    film: tuple[int, int] | None = None  # frames encoded, of how many
    notices: list[str] = field(default_factory=list)
    saved: str = ""  # the file written last
    curves: dict[str, Curve] = field(default_factory=lambda: {name: Curve() for name in CURVES})
    additions: deque[int] = field(default_factory=lambda: deque(maxlen=MARKS))  # steps
    decays: deque[int] = field(default_factory=lambda: deque(maxlen=MARKS))  # steps
    _recent: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=40))

    def take(self, event: Event) -> None:
        """Learn from an event; one of an unknown kind tells the step and the time."""
        self.step, self.seconds = event.step, event.seconds
        match event:
            case RunStarted():
                self.status, self.steps = "running", event.steps
                self._recent.clear()  # it may go on in another process, whose worker died
                self._count(event.step, event.num_gaussians)
            case Evaluated():
                self._measured(event)
            case GaussiansAdded():
                self.additions.append(event.step)
                self._count(event.step, event.num_gaussians)
            case LearningRateDecayed():
                self.decays.append(event.step)
            case FileSaved():
                self.saved = event.path.name
            case Notice():
                self.notices.append(event.message)
            case FilmProgress():
                going_on = event.frames_done < event.frames
                self.film = (event.frames_done, event.frames) if going_on else None
            case RunEnded():
                self.status, self.error, self.film = event.status, event.error, None
                self.psnr = event.scores.get("psnr", self.psnr)
                self.ssim = event.scores.get("ssim", self.ssim)
        if isinstance(event, Progress | Evaluated):
            self._recent.append((event.seconds, event.step))

    def _measured(self, event: Evaluated) -> None:
        self.psnr, self.ssim, self.loss = event.psnr, event.ssim, event.total_loss
        for name in ("psnr", "ssim", "loss"):
            self.curves[name].add(event.step, getattr(self, name))
        self._count(event.step, event.num_gaussians)

    def _count(self, step: int, num_gaussians: int) -> None:
        self.num_gaussians = num_gaussians
        self.curves["num_gaussians"].add(step, num_gaussians)

    @property
    def ended(self) -> bool:
        """Whether the run was begun and goes on no more."""
        return self.status not in ("waiting", "running")

    @property
    def remaining(self) -> float | None:
        """Seconds to go at the pace of the last few seconds; None where that is not known.

        The first steps are no guide: kernels are compiled in them.
        """
        if self.status != "running" or len(self._recent) < 2:
            return None
        (begun, first), (now, last) = self._recent[0], self._recent[-1]
        return (self.steps - self.step) * (now - begun) / (last - first) if last > first else None

    @property
    def fraction(self) -> float:
        """How much is done, from 0 to 1."""
        return min(self.step / self.steps, 1.0) if self.steps else float(self.status != "waiting")

    def summary(self) -> str:
        """One line: step, quality, Gaussians, time."""
        parts = [f"step {self.step:,}/{self.steps:,}"]
        if self.psnr is not None:
            parts.append(f"PSNR {number(self.psnr)} dB")
            parts.append(f"SSIM {number(self.ssim, 4)}")
        if self.loss is not None and self.status == "running":
            parts.append(f"loss {number(self.loss, 4)}")
        parts += [f"{plural(self.num_gaussians, 'Gaussian')}", duration(self.seconds)]
        if self.film is not None:
            parts.append(f"film {self.film[0]:,}/{self.film[1]:,} frames")
        elif self.status == "running" and 0 < self.steps <= self.step:
            parts.append("measuring the result")
        elif self.remaining is not None:
            parts.append(f"{duration(self.remaining)} left")
        return " | ".join(parts)


class View:
    """Keeps the state of all runs and draws nothing; the base of the views that do.

    A view that fails is given up with a note on stderr. It never ends a training.

    Parameters
    ----------
    names : of the runs.
    clock : the time in seconds.
    work : the time in seconds that this thread has worked.
    """

    interval = INTERVAL
    shows_pictures = False

    def __init__(
        self,
        names: Sequence[str],
        clock: Callable[[], float] = time.monotonic,
        work: Callable[[], float] = time.thread_time,
    ):
        self.runs = [RunState(name) for name in names]
        self.notes: list[str] = []
        self.given_up = ""  # why
        # Drawing is paid for by processor time: on a busy machine it only seems to cost more.
        self._clock, self._work = clock, work
        self._due = self._looked = clock()
        self._purse = PURSE

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._try(self.close)

    def take(self, index: int, event: Event) -> None:
        """Learn from an event of a run; draw if it matters or some time has passed."""
        self._try(self.runs[index].take, event)
        if self.given_up or not self._affordable(event):
            return
        with self.paid():
            self._try(self.draw, index, event)
        self._due = self._clock() + self.interval

    def know(self, index: int, event: RunEnded) -> None:
        """Learn of a run that had ended before the sweep began; nothing is drawn."""
        self._try(self.runs[index].take, event)
        self.runs[index].steps = event.step

    def note(self, message: str) -> None:
        """Say something about the sweep as a whole."""
        self.notes.append(message)

    def draw(self, index: int, event: Event) -> None:
        """Show the state of all runs, of which ``index`` is going on."""

    def close(self) -> None:
        """Show how it ended."""

    def matters(self, event: Event) -> bool:
        """Whether an event is to be drawn even if the last drawing was just before."""
        return False

    @contextlib.contextmanager
    def paid(self) -> Iterator[None]:
        """Pay for the work of a block."""
        begun = self._work()
        yield
        self._purse -= self._work() - begun

    def _affordable(self, event: Event) -> bool:
        """Whether it is time to draw, and drawings so far left enough time for training."""
        now = self._clock()
        self._purse = min(self._purse + SHARE * (now - self._looked), PURSE)
        self._looked = now
        return self._purse >= 0 and (now >= self._due or self.matters(event))

    def _try(self, action: Callable[..., None], *arguments: Any) -> None:
        try:
            action(*arguments)
        except Exception as error:
            if not self.given_up:
                self.given_up = f"{type(error).__name__}: {error}"
                tell(f"The live view was given up ({self.given_up}). Training goes on without it.")


def tell(message: str) -> None:
    """Print to stderr, if there still is one."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        print(message, file=sys.stderr, flush=True)
