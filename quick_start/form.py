"""A form made from the settings: choose, see what it will cost, train, stop, watch."""

from __future__ import annotations

import html
import threading
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import ipywidgets

from quick_start._chooser import PictureChooser
from quick_start._fields import Field, problem_html
from quick_start._form_style import COPY, STYLE
from quick_start._hearing import answer_on_any_thread
from quick_start._preset_bar import PresetBar
from quick_start.config import AXES, TrainingConfig
from quick_start.draft import FIELDS, Typed, call_text, defaults, read, typed
from quick_start.outlook import Outlook
from quick_start.presets import PresetNames, preset_values
from settings import SettingsError, groups

if TYPE_CHECKING:
    from quick_start.runs import Run

CHOOSE = "Choose a picture: click one, type its name, or upload one."
FIRST = (*AXES, "make_training_video")  # what stands above the groups


def settings_form(
    config: TrainingConfig | None = None, *, preset: PresetNames | None = None, **settings: Any
) -> SettingsForm:
    """A form for a notebook: every setting, what a training will cost, and a button to start it.

    Parameters
    ----------
    config : what it starts with.
    preset, settings : the same in parts, as in :func:`set_config`, or changes to ``config``. A
        picture need not be named: where the folder holds just one, it is chosen.

    Returns
    -------
    SettingsForm
        As the last line of a cell it is shown. ``form.config`` is what is typed, ``form.runs``
        what was trained last, ``form.wait()`` waits for a training.

    Raises
    ------
    SettingsError
        Where a setting is unknown; a value that is wrong is explained in the form.
    """
    values = config.changes() if config is not None else {}
    values |= (preset_values(preset) if preset is not None else {}) | settings
    if unknown := {name: value for name, value in values.items() if name not in FIELDS}:
        TrainingConfig.build(input_filenames="any", **unknown)
    return SettingsForm({name: typed(name, value) for name, value in values.items()})


