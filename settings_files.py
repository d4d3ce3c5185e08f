"""Settings as files: reads YAML, and writes cfgs/default.yaml and docs/settings.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from settings import CommonSettings, Settings, SettingsError, describe_range, groups

LARGEST_FILE = 1 << 18  # bytes of a file of settings, which has one line for each


class _PlainLoader(yaml.SafeLoader):
    """Reads data without references, of which a few lines can multiply to more than memory."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            name = self.peek_event().anchor
            raise yaml.YAMLError(f"the reference *{name} is not allowed; write its value out")
        return super().compose_node(parent, index)


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Settings from a YAML file such as those in ``cfgs/``."""
    try:
        with Path(path).expanduser().open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
        if len(content) > LARGEST_FILE:
            raise ValueError(f"it has more than {LARGEST_FILE} bytes")
        values = yaml.load(content.decode("utf-8-sig"), _PlainLoader)
    except (OSError, RuntimeError, ValueError, yaml.YAMLError) as error:
        raise SettingsError(f"Cannot read settings from {path}: {error}") from error
    if not isinstance(values, dict):
        raise SettingsError(f"{path} must hold lines of the form 'name: value'")
    return {str(name): value for name, value in values.items()}


def write(root: Path) -> None:
    """Bring both files below the repository's folder up to date."""
    (root / "cfgs" / "default.yaml").write_text(as_yaml(), encoding="utf-8")
    (root / "docs" / "settings.md").write_text(as_markdown(), encoding="utf-8")


def as_yaml(model: type[CommonSettings] = Settings) -> str:
    """Every setting with its help, range and default, in the form that ``load_yaml`` reads."""
    lines = ["# Default settings, written by `python -m settings`. Do not edit: copy and change."]
    for group, names in groups(model).items():
        lines += ["", f"# {group}"]
        for name in names:
            field = model.model_fields[name]
            value = "cat.png" if field.is_required() else field.default
            line = yaml.safe_dump({name: value}).strip()
            lines += ["", f"# {field.description}", f"# Allowed: {_allowed(model, name)}", line]
    return "\n".join(lines) + "\n"


def as_markdown(model: type[CommonSettings] = Settings) -> str:
    """A table of all settings, group by group."""
    lines = [
        "# Settings", "",
        "Written by `python -m settings`. In `set_config`, the picture is `input_filenames`, and",
        "it, `gaussians` and `steps` may be lists: every combination is one run.",
    ]  # fmt: skip
    for group, names in groups(model).items():
        lines += ["", f"## {group}", ""]
        lines += ["| setting | default | allowed | what it does |", "|---|---|---|---|"]
        for name in names:
            field = model.model_fields[name]
            default = "" if field.is_required() else f"`{field.default}`"
            allowed = _allowed(model, name)
            lines.append(f"| `{name}` | {default} | {allowed} | {field.description} |")
    return "\n".join(lines) + "\n"


def _allowed(model: type[CommonSettings], name: str) -> str:
    unit = model.model_fields[name].json_schema_extra["unit"]
    return describe_range(model, name) + (unit and f" ({unit})")
