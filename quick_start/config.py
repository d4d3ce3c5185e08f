"""What to train: the settings of a run, where picture, Gaussians and steps may be lists."""

from __future__ import annotations

import contextlib
import difflib
import inspect
import itertools
import operator
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import field_validator
from pydantic_core import PydanticCustomError

from imaging.files import PictureError, find_picture, list_pictures
from quick_start._format import html_table, plural, text_table
from quick_start.presets import PresetNames, preset_names, preset_values
from settings import (
    CommonSettings,
    Settings,
    SettingsError,
    describe_range,
    groups,
    setting,
)

AXES = ("input_filenames", "gaussians", "steps")

_single = Settings.model_fields
_Gaussians = Annotated[int, *_single["gaussians"].metadata]
_Steps = Annotated[int, *_single["steps"].metadata]
_Name = Annotated[str, *_single["input_filename"].metadata]


def _axis(name: str, default: Any) -> Any:
    """Declare a sweep's axis with the help, group and unit of the single setting."""
    field = _single[name]
    help = f"{field.description} Several in a list give one run each."
    return setting(default, help, **field.json_schema_extra)


class TrainingConfig(CommonSettings):
    """The settings of a sweep: every combination of picture, Gaussians and steps is one run."""

    input_filenames: tuple[_Name, ...] = _axis("input_filename", ...)
    gaussians: tuple[_Gaussians, ...] = _axis("gaussians", (_single["gaussians"].default,))
    steps: tuple[_Steps, ...] = _axis("steps", (_single["steps"].default,))

    @field_validator(*AXES, mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        if isinstance(value, set | frozenset):
            raise PydanticCustomError("axis", "A set has no order, so give a list")
        if isinstance(value, str | bytes | os.PathLike) or not isinstance(value, Iterable):
            value = (value,)
        values = tuple(_plain(v) for v in value)
        if not values:
            raise PydanticCustomError("axis", "The list is empty; name at least one")
        return values

    @field_validator(*AXES)
    @classmethod
    def _each_once(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        for value, count in Counter(values).items():
            if count > 1:
                message = "{value} is named more than once, which would repeat a run; name it once"
                raise PydanticCustomError("twice", message, {"value": repr(value)})
        return values

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The sweep of a single run."""
        values = settings.model_dump()
        return cls.build(input_filenames=values.pop("input_filename"), **values)

    def runs(self) -> list[Settings]:
        """The settings of each run: pictures outermost, steps innermost, in the order given."""
        common = {name: getattr(self, name) for name in CommonSettings.model_fields}
        return [
            Settings.build(**common, input_filename=picture, gaussians=gaussians, steps=steps)
            for picture, gaussians, steps in itertools.product(
                self.input_filenames, self.gaussians, self.steps
            )
        ]

    def replace(self, **changes: Any) -> Self:
        """A copy with other values, checked like those of :func:`set_config`.

        Raises
        ------
        SettingsError
            Where a setting is unknown, out of range, or a picture is missing.
        """
        return _checked(type(self).build(**{**dict(self), **changes}))

    def changes(self) -> dict[str, Any]:
        """What to train on, and every setting that differs from its default."""
        fields = type(self).model_fields
        order = [name for names in groups(type(self)).values() for name in names]
        return {
            name: getattr(self, name)
            for name in sorted(order, key=lambda name: name not in AXES)
            if name in AXES or getattr(self, name) != fields[name].default
        }

    def _rows(self) -> list[tuple[str, str]]:
        rows = [(name, _shown(value)) for name, value in self.changes().items()]
        return [*rows, ("everything else", "default")]

    def title(self) -> str:
        """The number of runs, and what makes it: ``6 runs: 2 pictures × 3 numbers of steps``."""
        counts = [len(getattr(self, name)) for name in AXES]
        total = counts[0] * counts[1] * counts[2]
        if total == 1:
            return "1 run"
        nouns = ("picture", "number of Gaussians", "number of steps")
        plurals = ("pictures", "numbers of Gaussians", "numbers of steps")
        factors = (
            f"{n} {many if n > 1 else one}"
            for n, one, many in zip(counts, nouns, plurals, strict=True)
        )
        return f"{plural(total, 'run')}: {' × '.join(factors)}"

    def __str__(self) -> str:
        return f"{self.title()}\n{text_table(self._rows())}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return html_table(self._rows(), caption=self.title())


def set_config(*, preset: PresetNames | None = None, **settings: Any) -> TrainingConfig:
    values = preset_values(preset) if preset is not None else {}
    values.update(settings)
    try:
        config = TrainingConfig.build(**values)
    except SettingsError as error:
        if preset is None:
            raise
        named = str(preset) if isinstance(preset, os.PathLike) else preset
        raise SettingsError(f"{error}\n(with the values of preset={named!r})") from None
    return _checked(config)


def picture_path(name: str, input_dir: str) -> Path:
    """Where a picture lies: in `input_dir`, else relative to the current folder, or absolute.

    Raises
    ------
    SettingsError
        Where there is no such file or folder; the message names the nearest ones.
    """
    with contextlib.suppress(OSError, ValueError):  # no name for a file: too long, or with NUL
        path = find_picture(name, input_dir)
        if path.exists():
            return path
    raise SettingsError(f"input_filenames: {_missing_picture(name, input_dir)}")


def _plain(value: Any) -> Any:
    """Paths as text, ~ as the home folder, NumPy's integers as Python's; a bool is no number."""
    if isinstance(value, bool):
        raise PydanticCustomError("axis", "{value} is no number", {"value": str(value)})
    if isinstance(value, str | os.PathLike):
        return os.path.expanduser(value)
    return operator.index(value) if hasattr(value, "__index__") else value


def _checked(config: TrainingConfig) -> TrainingConfig:
    """The configuration, if every picture exists and none is there under two names."""
    problems, seen = [], {}
    for name in config.input_filenames:
        try:
            path = picture_path(name, config.input_dir).resolve()
        except SettingsError as error:
            problems.append(str(error))
            continue
        if path in seen:
            twice = f"{seen[path]!r} and {name!r} are one picture, {path}"
            problems.append(f"input_filenames: {twice}; name it once.")
        seen[path] = name
    if problems:
        raise SettingsError("\n".join(problems))
    return config


def _missing_picture(name: str, input_dir: str) -> str:
    path = Path(name)
    folder = Path(input_dir, name).parent  # where name is absolute, its own folder
    where = str(folder) if path.is_absolute() else f"{folder} or {Path.cwd()}"
    try:
        found = [picture.name for picture in list_pictures(folder)]
    except PictureError:
        return f"{name!r} was not found in {where}. Check input_dir={input_dir!r}."
    by_folded = {other.casefold(): other for other in found}
    near = difflib.get_close_matches(path.name.casefold(), by_folded, n=1)
    hint = f" Did you mean {by_folded[near[0]]!r}?" if near else ""
    more = f" and {len(found) - 10} more" if len(found) > 10 else ""
    listed = f"{', '.join(found[:10]) or 'none'}{more}"
    return f"{name!r} was not found in {where}.{hint} Pictures in {folder}: {listed}."


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _kind(name: str) -> str:
    allowed = describe_range(TrainingConfig, name)
    unit = TrainingConfig.model_fields[name].json_schema_extra["unit"]
    return f"{allowed}{unit and ' ' + unit}{', or a list' if name in AXES else ''}"


def _signature() -> inspect.Signature:
    def parameter(name: str) -> inspect.Parameter:
        field = TrainingConfig.model_fields[name]
        default = inspect.Parameter.empty if field.is_required() else field.default
        kind = inspect.Parameter.KEYWORD_ONLY
        return inspect.Parameter(name, kind, default=default, annotation=_annotation(name))

    order = [name for names in groups(TrainingConfig).values() for name in names]
    order.sort(key=lambda name: name not in AXES)
    preset = inspect.Parameter("preset", inspect.Parameter.KEYWORD_ONLY, default=None)
    parameters = [*map(parameter, order), preset.replace(annotation=str | list[str] | None)]
    return inspect.Signature(parameters, return_annotation=TrainingConfig)


def _annotation(name: str) -> Any:
    if name not in AXES:
        return TrainingConfig.model_fields[name].annotation
    return str | list[str] if name == "input_filenames" else int | list[int]


def _docstring() -> str:
    lines = [
        "Choose what to train; anything left out keeps its default.",
        "",
        "Every combination of picture, Gaussians and steps becomes one run.",
        "",
        "Parameters",
        "----------",
    ]
    for name, parameter in _signature().parameters.items():
        if name == "preset":
            lines.append(f"preset : {', '.join(preset_names())}, path of a YAML file, or a list")
            lines.append("    Their values, of which later ones win, and keywords given here win.")
            continue
        default = "" if parameter.default is parameter.empty else f", default {parameter.default!r}"
        lines.append(f"{name} : {_kind(name)}{default}")
        lines.append(f"    {TrainingConfig.model_fields[name].description}")
    lines += [
        "",
        "Returns",
        "-------",
        "TrainingConfig, to be given to :func:`train`.",
        "",
        "Raises",
        "------",
        "SettingsError",
        "    Where a setting is unknown, of the wrong kind or out of range, or a picture missing.",
    ]
    return "\n".join(lines) + "\n"


# Written from the settings' declarations, so that Tab and Shift-Tab show each of them.
set_config.__signature__ = _signature()  # type: ignore[attr-defined]
set_config.__doc__ = _docstring()
