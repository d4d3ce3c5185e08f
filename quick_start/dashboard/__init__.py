"""The live view of a sweep: takes the trainer's events and shows them in a notebook or a shell.

`RunState` keeps what is known of a run, a `View` draws it. Another front end is another `View`.
"""

from __future__ import annotations

import html
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from events import Evaluated, Event, RunEnded, RunStarted
from quick_start.dashboard import record
from quick_start.dashboard.hearing import Hearing, answer_on_any_thread
from quick_start.dashboard.pictures import Pictures
from quick_start.dashboard.terminal import TerminalView
from quick_start.dashboard.view import RunState, View, tell

__all__ = ["NotebookView", "RunState", "TerminalView", "View", "in_notebook", "open_view"]

PATIENCE = 6  # questions that a browser may leave unanswered before it counts as deaf
SMALL_PICTURES = 24  # of runs, in the record of a sweep
STOPPING = "Stopping at the end of this step; what was reached is kept."
DEAF = (
    "This front end passes no button on while a cell runs. To stop, interrupt the kernel; what was "
    "reached is kept."
)


class NotebookView(View):
    """Bars, pictures and curves that are renewed in place and end as HTML that a notebook keeps.

    Where several runs go on at once, the one that is shown stays until it has ended.

    Parameters
    ----------
    names : of the runs.
    display : shows a widget, as IPython's ``display`` does. Where it returns no handle, the record
        is shown inside the widget in the end.
    folders : of the runs.
    stop : is set when the Stop button is pressed.
    """

    shows_pictures = True

    def __init__(
        self,
        names: Sequence[str],
        display: Callable[..., Any] | None = None,
        folders: Sequence[str] = (),
        stop: threading.Event | None = None,
        **options: Any,
    ):
        super().__init__(names, **options)
        self._shown = 0
        self._newest: dict[int, dict[type[Event], Event]] = {}  # of runs that go on
        if display is None:
            from IPython.display import display
        self.pictures = Pictures()
        self._stop = stop or threading.Event()
        self._lock = threading.Lock()  # buttons are handled by other threads
        self._small: deque[str] = deque(maxlen=SMALL_PICTURES)
        self._make_widgets()
        # Programs that execute a notebook find its runs here.
        self._metadata = {"splatbook": {"runs": [str(folder) for folder in folders]}}
        self._handle = display(self.box, display_id=True, metadata=self._metadata)
        self._hearing.ask()

    def _make_widgets(self) -> None:
        import ipywidgets

        wide = ipywidgets.Layout(width="auto", max_width="72em")
        hidden = {"display": "none"}
        several = len(self.runs) > 1
        self.total = ipywidgets.FloatProgress(max=len(self.runs), layout=wide)
        self.bar = ipywidgets.FloatProgress(max=1.0, layout=wide)
        self.film = ipywidgets.FloatProgress(max=1.0, description="film", layout=hidden)
        self.text, self.charts, self.messages = (ipywidgets.HTML() for _ in range(3))
        self.stop = ipywidgets.Button(
            description="Stop", icon="stop", tooltip="End training and keep what was reached",
            layout=hidden,
        )  # fmt: skip
        self.error = ipywidgets.ToggleButton(
            description="Error map", icon="eye", layout=hidden,
            tooltip="Show where the rendering is wrong: black is exact, pale yellow 0.25 or more",
        )  # fmt: skip
        self.table = ipywidgets.VBox(
            [ipywidgets.HTML() for _ in record.blocks(self.runs)] if several else []
        )
        self._open: frozenset[Any] = frozenset()  # parts of the table with a run that goes on
        self._hearing = Hearing(self._show_buttons)
        for control in (self.stop, self.error):
            answer_on_any_thread(control)
        self.stop.on_click(self._on_stop)
        self.error.observe(self._on_error, "value")
        self.box = ipywidgets.VBox(
            [
                *([self.total] if several else []), self.bar, self.film, self.text,
                ipywidgets.HBox([self.stop, self.error]), self.pictures.box, self.charts,
                self.table, self.messages,
            ]
        )  # fmt: skip
        self._draw_table()

    # What comes in

    def take(self, index: int, event: Event) -> None:
        if index != self._shown and self.runs[self._shown].status != "running":
            self._shown = index
            for earlier in self._newest.get(index, {}).values():
                self._try(self._look, index, earlier)
        shown = index == self._shown and isinstance(event, RunStarted | Evaluated | RunEnded)
        if shown and not self.given_up:
            self._try(self._look, index, event)
        if isinstance(event, RunStarted):
            self._newest[index] = {RunStarted: event}
        elif isinstance(event, Evaluated) and isinstance(event.image, np.ndarray):
            self._newest.setdefault(index, {})[Evaluated] = event  # of another process, and small
        elif isinstance(event, RunEnded):
            self._newest.pop(index, None)
        super().take(index, event)

    def matters(self, event: Event) -> bool:
        """The last measurement, for after it a large picture is scored for quite some time."""
        return isinstance(event, Evaluated) and event.step >= event.steps

    def _look(self, index: int, event: Event) -> None:
        with self._lock:
            self.pictures.take(event)
            if isinstance(event, RunEnded) and len(self.runs) > 1 and self._purse > 0:
                with self.paid():
                    self._small.extend(self.pictures.small(self.runs[index].name))

    def _show_buttons(self) -> None:
        self.stop.layout.display = self.error.layout.display = None

    def _on_stop(self, button: Any) -> None:
        self._stop.set()
        button.disabled, button.description = True, "Stopping"
        self.messages.value = record.messages([STOPPING])

    def _on_error(self, change: Any) -> None:
        with self._lock:
            self.pictures.with_error = change["new"]
            self._try(self.pictures.draw)

    # What is shown

    def draw(self, index: int, event: Event) -> None:
        index, run = self._shown, self.runs[self._shown]
        with self._lock:
            self.total.value = sum(run.fraction for run in self.runs)
            self.bar.value = run.fraction
            self.film.layout.display = "none" if run.film is None else None
            if run.film is not None:
                self.film.value = run.film[0] / run.film[1]
            which = f"Run {index + 1:,} of {len(self.runs):,}: " if len(self.runs) > 1 else ""
            self.text.value = (
                f"<b>{html.escape(which + run.name)}</b><br>{html.escape(run.summary())}"
            )
            self.pictures.draw()
            self.charts.value = record.charts([run])
            self._draw_table()
            self.messages.value = record.messages([*run.notices, *self._hints(run)])
            self._hearing.ask()

    def _draw_table(self) -> None:
        """Renew the part of the list in which a run goes on, and that in which the last one did."""
        parts = record.blocks(self.runs)
        for widget, (first, runs) in zip(self.table.children, parts, strict=False):
            going_on = any(run.status == "running" for run in runs)
            if len(parts) == 1:
                widget.value = record.run_table(runs)
            elif going_on or not widget.value or widget in self._open:
                widget.value = record.run_block(runs, first)
            self._open = self._open | {widget} if going_on else self._open - {widget}

    def _hints(self, run: RunState) -> list[str]:
        saved = [f"last file: {run.saved}"] if run.saved else []
        deaf = self._hearing.asked >= PATIENCE and not self._hearing.answered
        stopping = [STOPPING] if self._stop.is_set() else []
        return [*saved, *([DEAF] if deaf else []), *stopping]

    def close(self) -> None:
        """Replace the widgets, which die with the kernel, by what they showed."""
        from IPython.display import HTML

        with self._lock:
            figures = [*self.pictures.figures(), *(self._small if len(self._small) > 1 else ())]
            page = record.record(self.runs, figures, self.notes)
            keep = []
            if hasattr(self._handle, "update"):
                self._handle.update(HTML(page), metadata=self._metadata)
            else:
                keep = self._show_inside(page)
            for widget in _all_of(self.box):
                if widget not in keep:
                    widget.close()
            self._hearing.close()

    def _show_inside(self, page: str) -> list[Any]:
        """Show the record in the box where the live view was; returns the widgets that stay."""
        import ipywidgets

        children, content = self.box.children, ipywidgets.HTML(page)
        self.box.children = [content]
        for child in children:
            for widget in _all_of(child):
                widget.close()
        return [self.box, content]


def _all_of(widget: Any) -> list[Any]:
    """A widget and all that it contains."""
    return [widget, *(w for child in getattr(widget, "children", ()) for w in _all_of(child))]


def in_notebook() -> bool:
    """Whether this process is a Jupyter kernel, which can show widgets."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None


def open_view(
    names: Sequence[str],
    folders: Sequence[str],
    *,
    show: bool = True,
    display: Callable[..., Any] | None = None,
    stop: threading.Event | None = None,
) -> View:
    """The view that fits where this runs.

    Parameters
    ----------
    names : of the runs, as the user knows them.
    folders : of the runs.
    show : False draws nothing.
    display : shows the view's widget, instead of IPython's ``display``.
    stop : is set by the view's Stop button.
    """
    if not show:
        return View(names)
    if display is None and not in_notebook():
        return TerminalView(names)
    try:
        return NotebookView(names, display, folders, stop)
    except Exception as error:
        tell(f"The live view cannot be shown ({type(error).__name__}: {error}).")
        return TerminalView(names)
