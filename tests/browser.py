"""A real JupyterLab with a real browser, for tests of what people see and press.

    def test_something(lab: browser.Lab) -> None:  # a fixture of conftest.py
        notebook = lab.open("from quick_start import train", "runs = train(config)")
        notebook.run(1)
        notebook.output(1).get_by_role("button", name="Stop").click()
        notebook.wait_until_done(1)

All tests share one server, those of a module one browser; every test has a folder, a window and
kernels of its own, which end with it. Every wait ends when something happens in the page. Where a
test fails, its report names a picture of the page.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat

ROOT = Path(__file__).resolve().parent.parent
QUICK_START = "quick-start.ipynb"
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
CHROMIUM = next(filter(None, map(shutil.which, [os.environ.get("CHROMIUM", ""), *NAMES])), None)
VIEWPORT = {"width": 1280, "height": 1000}
FILM = (902, 300)  # pixels of a film of input/cat.png: twice its width
SECONDS = 90.0  # that anything may take; starting a kernel on a busy machine is the slowest


def missing(*packages: str) -> str:
    """Why there can be no tests in a browser here; empty where there can."""
    for package in ("playwright", *packages):
        if importlib.util.find_spec(package) is None:
            return f"{package} is not installed"
    return "" if CHROMIUM else "there is no chromium on the path; the variable CHROMIUM may name it"


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """A browser without a screen. While there is one, this thread can start no other."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Chromium refuses its sandbox to root, as whom containers run.
        options = {"executable_path": CHROMIUM, "args": ["--no-sandbox"]}
        with contextlib.closing(playwright.chromium.launch(**options)) as started:
            yield started


@dataclass(frozen=True)
class Server:
    """A running JupyterLab.

    Attributes
    ----------
    url : of its root, without a slash in the end.
    folder : that it serves.
    """

    url: str
    folder: Path

    def end_kernel(self, notebook: Path) -> None:
        """End the kernel of a notebook, whatever it is doing."""
        for session in json.loads(_request(f"{self.url}/api/sessions")):
            if self.folder / session["path"] == notebook:
                _request(f"{self.url}/api/sessions/{session['id']}", "DELETE")


@contextlib.contextmanager
def server(folder: Path, **lab_settings: dict[str, Any]) -> Iterator[Server]:
    """Start JupyterLab in ``folder/work``, from a free port, with this checkout on its path.

    Parameters
    ----------
    folder : an empty one; everything that Jupyter writes goes there.
    lab_settings : of plugins of ``@jupyterlab/apputils-extension``, by their names.
    """
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
        "--IdentityProvider.token=", "--ServerApp.password=",
        "--ServerApp.disable_check_xsrf=True", "--LabApp.expose_app_in_browser=True",
    ]  # fmt: skip
    url = f"http://localhost:{port}"
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=work, env=_environment(folder), stdout=log, stderr=log
        )
        try:
            _wait_for(f"{url}/api/status", process, folder / "server.log")
            yield Server(url, work)
        finally:
            process.terminate()  # which ends the kernels, too
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def lab(server: Server, browser: Any, **window: Any) -> Iterator[Lab]:
    """A window and a folder on a server; with the block the window and its kernels end.

    Parameters
    ----------
    browser : from :func:`chromium`.
    window : options of Playwright's ``new_context``.
    """
    folder = Path(tempfile.mkdtemp(dir=server.folder, prefix="lab-"))
    with contextlib.closing(browser.new_context(**{"viewport": VIEWPORT} | window)) as pages:
        opened = Lab(server, folder, pages)
        try:
            yield opened
        finally:
            for notebook in opened.notebooks:
                server.end_kernel(notebook.path)


