"""Applies presets to a form, and undoes them."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any

import ipywidgets

from quick_start.dashboard.hearing import answer_on_any_thread
from quick_start.form.draft import FIELDS, Typed, typed
from quick_start.form.fields import problem_html
from quick_start.presets import preset_names, preset_purpose, preset_values
from settings import SettingsError

PROMPT = "Apply a preset"


class PresetBar:
    """A list of presets, a button that undoes, and what was done.

    Parameters
    ----------
    values : gives what is typed.
    change : types other values.

    Attributes
    ----------
    choice, undo : widgets.
    box : all that is shown.
    """

    def __init__(
        self, values: Callable[[], dict[str, Typed]], change: Callable[[dict[str, Typed]], None]
    ):
        self._values, self._change = values, change
        self._before: list[dict[str, Typed]] = []  # what was replaced, the latest last
        named = [(f"{name}: {preset_purpose(name)}", name) for name in preset_names()]
        self.choice = ipywidgets.Dropdown(
            options=[(PROMPT, ""), *named], layout=ipywidgets.Layout(width="28em")
        )
        self.undo = ipywidgets.Button(
            description="Undo", icon="undo", disabled=True, layout=ipywidgets.Layout(width="auto")
        )
        self._said = ipywidgets.HTML()
        self.box = ipywidgets.HBox(
            (self.choice, self.undo, self._said), layout=ipywidgets.Layout(flex_flow="row wrap")
        )
        self.choice.observe(self._apply, "value")
        self.undo.on_click(lambda _: self._undo())
        answer_on_any_thread(self.choice, self.undo)

    def _apply(self, change: dict[str, Any]) -> None:
        name = change["new"]
        if not name:
            return
        try:
            found = preset_values(name)
        except SettingsError as error:
            self._said.value = problem_html(str(error))
            return
        finally:
            self.choice.value = ""  # so that the same one can be applied again
        now = self._values()
        new = {n: text for n, v in found.items() if n in FIELDS and (text := typed(n, v)) != now[n]}
        self._before.append({n: now[n] for n in new})
        self._change(new)
        self.undo.disabled = False
        self._say(f"{name}: {', '.join(f'{n}={v}' for n, v in new.items()) or 'nothing changed'}")

    def _undo(self) -> None:
        self._change(self._before.pop())
        self.undo.disabled = not self._before
        self._say("undone")

    def _say(self, text: str) -> None:
        self._said.value = f'<div class="splatbook-help">{html.escape(text)}</div>'
