"""The live view in JupyterLab and Chromium: its buttons, the kernel's interrupt, what is left."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

from tests import browser

pytestmark = browser.needs_browser

ENDLESS = f"""
from quick_start import set_config, train
import threading, ipywidgets
config = set_config(
    input_filenames="cat.png", input_dir={str(browser.ROOT / "input")!r}, downsample_ratio=4,
    gaussians=[100, 200], steps=1_000_000, eval_steps=20, lr_schedule=False,
)
"""
TRAIN = "runs = train(config)"
IN_A_THREAD = """
place, found = ipywidgets.VBox(), []
display(place)
def work():
    found.extend(train(config, display=lambda widget, **_: setattr(place, "children", [widget])))
thread = threading.Thread(target=work)
thread.start()
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Lab]:
    with browser.lab(tmp_path_factory.mktemp("lab")) as started:
        yield started


def train_in(lab: browser.Lab, name: str, *cells: str) -> browser.NotebookPage:
    """A notebook whose first cell makes an endless configuration; nothing is running yet."""
    output = f"config = config.replace(output_dir={name!r})"
    notebook = lab.open(ENDLESS + output, *cells, name=f"{name}.ipynb")
    notebook.run(0)
    notebook.wait_until_done(0)
    return notebook


def only_run(lab: browser.Lab, name: str) -> Path:
    (folder,) = lab.folder.glob(f"{name}/session_*/*")
    return folder


def assert_kept(folder: Path) -> None:
    """An interrupted run has everything that a finished one has."""
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "interrupted"
    assert record["steps_done"] > 0
    for name in ("model.pt", "rendered.jpg", "metrics.csv"):
        assert (folder / name).stat().st_size > 0


def test_the_stop_button_ends_a_cell_and_leaves_a_record(lab: browser.Lab) -> None:
    notebook = train_in(lab, "button", TRAIN)
    notebook.run(1)
    output = notebook.output(1)
    stop = output.get_by_role("button", name="Stop")
    stop.wait_for(state="visible")
    output.get_by_role("img", name="PSNR (dB) from").wait_for()
    output.get_by_role("button", name="Error map").click()
    output.get_by_text("black is exact").wait_for(state="visible")
    assert notebook.is_running(1)
    stop.click()
    notebook.wait_until_done(1)
    output.get_by_text("1 of 2 runs were not started").wait_for()
    assert notebook.errors() == []
    assert_kept(only_run(lab, "button"))
    saved = nbformat.read(notebook.path, as_version=4).cells[1].outputs
    (record,) = (out for out in saved if out.output_type == "display_data")
    assert "application/vnd.jupyter.widget-view+json" not in record.data
    assert record.metadata["splatbook"]["runs"]
    for part in ("<svg", "data:image/jpeg", "interrupted", "waiting"):
        assert part in record.data["text/html"]


def test_the_kernels_interrupt_does_the_same(lab: browser.Lab) -> None:
    notebook = train_in(lab, "interrupt", TRAIN)
    notebook.run(1)
    notebook.output(1).get_by_role("img", name="PSNR (dB) from").wait_for()
    notebook.interrupt()
    notebook.wait_until_done(1)
    notebook.output(1).get_by_text("1 of 2 runs were not started").wait_for()
    assert notebook.errors() == []
    assert_kept(only_run(lab, "interrupt"))


def test_a_training_in_a_thread_shows_itself_where_it_is_told_and_can_be_stopped(
    lab: browser.Lab,
) -> None:
    notebook = train_in(lab, "thread", IN_A_THREAD, "thread.is_alive()", "thread.join(); found")
    notebook.run(1)
    notebook.wait_until_done(1)
    output = notebook.output(1)
    output.get_by_role("button", name="Stop").wait_for(state="visible")
    output.get_by_role("img", name="PSNR (dB) from").wait_for()
    notebook.run(2)  # the kernel is free meanwhile
    notebook.wait_until_done(2)
    assert notebook.output(2).inner_text() == "True"
    output.get_by_role("button", name="Stop").click()
    output.get_by_text("Interrupted in").wait_for()
    notebook.run(3)
    notebook.wait_until_done(3)
    assert "cat-100-1000000" in notebook.output(3).inner_text()
    assert_kept(only_run(lab, "thread"))


def test_where_buttons_cannot_be_heard_the_view_says_how_to_stop(tmp_path: Path) -> None:
    old = {"kernels-settings": {"commsOverSubshells": "disabled"}}
    with browser.lab(tmp_path, **old) as lab:
        notebook = train_in(lab, "deaf", TRAIN)
        notebook.run(1)
        notebook.output(1).get_by_text("To stop, interrupt the kernel").wait_for()
        assert not notebook.output(1).get_by_role("button", name="Stop").is_visible()
        notebook.interrupt()
        notebook.wait_until_done(1)
        assert_kept(only_run(lab, "deaf"))
