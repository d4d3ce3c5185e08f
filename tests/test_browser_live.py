"""The live view in JupyterLab and Chromium: its buttons, the kernel's interrupt, what is left."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tests import browser

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ENDLESS = f"""
from quick_start import play_video, set_config, train
import threading, ipywidgets
config = set_config(
    input_filenames="cat.png", input_dir={str(browser.ROOT / "input")!r}, downsample_ratio=4,
    gaussians=[100, 200], steps=1_000_000, eval_steps=20, lr_schedule=False,
    make_training_video=True, video_iterations=20,
)
"""
TRAIN = "runs = train(config)"
PLAY = "play_video(runs[0])"
SPREAD = """
from quick_start import process_pool
with process_pool(2) as executor:
    runs = train(config, executor=executor)
"""
IN_A_THREAD = """
place, found = ipywidgets.VBox(), []
display(place)
def work():
    found.extend(train(config, display=lambda widget, **_: setattr(place, "children", [widget])))
thread = threading.Thread(target=work)
thread.start()
"""
PROMPT = 5.0  # seconds from a press to the end of the cell, on a machine that others use, too


def train_in(lab: browser.Lab, *cells: str) -> browser.NotebookPage:
    """A notebook whose first cell makes an endless configuration and whose second one runs."""
    notebook = lab.open(ENDLESS, *cells)
    notebook.run_to_end(0)
    notebook.run(1)
    return notebook


def wait_for_curves(notebook: browser.NotebookPage) -> None:
    notebook.output(1).get_by_role("img", name="PSNR (dB) from").wait_for()


def assert_prompt(notebook: browser.NotebookPage, press: Callable[[], None]) -> None:
    """A cell ends soon after something is pressed."""
    assert notebook.is_running(1)
    begun = time.monotonic()
    press()
    notebook.wait_until_done(1)
    took = time.monotonic() - begun
    print(f"the cell returned {took:.2f} s after the press")
    assert took < PROMPT


def assert_kept(lab: browser.Lab) -> None:
    """An interrupted run has everything that a finished one has."""
    (path,) = lab.folder.glob("output/session_*/*/run.json")
    folder, record = path.parent, json.loads(path.read_text())
    assert record["status"] == "interrupted"
    assert record["steps_done"] > 0
    for name in ("model.pt", "rendered.jpg", "metrics.csv", "training_video.mp4"):
        assert (folder / name).stat().st_size > 0


def assert_the_film_plays(notebook: browser.NotebookPage) -> None:
    notebook.run_to_end(2)
    assert browser.play(notebook.output(2).locator("video")) == browser.FILM


def test_the_stop_button_ends_a_cell_and_leaves_a_record(lab: browser.Lab) -> None:
    notebook = train_in(lab, TRAIN, PLAY)
    output = notebook.output(1)
    stop = output.get_by_role("button", name="Stop")
    stop.wait_for(state="visible")
    wait_for_curves(notebook)
    output.get_by_role("button", name="Error map").click()
    output.get_by_text("black is exact").wait_for(state="visible")
    assert_prompt(notebook, stop.click)
    output.get_by_text("1 of 2 runs were not started").wait_for()
    assert_kept(lab)
    assert_the_film_plays(notebook)
    assert notebook.errors() == []
    saved = notebook.saved().cells[1].outputs
    (record,) = (out for out in saved if out.output_type == "display_data")
    assert "application/vnd.jupyter.widget-view+json" not in record.data
    assert record.metadata["splatbook"]["runs"]
    for part in ("<svg", "data:image/jpeg", "interrupted", "waiting"):
        assert part in record.data["text/html"]


def test_runs_in_other_processes_are_shown_and_stopped_too(lab: browser.Lab) -> None:
    notebook = train_in(lab, SPREAD)
    output = notebook.output(1)
    stop = output.get_by_role("button", name="Stop")
    stop.wait_for(state="visible")
    wait_for_curves(notebook)
    notebook.wait(  # both go on
        "index => NOTEBOOK.content.widgets[index].node.querySelectorAll('tr b').length == 2", 1
    )
    assert output.locator(".widget-image:visible").count() == 2  # target and rendering
    assert_prompt(notebook, stop.click)
    output.get_by_text("Interrupted in session_1/cat-100-1000000").wait_for()
    paths = list(lab.folder.glob("output/session_*/*/run.json"))
    assert [json.loads(path.read_text())["status"] for path in paths] == ["interrupted"] * 2
    assert notebook.errors() == []


def test_the_kernels_interrupt_does_the_same(lab: browser.Lab) -> None:
    notebook = train_in(lab, TRAIN, PLAY)
    wait_for_curves(notebook)
    button = notebook.page.get_by_role("button", name="Interrupt the kernel")
    assert_prompt(notebook, button.click)
    notebook.output(1).get_by_text("1 of 2 runs were not started").wait_for()
    assert_kept(lab)
    assert_the_film_plays(notebook)
    assert notebook.errors() == []


def test_a_training_in_a_thread_shows_itself_where_it_is_told_and_can_be_stopped(
    lab: browser.Lab,
) -> None:
    notebook = train_in(lab, IN_A_THREAD, "thread.is_alive()", "thread.join(); found")
    notebook.wait_until_done(1)
    output = notebook.output(1)
    output.get_by_role("button", name="Stop").wait_for(state="visible")
    wait_for_curves(notebook)
    notebook.run_to_end(2)  # the kernel is free meanwhile
    assert notebook.output(2).inner_text() == "True"
    output.get_by_role("button", name="Stop").click()
    output.get_by_text("Interrupted in").wait_for()
    notebook.run_to_end(3)
    assert "cat-100-1000000" in notebook.output(3).inner_text()
    assert_kept(lab)


def test_where_buttons_cannot_be_heard_the_view_says_how_to_stop(
    tmp_path: Path, chromium: Browser
) -> None:
    old = {"kernels-settings": {"commsOverSubshells": "disabled"}}
    with browser.server(tmp_path, **old) as server, browser.lab(server, chromium) as lab:
        notebook = train_in(lab, TRAIN)
        notebook.output(1).get_by_text("To stop, interrupt the kernel").wait_for()
        assert not notebook.output(1).get_by_role("button", name="Stop").is_visible()
        notebook.interrupt()
        notebook.wait_until_done(1)
        assert_kept(lab)
