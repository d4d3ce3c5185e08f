"""Finds out whether the browser is heard while a cell runs, which a Stop button needs.

A running cell keeps the kernel's main thread busy. JupyterLab 4.4 and later with ipykernel 7 send
what widgets say through a second thread; other front ends and kernels leave it waiting until the
cell has ended. So the browser is asked, and buttons appear when it answers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

EAGER_QUESTIONS = 6


class Hearing:
    """Asks the browser to answer, with pairs of numbers that it keeps equal.

    Parameters
    ----------
    heard : is called when the browser was heard, on another thread than the one that trains.

    Attributes
    ----------
    answered : whether the browser was heard.
    asked : how many times it was asked.
    """

    def __init__(self, heard: Callable[[], None]) -> None:
        self.answered, self.asked, self._calls, self._heard = False, 0, 0, heard
        self._widgets: list[Any] = []

    def ask(self) -> None:
        """Ask (once more); the answer takes some milliseconds, where there is one.

        Every question is a new pair, and after a few they become rare. An answer that the browser
        gave before its way around the main thread was open is stuck, and would hold up all that
        follow from the same widget.
        """
        self._calls += 1
        rare = self._calls > EAGER_QUESTIONS and self._calls.bit_count() != 1  # 8, 16, 32 ...
        if self.answered or rare:
            return
        import ipywidgets

        self.asked += 1
        question, answer = ipywidgets.IntText(1), ipywidgets.IntText(0)
        answer_on_any_thread(answer)
        answer.observe(self._on_answer, "value")
        # Followed by the browser itself: it needs no kernel to set the answer, only to tell it.
        link = ipywidgets.jslink((question, "value"), (answer, "value"))
        self._widgets += [link, question, answer]

    def _on_answer(self, change: Any) -> None:
        if not self.answered:
            self.answered = True
            self._heard()

    def close(self) -> None:
        """Free the widgets."""
        for widget in self._widgets:
            widget.close()


def answer_on_any_thread(*widgets: Any) -> None:
    """Let what the browser says of widgets be heard while a cell runs.

    JupyterLab 4.4 sends it to a second thread of the kernel. ipykernel 7.4 hands it on to the
    thread that wrote to the widget last, which is the one that trains, or that runs a cell.
    """
    for widget in widgets:
        if widget.comm is not None:
            widget.comm._reply_subshell_for = lambda data, subshell: subshell
