"""Chooses pictures in a form: thumbnails of a folder to click, names to type, and uploads."""

from __future__ import annotations

import html
import secrets
from base64 import b64encode
from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets

from imaging.files import SUFFIXES, PictureError
from quick_start._background import Latest
from quick_start._fields import Field, problem_html
from quick_start._hearing import answer_on_any_thread
from quick_start.draft import join_names, split_names
from quick_start.pictures import Choice, list_choices, save_upload, thumbnail

SHOWN = 24  # thumbnails at a time; a filter finds the others


class PictureChooser:
    """The field ``input_filenames``, and below it what the folder holds.

    Parameters
    ----------
    field : that is typed into; clicking changes its text.
    folder : gives the folder with the pictures.

    Attributes
    ----------
    upload, refresh, filter : widgets.
    tiles : a button for each picture that is shown, by its name.
    box : all that is shown.
    """

    def __init__(self, field: Field, folder: Callable[[], str]):
        self.field, self._folder = field, folder
        self.tiles: dict[str, ipywidgets.ToggleButton] = {}
        self.choices: list[Choice] = []
        self._class = f"splatbook-{secrets.token_hex(4)}"  # two forms on a page stay apart
        self._own_change = False
        self._work = Latest(delay=0.0)
        self.upload = ipywidgets.FileUpload(
            accept=",".join(SUFFIXES), multiple=True, description="Upload",
            tooltip="Adds pictures to input_dir",
            layout=ipywidgets.Layout(width="auto"),
        )  # fmt: skip
        self.refresh = ipywidgets.Button(
            icon="refresh", tooltip="Look into input_dir again",
            layout=ipywidgets.Layout(width="auto"),
        )  # fmt: skip
        self.filter = ipywidgets.Text(placeholder="part of a name", description="Show")
        self._images = ipywidgets.HTML(layout=ipywidgets.Layout(display="none"))
        self._grid = ipywidgets.Box(
            layout=ipywidgets.Layout(flex_flow="row wrap", max_height="290px", overflow="auto")
        )
        self.message = ipywidgets.HTML()
        field.row.children = (*field.row.children[:2], self.refresh, self.upload)
        field.input.layout = ipywidgets.Layout(flex="1 1 auto", width="auto")
        field.note.layout = ipywidgets.Layout(width="auto")
        self.box = ipywidgets.VBox(
            (field.row, field.note, self.filter, self._images, self._grid, self.message)
        )
        self.box.add_class("splatbook-chooser")
        self.upload.observe(self._uploaded, "value")
        self.refresh.on_click(lambda _: self.look())
        self.filter.observe(lambda _: self._show(), "value")
        field.input.observe(lambda _: self._mark(), "value")
        answer_on_any_thread(self.upload, self.refresh, self.filter)
        self.look()

    def look(self) -> None:
        """List the folder again."""
        try:
            self.choices = list_choices(self._folder())
            hint = f"Copy pictures of more than 10 MB into the folder {self._folder()} yourself."
            self.message.value = f'<div class="splatbook-help">{html.escape(hint)}</div>'
        except PictureError as error:
            self.choices = []
            self.message.value = problem_html(str(error))
        self.filter.layout.display = "" if len(self.choices) > SHOWN else "none"
        self._show()

    @property
    def chosen(self) -> list[str]:
        """The names that are typed, or were clicked."""
        return split_names(self.field.value) if isinstance(self.field.value, str) else []

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the thumbnails; whether they came within so many seconds."""
        return self._work.wait(timeout)

    def _show(self) -> None:
        wanted = self.filter.value.casefold().strip()
        found = [c for c in self.choices if wanted in c.name.casefold()]
        found.sort(key=lambda choice: choice.name not in self.chosen)  # what is chosen comes first
        shown = found[:SHOWN]
        for tile in self.tiles.values():
            tile.close()
        self.tiles = {choice.name: self._tile(i, choice) for i, choice in enumerate(shown)}
        more = len(found) - len(shown)
        rest = (
            [ipywidgets.HTML(f"and {more:,} more: type a part of the name above")] if more else []
        )
        self._grid.children = (*self.tiles.values(), *rest)
        self._work.ask(lambda: self._draw(shown))

    def _tile(self, index: int, choice: Choice) -> ipywidgets.ToggleButton:
        label = f"{choice.name}/ ({len(choice.files)})" if choice.is_stack else choice.name
        tile = ipywidgets.ToggleButton(
            choice.name in self.chosen, description=label, tooltip=choice.describe()
        )
        tile.add_class("splatbook-tile")
        tile.add_class(f"{self._class}-{index}")
        answer_on_any_thread(tile)
        tile.observe(lambda change: self._clicked(choice.name, change["new"]), "value")
        return tile

    def _draw(self, shown: Sequence[Choice]) -> None:
        """Put the thumbnails behind their buttons; they travel as one style sheet."""
        rules = []
        for index, choice in enumerate(shown):
            if (picture := thumbnail(choice)) is not None:
                source = f"data:image/jpeg;base64,{b64encode(picture).decode()}"
                rules.append(f".{self._class}-{index} {{ background-image: url({source}); }}")
        self._images.value = f"<style>{' '.join(rules)}</style>"

    def _clicked(self, name: str, on: bool) -> None:
        if self._own_change:
            return
        others = [other for other in self.chosen if other != name]
        self.field.value = join_names([*others, name] if on else others)

    def _mark(self) -> None:
        """Show as pressed what is typed."""
        chosen = set(self.chosen)
        self._own_change = True
        try:
            for name, tile in self.tiles.items():
                tile.value = name in chosen
        finally:
            self._own_change = False

    def _uploaded(self, change: dict[str, Any]) -> None:
        if not change["new"]:
            return
        lines, names = [], []
        for file in change["new"]:
            try:
                saved = save_upload(file["name"], file["content"], self._folder())
            except PictureError as error:
                lines.append(problem_html(str(error)))
                continue
            names.append(saved.name)
            what = "was added" if saved.is_new else "was there already, and is chosen"
            lines.append(f'<div class="splatbook-help">{html.escape(saved.name)} {what}.</div>')
        self.upload.value = ()  # so that the same file can be uploaded again
        if names:
            self.field.value = join_names(list(dict.fromkeys([*self.chosen, *names])))
            self.look()
        self.message.value = "".join(lines)
