"""The settings of a run, each declared once: default, range, unit, help and group.

The command line, the YAML files, the notebook's form and the table in the documentation are
derived from these declarations.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

# What people type out of habit, from Image-GS and elsewhere -> what to type here.
OLD_NAMES = {
    "input_path": "input_filenames",
    "input_filename": "input_filenames",
    "image": "input_filenames",
    "images": "input_filenames",
    "num_gaussians": "gaussians",
    "num_gaussian": "gaussians",
    "n_gaussians": "gaussians",
    "max_steps": "steps",
    "num_steps": "steps",
    "iterations": "steps",
    "downsample": "downsample_ratio=2 (1 is off)",
    "pos_lr_init": "pos_lr",
    "disable_lr_schedule": "lr_schedule, with the opposite value",
    "disable_prog_optim": "use_progressive, with the opposite value",
    "disable_topk_norm": 'blending="additive" instead of "normalized"',
    "disable_inverse_scale": "inverse_scale, with the opposite value",
    "disable_color_init": "color_init, with the opposite value",
    "learning_rate": "pos_lr, scale_lr, rot_lr and feat_lr",
    "lr": "pos_lr, scale_lr, rot_lr and feat_lr",
    "output": "output_dir",
    "log_dir": "output_dir",
}


class SettingsError(ValueError):
    """A setting is unknown, of the wrong kind or out of range; the message says what to do."""


def setting(default: Any, help: str, *, group: str, unit: str = "", **bounds: Any) -> Any:
    """Declare a setting: its default, help, group, unit, and bounds such as ``ge=1``."""
    extra = {"group": group, "unit": unit}
    return Field(default, description=help, json_schema_extra=extra, **bounds)


class CommonSettings(BaseModel):
    """Everything but the picture, the number of Gaussians and the number of steps."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    # Files
    input_dir: str = setting("input", "Folder in which pictures are looked for.", group="Files")
    output_dir: str = setting("output", "Folder that receives the sessions.", group="Files")
    background: str = setting(
        "white", "Colour behind transparent pixels: a name, or #rrggbb.", group="Files"
    )
    gamma: float = setting(
        1.0,
        "The fit is done on picture^gamma and undone on output; 1 is off.",
        group="Files", ge=0.1, le=10,
    )  # fmt: skip
    downsample_ratio: float = setting(
        1.0,
        "Fit the picture reduced by this factor and score the enlarged rendering; 1 is off.",
        group="Files", ge=1, le=64,
    )  # fmt: skip

    # Gaussians
    blending: Literal["normalized", "additive"] = setting(
        "normalized",
        "normalized: mean colour of the strongest Gaussians of a pixel; additive: sum of all.",
        group="Gaussians",
    )
    topk: int = setting(
        10, "Gaussians that count at a pixel (normalized blending).", group="Gaussians", ge=1, le=32
    )
    inverse_scale: bool = setting(
        True, "Optimise 1/size instead of the size of a Gaussian.", group="Gaussians"
    )
    quantize: bool = setting(
        False, "Round parameters to the bits below while fitting and on saving.", group="Gaussians"
    )
    pos_bits: int = setting(16, "Bits per position.", group="Gaussians", unit="bit", ge=4, le=24)
    scale_bits: int = setting(16, "Bits per scale.", group="Gaussians", unit="bit", ge=4, le=24)
    rot_bits: int = setting(16, "Bits per rotation.", group="Gaussians", unit="bit", ge=4, le=24)
    feat_bits: int = setting(
        16, "Bits per colour value.", group="Gaussians", unit="bit", ge=4, le=24
    )

    # Start
    init_mode: Literal["gradient", "saliency", "random"] = setting(
        "gradient",
        "Where Gaussians start: at edges, where the eye looks, or anywhere.",
        group="Start",
    )
    init_random_ratio: float = setting(
        0.3, "Share of Gaussians that start anywhere.", group="Start", ge=0, le=1
    )
    init_scale: float = setting(
        5.0, "Standard deviation at the start.", group="Start", unit="px", ge=0.1, le=1000
    )
    color_init: bool = setting(
        True, "Start with the picture's colour at the centre (else black).", group="Start"
    )
    saliency_map: str | None = setting(
        None, "Grey picture to use as saliency, instead of computing it.", group="Start"
    )
    init_gaussian_file: str | None = setting(
        None, "Start from the Gaussians of this model.pt.", group="Start"
    )
    allow_partial: bool = setting(
        False,
        "Accept an init_gaussian_file with another number of Gaussians: extra ones are dropped, "
        "missing ones are initialised.",
        group="Start",
    )
    seed: int = setting(123, "Seed of all random numbers.", group="Start", ge=0, le=2**32 - 1)

    # Training
    device: Literal["auto", "cpu", "cuda"] = setting(
        "auto", "auto takes the GPU where there is one.", group="Training"
    )
    l1_loss_ratio: float = setting(1.0, "Weight of the L1 loss.", group="Training", ge=0, le=100)
    l2_loss_ratio: float = setting(0.0, "Weight of the L2 loss.", group="Training", ge=0, le=100)
    ssim_loss_ratio: float = setting(0.1, "Weight of 1 - SSIM.", group="Training", ge=0, le=100)
    pos_lr: float = setting(5e-4, "Learning rate of positions.", group="Training", ge=0, le=1)
    scale_lr: float = setting(2e-3, "Learning rate of scales.", group="Training", ge=0, le=1)
    rot_lr: float = setting(2e-3, "Learning rate of rotations.", group="Training", ge=0, le=1)
    feat_lr: float = setting(5e-3, "Learning rate of colours.", group="Training", ge=0, le=1)
    lr_schedule: bool = setting(
        True, "Divide learning rates when quality stalls, and stop early.", group="Training"
    )
    decay_ratio: float = setting(
        10.0, "Learning rates are divided by this.", group="Training", gt=1, le=1000
    )
    check_decay_steps: int = setting(
        1000, "Stalled for this long is stalled.", group="Training", unit="steps", ge=1
    )
    max_decay_times: int = setting(
        1, "Divisions before the run stops early.", group="Training", ge=0, le=100
    )
    decay_threshold: float = setting(
        1e-3,
        "Smaller gains are no improvement: this much SSIM, or a hundred times as many dB.",
        group="Training", ge=0, le=1,
    )  # fmt: skip

    # Growth
    use_progressive: bool = setting(
        False, "Start with part of the Gaussians and add where the error is.", group="Growth"
    )
    initial_ratio: float = setting(
        0.5, "Share of the Gaussians at the start (progressive).", group="Growth", gt=0, le=1
    )
    add_steps: int = setting(
        500, "Steps between additions (progressive).", group="Growth", unit="steps", ge=1
    )
    add_times: int = setting(4, "Number of additions (progressive).", group="Growth", ge=1, le=1000)
    post_min_steps: int = setting(
        3000, "Steps wanted after the last addition.", group="Growth", unit="steps", ge=0
    )
    adaptive_refinement: bool = setting(
        False,
        "Spend new Gaussians, and those that contribute least, in the patches with most error.",
        group="Growth",
    )
    adaptive_error_threshold: float = setting(
        0.3,
        "Refine patches above this share of the worst patch's error.",
        group="Growth",
        ge=0,
        le=1,
    )

    # Results
    eval_steps: int = setting(
        100, "Steps between measurements of PSNR and SSIM.", group="Results", unit="steps", ge=1
    )
    save_ckpt_steps: int = setting(
        0,
        "Steps between checkpoints to resume from; 0 is off.",
        group="Results",
        unit="steps",
        ge=0,
    )
    save_image_steps: int = setting(
        0, "Steps between saved pictures; 0 is off.", group="Results", unit="steps", ge=0
    )
    vis_gaussians: bool = setting(
        False, "Save pictures of positions, ellipses, ids and the error.", group="Results"
    )
    render_height: int | None = setting(
        None, "Height of rendered.jpg; empty is the picture's own.", group="Results",
        unit="px", ge=1, le=65500,
    )  # fmt: skip
    lpips_weights: str | None = setting(
        None, "File with LPIPS weights (AlexNet); without it LPIPS is left empty.", group="Results"
    )

    @classmethod
    def build(cls, **values: Any) -> Self:
        """Settings from keywords; a :class:`SettingsError` explains everything that is wrong."""
        problems = [cls._unknown(name) for name in values if name not in cls.model_fields]
        known = {name: value for name, value in values.items() if name in cls.model_fields}
        try:
            settings = cls(**known)
        except ValidationError as error:
            problems += [cls._explain(problem) for problem in error.errors()]
        if problems:
            raise SettingsError("\n".join(problems))
        return settings

    @classmethod
    def _unknown(cls, name: str) -> str:
        if name in OLD_NAMES and OLD_NAMES[name] != name:
            return f"There is no setting {name}; it is now {OLD_NAMES[name]}."
        near = difflib.get_close_matches(name, cls.model_fields, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]}?" if near else ""
        return f"There is no setting {name}.{hint} All settings: docs/settings.md"

    @classmethod
    def _explain(cls, problem: Any) -> str:
        name = str(problem["loc"][0]) if problem["loc"] else ""
        if name not in cls.model_fields:
            return str(problem["msg"]).removeprefix("Value error, ")
        found = (
            f"{name}={problem['input']!r}" if problem["type"] != "missing" else f"{name} is missing"
        )
        allowed = f"allowed: {describe_range(cls, name)}"
        return f"{found}: {problem['msg']}; {allowed}. {cls.model_fields[name].description}"

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.l1_loss_ratio + self.l2_loss_ratio + self.ssim_loss_ratio == 0:
            raise ValueError(
                "l1_loss_ratio, l2_loss_ratio and ssim_loss_ratio are all 0, so there is nothing to "
                "optimise; set at least one above 0"
            )
        return self


