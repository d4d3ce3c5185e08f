"""Says how much memory a run will need, before it starts. A GB is 10⁹ bytes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from quick_start._format import plural
from quick_start.config import TrainingConfig, picture_path
from settings import Settings


@dataclass(frozen=True)
class MemoryEstimate:
    """Memory at the peak of a run; of a sweep, of its largest one.

    Attributes
    ----------
    gpu_bytes : on the GPU, CUDA itself included; 0 where the CPU trains, and None where it cannot
        be told because Triton is missing.
    host_bytes : in main memory, without Python and its packages.
    settings : of the run.
    width, height, channels : of its picture, as it is stored.
    saved_by_amp, saved_by_checkpointing : bytes of GPU memory that ``use_amp`` and
        ``use_gradient_checkpointing`` save, or would save where they are off.
    """

    gpu_bytes: int | None
    host_bytes: int
    settings: Settings
    width: int
    height: int
    channels: int
    saved_by_amp: int = 0
    saved_by_checkpointing: int = 0

    def __str__(self) -> str:
        from fitting.memory import bytes_text

        s = self.settings
        lines = [
            f"{s.input_filename}: {self.width}×{self.height}, {plural(self.channels, 'channel')}, "
            f"{plural(s.gaussians, 'Gaussian')}",
            f"main memory: about {bytes_text(self.host_bytes)}",
        ]
        if self.gpu_bytes is None:
            lines.append("GPU: cannot be told without the package triton, which GPUs need")
        elif self.gpu_bytes:
            lines.append(f"GPU: about {bytes_text(self.gpu_bytes)}")
            lines.append(_switch("use_amp", s.use_amp, self.saved_by_amp))
            on = s.use_gradient_checkpointing
            lines.append(_switch("use_gradient_checkpointing", on, self.saved_by_checkpointing))
        return "\n".join(lines)


def _switch(name: str, on: bool, saved: int) -> str:
    from fitting.memory import bytes_text

    saves = "which saves" if on else "and would save"
    return f"  {name} is {'on' if on else 'off'}, {saves} {bytes_text(saved)}"


def estimate_memory(config: TrainingConfig | Settings) -> MemoryEstimate:
    """How much memory a run will need; only the header of its picture is read.

    Parameters
    ----------
    config : from :func:`set_config`, or the settings of one run. With ``device="auto"`` both
        numbers are for the case that needs more: a GPU's memory if a GPU trains, main memory as
        if the CPU did.

    Raises
    ------
    SettingsError, PictureError
        Where a picture is missing or is none.
    """
    runs = _largest(config) if isinstance(config, TrainingConfig) else [config]
    estimates = [_estimate(settings) for settings in runs]
    return max(estimates, key=lambda e: (e.gpu_bytes or 0, e.host_bytes))


def _largest(config: TrainingConfig) -> list[Settings]:
    """A run for each picture, with the most Gaussians; steps need no memory."""
    most = {"gaussians": (max(config.gaussians),), "steps": config.steps[:1]}
    return config.model_copy(update=most).runs()


def _estimate(settings: Settings) -> MemoryEstimate:
    from fitting import memory
    from imaging.files import picture_shape

    path: Path = picture_path(settings.input_filename, settings.input_dir)
    channels, *full = picture_shape(path, background=settings.background)
    height, width = full
    shape = (channels, *(max(1, round(side / settings.downsample_ratio)) for side in full))

    def on_gpu(**changes: bool) -> int:
        return memory.gpu_bytes(settings.model_copy(update=changes), shape)

    host = memory.host_bytes(settings, shape, (height, width), gpu=settings.device == "cuda")
    found = {"settings": settings, "width": width, "height": height, "channels": channels}
    if settings.device == "cpu":
        return MemoryEstimate(0, host, **found)
    try:
        return MemoryEstimate(
            on_gpu(), host, **found,
            saved_by_amp=on_gpu(use_amp=False) - on_gpu(use_amp=True),
            saved_by_checkpointing=on_gpu(use_gradient_checkpointing=False)
            - on_gpu(use_gradient_checkpointing=True),
        )  # fmt: skip
    except ImportError:
        return MemoryEstimate(None, host, **found)
