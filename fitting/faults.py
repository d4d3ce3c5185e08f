"""What can go wrong in the middle of a training, and what the message then says."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch

from fitting import machine
from settings import Settings

if TYPE_CHECKING:
    from fitting.gaussians import Gaussians
    from model import GaussianSplatting2D

RATES = {"xy": "pos_lr", "scale": "scale_lr", "rot": "rot_lr", "feat": "feat_lr"}


class DivergedError(ArithmeticError):
    """The loss or a parameter is no longer a finite number."""


class GpuError(RuntimeError):
    """The GPU's memory is full, or the GPU is gone; the message says what to do."""


def diverged(step: int, parameters: Iterable[str], settings: Settings, *, gpu: bool):
    """The error of a loss, or of some parameters, that is no longer finite."""
    names = list(parameters)
    what = f"parameter {', '.join(names)}" if names else "loss"
    rates = [RATES[name] for name in names] or list(RATES.values())
    used = ", ".join(f"{rate} ({getattr(settings, rate):g})" for rate in rates)
    amp = " Try use_amp=False." if gpu and settings.use_amp else ""
    return DivergedError(
        f"step {step}: the {what} is no longer finite. Lower {used}, or look at the picture for "
        f"values that are not numbers.{amp}"
    )


def is_memory_full(error: BaseException) -> bool:
    """Whether the GPU had no memory left."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return _is_of_cuda(error) and "out of memory" in str(error)


def is_gpu_lost(error: BaseException) -> bool:
    """Whether the GPU does no more work for this process; nothing on it can be read any more."""
    return _is_of_cuda(error) and not is_memory_full(error)


def _is_of_cuda(error: BaseException) -> bool:
    if isinstance(error, getattr(torch, "AcceleratorError", ())):
        return True
    texts = ("CUDA error", "Triton Error [CUDA]", "CUDA driver error")
    return isinstance(error, RuntimeError) and any(text in str(error) for text in texts)


def leave_gpu(run: GaussianSplatting2D, problem: BaseException) -> Exception | None:
    """Where a GPU failed, go on with what is in main memory; returns the error to show.

    None where the GPU has nothing to do with it, and nothing then changes.
    """
    if is_memory_full(problem):
        error = GpuError(_full(run))
        run.gaussians = _rescued(run)
        if run.stepper is not None:
            run.stepper.close()  # the traceback would keep its buffers alive
    elif is_gpu_lost(problem):
        kept = run.kept or run.gaussians
        error = GpuError(
            f"step {run.step}: the GPU stopped working ({_first_line(problem)}). Restart Python, "
            "for this process cannot use it any more; if it happens again, look at nvidia-smi and "
            f"the driver, or set device='cpu'. The run keeps what it had at step {kept.step}."
        )
        run.gaussians = kept  # nothing on the GPU is touched again
    else:
        return None
    run.stepper = None
    run.device = torch.device("cpu")
    error.__cause__ = problem
    return error


def _rescued(run: GaussianSplatting2D) -> Gaussians:
    """What was reached, or what was copied last if even that cannot be read."""
    try:
        return run.gaussians.on_host()
    except RuntimeError:
        return run.kept or run.gaussians


def _first_line(problem: BaseException) -> str:
    return next(iter(str(problem).strip().splitlines()), type(problem).__name__)


def _full(run: GaussianSplatting2D) -> str:
    """That the memory is full, and what to change next."""
    from fitting.memory import bytes_text, gpu_bytes

    s, pixels = run.settings, run.target.pixels

    def needed(**changes: bool) -> int:
        return gpu_bytes(s.model_copy(update=changes), tuple(pixels.shape))

    now = needed()
    options = [{"use_amp": True}, {"use_gradient_checkpointing": True}]
    options = [o for o in options if not all(getattr(s, name) for name in o)]
    message = f"step {run.step}: the GPU's memory is full. This run needs about {bytes_text(now)}"
    message += machine.gpu_memory()
    for option in options:
        (name,) = option
        saved = now - needed(**option)
        if saved > 0.02 * now:
            return f"{message}. Set {name}=True, which saves about {bytes_text(saved)}."
    height, width = run.target.size
    return (
        f"{message}. Use fewer Gaussians than {s.gaussians}, or a smaller picture than "
        f"{width}×{height}: downsample_ratio={2 * s.downsample_ratio:g} halves its sides. Other "
        "programs on this GPU take memory too (nvidia-smi shows them)."
    )
