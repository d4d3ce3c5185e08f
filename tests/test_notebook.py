"""quick-start.ipynb, executed from top to bottom as ``python -m quick_start`` does."""

from __future__ import annotations

import ast
import base64
import json
import os
import signal
import subprocess
import sys
import time
from io import BytesIO
from pathlib import Path

import nbformat
import pytest
from PIL import Image

from quick_start.__main__ import NOTEBOOK, main, with_changes

SMALL = {"gaussians": "50", "steps": "30", "eval_steps": "10", "video_iterations": "10"}


def command(output: Path, **changes: str) -> list[str]:
    settings = {**SMALL, "output_dir": str(output), **changes}
    options = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    return [sys.executable, "-m", "quick_start", *options]


def cells(notebook: nbformat.NotebookNode, kind: str = "code") -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == kind]


# The file


@pytest.fixture(scope="module")
def shipped() -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


def test_the_notebook_is_valid_and_its_cells_have_ids(shipped: nbformat.NotebookNode) -> None:
    nbformat.validate(shipped)
    assert (shipped.nbformat, shipped.nbformat_minor) >= (4, 5)
    ids = [cell.id for cell in shipped.cells]
    assert len(set(ids)) == len(ids)


def test_the_notebook_imports_and_shows_but_defines_nothing(shipped: nbformat.NotebookNode) -> None:
    defining = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, ast.For, ast.While)
    for cell in cells(shipped):
        for node in ast.walk(ast.parse(cell.source)):  # plain Python: no ! and no %
            assert not isinstance(node, defining), cell.source


def test_the_notebook_has_its_steps_in_order(shipped: nbformat.NotebookNode) -> None:
    headings = [c.source.splitlines()[0] for c in cells(shipped, "markdown")]
    assert headings[0] == "# Quick start"
    assert [h.split(":")[0] for h in headings[1:-1] if h.startswith("##")] == [
        f"## Step {i}" for i in range(1, 9)
    ]
    assert headings[-1] == "## Where to go next"


def test_settings_from_outside_follow_the_configuration(shipped: nbformat.NotebookNode) -> None:
    changed = with_changes(nbformat.from_dict(json.loads(json.dumps(shipped))), {"steps": 5})
    sources = [cell.source for cell in changed.cells]
    place = next(i for i, s in enumerate(sources) if s.startswith("config = set_config("))
    assert "config.replace(steps=5)" in sources[place + 1]
    assert len(sources) == len(shipped.cells) + 1
    assert len(with_changes(shipped, {}).cells) == len(shipped.cells)


# Executed


