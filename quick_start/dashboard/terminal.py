"""The live view of a shell: one line of progress."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from typing import Any, TextIO

from events import Event, Notice, RunEnded, RunStarted
from quick_start.dashboard.view import INTERVAL, View

LINE_INTERVAL = 5.0  # seconds between lines where each is a new one of a log


class TerminalView(View):
    """A line that is renewed in place, or a new line every few seconds where that is impossible."""

    def __init__(self, names: Sequence[str], stream: TextIO | None = None, **options: Any):
        super().__init__(names, **options)
        self._stream = stream or sys.stderr
        self._in_place = self._stream.isatty()
        self.interval = INTERVAL if self._in_place else LINE_INTERVAL

    def matters(self, event: Event) -> bool:
        return isinstance(event, RunStarted | RunEnded | Notice)

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
        self._try(lambda: self._line(message, keep=True))

    def _line(self, text: str, *, keep: bool) -> None:
        if self._in_place:
            if not keep:
                text = text[: shutil.get_terminal_size().columns - 1]
            text = f"\r\x1b[K{text}"
        self._stream.write(text + ("\n" if keep else ""))
        self._stream.flush()
