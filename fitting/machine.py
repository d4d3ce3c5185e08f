"""Which processor or GPU a run uses, and what it is called."""

from __future__ import annotations

import functools
import os
import platform
import warnings
from pathlib import Path

import torch

from settings import SettingsError

LEAST_CAPABILITY = (7, 5)  # Turing: what Triton and current builds of torch still support


def processor() -> str:
    """The processor's name."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def describe(device: torch.device) -> str:
    """The device as results name it, such as ``cuda:0 (NVIDIA H200)``."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({processor()}, {os.cpu_count()} cores)"


def choose_device(wanted: str) -> tuple[torch.device, str]:
    """The device for a setting ``device``, and what the user should know about the choice.

    Raises
    ------
    SettingsError
        Where a GPU is demanded and cannot be used.
    """
    if wanted == "cpu":
        return torch.device("cpu"), ""
    problem = gpu_problem()
    if problem is None:
        return torch.device("cuda", torch.cuda.current_device()), ""
    if wanted == "cuda":
        raise SettingsError(f"device='cuda': {problem} Or set device='auto' or 'cpu'.")
    notice = f"the CPU trains, although there is a GPU: {problem}" if has_gpu() else ""
    return torch.device("cpu"), notice


def has_gpu() -> bool:
    """Whether the system shows an NVIDIA GPU, usable or not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if torch.cuda.device_count() > 0:
                return True
        except (RuntimeError, OSError):
            pass
    return Path("/dev/nvidia0").exists() or any(Path("/proc/driver/nvidia/gpus").glob("*"))


@functools.cache
def gpu_problem() -> str | None:
    """Why no GPU can be used and what to do about it, in sentences; None where one can."""
    if torch.version.cuda is None:
        if not has_gpu():
            return "no NVIDIA GPU was found. Use a machine that has one."
        return (
            f"this torch ({torch.__version__}) is a build without CUDA. Install one with CUDA: "
            "https://pytorch.org/get-started/locally"
        ) + "."
    return _driver_problem() or _capability_problem() or _triton_problem()


def _driver_problem() -> str | None:
    with warnings.catch_warnings(record=True) as complaints:
        warnings.simplefilter("always")
        if torch.cuda.is_available():
            return None
        found = [str(c.message) for c in complaints if "cuda" in str(c.message).lower()]
        if not found and has_gpu():
            found = _why_not()
    if found:
        first = found[0].strip().splitlines()[0].removeprefix("CUDA initialization: ")
        return (
            f"the NVIDIA driver cannot be used by torch {torch.__version__}, which is made for "
            f"CUDA {torch.version.cuda}: {first.split(' (Triggered')[0].rstrip('.')}. Update the "
            "driver, or install a torch made for an older CUDA."
        )
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None and (hidden == "" or hidden.startswith("-1")):
        return f"CUDA_VISIBLE_DEVICES={hidden!r} hides all GPUs. Unset it."
    return "no NVIDIA GPU was found. Use a machine that has one."


def _why_not() -> list[str]:
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return [str(error)]
    return []


def _capability_problem() -> str | None:
    found = torch.cuda.get_device_capability()
    if found >= LEAST_CAPABILITY:
        return None
    return (
        f"{torch.cuda.get_device_name()} has compute capability {found[0]}.{found[1]}, and at "
        f"least {LEAST_CAPABILITY[0]}.{LEAST_CAPABILITY[1]} is needed (GeForce RTX 20 or GTX 16, "
        "T4 or newer). Use a newer GPU."
    )


def _triton_problem() -> str | None:
    """Whether Triton is there and can compile: it needs a C compiler and the driver's library."""
    try:
        import triton  # noqa: F401
    except Exception as error:  # a broken installation fails in many ways
        return (
            f"the package triton cannot be imported ({error}). It exists for Linux only; install "
            "it: pip install triton."
        )
    try:
        _try_kernel()
    except Exception as error:
        first = next(iter(str(error).strip().splitlines()), "")
        return (
            f"Triton cannot compile a kernel here ({type(error).__name__}: {first}). It needs a C "
            "compiler (gcc) and write access to ~/.triton."
        )
    return None


def _try_kernel() -> None:
    from ops.splat2d.cuda_step import begin

    numbers = torch.zeros(4, dtype=torch.int32, device="cuda")
    begin[(1,)](numbers[:2], numbers[2:], torch.zeros(3, dtype=torch.int64, device="cuda"))
    if int(numbers[0]) != 1:
        raise RuntimeError("a first kernel gave a wrong result")


def gpu_memory() -> str:
    """For messages: how much memory the GPU has, where that can be asked."""
    try:
        free, total = torch.cuda.mem_get_info()
    except (RuntimeError, AssertionError):
        return ""
    name = torch.cuda.get_device_name()
    return f", and {name} has {total / 1e9:.1f} GB, of which {free / 1e9:.1f} are free"