@pytest.fixture(scope="module")
def execution(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess]:
    """The small run, started elsewhere and where Jupyter knows only a broken kernel."""
    folder = tmp_path_factory.mktemp("execution")
    spec = folder / "jupyter" / "kernels" / "python3" / "kernel.json"
    spec.parent.mkdir(parents=True)
    broken = {"argv": ["/no/such/python"], "display_name": "broken", "language": "python"}
    spec.write_text(json.dumps(broken))
    environment = {**os.environ, "JUPYTER_PATH": str(folder / "jupyter")}
    output = folder / "output"
    output.mkdir()
    (output / "quick-start.failed.ipynb").touch()  # of an earlier attempt
    done = subprocess.run(
        command(output), cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return output, done


@pytest.fixture(scope="module")
def executed(execution: tuple[Path, subprocess.CompletedProcess]) -> nbformat.NotebookNode:
    notebook = nbformat.read(execution[0] / "quick-start.ipynb", as_version=4)
    nbformat.validate(notebook)
    return notebook


def outputs(notebook: nbformat.NotebookNode, cell_id: str) -> list[nbformat.NotebookNode]:
    return next(cell for cell in notebook.cells if cell.id == cell_id).outputs


def test_every_cell_ran_without_a_word_on_stderr(executed: nbformat.NotebookNode) -> None:
    assert [cell.execution_count for cell in cells(executed)] == list(
        range(1, len(cells(executed)) + 1)
    )
    streams = [o for cell in cells(executed) for o in cell.outputs if o.output_type == "stream"]
    assert streams == []
    assert not [o for c in cells(executed) for o in c.outputs if o.output_type == "error"]


def test_the_command_says_where_everything_is(
    execution: tuple[Path, subprocess.CompletedProcess],
) -> None:
    output, done = execution
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert "Step 4: Training" in lines
    files = {"picture": "rendered.jpg", "film": "training_video.mp4", "metrics": "metrics.csv"}
    for kind, name in files.items():
        paths = [line.split(maxsplit=1)[1] for line in lines if line.startswith(kind)]
        assert paths[0] == str(output / "session_1" / "cat-50-30" / name)
        assert all(Path(path).is_file() for path in paths)
    assert lines[-1].split() == ["notebook", str(output / "quick-start.ipynb")]
    assert not (output / "quick-start.failed.ipynb").exists()


def test_figures_are_pictures_that_show_something(executed: nbformat.NotebookNode) -> None:
    for cell_id in ("results", "curves"):
        (shown,) = outputs(executed, cell_id)
        with Image.open(BytesIO(base64.b64decode(shown.data["image/png"]))) as picture:
            assert picture.width > 600
            assert len(set(picture.convert("L").tobytes())) > 50


def test_the_training_cell_keeps_its_end_and_no_widget(executed: nbformat.NotebookNode) -> None:
    (shown,) = outputs(executed, "training")
    assert set(shown.data) == {"text/html", "text/plain"}
    assert "session_1/cat-50-30" in shown.data["text/html"]
    assert "finished" in shown.data["text/html"]
    assert "widgets" not in executed.metadata


def test_every_result_is_shown_once(executed: nbformat.NotebookNode) -> None:
    for cell_id in ("setup", "configuration", "comparison", "best-run"):
        (shown,) = outputs(executed, cell_id)
        assert shown.output_type == "execute_result"
        assert "<table" in shown.data["text/html"]
    assert "Ready." in outputs(executed, "setup")[0].data["text/html"]
    assert outputs(executed, "comparison")[0].data["text/html"].count("session_") >= 2


def test_the_film_and_the_slider_are_inside_the_notebook(executed: nbformat.NotebookNode) -> None:
    (film,) = outputs(executed, "film")
    assert 'src="data:video/mp4;base64,' in film.data["text/html"]
    (slider,) = outputs(executed, "slider")
    assert slider.data["text/html"].count("data:image/") == 2


def test_the_form_leaves_the_call_that_it_stands_for(executed: nbformat.NotebookNode) -> None:
    (shown,) = outputs(executed, "form")
    assert "config = set_config(" in shown.data["text/plain"]
    assert "steps=[30]" in shown.data["text/plain"]


def test_the_executed_notebook_is_light(
    execution: tuple[Path, subprocess.CompletedProcess],
) -> None:
    assert (execution[0] / "quick-start.ipynb").stat().st_size < 2_000_000


# What goes wrong


def test_a_failing_cell_fails_the_command_and_leaves_what_was_done(tmp_path: Path) -> None:
    done = subprocess.run(
        command(tmp_path, gaussians="0"), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    assert "config.replace(gaussians=0" in done.stderr
    assert "SettingsError" in done.stderr
    assert "allowed: whole number from 1 to 10000000" in done.stderr
    assert "\x1b" not in done.stderr
    failed = tmp_path / "quick-start.failed.ipynb"
    assert str(failed) in done.stderr
    assert not (tmp_path / "quick-start.ipynb").exists()
    notebook = nbformat.read(failed, as_version=4)
    assert outputs(notebook, "setup")
    assert [o.ename for c in cells(notebook) for o in c.outputs if "ename" in o] == [
        "SettingsError"
    ]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signal")
def test_ctrl_c_keeps_what_was_reached_and_stops_after_the_cell(tmp_path: Path) -> None:
    process = subprocess.Popen(
        command(tmp_path, steps="1000000"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        until = time.monotonic() + 120
        metrics = tmp_path / "session_1" / "cat-50-1000000" / "metrics.csv"
        while not metrics.exists() and time.monotonic() < until:
            time.sleep(0.1)
        assert metrics.exists()
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 1
    assert error.startswith("Stopped before 'Step 5")
    assert json.loads((metrics.parent / "run.json").read_text())["status"] == "interrupted"
    notebook = nbformat.read(tmp_path / "quick-start.failed.ipynb", as_version=4)
    assert "Interrupted in session_1/cat-50-1000000" in str(outputs(notebook, "training"))
    assert not outputs(notebook, "results")


@pytest.mark.parametrize("wrong", ["steps", "=5", "two words=5"])
def test_an_option_that_is_no_assignment_is_refused(
    wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--set", wrong])
    assert stop.value.code == 2
    assert "NAME=VALUE" in capsys.readouterr().err
