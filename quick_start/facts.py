"""Checks what a `run.json` says before anything relies on it: it may be damaged, or foreign."""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from settings import shown

LARGEST_FILE = 1 << 24  # bytes. A run notes a few hundred lines at most
LARGEST_COUNT = 2**53  # which is exact as a floating-point number, too


def read(path: Path) -> dict[str, Any]:
    """The facts in a ``run.json``, of which those that are there are of the right kind.

    Raises
    ------
    OSError, ValueError
        Where it cannot be read, or a fact cannot be right.
    """
    if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for
        raise ValueError("it is no plain file")
    with path.open("rb") as file:
        content = file.read(LARGEST_FILE + 1)
    if len(content) > LARGEST_FILE:
        raise ValueError(f"it has more than {LARGEST_FILE} bytes")
    try:
        record = json.loads(content.decode("utf-8"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(record, dict):
        raise ValueError("it holds no facts")
    for name, check in CHECKS.items():
        if name in record and not check(record[name]):
            raise ValueError(f"its {name} cannot be {shown(record[name])}")
    return record


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def is_count(value: Any) -> bool:
    """A whole number that is not negative, and none that would fill pages."""
    return type(value) is int and 0 <= value <= LARGEST_COUNT


def _is_number(value: Any) -> bool:
    """A number, perhaps infinite or as text, or None for what was not measured."""
    try:
        return value is None or (not isinstance(value, bool) and not math.isnan(float(value)))
    except (TypeError, ValueError, OverflowError):
        return False


def _is_stem(value: Any) -> bool:
    """The name of a picture, which is part of the names of files in the run's folder."""
    separators = {"/", "\0", os.sep, os.altsep or "/"}
    return _is_text(value) and not separators & set(value)


def _each(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """A check that all values of a dict pass; None stands for an empty one."""
    return lambda value: (
        value is None or (isinstance(value, dict) and all(map(check, value.values())))
    )


def _is_picture(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    names = value.get("names")
    sides = [value.get(name) for name in ("width", "height", "channels")]
    return (
        _is_text(value.get("name"))
        and isinstance(names, list)
        and all(map(_is_stem, names))
        and all(side is None or is_count(side) for side in sides)
    )


CHECKS: dict[str, Callable[[Any], bool]] = {
    "status": _is_text,
    "error": _is_text,
    "settings": lambda value: isinstance(value, dict),
    "picture": _is_picture,
    "steps_done": is_count,
    "num_gaussians": is_count,
    "scores": _each(_is_number),
    "seconds": _each(_is_number),
    "size": _each(_is_number),
    "reasons": _each(_is_text),
}
