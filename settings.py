"""The settings of a run, each declared once: default, range, unit, help and group.

The command line, the notebook's form, cfgs/default.yaml and the table in docs/settings.md are
derived from these declarations. `python -m settings` writes the last two.
"""

from __future__ import annotations

import difflib
import os
import reprlib
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

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
    "ckpt_file": "init_gaussian_file",
    "learning_rate": "pos_lr, scale_lr, rot_lr and feat_lr",
    "lr": "pos_lr, scale_lr, rot_lr and feat_lr",
    "output": "output_dir",
    "log_dir": "output_dir",
    "log_root": "output_dir",
}

MOST_GAUSSIANS = MOST_STEPS = 10_000_000

# How the kinds of a JSON schema are called in messages and in the documentation.
KINDS = {
    "integer": "whole number", "number": "number", "boolean": "True or False", "string": "text",
}  # fmt: skip


class SettingsError(ValueError):
    """A setting is unknown, of the wrong kind or out of range; the message says what to do."""


def setting(default: Any, help: str, *, group: str, unit: str = "", **bounds: Any) -> Any:
    """Declare a setting: its default, help, group, unit, and bounds such as ``ge=1``."""
    extra = {"group": group, "unit": unit}
    return Field(default, description=help, json_schema_extra=extra, **bounds)


def _as_text(path: Any) -> Any:
    return os.path.expanduser(path) if isinstance(path, str | os.PathLike) else path


FileName = Annotated[str, BeforeValidator(_as_text), Field(min_length=1)]  # ~ is the home folder


