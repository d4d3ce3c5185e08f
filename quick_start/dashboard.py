"""The live view of a sweep: takes the trainer's events and shows them in a notebook or a shell.

`RunState` keeps what is known of a run, a `View` draws it. Another front end is another `View`.
"""

from __future__ import annotations

import html
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, TextIO

from events import Evaluated, Event, GaussiansAdded, Notice, Progress, RunEnded, RunStarted
from quick_start._format import Cell, duration, html_table, number, plural

NOTEBOOK_INTERVAL = 0.5  # seconds between two drawings, so that notebooks stay light
LINE_INTERVAL = 5.0  # the same where each drawing is a new line of a log
LISTED = 12  # runs that are listed while training; the record at the end lists all


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
    notices: list[str] = field(default_factory=list)
    _recent: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=40))

    def take(self, event: Event) -> None:
        """Learn from an event."""
        self.step, self.seconds = event.step, event.seconds
        match event:
            case RunStarted():
                self.status, self.steps = "running", event.steps
                self.num_gaussians = event.num_gaussians
            case Evaluated():
                self.psnr, self.ssim, self.loss = event.psnr, event.ssim, event.total_loss
                self.num_gaussians = event.num_gaussians
            case GaussiansAdded():
                self.num_gaussians = event.num_gaussians
            case Notice():
                self.notices.append(event.message)
            case RunEnded():
                self.status, self.error = event.status, event.error
                self.psnr = event.scores.get("psnr", self.psnr)
                self.ssim = event.scores.get("ssim", self.ssim)
        if isinstance(event, Progress | Evaluated):
            self._recent.append((event.seconds, event.step))

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
        if self.remaining is not None:
            parts.append(f"{duration(self.remaining)} left")
        return " | ".join(parts)


class View:
    """Keeps the state of all runs and draws nothing; the base of the views that do."""

    interval = NOTEBOOK_INTERVAL

    def __init__(self, names: Sequence[str], clock: Callable[[], float] = time.monotonic):
        self.runs = [RunState(name) for name in names]
        self.notes: list[str] = []
        self._clock = clock
        self._due = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def take(self, index: int, event: Event) -> None:
        """Learn from an event of a run; draw if it matters or some time has passed."""
        self.runs[index].take(event)
        matters = isinstance(event, RunStarted | RunEnded | Notice)
        if matters or self._clock() >= self._due:
            self.draw(index, event)
            self._due = self._clock() + self.interval

    def note(self, message: str) -> None:
        """Say something about the sweep as a whole."""
        self.notes.append(message)

    def draw(self, index: int, event: Event) -> None:
        """Show the state of all runs, of which ``index`` is going on."""

    def close(self) -> None:
        """Show how it ended."""


class TerminalView(View):
    """A line that is renewed in place, or a new line every few seconds where that is impossible."""

    def __init__(self, names: Sequence[str], stream: TextIO | None = None, **options: Any):
        super().__init__(names, **options)
        self._stream = stream or sys.stderr
        self._in_place = self._stream.isatty()
        self.interval = NOTEBOOK_INTERVAL if self._in_place else LINE_INTERVAL

    def draw(self, index: int, event: Event) -> None:
        run = self.runs[index]
        which = f"[{index + 1}/{len(self.runs)}] " if len(self.runs) > 1 else ""
        if isinstance(event, Notice):
            self._line(f"{which}{run.name}: {event.message}", keep=True)
        elif isinstance(event, RunEnded):
            why = f": {run.error}" if run.error else ""
            self._line(f"{which}{run.name}: {run.status}{why} | {run.summary()}", keep=True)
        else:
            self._line(f"{which}{run.name}: {run.summary()}", keep=not self._in_place)

    def note(self, message: str) -> None:
        super().note(message)
        self._line(message, keep=True)

    def _line(self, text: str, *, keep: bool) -> None:
        if self._in_place:
            if not keep:
                text = text[: shutil.get_terminal_size().columns - 1]
            text = f"\r\x1b[K{text}"
        self._stream.write(text + ("\n" if keep else ""))
        self._stream.flush()


class NotebookView(View):
    """Progress bars that are renewed in place and end as a table that a saved notebook keeps."""

    def __init__(
        self,
        names: Sequence[str],
        display: Callable[..., Any] | None = None,
        folders: Sequence[str] = (),
        **options: Any,
    ):
        super().__init__(names, **options)
        if display is None:
            from IPython.display import display
        import ipywidgets

        wide = ipywidgets.Layout(width="auto", max_width="60em")
        self.total = ipywidgets.FloatProgress(max=len(names), layout=wide)
        self.bar = ipywidgets.FloatProgress(max=1.0, layout=wide)
        self.text = ipywidgets.HTML()
        self.table = ipywidgets.HTML()
        several = (self.total,) if len(names) > 1 else ()
        self.box = ipywidgets.VBox((*several, self.bar, self.text, self.table))
        # Programs that execute a notebook find its runs here.
        self._metadata = {"splatbook": {"runs": [str(folder) for folder in folders]}}
        self._handle = display(self.box, display_id=True, metadata=self._metadata)

    def draw(self, index: int, event: Event) -> None:
        run = self.runs[index]
        self.total.value = index + run.fraction
        self.bar.value = run.fraction
        which = f"Run {index + 1} of {len(self.runs)}: " if len(self.runs) > 1 else ""
        self.text.value = f"<b>{html.escape(which + run.name)}</b><br>{html.escape(run.summary())}"
        done = [r for r in self.runs[: index + 1] if r.status not in ("waiting", "running")]
        skipped = len(done) - LISTED
        messages = [f"{plural(skipped, 'earlier run')} not listed"] if skipped > 0 else []
        self.table.value = self._as_html(done[-LISTED:], [*messages, *run.notices])

    def close(self) -> None:
        """Replace the widgets, which die with the kernel, by what they showed."""
        from IPython.display import HTML

        notices = [f"{run.name}: {notice}" for run in self.runs for notice in run.notices]
        record = self._as_html(self.runs, [*notices, *self.notes])
        if self._handle is not None:
            self._handle.update(HTML(record), metadata=self._metadata)
        for widget in (*self.box.children, self.box):
            widget.close()

    @staticmethod
    def _as_html(runs: Sequence[RunState], messages: Sequence[str]) -> str:
        head = ["run", "status", *(Cell(name, number=True) for name in _COLUMNS)]
        table = html_table([_row(run) for run in runs], head) if runs else ""
        return table + "".join(f"<div>{html.escape(message)}</div>" for message in messages)


_COLUMNS = ("steps", "PSNR (dB)", "SSIM", "Gaussians", "training")


def _row(run: RunState) -> list[Cell]:
    values = (
        f"{run.step:,}",
        number(run.psnr),
        number(run.ssim, 4),
        f"{run.num_gaussians:,}",
        duration(run.seconds),
    )
    status = Cell(run.status + (f": {run.error}" if run.error else ""))
    return [Cell(run.name), status, *(Cell(value, number=True) for value in values)]


def in_notebook() -> bool:
    """Whether this process is a Jupyter kernel, which can show widgets."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None


def open_view(names: Sequence[str], folders: Sequence[str], *, show: bool = True) -> View:
    """The view that fits where this runs.

    Parameters
    ----------
    names : of the runs, as the user knows them.
    folders : of the runs.
    show : False draws nothing.
    """
    if not show:
        return View(names)
    return NotebookView(names, folders=folders) if in_notebook() else TerminalView(names)
