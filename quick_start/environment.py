"""Says what a run will use here: packages, processor, GPU, folders, and what is missing."""

from __future__ import annotations

import os
import platform
import re
import sys
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from imaging.files import PictureError, list_pictures
from quick_start._format import html_table, plural, text_table

SHOWN = ("torch", "numba", "gsplat")
LISTED = 8
DRIVER_VERSION = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True, repr=False)
class Setup:
    """What was found; ``problems`` is empty where everything is ready."""

    rows: tuple[tuple[str, str], ...]
    problems: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether training can start."""
        return not self.problems

    def _conclusion(self) -> str:
        return "Ready." if self.ok else f"{plural(len(self.problems), 'problem')} to solve:"

    def __repr__(self) -> str:
        problems = (f"- {problem}" for problem in self.problems)
        return "\n".join([text_table(self.rows), "", self._conclusion(), *problems])

    def _repr_html_(self) -> str:
        import html

        problems = "".join(f"<li>{html.escape(problem)}</li>" for problem in self.problems)
        table = html_table(self.rows)
        return f"{table}<div>{self._conclusion()}</div>" + (f"<ul>{problems}</ul>" * bool(problems))


def verify_setup(
    *, input_dir: str | os.PathLike[str] = "input", output_dir: str | os.PathLike[str] = "output"
) -> Setup:
    """Look at what is installed and what this machine has.

    Nothing is raised: what is missing is said, with what to do. As the last line of a cell the
    answer is shown; in a script, print it.

    Parameters
    ----------
    input_dir : folder with pictures.
    output_dir : folder for results; it need not exist yet.
    """
    problems = [*_package_problems()]
    trainer, torch_problem = _trainer()
    pictures, pictures_problem = _pictures(Path(input_dir))
    output, output_problem = _output(Path(output_dir))
    rows = [
        ("Python", f"{platform.python_version()} ({sys.executable})"),
        *((name, _version(name) or "missing") for name in SHOWN),
        ("processor", f"{_processor()}, {plural(_threads(), 'thread')}"),
        ("trains on", trainer),
        ("results", output),
        ("pictures", pictures),
    ]
    problems += [p for p in (torch_problem, output_problem, pictures_problem) if p]
    return Setup(tuple(rows), tuple(problems))


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _requirements() -> list[str]:
    """What pyproject.toml asks for, of a checkout or else of the installed package."""
    path = Path(__file__).resolve().parent.parent / "pyproject.toml"
    if path.exists():
        import tomllib

        return tomllib.loads(path.read_text(encoding="utf-8"))["project"]["dependencies"]
    return [line for line in metadata.requires("splatbook") or [] if "extra ==" not in line]


def _package_problems() -> list[str]:
    """Packages that are missing or of the wrong version, with the command that helps."""
    from packaging.requirements import Requirement

    wrong = []
    for requirement in map(Requirement, _requirements()):
        version = _version(requirement.name)
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            wrong.append((requirement, version))
    if not wrong:
        return []
    found = ", ".join(
        f"{r.name} is {f'{v}, needed is {r.specifier}' if v else 'missing'}" for r, v in wrong
    )
    command = " ".join(f'"{requirement}"' for requirement, _ in wrong)
    return [
        f"{found}. Install it, then restart the kernel: {sys.executable} -m pip install {command}"
    ]


def _trainer() -> tuple[str, str]:
    """What a run with ``device="auto"`` trains on and why, and what is wrong with torch."""
    cpu = f"CPU, {plural(_threads(), 'thread')}"
    try:
        from fitting.machine import gpu_problem, has_gpu

        problem = gpu_problem()
        if problem is None:
            return _gpu(), ""
        if has_gpu():
            return f"{cpu}; there is a GPU that is not used: {problem}", ""
        slower = "a GPU is much faster with large pictures"
        return f"{cpu} (no NVIDIA GPU found; none is needed, but {slower})", ""
    except Exception as error:  # a broken installation fails in many ways
        return cpu, f"torch cannot be used: {error}. Install it again."


def _gpu() -> str:
    """The GPU, what drives it, and what a run uses of it unless told otherwise."""
    import torch

    from settings import Settings

    properties = torch.cuda.get_device_properties(0)
    facts = [
        f"{properties.name} ({properties.total_memory / 1e9:.0f} GB)",
        f"compute {properties.major}.{properties.minor}",
    ]
    facts += [f"driver {driver}" for driver in [_driver()] if driver]
    facts += [f"Triton {triton}" for triton in [_version("triton")] if triton]
    switches = {"use_amp": "half precision", "use_cuda_graph": "CUDA graph"}
    used = [words for name, words in switches.items() if Settings.model_fields[name].default]
    return f"{', '.join(facts)}: {', '.join(used)}"


def _driver() -> str:
    """The version of NVIDIA's driver, where the system tells it."""
    try:
        text = DRIVER_VERSION.read_text()
    except OSError:
        return ""
    found = re.search(r"Kernel Module\s[^\n]*?(\d+(?:\.\d+)+)", text)
    return found[1] if found else ""


def _processor() -> str:
    try:
        from fitting.machine import processor
    except Exception:  # a broken torch, of which _trainer tells
        return platform.processor() or platform.machine()
    return processor()


def _threads() -> int:
    """How many threads the kernels will use."""
    try:
        import numba

        return numba.config.NUMBA_NUM_THREADS
    except ImportError:
        return os.cpu_count() or 1


def _output(folder: Path) -> tuple[str, str]:
    """Try to write where the results will go, or where their folder will be created."""
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    try:
        with tempfile.TemporaryFile(dir=existing):
            return f"{folder.absolute()} (writable)", ""
    except OSError as error:
        problem = f"{folder.absolute()} cannot be written to ({error.strerror or error})"
        return f"{folder.absolute()} (not writable)", f"{problem}. Set another output_dir."


def _pictures(folder: Path) -> tuple[str, str]:
    try:
        found = [path.name for path in list_pictures(folder)]
    except PictureError as error:
        return "none", str(error)
    more = f" and {len(found) - LISTED} more" if len(found) > LISTED else ""
    if not found:
        return "none", f"{folder.absolute()} holds no picture. Put one there."
    return f"{', '.join(found[:LISTED])}{more} in {folder}", ""
