"""Checkpoints: everything a run needs to go on as if it had never stopped."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from fitting.gaussians import CheckpointError, Gaussians
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
    path = run.folder / "other" / f"checkpoint-{run.step:08d}.pt"
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
    )
    return path


def _on_host(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu() for name, tensor in tensors.items()}


def restore(run: GaussianSplatting2D) -> None:
    """Take parameters, optimiser, schedule and random state from the newest checkpoint.

    Raises
    ------
    CheckpointError
        If there is none, or it is damaged or was made with other settings.
    """
    found = sorted((run.folder / "other").glob("checkpoint-*.pt"))
    if not found:
        raise CheckpointError(
            f"{run.folder} has no checkpoint to resume from; set save_ckpt_steps in the run that "
            "is to write one, or start again without resuming"
        )
    saved = Gaussians.load(found[-1])
    _check_settings(run, saved, found[-1])
    extra = saved.extra
    try:
        run.schedule = LearningRateSchedule(**extra["schedule"])
        run.rng.bit_generator.state = json.loads(extra["random"])
        run.optimizer.rates, run.optimizer.steps = extra["rates"], extra["updates"]
        run.optimizer.moments = {name: tuple(pair) for name, pair in extra["moments"].items()}
        run.seconds, run.render_seconds = extra["seconds"], extra["render_seconds"]
        for name, tensor in extra["raw"].items():
            setattr(run.gaussians, name, tensor.clone().requires_grad_())
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{found[-1]} is damaged: {error}. Delete it to go on from an older one."
        ) from error
    run.gaussians.step = saved.step


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
