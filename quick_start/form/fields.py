"""A widget for one setting, made from its declaration: name, input, unit, help, what is wrong."""

from __future__ import annotations

import html
from collections.abc import Callable

import ipywidgets

from quick_start.config import TrainingConfig
from quick_start.dashboard.hearing import answer_on_any_thread
from quick_start.form.draft import FIELDS, Typed, choices, kind
from settings import describe_range

# One layout for all of a kind, so that sixty settings stay light in the browser.
_NAME = ipywidgets.Layout(width="15em", flex="0 0 auto")
_INPUT = ipywidgets.Layout(width="13em", flex="0 0 auto")
_NOTE = ipywidgets.Layout(flex="1 1 0", min_width="0", width="auto")
_ROW = ipywidgets.Layout(align_items="baseline", width="auto")


class Field:
    """A setting in a form.

    Attributes
    ----------
    name : of the setting.
    input : the widget that is typed into.
    note : the help, or what is wrong.
    row : all that is shown.
    """

    def __init__(self, name: str, value: Typed, changed: Callable[[], None]):
        self.name = name
        self.input = _input(name, value)
        self._problem = ""
        self.note = ipywidgets.HTML(self._help(), layout=_NOTE)
        title = html.escape(f"{FIELDS[name].description} Allowed: {allowed(name)}.")
        label = ipywidgets.HTML(
            f'<label class="splatbook-name" title="{title}">{name}</label>', layout=_NAME
        )
        self.row = ipywidgets.HBox((label, self.input, self.note), layout=_ROW)
        self.input.observe(lambda _: changed(), "value")
        answer_on_any_thread(self.input)

    @property
    def value(self) -> Typed:
        """What is typed."""
        return self.input.value

    @value.setter
    def value(self, value: Typed) -> None:
        self.input.value = value

    @property
    def problem(self) -> str:
        """What is wrong with it, shown in place of the help; empty where nothing is."""
        return self._problem

    @problem.setter
    def problem(self, text: str) -> None:
        if text == self._problem:
            return
        self._problem = text
        self.note.value = problem_html(text) if text else self._help()

    def _help(self) -> str:
        field = FIELDS[self.name]
        unit = field.json_schema_extra["unit"]
        shown = f'<span class="splatbook-unit">{html.escape(unit)}</span> ' if unit else ""
        return f'<div class="splatbook-help">{shown}{html.escape(field.description)}</div>'


def allowed(name: str) -> str:
    """The values that a setting may take, in words, with the unit."""
    unit = FIELDS[name].json_schema_extra["unit"]
    several = ", or several with commas" if kind(name) == "list" else ""
    return f"{describe_range(TrainingConfig, name)}{unit and f' ({unit})'}{several}"


def problem_html(text: str) -> str:
    """An error as it stands beside what caused it."""
    return f'<div class="splatbook-problem" role="alert">{html.escape(text)}</div>'


def _input(name: str, value: Typed) -> ipywidgets.DOMWidget:
    tooltip = f"{name}: {allowed(name)}"
    if kind(name) == "switch":
        return ipywidgets.Checkbox(value, indent=False, tooltip=tooltip, layout=_INPUT)
    if kind(name) == "choice":
        return ipywidgets.Dropdown(
            value=value, options=choices(name), tooltip=tooltip, layout=_INPUT
        )
    return ipywidgets.Text(value, tooltip=tooltip, placeholder=_placeholder(name), layout=_INPUT)


def _placeholder(name: str) -> str:
    return "" if FIELDS[name].is_required() or FIELDS[name].default is not None else "none"
