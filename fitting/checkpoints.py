"""Checkpoints: everything a run needs to go on as if it had never stopped."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from fitting.gaussians import NAMES, CheckpointError, Gaussians
from fitting.progress import Clock, Position
from fitting.schedule import LearningRateSchedule

if TYPE_CHECKING:
    from model import GaussianSplatting2D

MAY_DIFFER = (
    "steps", "device", "input_dir", "output_dir", "save_ckpt_steps", "save_image_steps",
    "use_amp", "use_gradient_checkpointing", "use_cuda_graph", "make_training_video",
    "video_iterations", "video_save_to_disk", "video_keep_frames", "video_codec", "video_crf",
    "video_layout", "video_max_width", "video_text_size", "video_text_place",
)  # fmt: skip


def save(run: GaussianSplatting2D) -> Path:
    """Write ``other/checkpoint-<step>.pt``, which is also a model file."""
    return _save(run, run.folder / "other")


def save_for_later(run: GaussianSplatting2D) -> None:
    """Write the only checkpoint in ``other/resume``, from which an interrupted run goes on."""
    folder = resume_folder(run.folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = _save(run, folder)
    for path in folder.glob("checkpoint-*.pt"):
        if path != written:
            path.unlink()


def forget(run_folder: Path) -> None:
    """Delete what an interrupted run kept to go on; it has ended by itself."""
    shutil.rmtree(resume_folder(run_folder), ignore_errors=True)


def resume_folder(run_folder: Path) -> Path:
    """Where an interrupted run keeps what it needs to go on; deleted once it has ended."""
    return run_folder / "other" / "resume"


def _save(run: GaussianSplatting2D, folder: Path) -> Path:
    path = folder / f"checkpoint-{run.step:08d}.pt"
    optimizer = run.optimizer
    run.gaussians.save(
        path,
        # Not quantised: what is resumed goes on from exactly here.
        raw=_on_host(run.gaussians.tensors()),
        moments={name: [m.cpu() for m in pair] for name, pair in optimizer.moments.items()},
        rates=optimizer.rates,
        updates=optimizer.steps,
        schedule=asdict(run.schedule),
        random=json.dumps(run.rng.bit_generator.state),
        seconds=run.seconds,
        render_seconds=run.render_seconds,
        position=run.position.value,
    )
    return path


def _on_host(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu() for name, tensor in tensors.items()}


def saved_checkpoints(run_folder: Path) -> list[Path]:
    """All checkpoints of a run, the newest first."""
    folders = (run_folder / "other", resume_folder(run_folder))
    found = [path for folder in folders for path in folder.glob("checkpoint-*.pt")]
    return sorted(found, key=lambda path: (path.name, path.parent.name), reverse=True)


def restore(run: GaussianSplatting2D) -> str:
    """Take parameters, optimiser, schedule and random state from the newest checkpoint.

    Damaged ones are passed over.

    Returns
    -------
    What the user should know about it, or nothing.

    Raises
    ------
    CheckpointError
        If there is none, all are damaged, or the newest was made with other settings.
    """
    problems = []
    for path in saved_checkpoints(run.folder):
        try:
            saved = Gaussians.load(path)
        except CheckpointError as error:
            problems.append(f"{error}")
            continue
        _check_settings(run, saved, path)
        try:
            _take(run, saved)
        except Exception as error:  # what is damaged may fail in any way
            problems.append(f"{path} is damaged: {error}")
            continue
        older = "; the run goes on from an older one" if problems else ""
        return f"{' '.join(problems)}{older}"
    if problems:
        raise CheckpointError(
            f"{' '.join(problems)} No other checkpoint is left: start the run again."
        )
    raise CheckpointError(
        f"{run.folder} has no checkpoint to resume from; set save_ckpt_steps in the run that "
        "is to write one, or start again without resuming"
    )


def _take(run: GaussianSplatting2D, saved: Gaussians) -> None:
    """Take over a checkpoint, all of it or nothing."""
    extra = saved.extra
    for name in ("raw", "moments", "rates", "schedule"):
        if not isinstance(extra[name], dict):
            raise ValueError(f"{name} is a {type(extra[name]).__name__}, it must be a dict")
    raw = {name: extra["raw"][name] for name in NAMES}
    moments = {name: tuple(extra["moments"][name]) for name in extra["moments"]}
    if moments.keys() not in (set(), set(NAMES)) or any(len(m) != 2 for m in moments.values()):
        raise ValueError(f"it has moments of {', '.join(map(str, moments))}")
    for name, like in saved.tensors().items():
        for tensor in (raw[name], *moments.get(name, ())):
            if tensor.shape != like.shape or tensor.dtype != like.dtype:
                raise ValueError(f"{name} is {tuple(tensor.shape)}, not {tuple(like.shape)}")
            if not tensor.isfinite().all():
                raise ValueError(f"{name} holds values that are no finite numbers")
    schedule = LearningRateSchedule(**extra["schedule"])
    seconds, render_seconds = float(extra["seconds"]), float(extra["render_seconds"])
    rates = {name: float(extra["rates"][name]) for name in NAMES}
    updates, position = int(extra["updates"]), Position(extra.get("position", "at"))
    run.rng.bit_generator.state = json.loads(extra["random"])
    run.schedule, run.optimizer.rates, run.optimizer.steps = schedule, rates, updates
    run.optimizer.moments = moments
    run.clock, run.render_seconds = Clock(seconds), render_seconds
    for name, tensor in raw.items():
        setattr(run.gaussians, name, tensor.clone().requires_grad_())
    if position is Position.END and saved.step == saved.settings.steps < run.settings.steps:
        position = Position.AFTER  # it is to go on for longer now
    run.gaussians.step, run.position = saved.step, position


def _check_settings(run: GaussianSplatting2D, saved: Gaussians, path: Path) -> None:
    differs = [
        name
        for name, value in run.settings.model_dump().items()
        if getattr(saved.settings, name) != value and name not in MAY_DIFFER
    ]
    if differs:
        raise CheckpointError(
            f"{path} was made with another {', '.join(differs)}; resume with the same settings"
        )