class CommonSettings(BaseModel):
    """Everything but the picture, the number of Gaussians and the number of steps."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    # Files
    input_dir: FileName = setting(
        "input", "Folder in which pictures are looked for.", group="Files"
    )
    output_dir: FileName = setting("output", "Folder that receives the sessions.", group="Files")
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
        True, "Start with the picture's colour at the centre (else random ones).", group="Start"
    )
    saliency_map: FileName | None = setting(
        None, "Grey picture to use as saliency, instead of computing it.", group="Start"
    )
    init_gaussian_file: FileName | None = setting(
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
        "auto", "auto takes an NVIDIA GPU where there is one, else the CPU.", group="Training"
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
        1000,
        "Quality stalls where nothing improved for so long.",
        group="Training", unit="steps", ge=1, le=10_000_000,
    )  # fmt: skip
    max_decay_times: int = setting(
        1, "Divisions before the run stops early.", group="Training", ge=0, le=100
    )
    decay_threshold: float = setting(
        1e-3,
        "Smaller gains are no improvement: this much SSIM, or a hundred times as many dB.",
        group="Training", ge=0, le=1,
    )  # fmt: skip

    # Memory and speed
    use_amp: bool = setting(
        True,
        "Hold pictures in half precision while a GPU trains; parameters stay in float32. "
        "On the CPU it has no effect.",
        group="Memory and speed",
    )
    use_gradient_checkpointing: bool = setting(
        False,
        "Draw and differentiate the picture in bands, which saves memory and costs some time.",
        group="Memory and speed",
    )
    use_cuda_graph: bool = setting(
        True,
        "Replay a step on a GPU as one recorded graph; off is slower, with the same result.",
        group="Memory and speed",
    )

    # Growth
    use_progressive: bool = setting(
        False, "Start with part of the Gaussians and add where the error is.", group="Growth"
    )
    initial_ratio: float = setting(
        0.5, "Share of the Gaussians at the start (progressive).", group="Growth", gt=0, le=1
    )
    add_steps: int = setting(
        500,
        "Steps between additions.",
        group="Growth", unit="steps", ge=1, le=10_000_000,
    )  # fmt: skip
    add_times: int = setting(4, "Number of additions.", group="Growth", ge=1, le=1000)
    post_min_steps: int = setting(
        3000,
        "Steps wanted after the last addition.",
        group="Growth", unit="steps", ge=0, le=10_000_000,
    )  # fmt: skip
    adaptive_refinement: bool = setting(
        False,
        "Spend new Gaussians, and those that contribute least, in the patches with most error.",
        group="Growth",
    )
    adaptive_error_threshold: float = setting(
        0.3,
        "Refine patches above this share of the worst patch's error.",
        group="Growth", ge=0, le=1,
    )  # fmt: skip

    # Results
    eval_steps: int = setting(
        100,
        "Steps between measurements of PSNR and SSIM.",
        group="Results", unit="steps", ge=1, le=10_000_000,
    )  # fmt: skip
    save_ckpt_steps: int = setting(
        0,
        "Steps between checkpoints to resume from; 0 is off.",
        group="Results", unit="steps", ge=0, le=10_000_000,
    )  # fmt: skip
    save_image_steps: int = setting(
        0,
        "Steps between saved pictures; 0 is off.",
        group="Results", unit="steps", ge=0, le=10_000_000,
    )  # fmt: skip
    vis_gaussians: bool = setting(
        False, "Save pictures of positions, ellipses, ids and the error.", group="Results"
    )
    render_height: int | None = setting(
        None, "Height of rendered.jpg; empty is the picture's own.", group="Results",
        unit="px", ge=1, le=65500,
    )  # fmt: skip
    lpips_weights: FileName | None = setting(
        None, "File with LPIPS weights (AlexNet); without it LPIPS is left empty.", group="Results"
    )

    # Film
    make_training_video: bool = setting(
        False, "Make a film of the training, training_video.mp4.", group="Film"
    )
    video_iterations: int = setting(
        50,
        "Steps between frames; quality is measured at each frame, whatever eval_steps says.",
        group="Film", unit="steps", ge=1, le=10_000_000,
    )  # fmt: skip
    video_save_to_disk: bool = setting(
        True, "Keep frames in a temporary folder until the film is made, not in memory.",
        group="Film",
    )  # fmt: skip
    video_keep_frames: bool = setting(
        False, "Keep frames after the film is made, for make_video() to make others of them.",
        group="Film",
    )  # fmt: skip
    video_codec: Literal["h264", "h265", "vp9"] = setting(
        "h264",
        "h264 plays everywhere; h265 makes smaller files; vp9 needs no licence.",
        group="Film",
    )
    video_crf: int = setting(
        18, "Constant rate factor: 0 is best, larger is smaller.", group="Film", ge=0, le=51
    )
    video_layout: Literal["pair", "grid"] = setting(
        "pair",
        "pair: picture and rendering side by side; grid: error and positions below them.",
        group="Film",
    )
    video_max_width: int = setting(
        3840, "The film is scaled down to this width.", group="Film", unit="px", ge=64, le=16384
    )
    video_text_size: float = setting(
        1.0, "Size of the text, relative to what suits the picture; 0 is none.", group="Film",
        ge=0, le=4,
    )  # fmt: skip
    video_text_place: Literal["top", "bottom"] = setting(
        "top", "Where the text stands in each panel.", group="Film"
    )

    @classmethod
    def build(cls, /, **values: Any) -> Self:
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
        if name in OLD_NAMES:
            return f"There is no setting {name}; it is now {OLD_NAMES[name]}."
        near = difflib.get_close_matches(name, cls.model_fields, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]}?" if near else ""
        return f"There is no setting {name}.{hint} All settings: docs/settings.md"

    @classmethod
    def _explain(cls, problem: Any) -> str:
        name = str(problem["loc"][0]) if problem["loc"] else ""
        if name not in cls.model_fields:
            return str(problem["msg"]).removeprefix("Value error, ")
        missing = problem["type"] == "missing"
        found = f"{name} is missing" if missing else f"{name}={shown(problem['input'])}"
        allowed = f"allowed: {describe_range(cls, name)}"
        return f"{found}: {problem['msg']}; {allowed}. {cls.model_fields[name].description}"

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.l1_loss_ratio + self.l2_loss_ratio + self.ssim_loss_ratio == 0:
            raise ValueError(
                "l1_loss_ratio, l2_loss_ratio and ssim_loss_ratio are all 0, so there is nothing "
                "to optimise; set at least one above 0"
            )
        return self


class Settings(CommonSettings):
    """All settings of one run."""

    input_filename: FileName = setting(
        ..., "A picture, or a folder of pictures of equal size fitted together.", group="Files"
    )
    gaussians: int = setting(
        1000, "Number of Gaussians.", group="Gaussians", ge=1, le=MOST_GAUSSIANS
    )
    steps: int = setting(
        2000, "Optimisation steps.", group="Training", unit="steps", ge=0, le=MOST_STEPS
    )


def shown(value: Any) -> str:
    """What was given, cut where it is long; a few objects cannot be shown at all."""
    try:
        text = _SHORT.repr(value)
    except Exception:
        return f"({type(value).__name__})"
    return text if len(text) <= 200 else f"{text[:200]}..."


def _short() -> reprlib.Repr:
    """Writes few parts of a list, for one in a file may name another one a thousand times."""
    short = reprlib.Repr()
    short.maxlevel = 3
    short.maxdict = short.maxlist = short.maxtuple = short.maxset = short.maxfrozenset = 20
    short.maxstring = short.maxother = short.maxlong = 250
    return short


_SHORT = _short()


def describe_range(model: type[BaseModel], name: str) -> str:
    """The values that a setting may take, in words, such as ``number from 0 to 1``."""
    schema = _schemas(model)[name]
    options = [schema, *schema.get("anyOf", []), schema.get("items", {})]
    merged: dict[str, Any] = {}
    for option in reversed(options):
        merged.update(option)
    empty = ", or None" if {"type": "null"} in schema.get("anyOf", []) else ""
    if "enum" in merged:
        return "one of " + ", ".join(str(v) for v in merged["enum"]) + empty
    kinds = {o.get("type") for o in options} - {None, "null", "array"}
    kind = "/".join(KINDS[kind] for kind in sorted(kinds))
    low = merged.get("minimum", merged.get("exclusiveMinimum"))
    if low is None:
        return kind + empty
    above = "above" if "exclusiveMinimum" in merged else "from"
    to = f" to {merged['maximum']:.10g}" if "maximum" in merged else ""
    return f"{kind} {above} {low:g}{to}{empty}"


@cache
def _schemas(model: type[BaseModel]) -> dict[str, Any]:
    return model.model_json_schema()["properties"]


def groups(model: type[CommonSettings] = Settings) -> dict[str, list[str]]:
    """Names of the settings by group, in the order in which a form should show them."""
    first = ("input_filename", "input_filenames", "gaussians", "steps")
    names = sorted(model.model_fields, key=lambda name: name not in first)
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(model.model_fields[name].json_schema_extra["group"], []).append(name)
    return found


if __name__ == "__main__":
    import settings_files

    settings_files.write(Path(__file__).parent)