class SettingsForm(ipywidgets.VBox):
    """See :func:`settings_form`.

    Attributes
    ----------
    fields : of every setting, by its name.
    chooser : of the pictures.
    presets : to apply and to undo.
    train, stop : buttons.
    call : the text of the ``set_config`` call.
    live : the box that holds the live view.
    runs : of the last training that ended; empty before.
    """

    def __init__(self, values: dict[str, Typed]):
        self.runs: list[Run] = []
        self._ready = self._busy = False
        # Waited for in place of the thread: after an interrupt, Python 3.11 takes that for ended.
        self._idle = threading.Event()
        self._idle.set()
        self._one_at_a_time = threading.RLock()  # the browser, cells and the training change it
        self._halt = threading.Event()
        self._config: TrainingConfig | None = None
        start = defaults() | values
        self.fields = {name: Field(name, start[name], self._changed) for name in FIELDS}
        self.chooser = PictureChooser(
            self.fields["input_filenames"], lambda: str(self.fields["input_dir"].value)
        )
        self.presets = PresetBar(lambda: self.values, self._set)
        self.outlook = Outlook()
        self._make_controls()
        self._make_call()
        super().__init__(
            (
                ipywidgets.HTML(STYLE, layout=ipywidgets.Layout(display="none")),
                self.presets.box, *self._first(), self._groups(), self._start_row(), self.live,
            )
        )  # fmt: skip
        self.add_class("splatbook-form")
        self._folder = self.fields["input_dir"].value
        if not values.get("input_filenames") and len(self.chooser.choices) == 1:
            self.fields["input_filenames"].value = self.chooser.choices[0].name
        answer_on_any_thread(self.train, self.stop, self.call, self.more, self.tabs)
        self._ready = True
        self._changed()

    # What is shown

    def _make_controls(self) -> None:
        self.train = ipywidgets.Button(description="Train", icon="play", button_style="primary")
        self.stop = ipywidgets.Button(
            description="Stop", icon="stop", disabled=True,
            tooltip="Ends the training; what was reached is kept",
        )  # fmt: skip
        self.train.on_click(lambda _: self._start())
        self.stop.on_click(lambda _: self._press_stop())
        self._buttons = ipywidgets.HBox((self.train, self.stop))
        self.status = ipywidgets.HTML()
        self.live = ipywidgets.VBox()

    def _make_call(self) -> None:
        self.call = ipywidgets.Textarea(
            rows=5, layout=ipywidgets.Layout(width="auto", flex="1 1 auto"), continuous_update=False
        )
        # It is there to be copied: what somebody types into it would be lost without a word.
        self.call.observe(lambda _: self._show_call(), "value")
        head = ipywidgets.HBox(
            (_heading("The same in code"), ipywidgets.HTML(COPY)),
            layout=ipywidgets.Layout(justify_content="space-between"),
        )
        self._call_box = ipywidgets.VBox((head, self.call))
        self._call_box.add_class("splatbook-call")

    def _start_row(self) -> ipywidgets.Box:
        half = ipywidgets.Layout(flex="1 1 24em", width="auto")
        self._call_box.layout = half
        left = ipywidgets.VBox((self.outlook.view, self._buttons, self.status), layout=half)
        row = ipywidgets.HBox(
            (left, self._call_box), layout=ipywidgets.Layout(flex_flow="row wrap")
        )
        row.add_class("splatbook-start")
        return row

    def _first(self) -> Sequence[ipywidgets.Widget]:
        return self.chooser.box, *(self.fields[name].row for name in FIRST[1:])

    def _groups(self) -> ipywidgets.Accordion:
        self._grouped = {
            group: [name for name in names if name not in FIRST]
            for group, names in groups(TrainingConfig).items()
        }
        boxes = [
            ipywidgets.VBox([self.fields[name].row for name in names])
            for names in self._grouped.values()
        ]
        self.tabs = ipywidgets.Tab(boxes)
        self.more = ipywidgets.Accordion((self.tabs,), selected_index=None)
        return self.more

    def __repr__(self) -> str:
        """What a notebook keeps of it where widgets cannot be shown."""
        return f"Settings form:\n{self.call.value}"

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        """As every widget's, but with all of the text, which ipywidgets cuts after 110 letters."""
        return super()._repr_mimebundle_(**options) | {"text/plain": repr(self)}

    # What is typed

    @property
    def config(self) -> TrainingConfig:
        """What is typed, as :func:`set_config` would return it.

        Raises
        ------
        SettingsError
            Where something typed is wrong.
        """
        reading = read(self.values)
        if reading.config is None:
            raise SettingsError("\n".join(dict.fromkeys(reading.problems.values())))
        return reading.config

    @property
    def values(self) -> dict[str, Typed]:
        """What is typed, right or wrong, by setting."""
        return {name: field.value for name, field in self.fields.items()}

    def _changed(self) -> None:
        """Explain what is wrong, or show what it would cost."""
        if self._ready:
            with self._one_at_a_time:
                self._look_at(self.values)

    def _look_at(self, values: dict[str, Typed]) -> None:
        if values["input_dir"] != self._folder:
            self._folder = values["input_dir"]
            self.chooser.look()
        reading = read(values)
        if not self.chooser.chosen:
            reading.problems["input_filenames"] = CHOOSE
        for name, field in self.fields.items():
            problem = reading.problems.get(name, "")
            field.problem = "" if problem == CHOOSE else problem
        self._config = reading.config
        self._show_titles(values, reading.problems)
        self._show_call()
        self.outlook.show(reading.config, busy=self.is_training)
        self._show_state(reading.problems)

    def _show_titles(self, values: dict[str, Typed], problems: dict[str, str]) -> None:
        """Say on what is closed what is inside of it."""
        unchanged = defaults()

        def title(text: str, names: Iterable[str]) -> str:
            names = list(names)
            wrong = sum(name in problems for name in names)
            changed = sum(values[name] != unchanged[name] for name in names)
            notes = [f"{changed} changed"] * bool(changed) + [f"{wrong} to correct"] * bool(wrong)
            return f"{text} ({', '.join(notes)})" if notes else text

        self.tabs.titles = [title(group, names) for group, names in self._grouped.items()]
        self.more.titles = [title("More settings", chain(*self._grouped.values()))]

    def _show_call(self) -> None:
        if self._config is not None:
            text = call_text(self._config)
            self.call.rows = text.count("\n") + 1
        else:
            text = "# The call stands here once everything above is right."
        self.call.value = text

    def _show_state(self, problems: dict[str, str]) -> None:
        """Whether training can start, and if not, why."""
        busy = self.is_training
        self.train.disabled = busy or bool(problems)
        self.train.description = "Training" if busy else "Train"
        self.stop.disabled = not busy or self._halt.is_set()
        self.stop.description = "Stopping" if busy and self._halt.is_set() else "Stop"
        if busy:
            return
        if not problems:
            self.status.value = self._ended
            return
        wrong = [text for text in dict.fromkeys(problems.values()) if text != CHOOSE]
        lines = "".join(map(problem_html, wrong))
        self.status.value = f"Correct this before training:{lines}" if wrong else CHOOSE

    _ended = ""  # how the last training ended

    def _set(self, values: dict[str, Typed]) -> None:
        """Change several fields, and look at them once."""
        self._ready = False
        try:
            for name, value in values.items():
                self.fields[name].value = value
        finally:
            self._ready = True
        self._changed()

    # Training

    @property
    def is_training(self) -> bool:
        """Whether a training that was started here goes on."""
        return self._busy

    def wait(self, timeout: float | None = None) -> list[Run]:
        """Wait until the training has ended, or for so many seconds, and give its runs.

        The kernel's interrupt ends the training, too, and keeps what was reached.
        """
        try:
            self._idle.wait(timeout)
        except KeyboardInterrupt:
            self._press_stop()
            self._idle.wait()
        return self.runs

    def _start(self) -> None:
        with self._one_at_a_time:  # a second click finds the first one's training
            if self._busy or self._config is None:
                return
            self._busy = True
            self._halt.clear()
            self._ended = ""
            self.status.value = ""
            self.live.children = ()
            self._show_state({})
            self._idle.clear()
            threading.Thread(target=self._run, args=(self._config,), daemon=True).start()

    def _press_stop(self) -> None:
        self._halt.set()
        self._show_state({})

    def _run(self, config: TrainingConfig) -> None:
        try:
            self.runs = self._train(config)
            self._ended = _summary(self.runs)
        except Exception as error:  # whatever it is, it is told where the button was pressed
            self.runs = getattr(error, "runs", [])
            known = isinstance(error, ValueError | RuntimeError)
            self._ended = problem_html(f"{error}" if known else f"{type(error).__name__}: {error}")
        finally:
            self._busy = False
            try:
                self._changed()
            finally:
                self._idle.set()

    def _train(self, config: TrainingConfig) -> list[Run]:
        from quick_start import training

        return training.train(config, display=self._place, stop=self._halt)

    def _place(self, widget: ipywidgets.Widget, **options: Any) -> None:
        """Take the live view in."""
        self.live.children = (widget,)


def _heading(text: str) -> ipywidgets.HTML:
    return ipywidgets.HTML(f'<div class="splatbook-heading">{html.escape(text)}</div>')


def _summary(runs: Sequence[Run]) -> str:
    """How a training ended, in a line."""
    from quick_start._format import plural

    if not runs:
        return "Stopped before the first run."
    counts: dict[str, int] = {}
    for run in runs:
        counts[run.status] = counts.get(run.status, 0) + 1
    said = ", ".join(f"{count} {status}" for status, count in counts.items())
    folder = runs[0].folder.parent
    return html.escape(f"{plural(len(runs), 'run')} in {folder}: {said}.")
