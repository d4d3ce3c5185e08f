"""Does work beside the one who asks for it, and only the newest of what was asked."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Latest:
    """Runs the newest request in a thread of its own; older ones that still wait are dropped.

    Parameters
    ----------
    delay : seconds between a request and its start, so that typing does not start one per key.
    """

    def __init__(self, delay: float = 0.2):
        self._delay = delay
        self._changed = threading.Condition()
        self._next: Callable[[], None] | None = None
        self._busy = False

    def ask(self, work: Callable[[], None]) -> None:
        """Have something done soon."""
        with self._changed:
            self._next = work
            if self._busy:
                return
            self._busy = True
        # Not a daemon: one that is killed within a compiled kernel, as the interpreter ends, takes
        # the process down with a message on stderr. It ends by itself, soon.
        threading.Thread(target=self._run).start()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until nothing is left to do; whether that came within so many seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._busy, timeout)

    def _run(self) -> None:
        try:
            while (work := self._wait_and_take()) is not None:
                work()
        except BaseException:
            with self._changed:
                self._done()
            raise

    def _wait_and_take(self) -> Callable[[], None] | None:
        """The newest request, or None: then this thread counts as ended."""
        time.sleep(self._delay)
        with self._changed:
            work, self._next = self._next, None
            if work is None:
                self._done()
            return work

    def _done(self) -> None:
        self._busy = False
        self._changed.notify_all()