class Settings(CommonSettings):
    """All settings of one run."""

    input_filename: str = setting(
        ..., "A picture, or a folder of pictures of equal size fitted together.", group="Files",
        min_length=1,
    )  # fmt: skip
    gaussians: int = setting(1000, "Number of Gaussians.", group="Gaussians", ge=1, le=10_000_000)
    steps: int = setting(
        2000, "Optimisation steps.", group="Training", unit="steps", ge=0, le=10_000_000
    )


def describe_range(model: type[BaseModel], name: str) -> str:
    """The values that a setting may take, in words: ``1 to 32``, ``one of cpu, cuda``."""
    schema = model.model_json_schema()["properties"][name]
    options = [schema, *schema.get("anyOf", []), schema.get("items", {})]
    merged: dict[str, Any] = {}
    for option in reversed(options):
        merged.update(option)
    empty = ", or None" if {"type": "null"} in schema.get("anyOf", []) else ""
    if "enum" in merged:
        return "one of " + ", ".join(str(v) for v in merged["enum"]) + empty
    kinds = {o.get("type") for o in options} - {None, "null", "array"}
    kind = "/".join(
        {
            "integer": "whole number",
            "number": "number",
            "boolean": "True or False",
            "string": "text",
        }[k]
        for k in sorted(kinds)
    )
    low = merged.get("minimum", merged.get("exclusiveMinimum"))
    high = merged.get("maximum")
    above = "above" if "exclusiveMinimum" in merged else "from"
    bounds = (
        "" if low is None else f" {above} {low:g}" + ("" if high is None else f" to {high:.10g}")
    )
    return kind + bounds + empty


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Settings from a YAML file such as those in ``cfgs/``."""
    try:
        values = yaml.safe_load(Path(path).read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(f"Cannot read settings from {path}: {error}") from error
    if not isinstance(values, dict):
        raise SettingsError(f"{path} must hold lines of the form 'name: value'")
    return values


def as_yaml(model: type[CommonSettings] = Settings) -> str:
    """The text of ``cfgs/default.yaml``: every setting with its help, range and default."""
    lines = ["# Default settings, written by `python -m settings`. Do not edit: copy and change."]
    for group, names in groups(model).items():
        lines += ["", f"# {group}"]
        for name in names:
            field = model.model_fields[name]
            unit = field.json_schema_extra["unit"]
            lines += [
                "",
                f"# {field.description} ({describe_range(model, name)}{unit and ' ' + unit})",
            ]
            value = "cat.png" if field.is_required() else field.default
            lines.append(yaml.safe_dump({name: value}).strip())
    return "\n".join(lines) + "\n"


def as_markdown(model: type[CommonSettings] = Settings) -> str:
    """The text of ``docs/settings.md``: a table of all settings."""
    lines = [
        "# Settings", "",
        "Written by `python -m settings`. In `set_config`, the picture is `input_filenames`, and",
        "it, `gaussians` and `steps` may be lists: every combination is one run.",
    ]  # fmt: skip
    for group, names in groups(model).items():
        lines += [
            "",
            f"## {group}",
            "",
            "| setting | default | allowed | what it does |",
            "|---|---|---|---|",
        ]
        for name in names:
            field = model.model_fields[name]
            unit = field.json_schema_extra["unit"]
            default = "" if field.is_required() else f"`{field.default}`"
            allowed = describe_range(model, name) + (unit and f" ({unit})")
            lines.append(f"| `{name}` | {default} | {allowed} | {field.description} |")
    return "\n".join(lines) + "\n"


def groups(model: type[CommonSettings] = Settings) -> dict[str, list[str]]:
    """Names of the settings by group, in the order in which a form should show them."""
    first = [name for name in ("input_filename", "input_filenames", "gaussians", "steps")]
    names = [n for n in first if n in model.model_fields]
    names += [n for n in model.model_fields if n not in names]
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(model.model_fields[name].json_schema_extra["group"], []).append(name)
    return found


if __name__ == "__main__":
    root = Path(__file__).parent
    (root / "cfgs" / "default.yaml").write_text(as_yaml())
    (root / "docs" / "settings.md").write_text(as_markdown())
