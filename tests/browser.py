"""A real JupyterLab with a real browser, for tests of what people see and press.

    with browser.lab(tmp_path) as lab:
        notebook = lab.open("from quick_start import train", "runs = train(config)")
        notebook.run_all()
        notebook.output(1).get_by_role("button", name="Stop").click()
        notebook.wait_until_done(1)

`lab` serves a folder from a free port, with this checkout on the path of its kernels and settings
of its own, and ends server, kernels and browser in the end. Every wait ends when something happens
in the page, and fails with a picture of it when that does not happen in time.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chrome")
VIEWPORT = {"width": 1280, "height": 1000}
SECONDS = 90.0  # that anything may take; starting a kernel on a busy machine is the slowest


def missing() -> str:
    """Why there can be no tests in a browser here; empty where there can."""
    for package in ("playwright", "jupyterlab"):
        if importlib.util.find_spec(package) is None:
            return f"{package} is not installed"
    return "" if CHROMIUM else "there is no chromium on the path; the variable CHROMIUM may name it"


needs_browser = pytest.mark.skipif(bool(missing()), reason=missing() or "there is a browser")


@contextlib.contextmanager
def lab(folder: Path, **lab_settings: dict[str, Any]) -> Iterator[Lab]:
    """Start JupyterLab in ``folder/work`` and a browser; both end with the block.

    Parameters
    ----------
    folder : an empty one; everything that Jupyter writes goes there.
    lab_settings : of plugins of ``@jupyterlab/apputils-extension``, by their names.
    """
    with (
        _server(folder, lab_settings) as url,
        _chromium() as chromium,
        contextlib.closing(chromium.new_context(viewport=VIEWPORT)) as pages,
    ):
        yield Lab(url, folder / "work", pages)


_shared: list[Any] = []  # the browser, while a lab uses it: Playwright cannot be started twice


@contextlib.contextmanager
def _chromium() -> Iterator[Any]:
    if _shared:
        yield _shared[0]
        return
    from playwright.sync_api import sync_playwright

    with (
        sync_playwright() as playwright,
        contextlib.closing(
            playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        ) as browser,
    ):
        _shared.append(browser)
        try:
            yield browser
        finally:
            _shared.clear()


class Lab:
    """A running JupyterLab.

    Attributes
    ----------
    folder : that it serves, and in which kernels start.
    """

    def __init__(self, url: str, folder: Path, pages: Any):
        self.url, self.folder, self._pages = url, folder, pages

    def open(self, *cells: str, name: str = "test.ipynb") -> NotebookPage:
        """Write a notebook with these code cells and open it; its kernel is ready on return."""
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
        spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
        notebook.metadata["kernelspec"] = spec
        nbformat.write(notebook, self.folder / name)
        page = self._pages.new_page()
        page.set_default_timeout(SECONDS * 1000)
        page.goto(f"{self.url}/lab/tree/{name}?reset")
        opened = NotebookPage(page, self.folder / name)
        opened.wait("() => NOTEBOOK.sessionContext.session?.kernel?.status === 'idle'")
        return opened


class NotebookPage:
    """A notebook in the browser.

    Attributes
    ----------
    page : Playwright's, for everything that is not here.
    path : of the notebook's file.
    """

    def __init__(self, page: Any, path: Path):
        self.page, self.path = page, path

    def run_all(self) -> None:
        """Start all cells, and do not wait for them."""
        self.command("notebook:run-all-cells", wait=False)

    def run(self, index: int) -> None:
        """Start one cell, and do not wait for it."""
        self._call("(index) => { NOTEBOOK.content.activeCellIndex = index; }", index)
        self.command("notebook:run-cell", wait=False)

    def wait_until_done(self, index: int, timeout: float = SECONDS) -> None:
        """Wait until a cell that was started has ended, well or not."""
        self.wait(
            "(index) => { const model = NOTEBOOK.content.widgets[index].model;"
            " return model.executionState === 'idle' && model.executionCount !== null; }",
            index,
            timeout=timeout,
        )

    def is_running(self, index: int) -> bool:
        """Whether a cell is being executed, or waits for it."""
        state = self._call("(index) => NOTEBOOK.content.widgets[index].model.executionState", index)
        return state in ("running", "scheduled")

    def output(self, index: int) -> Any:
        """The locator of what a cell shows."""
        return (
            self.page.locator(".jp-Notebook .jp-Cell").nth(index).locator(".jp-OutputArea-output")
        )

    def errors(self) -> list[str]:
        """Names of the exceptions that cells ended with, in order."""
        self.save()
        notebook = nbformat.read(self.path, as_version=4)
        outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
        return [output["ename"] for output in outputs if output["output_type"] == "error"]

    def interrupt(self) -> None:
        """Press the square button: interrupt the kernel."""
        self.command("notebook:interrupt-kernel", wait=False)

    def save(self) -> None:
        """Save the notebook, and wait until that is done."""
        self.command("docmanager:save")

    def command(self, name: str, *, wait: bool = True) -> None:
        """Execute a command of JupyterLab, as its menus do."""
        self._call(
            "([name, wait]) => { const done = window.jupyterapp.commands.execute(name);"
            " return wait ? done.then(() => null) : null; }",
            [name, wait],
        )

    def wait(self, condition: str, argument: Any = None, timeout: float = SECONDS) -> None:
        """Wait for a condition in JavaScript, in which ``NOTEBOOK`` is the open notebook."""
        from playwright.sync_api import TimeoutError as TooLate

        ready = f"(argument) => {{ {_NOTEBOOK} return NOTEBOOK && ({condition})(argument); }}"
        try:
            self.page.wait_for_function(ready, arg=argument, timeout=timeout * 1000)
        except TooLate as error:
            picture = self.path.with_suffix(".png")
            self.page.screenshot(path=picture)
            raise AssertionError(f"not within {timeout} s: {condition}; see {picture}") from error

    def _call(self, function: str, argument: Any) -> Any:
        body = f"(argument) => {{ {_NOTEBOOK} return ({function})(argument); }}"
        return self.page.evaluate(body, argument)


_NOTEBOOK = "const NOTEBOOK = window.jupyterapp?.shell?.currentWidget;"


@contextlib.contextmanager
def _server(folder: Path, lab_settings: dict[str, dict[str, Any]]) -> Iterator[str]:
    """JupyterLab as a process of its own, which is ended with its kernels; yields its address."""
    work = folder / "work"
    work.mkdir(parents=True)
    silent = {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True}
    for plugin, values in {"notification": silent, **lab_settings}.items():
        path = folder / f"settings/@jupyterlab/apputils-extension/{plugin}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    port = _free_port()
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}",
        "--ServerApp.port_retries=0", f"--ServerApp.root_dir={work}",
        "--IdentityProvider.token=", "--ServerApp.password=", "--LabApp.expose_app_in_browser=True",
    ]  # fmt: skip
    url = f"http://localhost:{port}"
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=work, env=_environment(folder), stdout=log, stderr=log
        )
        try:
            _wait_for(f"{url}/api/status", process, folder / "server.log")
            yield url
        finally:
            process.terminate()  # which ends the kernels, too
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _environment(folder: Path) -> dict[str, str]:
    """That of a machine on which nobody has set anything, with this checkout on the path."""
    places = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "IPYTHONDIR": "ipython",
    }
    return {
        **os.environ,
        **{name: str(folder / place) for name, place in places.items()},
        "PYTHONPATH": str(ROOT),
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        if process.poll() is not None:
            break
        with contextlib.suppress(urllib.error.URLError, OSError):
            urllib.request.urlopen(url, timeout=5).close()
            return
        time.sleep(0.1)
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text()[-2000:]}")
