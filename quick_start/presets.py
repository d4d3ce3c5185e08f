"""Presets: files with some settings, in ``cfgs/`` or anywhere else, known by name or by path."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from settings import SettingsError
from settings_files import load_yaml

FOLDER = Path(__file__).resolve().parent.parent / "cfgs"
SUFFIXES = (".yaml", ".yml")

PresetName = str | os.PathLike[str]
PresetNames = PresetName | Sequence[PresetName]


def preset_names() -> list[str]:
    """Names of the presets in ``cfgs/``, without that of the defaults."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml") if path.stem != "default")


def preset_path(preset: PresetName) -> Path:
    """The file of a preset: ``large`` is ``cfgs/large.yaml``, ``./large.yaml`` a file of yours.

    Raises
    ------
    SettingsError
        Where it is the name of no preset.
    """
    text = os.fspath(preset)
    if Path(text).suffix in SUFFIXES or Path(text).name != text:
        return Path(text).expanduser()
    known = [*preset_names(), "default"]
    if text in known:
        return FOLDER / f"{text}.yaml"
    near = difflib.get_close_matches(text, known, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise SettingsError(
        f"preset={text!r}: there is no such preset.{hint} Presets: {', '.join(known)}; "
        "or give the path of a YAML file."
    )


def preset_values(presets: PresetNames) -> dict[str, Any]:
    """The settings of one preset, or of several: of two that name a setting, the later one wins.

    Raises
    ------
    SettingsError
        Where a preset does not exist or is not readable.
    """
    names = [presets] if isinstance(presets, str | os.PathLike) else presets
    if not isinstance(names, Sequence) or not all(isinstance(n, str | os.PathLike) for n in names):
        raise SettingsError(f"preset={presets!r}: give a name, a path, or a list of them")
    values: dict[str, Any] = {}
    for name in names:
        found = load_yaml(preset_path(name))
        if "input_filename" in found:  # such as in cfgs/default.yaml, which describes one run
            found.setdefault("input_filenames", found.pop("input_filename"))
        values |= found
    return values


def preset_purpose(preset: PresetName) -> str:
    """What a preset is for: its first line, if that is a comment."""
    first = preset_path(preset).read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""
