"""The form worked by hand in JupyterLab: choosing, correcting, uploading, training, stopping."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests import browser
from tests.conftest import smooth_picture

FORM = """
from quick_start import set_config, settings_form, train
form = settings_form(gaussians=[50], steps=[1000000], downsample_ratio=2, lr_schedule=False)
form
"""
NEXT = "runs = form.wait() or train(form.config)\n[(str(run), run.status) for run in runs]"


def open_form(lab: browser.Lab, *cells: str) -> tuple[browser.NotebookPage, Any]:
    """A notebook that shows a form of two pictures; returns it and the form's locator."""
    folder = lab.folder / "input"
    folder.mkdir()
    for name in ("hill.png", "lake.png"):
        save_picture(folder / name)
    notebook = lab.open(FORM, *cells)
    notebook.run_to_end(0)
    form = notebook.output(0).locator(".splatbook-form")
    form.get_by_role("button", name="hill.png").wait_for()
    return notebook, form


def save_picture(path: Path, *, negative: bool = False) -> None:
    pixels = smooth_picture(96, 128)
    Image.fromarray(255 - pixels if negative else pixels).save(path)


def field(form: Any, name: str) -> Any:
    """The input of a setting."""
    return form.locator(f'input[title^="{name}:"]')


def wait_for_call(notebook: browser.NotebookPage, text: str) -> None:
    """Wait until the call below the form holds a text."""
    notebook.page.wait_for_function(
        "text => document.querySelector('.splatbook-call textarea').value.includes(text)", arg=text
    )


def test_choose_correct_train_stop_and_go_on(lab: browser.Lab) -> None:
    notebook, form = open_form(lab, NEXT)
    train, stop = (form.get_by_role("button", name=name) for name in ("Train", "Stop"))
    assert train.is_disabled()
    form.get_by_role("button", name="lake.png").click()
    wait_for_call(notebook, 'input_filenames="lake.png"')
    form.locator(".splatbook-summary").get_by_text("Memory:").wait_for()

    gaussians = field(form, "gaussians")
    gaussians.fill("none at all")
    gaussians.press("Tab")
    problems = form.get_by_role("alert")
    problems.first.wait_for()
    assert "gaussians" in problems.first.inner_text()
    assert "whole number from 1" in problems.first.inner_text()
    assert train.is_disabled()
    wait_for_call(notebook, "once everything above is right")

    gaussians.fill("60, 70")
    gaussians.press("Tab")
    wait_for_call(notebook, "gaussians=[60, 70]")
    form.locator(".splatbook-summary").get_by_text("2 runs").wait_for()
    assert problems.count() == 0

    train.click()
    form.get_by_role("img", name="PSNR (dB) from").wait_for()
    stop.first.click()
    form.get_by_text("1 interrupted").wait_for()
    form.get_by_text("Interrupted in session_1/lake-60-1000000").wait_for()
    notebook.run_to_end(1)
    assert notebook.output(1).inner_text() == "[('session_1/lake-60-1000000', 'interrupted')]"
    assert notebook.errors() == []


def test_the_next_cell_waits_for_a_training_and_its_interrupt_ends_that(lab: browser.Lab) -> None:
    notebook, form = open_form(lab, NEXT)
    form.get_by_role("button", name="hill.png").click()
    form.get_by_role("button", name="Train").click()
    form.get_by_role("img", name="PSNR (dB) from").wait_for()
    notebook.run(1)
    notebook.wait("() => NOTEBOOK.sessionContext.session.kernel.status === 'busy'")
    notebook.page.get_by_role("button", name="Interrupt the kernel").click()
    notebook.wait_until_done(1)
    assert notebook.output(1).inner_text() == "[('session_1/hill-50-1000000', 'interrupted')]"
    assert notebook.errors() == []


def test_a_picture_is_uploaded_and_chosen(lab: browser.Lab, tmp_path: Path) -> None:
    notebook, form = open_form(lab)
    mine, text = tmp_path / "mine.png", tmp_path / "notes.png"
    save_picture(mine, negative=True)
    text.write_text("no picture")
    with notebook.page.expect_file_chooser() as chooser:
        form.get_by_role("button", name="Upload").click()
    chooser.value.set_files([mine, text])
    wait_for_call(notebook, 'input_filenames="mine.png"')
    form.get_by_text("mine.png was added").wait_for()
    assert "notes.png" in form.get_by_role("alert").inner_text()
    form.locator(".splatbook-tile.mod-active", has_text="mine.png").wait_for()
    saved = lab.folder / "input" / "mine.png"
    assert np.array_equal(np.asarray(Image.open(saved)), np.asarray(Image.open(mine)))
    assert not (lab.folder / "input" / "notes.png").exists()


def test_the_form_answers_while_a_cell_trains(lab: browser.Lab) -> None:
    busy = "runs = train(form.config)"
    notebook, form = open_form(lab, busy)
    form.get_by_role("button", name="hill.png").click()
    wait_for_call(notebook, 'input_filenames="hill.png"')
    notebook.run(1)
    notebook.output(1).get_by_role("img", name="PSNR (dB) from").wait_for()
    steps = field(form, "steps")
    steps.fill("-1")
    steps.press("Tab")
    form.get_by_role("alert").first.get_by_text("steps=-1").wait_for()
    steps.fill("77")
    steps.press("Tab")
    wait_for_call(notebook, "steps=[77]")
    form.get_by_role("button", name="lake.png").click()
    wait_for_call(notebook, 'input_filenames=["hill.png", "lake.png"]')
    assert notebook.is_running(1)
    notebook.output(1).get_by_role("button", name="Stop").click()
    notebook.wait_until_done(1)
    assert notebook.errors() == []
