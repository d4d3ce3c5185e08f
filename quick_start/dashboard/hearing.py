"""Finds out whether the browser is heard while a cell runs, which a Stop button needs.

A running cell keeps the kernel's main thread busy. JupyterLab 4.4 and later with ipykernel 7 send
what widgets say through a second thread; other front ends and kernels leave it waiting until the
cell has ended. So the browser is asked, and buttons appear when it answers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Hearing:
    """Asks the browser to answer, with two numbers that it keeps equal.

    Parameters
    ----------
    heard : is called when the browser was heard, on another thread than the one that trains.

    Attributes
    ----------
    answered : whether the browser was heard.
    """

    def __init__(self, heard: Callable[[], None]) -> None:
        import ipywidgets

        self.answered, self._heard = False, heard
        self._question, self._answer = ipywidgets.IntText(), ipywidgets.IntText()
        answer_on_any_thread(self._answer)
        self._answer.observe(self._on_answer, "value")
        # Followed by the browser itself: it needs no kernel to set the answer, only to tell it.
        self._link = ipywidgets.jslink((self._question, "value"), (self._answer, "value"))
        self.asked = 0

    def ask(self) -> None:
        """Ask (once more); the answer takes some milliseconds, where there is one."""
        if not self.answered:
            self.asked += 1
            self._question.value = self.asked

    def _on_answer(self, change: Any) -> None:
        if not self.answered:
            self.answered = True
            self._heard()

    def close(self) -> None:
        """Free the widgets."""
        for widget in (self._link, self._question, self._answer):
            widget.close()


def answer_on_any_thread(*widgets: Any) -> None:
    """Let what the browser says of widgets be heard while a cell runs.

    JupyterLab 4.4 sends it to a second thread of the kernel. ipykernel 7.4 hands it on to the
    thread that wrote to the widget last, which is the one that trains, or that runs a cell.
    """
    for widget in widgets:
        if widget.comm is not None:
            widget.comm._reply_subshell_for = lambda data, subshell: subshell