class Lab:
    """A window of JupyterLab.

    Attributes
    ----------
    folder : in which notebooks are written and kernels start.
    notebooks : that were opened.
    """

    def __init__(self, server: Server, folder: Path, pages: Any):
        self.folder, self.notebooks = folder, []
        self._server, self._pages = server, pages

    def open(self, *cells: str, name: str = "test.ipynb") -> NotebookPage:
        """Write a notebook with these code cells and open it; its kernel is ready on return."""
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
        spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
        notebook.metadata["kernelspec"] = spec
        return self.open_notebook(notebook, name)

    def open_notebook(self, notebook: nbformat.NotebookNode, name: str) -> NotebookPage:
        """Write a notebook and open it; its kernel is ready on return."""
        path = self.folder / name
        nbformat.write(notebook, path)
        page = self._pages.new_page()
        page.set_default_timeout(SECONDS * 1000)
        opened = NotebookPage(page, path)
        self.notebooks.append(opened)
        place = path.relative_to(self._server.folder).as_posix()
        page.goto(f"{self._server.url}/lab/tree/{place}?reset")
        opened.wait("() => NOTEBOOK.sessionContext.session?.kernel?.status === 'idle'")
        return opened

    def open_quick_start(self, **numbers: int) -> NotebookPage:
        """Open a copy of the shipped notebook beside the pictures of ``input/``.

        Parameters
        ----------
        numbers : settings in its configuration, such as ``steps=200``, in place of its own.
        """
        notebook = nbformat.read(ROOT / QUICK_START, as_version=4)
        (cell,) = (cell for cell in notebook.cells if cell.id == "configuration")
        for name, number in numbers.items():
            setting = re.compile(rf"(\b{name}=\[?)\d+")
            assert len(setting.findall(cell.source)) == 1, f"no {name}=number in\n{cell.source}"
            cell.source = setting.sub(rf"\g<1>{number}", cell.source)
        shutil.copytree(ROOT / "input", self.folder / "input")
        return self.open_notebook(notebook, QUICK_START)

    def screenshots(self) -> list[str]:
        """Take one of each notebook; returns the paths."""
        return [path for notebook in self.notebooks for path in notebook.screenshots()]


class NotebookPage:
    """A notebook in the browser.

    Attributes
    ----------
    page : Playwright's, for everything that is not here.
    path : of the notebook's file.
    """

    def __init__(self, page: Any, path: Path):
        self.page, self.path = page, path

    def index(self, cell_id: str) -> int:
        """The place of a cell, counted from 0."""
        cells = nbformat.read(self.path, as_version=4).cells
        return [cell.id for cell in cells].index(cell_id)

    def run(self, index: int) -> None:
        """Start one cell, and do not wait for it."""
        self._call("(index) => { NOTEBOOK.content.activeCellIndex = index; }", index)
        self.command("notebook:run-cell", wait=False)

    def run_to_end(self, index: int) -> None:
        """Execute one cell."""
        self.run(index)
        self.wait_until_done(index)

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
        outputs = [output for cell in self.saved().cells for output in cell.get("outputs", ())]
        return [output["ename"] for output in outputs if output["output_type"] == "error"]

    def saved(self) -> nbformat.NotebookNode:
        """Save the notebook, and read it back."""
        self.command("docmanager:save")
        return nbformat.read(self.path, as_version=4)

    def screenshots(self) -> list[str]:
        """Take one; returns its path."""
        picture = self.path.with_suffix(".png")
        self.page.screenshot(path=picture)
        return [str(picture)]

    def interrupt(self) -> None:
        """Interrupt the kernel, as the square button does."""
        self.command("notebook:interrupt-kernel", wait=False)

    def command(self, name: str, *, wait: bool = True) -> None:
        """Execute a command of JupyterLab, as its menus do."""
        self._call(
            "([name, wait]) => { const done = window.jupyterapp.commands.execute(name);"
            " return wait ? done.then(() => null) : null; }",
            [name, wait],
        )

    def wait(self, condition: str, argument: Any = None, timeout: float = SECONDS) -> Any:
        """Wait until a function in JavaScript gives something other than nothing, and return that.

        ``NOTEBOOK`` is the open notebook in it.
        """
        from playwright.sync_api import TimeoutError as TooLate

        ready = f"(argument) => {{ {_NOTEBOOK} return NOTEBOOK && ({condition})(argument); }}"
        try:
            found = self.page.wait_for_function(ready, arg=argument, timeout=timeout * 1000)
            return found.json_value()
        except TooLate as error:
            raise AssertionError(f"not within {timeout} s: {condition}") from error

    def _call(self, function: str, argument: Any) -> Any:
        body = f"(argument) => {{ {_NOTEBOOK} return ({function})(argument); }}"
        return self.page.evaluate(body, argument)


def play(video: Any) -> tuple[int, int]:
    """Play a film, given its locator, until it advances; returns its width and height."""
    video.evaluate("video => video.play()")  # fails where the browser cannot
    video.page.wait_for_function("video => video.currentTime > 0", arg=video.element_handle())
    error, *size = video.evaluate("v => [v.error?.message ?? null, v.videoWidth, v.videoHeight]")
    assert error is None
    return tuple(size)


_NOTEBOOK = "const NOTEBOOK = window.jupyterapp?.shell?.currentWidget;"


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


def _request(url: str, method: str = "GET") -> bytes:
    with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=30) as reply:
        return reply.read()


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        if process.poll() is not None:
            break
        with contextlib.suppress(urllib.error.URLError, OSError):
            _request(url)
            return
        time.sleep(0.1)
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text()[-2000:]}")
