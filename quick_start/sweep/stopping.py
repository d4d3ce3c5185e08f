"""Whether a sweep is to end, whoever asked for it: a signal, a button, another process."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopping:
    """Whether a sweep is to end: because of a signal, of ``event``, or because ``also`` says so.

    All wait for :meth:`check`, which raises KeyboardInterrupt; a second Ctrl-C does not. In the
    middle of a compiled kernel it would turn into a SystemError, and the run would count as failed.
    The trainer gives a sign of life several times a second, so the wait is short.

    A signal that the process ignores stays ignored. SIGTERM, with which a batch system asks for its
    machine back, still ends the process, but not before what was reached is kept.

    Parameters
    ----------
    event : anybody may set it.
    also : asked whenever the trainer asks; it must answer at once.
    """

    def __init__(
        self, event: threading.Event | None = None, also: Callable[[], bool] | None = None
    ) -> None:
        self.event = threading.Event() if event is None else event
        self._also = also or (lambda: False)
        self._pressed = self._ended = False

    def __enter__(self) -> Self:
        self._in_charge = threading.current_thread() is threading.main_thread()
        if self._in_charge:  # others may not, and are not interrupted either
            heard = [n for n in SIGNALS if signal.getsignal(n) is not signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._note) for number in heard}
        return self

    def __exit__(self, *error: object) -> None:
        if self._in_charge:
            for number, handler in self._before.items():
                signal.signal(number, handler or signal.SIG_DFL)
            if self._ended:
                signal.raise_signal(signal.SIGTERM)

    def _note(self, number: int, frame: object) -> None:
        self._ended |= number == signal.SIGTERM
        if self._pressed and number == signal.SIGINT:  # a pool sends SIGTERM once more
            raise KeyboardInterrupt
        self._pressed = True  # and not the event, whose lock may be held at this very moment

    def asked(self) -> bool:
        """Whether the sweep is to end."""
        return self._pressed or self.event.is_set() or self._also()

    def check(self) -> None:
        """Raise KeyboardInterrupt if the sweep is to end."""
        if self.asked():
            raise KeyboardInterrupt
