"""``python -m quick_start``: executes quick-start.ipynb from top to bottom and keeps the result."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat
import yaml
import zmq
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from traitlets import default

from imaging.files import atomic_write

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "quick-start.ipynb"
COLOUR = re.compile(r"\x1b\[[0-9;]*m")  # of a traceback, which may end in a log file
CONFIGURATION = "configuration"  # the tag of the cell that makes `config`


class ThisPythonSpecs(KernelSpecManager):
    """Knows one kernel: the Python that runs this, whatever is registered elsewhere."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        return KernelSpec(**get_kernel_dict())


class ThisPython(AsyncKernelManager):
    """A kernel in the Python that runs this."""

    @default("kernel_spec_manager")
    def _specs(self) -> KernelSpecManager:
        return ThisPythonSpecs(parent=self)

    @default("transport_encryption")
    def _encryption(self) -> str:
        """What kernel and client say stays between them; without it the kernel warns."""
        return "auto" if zmq.has("curve") else "disabled"


def main(arguments: Sequence[str] | None = None) -> int:
    """Execute the notebook; returns the exit status."""
    options = _parser().parse_args(arguments)
    changes = dict(options.set)
    notebook = with_changes(nbformat.read(NOTEBOOK, as_version=4), changes)
    folder = ROOT / changes.get("output_dir", "output")
    executed, failed = folder / "quick-start.ipynb", folder / "quick-start.failed.ipynb"
    problem = execute(notebook)
    if problem:
        _write(notebook, failed)
        print(f"{problem}\n\nThe notebook up to there: {failed}", file=sys.stderr)
        return 1
    _write(notebook, executed)
    failed.unlink(missing_ok=True)
    _print_results(notebook, executed)
    return 0


def with_changes(notebook: Any, changes: dict[str, Any]) -> Any:
    """The notebook with a cell that changes settings after the one that makes `config`."""
    if changes:
        tags = [cell.metadata.get("tags", []) for cell in notebook.cells]
        place = next(i for i, found in enumerate(tags) if CONFIGURATION in found) + 1
        keywords = ", ".join(f"{name}={value!r}" for name, value in changes.items())
        source = f"# From the command line\nconfig = config.replace({keywords})\nconfig"
        cell = nbformat.v4.new_code_cell(source, metadata={"tags": ["injected-parameters"]})
        notebook.cells.insert(place, cell)
    return notebook


def execute(notebook: Any, folder: Path = ROOT) -> str:
    """Run all cells in place, with a kernel in ``folder``; returns what went wrong, or nothing."""
    conductor = Conductor(notebook)
    client = NotebookClient(
        notebook,
        timeout=None,
        kernel_manager_class=ThisPython,
        resources={"metadata": {"path": str(folder)}},
        store_widget_state=False,
        on_notebook_start=conductor.begin,
        on_cell_start=conductor.announce,
    )
    conductor.client = client
    # A frozen standard library makes the kernel's debugger complain on stderr.
    env = {**os.environ, "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    try:
        asyncio.run(client.async_execute(env=env))
    except (CellExecutionError, DeadKernelError, Stopped) as error:
        return COLOUR.sub("", str(error)).strip()
    return ""


class Stopped(Exception):
    """Somebody pressed Ctrl-C, or asked this process to end."""


class Conductor:
    """Says which part of the notebook is next, and stops it gently.

    Ctrl-C interrupts the cell that is running, so that training keeps what it reached; the cells
    after it are not started.
    """

    client: NotebookClient

    def __init__(self, notebook: Any):
        self._headings: list[str] = []
        self._last = ""
        self._stopped = False
        heading = ""
        for cell in notebook.cells:
            if cell.cell_type == "markdown" and cell.source.startswith("#"):
                heading = cell.source.splitlines()[0].lstrip("# ")
            self._headings.append(heading)

    def begin(self, notebook: Any) -> None:
        """Take over the signals, which nbclient answers by killing the kernel."""
        loop = asyncio.get_running_loop()
        with contextlib.suppress(NotImplementedError):  # Windows has no such signals
            loop.add_signal_handler(signal.SIGINT, self._stop)
            loop.add_signal_handler(signal.SIGTERM, self._stop)

    def announce(self, cell: Any, cell_index: int) -> None:
        """Print the heading above a cell that is about to start."""
        if self._stopped:
            raise Stopped(f"Stopped before {self._headings[cell_index]!r}.")
        if cell.cell_type == "code" and self._headings[cell_index] != self._last:
            self._last = self._headings[cell_index]
            print(self._last, flush=True)

    def _stop(self) -> None:
        self._stopped = True
        self._interruption = asyncio.ensure_future(self.client.km.interrupt_kernel())


def _write(notebook: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        nbformat.write(notebook, temporary)


def _print_results(notebook: Any, executed: Path) -> None:
    print()
    for folder in _run_folders(notebook):
        print(f"picture   {folder / 'rendered.jpg'}")
        for kind, name in (("film", "training_video.mp4"), ("metrics", "metrics.csv")):
            if (folder / name).exists():
                print(f"{kind:<9} {folder / name}")
    print(f"notebook  {executed}")


def _run_folders(notebook: Any) -> list[Path]:
    """The runs of the notebook, which the live view notes in the metadata of its output."""
    return [
        ROOT / run
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        for run in output.get("metadata", {}).get("splatbook", {}).get("runs", [])
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m quick_start", description=__doc__)
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        type=_assignment,
        metavar="NAME=VALUE",
        help="change a setting of the notebook's configuration, such as --set steps=100",
    )
    return parser


def _assignment(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} must have the form NAME=VALUE, as in steps=100")
    return name, yaml.safe_load(value)


if __name__ == "__main__":
    sys.exit(main())
