"""Takes the pictures of the notebook in the README: ``python docs/screenshots.py``."""

from __future__ import annotations

import sys
import tempfile
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from imaging.files import atomic_write
from tests import browser

IMAGES = Path(__file__).parent / "images"
WINDOW = {"viewport": {"width": 1280, "height": 1800}, "device_scale_factor": 2}
MOST_BYTES = 250_000
MARGIN = 24  # pixels around what is shown
CURVE = 12  # points that a curve has before the live view is photographed
MOMENT = 0.6  # of the film, that is shown


def main() -> None:
    """Run the shipped notebook in a browser and keep what it shows."""
    IMAGES.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        browser.server(Path(folder) / "jupyter") as server,
        browser.chromium() as chromium,
        browser.lab(server, chromium, **WINDOW) as lab,
    ):
        notebook = lab.open_quick_start()
        cells = {
            name: notebook.index(name) for name in ("configuration", "form", "training", "film")
        }
        for index in range(cells["form"] + 1):
            notebook.run(index)
        notebook.wait_until_done(cells["form"])
        take_form(notebook.output(cells["form"]).locator(".splatbook-form"))
        notebook.run(cells["training"])
        take_live(notebook, cells["training"])
        notebook.wait_until_done(cells["training"], timeout=600)
        notebook.run_to_end(cells["film"])
        take_film(notebook.output(cells["film"]).locator("video"))


def take_form(form: Any) -> None:
    """Once its thumbnail is there, and its estimates are."""
    form.locator(".splatbook-tile.mod-active").wait_for()
    form.page.wait_for_function(
        "form => /Time: about/.test(form.innerText) && /Memory: about/.test(form.innerText)",
        arg=form.element_handle(),
    )
    take(form, "form.png")


def take_live(notebook: browser.NotebookPage, index: int) -> None:
    """While it trains, with the error map, when its curves have some shape."""
    output = notebook.output(index)
    output.get_by_role("button", name="Error map").click()
    output.get_by_text("black is exact").wait_for()
    notebook.wait(
        "([index, most]) => { const curve = NOTEBOOK.content.widgets[index].node.querySelector("
        "'svg[aria-label^=\"PSNR\"] path[stroke-width]');"
        " return curve?.getAttribute('d').split('L').length >= most; }",
        [index, CURVE],
    )
    take(output.locator(".jupyter-widgets").first, "live.png")


def take_film(video: Any) -> None:
    """A moment before the end, with the player's controls."""
    browser.play(video)
    video.evaluate(
        "(video, moment) => new Promise(done => { video.pause(); video.onseeked = done;"
        " video.currentTime = moment * video.duration; }).then(() => null)",
        MOMENT,
    )
    video.hover()
    take(video, "film.png")


def take(part: Any, name: str) -> None:
    """Photograph a part of a page, with some room around it, as a PNG of bounded size."""
    part.evaluate("part => part.scrollIntoView({block: 'center'})")  # away from the window's edges
    with Image.open(BytesIO(part.screenshot(animations="disabled"))) as shown:
        data = small_png(ImageOps.expand(shown.convert("RGB"), MARGIN, "white"))
    with atomic_write(IMAGES / name) as path:
        path.write_bytes(data)


def small_png(picture: Image.Image) -> bytes:
    """Of 256 colours, and as large as fits into ``MOST_BYTES``."""
    for share in (1.0, 0.75, 0.625, 0.5):
        size = [round(share * side) for side in picture.size]
        reduced = picture.resize(size, Image.Resampling.LANCZOS)
        data, palette = BytesIO(), reduced.quantize(256)
        palette.putpalette([255 if value > 245 else value for value in palette.getpalette()])
        dithered = reduced.quantize(palette=palette)  # which it is only with a palette given
        dithered.save(data, "png", optimize=True)
        if data.tell() <= MOST_BYTES:
            return data.getvalue()
    raise ValueError(f"A picture of {picture.size} pixels does not fit into {MOST_BYTES:,} bytes.")


if __name__ == "__main__":
    main()
