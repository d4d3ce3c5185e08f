"""What a run tells of itself from another process, and how that process is told to stop.

Everything goes through files in the session's folder ``.live``, which any worker must see anyway:
``<index>.jsonl`` holds events as lines of JSON, ``<index>-<name>.npy`` the newest pictures, reduced
to what the live view shows. ``<token>.going-on`` is there as long as the training listens: runs end
once it is gone, also where the training was killed and another one took over the session. Nothing
that is read is executed.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import IO, Any, Self

import numpy as np

from events import Event, RunStarted
from quick_start.dashboard.panels import panel
from quick_start.dashboard.view import INTERVAL
from quick_start.sweep.plan import LIVE

ATTEMPT = "attempt"  # the line with which each attempt at a run begins
PICTURES = ("target", "image")  # fields of events
SECONDS_BETWEEN_LOOKS = 0.2  # for the file that says go on
MOST_LINE_BYTES = 1_000_000
KINDS = {kind.__name__: kind for kind in Event.__subclasses__()}


class Outbox:
    """The worker's end: puts events of one run where the training's own process finds them.

    Parameters
    ----------
    folder : of the session.
    index : of the run.
    token : of the :class:`Inbox`.
    pictures : whether anybody looks at pictures.
    """

    def __init__(self, folder: Path, index: int, token: str, *, pictures: bool):
        self._folder, self._index, self._pictures = folder / LIVE, index, pictures
        self._token = token
        self._file: IO[str] = (self._folder / f"{index}.jsonl").open("a", encoding="utf-8")
        self._started: RunStarted | None = None
        self._shown = self._looked = -np.inf
        self._stopped = False
        self._file.write("\n")  # an attempt before may have ended in the middle of a line
        self._write({"kind": ATTEMPT})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(OSError):  # a full disk must not hide why the run ended
            self._file.close()

    def put(self, event: Event) -> None:
        """Pass an event on; its picture at most as often as it would be drawn.

        Where that is impossible, nobody learns of it: the run itself matters more.
        """
        if isinstance(event, RunStarted):
            self._started = event
        line = {"kind": type(event).__name__}
        with contextlib.suppress(OSError):
            for field in fields(event):
                value = getattr(event, field.name)
                if field.name in PICTURES and hasattr(value, "shape"):
                    value = self._put_picture(field.name, value)
                line[field.name] = os.fspath(value) if isinstance(value, Path) else value
            self._write(line)

    def stop_asked(self) -> bool:
        """Whether the run is to end."""
        now = time.monotonic()
        if not self._stopped and now - self._looked > SECONDS_BETWEEN_LOOKS:
            self._looked = now
            with contextlib.suppress(OSError):  # of a file server that is away for a moment
                self._stopped = is_over(self._folder.parent, self._token)
        return self._stopped

    def _put_picture(self, name: str, picture: Any) -> bool:
        """Save a picture as a panel of the live view; whether that was done."""
        now = time.monotonic()
        wanted = name == "target" or now - self._shown > INTERVAL
        if not (self._pictures and wanted and self._started):
            return False
        if name == "image":
            self._shown = now
        size = self._started.width, self._started.height
        path = _picture_path(self._folder, self._index, name)
        with path.with_suffix(".new").open("wb") as file:
            np.save(file, panel(picture, *size, self._started.splits))
        path.with_suffix(".new").replace(path)
        return True

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()


class Inbox:
    """The other end: reads what all runs tell, and may stop them.

    Parameters
    ----------
    folder : of the session.

    Attributes
    ----------
    token : is handed to the other ends, which stop when its file is gone.
    attempts : per index, how often a run was begun.
    """

    def __init__(self, folder: Path):
        self._folder = folder / LIVE
        self._folder.mkdir(exist_ok=True)
        self._offsets: dict[int, int] = {}
        self.attempts: dict[int, int] = {}
        for path in self._folder.iterdir():  # of a training that was cut off
            if path.suffix != ".lock":
                path.unlink(missing_ok=True)
        self.token = secrets.token_hex(6)
        _sign(self._folder, self.token).touch()

    def events(self) -> Iterator[tuple[int, Event]]:
        """What is new: the index of a run, and an event of it."""
        for path in sorted(self._folder.glob("*.jsonl")):
            with contextlib.suppress(FileNotFoundError):  # somebody tidies up
                if path.stem.isdecimal():
                    yield from self._read(int(path.stem), path)

    def forget(self, index: int) -> None:
        """Delete what a run told; it is over."""
        for path in (self._folder / f"{index}.jsonl", *self._folder.glob(f"{index}-*.npy")):
            path.unlink(missing_ok=True)
        self._offsets.pop(index, None)

    def stop(self) -> None:
        """Tell all runs to end."""
        _sign(self._folder, self.token).unlink(missing_ok=True)

    def _read(self, index: int, path: Path) -> Iterator[tuple[int, Event]]:
        with path.open("rb") as file:
            file.seek(self._offsets.get(index, 0))
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]  # the last line may still be written
        self._offsets[index] = self._offsets.get(index, 0) + len(whole)
        for line in whole.splitlines():
            if len(line) > MOST_LINE_BYTES:
                continue
            with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
                facts = json.loads(line)
                if facts["kind"] == ATTEMPT:
                    self.attempts[index] = self.attempts.get(index, 0) + 1
                else:
                    yield index, self._with_pictures(index, _to_event(facts))

    def _with_pictures(self, index: int, event: Event) -> Event:
        names = [name for name in PICTURES if hasattr(event, name)]
        return replace(event, **{name: self._picture(index, name, event) for name in names})

    def _picture(self, index: int, name: str, event: Event) -> np.ndarray | None:
        if getattr(event, name) is not True:
            return None
        try:
            found = np.load(_picture_path(self._folder, index, name), allow_pickle=False)
        except (OSError, ValueError):
            return None
        return found if found.dtype == np.uint8 and found.ndim == 3 else None


def is_over(folder: Path, token: str) -> bool:
    """Whether the training in a session, which gave a token, has ended or is to end."""
    return not _sign(folder / LIVE, token).exists()


def _sign(folder: Path, token: str) -> Path:
    return folder / f"{token}.going-on"


def _picture_path(folder: Path, index: int, name: str) -> Path:
    return folder / f"{index}-{name}.npy"


def _to_event(facts: dict[str, Any]) -> Event:
    kind = KINDS[facts.pop("kind")]
    for name in ("folder", "path"):
        if name in facts:
            facts[name] = Path(facts[name])
    if "splits" in facts:
        facts["splits"] = tuple(facts["splits"])
    return kind(**facts)
