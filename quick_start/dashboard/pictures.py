"""The pictures of the live view: target, rendering and error map beside each other."""

from __future__ import annotations

import html
from typing import Any

import numpy as np

from events import Evaluated, Event, RunStarted
from quick_start.dashboard import panels

CAPTIONS = {
    "target": "target",
    "rendering": "rendering",
    "error": "error: black is exact, pale yellow 0.25 or more",
}


class Pictures:
    """Widgets that show the newest pictures of the run that goes on.

    Pictures are reduced and encoded when they are drawn, not when they arrive.

    Attributes
    ----------
    box : the widget that holds all others.
    with_error : whether the error map is shown.
    """

    def __init__(self) -> None:
        import ipywidgets

        self.with_error = False
        self._size, self._splits = (1, 1), ()
        self._new: dict[str, Any] = {}  # tensors that have not become panels yet
        self._panels: dict[str, np.ndarray] = {}
        self._drawn: dict[str, np.ndarray | None] = {}
        self.images = {
            name: ipywidgets.Image(format="jpeg", layout={"max_width": "100%"}) for name in CAPTIONS
        }
        self.columns = {
            name: ipywidgets.VBox(
                [
                    self.images[name],
                    ipywidgets.HTML(f'<div style="line-height: 1.35">{html.escape(caption)}</div>'),
                ],
                # Three stand side by side from about 700 pixels on, which a notebook has.
                layout={"display": "none", "flex": "1 1 220px", "max_width": "360px"},
            )
            for name, caption in CAPTIONS.items()
        }
        layout = {"flex_flow": "row wrap", "grid_gap": "0.8em", "align_items": "flex-start"}
        self.box = ipywidgets.HBox(list(self.columns.values()), layout=layout)

    def take(self, event: Event) -> None:
        """Keep the picture of an event; nothing is drawn yet."""
        if isinstance(event, RunStarted):
            self._size, self._splits = (event.width, event.height), event.splits
            self._new, self._panels = {}, {}
            self._keep("target", event.target)
        elif isinstance(event, Evaluated):
            self._keep("rendering", event.image)

    def _keep(self, name: str, picture: Any) -> None:
        if picture is not None:  # another process does not send each one
            self._new[name] = picture

    def draw(self) -> None:
        """Show what has changed."""
        self._reduce()
        for name, column in self.columns.items():
            picture = self._panels.get(name)
            if picture is self._drawn.get(name):
                continue
            if picture is not None:
                self.images[name].value = panels.jpeg(picture)
            column.layout.display = "none" if picture is None else None
            self._drawn[name] = picture

    def figures(self) -> list[str]:
        """What is shown, as HTML that needs no kernel."""
        self._reduce()
        return [
            panels.figure(self._panels[name], caption)
            for name, caption in CAPTIONS.items()
            if name in self._panels
        ]

    def small(self, name: str) -> list[str]:
        """The rendering as small HTML, if there is one."""
        self._reduce()
        if "rendering" not in self._panels:
            return []
        picture = panels.reduced(self._panels["rendering"], panels.SMALL)
        return [panels.figure(picture, name)]

    def _reduce(self) -> None:
        """Make panels of the pictures that came in, and the error map if it is wanted."""
        if "rendering" in self._new or not self.with_error:
            self._panels.pop("error", None)
        for name in list(self._new):
            picture = self._new.pop(name)
            if not isinstance(picture, np.ndarray):
                picture = panels.panel(picture, *self._size, self._splits)
            self._panels[name] = picture
        if self.with_error and self._panels.keys() == {"target", "rendering"}:
            self._panels["error"] = panels.error_panel(
                self._panels["rendering"], self._panels["target"]
            )
