"""The shipped notebook as a user meets it: run from the menu, watched, looked at, exported."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from nbconvert import HTMLExporter

from tests import browser

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

SMALL = {"gaussians": 100, "steps": 400, "eval_steps": 20, "video_iterations": 20}
COUNT_POINTS = """([index, before]) => {
    const cell = NOTEBOOK.content.widgets[index];
    const curve = cell.node.querySelector('svg[aria-label^="PSNR (dB) from"] path[stroke-width]');
    const points = curve ? curve.getAttribute('d').split('L').length : 0;
    return cell.model.executionState === 'running' && points > before && points;
}"""


class Executed(NamedTuple):
    """A notebook that was run, and how many points the curve had when it was looked at."""

    notebook: browser.NotebookPage
    looks: list[int]

    def output(self, cell_id: str) -> Any:
        """The locator of what a cell shows, by the cell's id."""
        return self.notebook.output(self.notebook.index(cell_id))


@pytest.fixture(scope="module")
def executed(jupyter: browser.Server, chromium: Browser) -> Iterator[Executed]:
    """The notebook at small settings, all cells run from the menu, looked at while it trains."""
    with browser.lab(jupyter, chromium) as lab:
        notebook = lab.open_quick_start(**SMALL)
        notebook.page.get_by_role("menuitem", name="Run", exact=True).click()
        notebook.page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        training, looks = notebook.index("training"), [0]
        for _ in range(2):
            looks.append(notebook.wait(COUNT_POINTS, [training, looks[-1]]))
        notebook.wait_until_done(notebook.index("best-run"), timeout=300)
        yield Executed(notebook, looks)


def test_curves_grow_while_it_trains(executed: Executed) -> None:
    _, first, second = executed.looks
    assert 0 < first < second


def test_no_cell_ends_with_an_error_or_a_warning(executed: Executed) -> None:
    cells = [cell for cell in executed.notebook.saved().cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert executed.notebook.errors() == []
    page = executed.notebook.page
    assert page.locator('[data-mime-type="application/vnd.jupyter.stderr"]').count() == 0


def test_the_record_replaces_the_live_view(executed: Executed) -> None:
    output = executed.output("training")
    output.get_by_role("cell", name="finished").wait_for()
    assert output.get_by_role("img", name="over 400 steps").count() == 3
    assert output.locator("img").count() == 2  # target and rendering
    assert output.get_by_role("button").count() == 0


def test_the_film_plays(executed: Executed) -> None:
    assert browser.play(executed.output("film").locator("video")) == browser.FILM


def test_the_slider_follows_the_mouse(executed: Executed) -> None:
    assert_the_slider_moves(executed.output("slider").locator(".splatbook-slider"))


def test_the_table_compares_all_three_runs(executed: Executed) -> None:
    rows = executed.output("comparison").locator("tbody tr")
    assert rows.count() == 3
    shown = " ".join(rows.all_inner_texts())
    for gaussians in (100, 250, 500):
        assert f"cat-{gaussians}-400" in shown


def test_pictures_are_not_empty(executed: Executed) -> None:
    for cell in ("results", "curves"):
        picture = executed.output(cell).locator("img")
        assert picture.evaluate("picture => picture.naturalWidth") > 600


# Exported


@pytest.fixture(scope="module")
def exported(
    executed: Executed, chromium: Browser, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Page, list[str]]]:
    """The notebook as HTML on a machine without a network, and what it asked for in vain."""
    html, _ = HTMLExporter().from_notebook_node(executed.notebook.saved())
    path: Path = tmp_path_factory.mktemp("exported") / "page.html"
    path.write_text(html)
    page, missed = chromium.new_page(viewport=browser.VIEWPORT), []

    def refuse(route: Any) -> None:
        missed.append(route.request.url)
        route.abort()

    page.route("http*://**", refuse)
    page.goto(path.as_uri(), wait_until="domcontentloaded")
    yield page, missed
    page.close()


def test_an_exported_page_misses_only_what_nbconvert_itself_loads(
    exported: tuple[Page, list[str]],
) -> None:
    page, missed = exported
    page.wait_for_load_state()
    assert {url.rpartition("/")[2].partition("?")[0] for url in missed} <= {
        "require.min.js", "MathJax.js", "mermaid.esm.min.mjs"
    }  # fmt: skip


def test_an_exported_page_shows_curves_pictures_and_tables(
    exported: tuple[Page, list[str]],
) -> None:
    page, _ = exported
    assert page.get_by_role("img", name="PSNR (dB) from").first.is_visible()
    form = page.locator('[id="cell-id=form"]').inner_text()
    assert "config = set_config(" in form
    assert form.rstrip().endswith("video_iterations=20,\n)")
    assert page.get_by_role("cell", name="finished").first.is_visible()
    for picture in page.locator("img").all():
        assert picture.evaluate("picture => picture.complete && picture.naturalWidth > 0")


def test_an_exported_film_plays_and_its_slider_moves(exported: tuple[Page, list[str]]) -> None:
    page, _ = exported
    assert browser.play(page.locator("video").first) == browser.FILM
    assert_the_slider_moves(page.locator(".splatbook-slider"))


def assert_the_slider_moves(slider: Any) -> None:
    """Drag the line from the middle to a quarter, and see it go there."""
    slider.get_by_role("slider").hover()  # its middle, once it stands still
    box, mouse = slider.bounding_box(), slider.page.mouse
    mouse.down()
    mouse.move(box["x"] + box["width"] / 4, box["y"] + box["height"] / 2, steps=4)
    mouse.up()
    line = slider.locator(".line").bounding_box()
    assert line["x"] + line["width"] / 2 - box["x"] == pytest.approx(box["width"] / 4, abs=3)
