"""What somebody typed, and what it means: a configuration, or what is wrong with which setting."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args, get_origin

from quick_start.config import AXES, TrainingConfig, set_config
from settings import SettingsError

Typed = str | bool  # a switch is on or off; everything else is text

FIELDS = TrainingConfig.model_fields


@dataclass(frozen=True)
class Reading:
    """What the typed values mean.

    Attributes
    ----------
    config : the configuration, or None where something is wrong.
    problems : of each setting that is wrong, why; the settings' own words.
    """

    config: TrainingConfig | None
    problems: dict[str, str]


@cache
def kind(name: str) -> str:
    """How a setting is typed: ``switch``, ``choice``, ``list``, ``number`` or ``text``."""
    annotation = FIELDS[name].annotation
    if name in AXES:
        return "list"
    if annotation is bool:
        return "switch"
    if get_origin(annotation) is Literal:
        return "choice"
    return "number" if {int, float} & {annotation, *get_args(annotation)} else "text"


def choices(name: str) -> tuple[str, ...]:
    """The values of a setting of which one is chosen."""
    return get_args(FIELDS[name].annotation)


def typed(name: str, value: Any) -> Typed:
    """A setting's value as somebody would type it; nothing is an empty text."""
    if isinstance(value, bool):
        return value
    if value is None:
        return ""
    if name not in AXES:
        return str(value)
    several = isinstance(value, tuple | list)
    return join_names([str(v) for v in (value if several else [value])])


def defaults() -> dict[str, Typed]:
    """Every setting's default as somebody would type it; no picture is named."""
    return {
        name: "" if field.is_required() else typed(name, field.default)
        for name, field in FIELDS.items()
    }


def read(values: Mapping[str, Typed]) -> Reading:
    """Understand what was typed; settings that are left out keep their defaults."""
    unchanged, parsed, problems = defaults(), {}, {}
    for name, text in values.items():
        if text == unchanged[name] and name != "input_filenames":
            continue
        try:
            parsed[name] = _parse(name, text)
            TrainingConfig.build(**{"input_filenames": "any", name: parsed[name]})
        except SettingsError as error:
            problems[name] = str(error)
    if problems:
        return Reading(None, problems)
    try:
        return Reading(set_config(**{"input_filenames": ()} | parsed), {})
    except SettingsError as error:  # what only several settings together, or a folder, can show
        return Reading(None, _by_setting(str(error)))


def call_text(config: TrainingConfig) -> str:
    """The Python that makes a configuration: its ``set_config`` call, one setting a line."""
    changes = config.changes()
    lines = [f"    {name}={_literal(name, value)}," for name, value in changes.items()]
    return "\n".join(["config = set_config(", *lines, ")"])


def split_names(text: str) -> list[str]:
    """The names in a list separated by commas; one that has a comma in it stands in quotes."""
    rows = csv.reader([re.sub(r"[\r\n]", " ", text)], skipinitialspace=True)
    return [name for name in (item.strip() for row in rows for item in row) if name]


def join_names(names: list[str]) -> str:
    """The opposite of :func:`split_names`."""
    return ", ".join(_quoted(name) for name in names)


def _quoted(name: str) -> str:
    if name == name.strip() and not set(name) & set(',"'):
        return name
    return '"' + name.replace('"', '""') + '"'


def _parse(name: str, text: Typed) -> Any:
    """A value for the setting; what cannot be understood is left for the setting to refuse."""
    if isinstance(text, bool):
        return text
    if kind(name) == "list":
        items = split_names(text)
        return items if name == "input_filenames" else [_number(i) for i in _apart(name, text)]
    if not text.strip() and type(None) in get_args(FIELDS[name].annotation):
        return None
    return _number(text) if kind(name) == "number" else text


def _apart(name: str, text: str) -> list[str]:
    """The parts of a list of numbers. 1,000 is refused, for it may be meant as one number."""
    if found := re.search(r"(?<!\d)\d{1,3}(?:,\d{3})+(?!\d)", text):
        one = found[0].replace(",", "")
        several = ", ".join(str(int(part)) for part in found[0].split(","))
        raise SettingsError(
            f"{name}={text!r}: {found[0]} may be one number or several; type {one}, or {several} "
            "with a space after each comma."
        )
    return [part.strip() for part in text.split(",") if part.strip()]


def _number(text: str) -> int | float | str:
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


def _by_setting(message: str) -> dict[str, str]:
    """Each line of an error under the settings that it speaks of first."""
    problems: dict[str, str] = {}
    for line in message.splitlines():
        subject = re.split(r"[:=] ?| are ", line, maxsplit=1)[0]
        for name in re.findall(r"\w+", subject):
            if name in FIELDS:
                problems[name] = f"{problems[name]}\n{line}" if name in problems else line
    return problems or {"input_filenames": message}


def _literal(name: str, value: Any) -> str:
    if isinstance(value, tuple):
        items = [_literal(name, item) for item in value]
        alone = len(items) == 1 and name == "input_filenames"
        return items[0] if alone else f"[{', '.join(items)}]"
    if isinstance(value, str):  # JSON's strings are Python's, with the quotes of our style
        text = json.dumps(value, ensure_ascii=False)
        return text.encode("utf-8", "backslashreplace").decode()
    return repr(value)
