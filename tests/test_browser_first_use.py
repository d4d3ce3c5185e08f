"""How much a newcomer presses from opening the shipped notebook to the first curve."""

from __future__ import annotations

from typing import Any

from tests import browser


class Newcomer:
    """Presses what is in sight, and counts it.

    Attributes
    ----------
    presses : clicks of the mouse and strokes of keys, of which Shift+Enter is one.
    """

    def __init__(self, notebook: browser.NotebookPage):
        self.notebook, self.presses = notebook, 0

    def click(self, thing: Any) -> None:
        """Click once."""
        thing.click()
        self.presses += 1

    def press(self, keys: str) -> None:
        """Press keys together once."""
        self.notebook.page.keyboard.press(keys)
        self.presses += 1

    def sees_a_curve(self) -> bool:
        """Wait for the first curve of the training; it is there while the cell still runs."""
        training = self.notebook.index("training")
        self.notebook.output(training).get_by_role("img", name="PSNR (dB) from").wait_for()
        return self.notebook.is_running(training)


def test_from_the_menu_it_takes_two_clicks(lab: browser.Lab) -> None:
    newcomer = Newcomer(lab.open_quick_start())
    page = newcomer.notebook.page
    newcomer.click(page.get_by_role("menuitem", name="Run", exact=True))
    newcomer.click(page.get_by_role("menuitem", name="Run All Cells", exact=True))
    assert newcomer.sees_a_curve()
    assert newcomer.presses == 2


def test_with_shift_enter_as_its_first_lines_say_it_takes_ten_keys(lab: browser.Lab) -> None:
    newcomer = Newcomer(lab.open_quick_start())
    notebook = newcomer.notebook
    assert "Shift+Enter" in notebook.page.locator(".jp-Notebook .jp-Cell").first.inner_text()
    for _ in range(notebook.index("training") + 1):
        newcomer.press("Shift+Enter")
    assert newcomer.sees_a_curve()
    assert newcomer.presses == 10
