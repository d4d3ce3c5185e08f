"""Two pictures over each other, with a line between them that can be dragged."""

from __future__ import annotations

import os
from collections.abc import Sequence
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from quick_start._format import image_tag, number
from quick_start.analysis.renderings import Rendering, reduced, renderings
from quick_start.runs import Run, RunError, find_run

MOST_PIXELS = 1200  # of a side: larger pictures are reduced
LEAST_PIXELS = 320  # on the page: smaller pictures are enlarged
LOSSLESS_BELOW = 300  # pixels of a side, where PNG is small enough

STYLE = """<style>
.splatbook-slider { position: relative; max-width: 100%; line-height: 0 }
.splatbook-slider img { display: block; width: 100% !important; height: auto; margin: 0 }
.splatbook-slider .over { position: absolute; inset: 0;
  clip-path: inset(0 0 0 var(--cut)) }
.splatbook-slider .line { position: absolute; top: 0; bottom: 0; left: var(--cut); width: 2px;
  margin-left: -1px; background: #fff; box-shadow: 0 0 2px #000; pointer-events: none }
.splatbook-slider .line::after { content: "◂ ▸"; position: absolute; top: 50%; left: 50%;
  transform: translate(-50%, -50%); padding: 6px; border-radius: 1em; background: #fff;
  color: #333; font: 12px/1 sans-serif; white-space: nowrap; box-shadow: 0 0 3px #000 }
.splatbook-slider input { position: absolute; inset: 0 -8px; width: calc(100% + 16px);
  height: 100%; margin: 0; opacity: 0; cursor: ew-resize; touch-action: pan-y }
.splatbook-slider:has(input:focus-visible) { outline: 2px solid #4a90d9; outline-offset: 2px }
.splatbook-slider .untrusted { display: none }
</style>"""
# The input reaches 8 pixels beyond the picture, so that the middle of its thumb, 16 pixels wide,
# travels from edge to edge and the line stays below the finger.
# A notebook that is not trusted loses style and script. The pictures then stand below each other.
UNTRUSTED = "{} (above) and {} (below). To drag between them, trust this notebook or run the cell."


class Slider:
    """Two pictures with a line between them, as HTML that needs neither kernel nor files."""

    def __init__(self, html: str):
        self.html = html

    def _repr_html_(self) -> str:
        return self.html


def compare_slider(
    first: Any,
    other: Any = None,
    *,
    picture: int | str = 0,
    labels: Sequence[str] | None = None,
    width: int | None = None,
    output_dir: str | os.PathLike[str] = "output",
) -> Slider:
    """Wipe between two pictures: drag, or use the arrow keys, Page Up and Down, Home and End.

    Parameters
    ----------
    first : a run, or its name such as ``session_1/cat-1000-2000``; or a picture: an array or
        tensor of (H, W), (H, W, 3), (1, H, W) or (3, H, W), floats in [0, 1] or bytes; or a pair
        of pictures.
    other : nothing, for the run's ground truth and its rendering; another run, for the renderings
        of both; or another picture.
    picture : which one of a stack, by its number or its name.
    labels : what to write on the left and on the right picture.
    width : in pixels; without it the picture's own, at most that of the page.
    output_dir : folder in which names are looked up.

    Raises
    ------
    RunError
        Where there is no such run, it left no picture, or two runs fitted different pictures.
    ValueError
        Where a picture is none, or two have different proportions.
    """
    if other is None and isinstance(first, tuple | list) and len(first) == 2:
        first, other = first
    if other is None:
        names, pair = _truth_and_rendering(find_run(first, output_dir), picture)
    elif _names_a_run(first) and _names_a_run(other):
        runs = find_run(first, output_dir), find_run(other, output_dir)
        names, pair = _two_renderings(*runs, picture)
    else:
        names, pair = ("left", "right"), (_as_picture(first), _as_picture(other))
    if labels is not None and len(labels) != 2:
        raise ValueError(f"labels={labels!r}: give two, of the left and of the right picture.")
    if width is not None and not width > 0:
        raise ValueError(f"width={width!r}: allowed is a number of pixels above 0.")
    return Slider(_html(_same_proportions(*pair), labels or names, width))


def _names_a_run(value: Any) -> bool:
    if isinstance(value, str | os.PathLike) and not isinstance(value, Run):
        return not Path(value).is_file()
    return isinstance(value, Run)


def _truth_and_rendering(run: Run, picture: int | str) -> tuple[Sequence[str], Sequence]:
    found = _chosen(run, picture)
    quality = f"rendering, PSNR {number(run.scores.get('psnr'))} dB"
    return ("ground truth", quality), (found.truth, found.image)


def _two_renderings(run: Run, other: Run, picture: int | str) -> tuple[Sequence[str], Sequence]:
    one, two = _chosen(run, picture), _chosen(other, picture)
    names = [f"{r}, PSNR {number(r.scores.get('psnr'))} dB" for r in (run, other)]
    if one.truth.shape != two.truth.shape or not np.array_equal(one.truth, two.truth):
        raise RunError(
            f"{run} fitted {run.picture['name']} and {other} fitted {other.picture['name']}, which "
            "differ. Choose two runs of one picture."
        )
    return names, (one.image, two.image)


def _chosen(run: Run, picture: int | str) -> Rendering:
    """One picture of a run's stack."""
    found = list(renderings(run))
    for index, rendering in enumerate(found):
        if picture in (index, rendering.name):
            return rendering
    names = ", ".join(rendering.name for rendering in found)
    raise RunError(
        f"picture={picture!r}: {run} has {names}. Give a name, or a number from 0 to "
        f"{len(found) - 1}."
    )


def _as_picture(value: Any) -> np.ndarray:
    """(H, W) or (H, W, 3) float32 in [0, 1]."""
    if isinstance(value, str | os.PathLike):
        from imaging.files import load_picture

        value = load_picture(value).pixels
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    pixels = np.asarray(value)
    shape, kind = pixels.shape, pixels.dtype
    if pixels.ndim == 3 and shape[2] not in (1, 3) and shape[0] in (1, 3):
        pixels = np.moveaxis(pixels, 0, 2)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    usable = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)
    if (
        not usable
        or not pixels.size
        or kind.kind not in "fu"
        or (kind.kind == "u" and kind != "u1")
    ):
        raise ValueError(
            f"An array of {kind} with the shape {shape} is no picture. Give (H, W) or (H, W, 3), "
            "floats in [0, 1] or bytes."
        )
    values = pixels.astype(np.float32) / (255 if kind == np.uint8 else 1)
    return np.nan_to_num(values).clip(0, 1)


def _same_proportions(one: np.ndarray, two: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    (h1, w1), (h2, w2) = one.shape[:2], two.shape[:2]
    if abs(w1 * h2 - w2 * h1) > max(w1, h1, w2, h2):  # rounding may leave sides a pixel apart
        raise ValueError(
            f"The pictures are {w1}×{h1} and {w2}×{h2}. Give two of the same proportions."
        )
    return one, two


def _html(pair: Sequence[np.ndarray], labels: Sequence[str], width: int | None) -> str:
    left, right = (_embedded(values, label) for values, label in zip(pair, labels, strict=True))
    shape = max((values.shape[:2] for values in pair), key=max)
    shown = width or max(LEAST_PIXELS, min(shape[1], MOST_PIXELS))
    crisp = "; image-rendering: pixelated" if max(shape) < LEAST_PIXELS else ""
    names = [escape(label) for label in labels]
    move = "this.parentNode.style.setProperty('--cut', this.value + '%')"
    return (
        f'{STYLE}<figure style="margin: 4px; width: {int(shown)}px; max-width: 100%">'
        f'<div class="splatbook-slider" style="--cut: 50%{crisp}">'
        f'{left}<div class="over">{right}</div><div class="line"></div>'
        f'<input type="range" min="0" max="100" step="0.5" value="50" oninput="{move}" '
        f'aria-label="Share of {names[0]} beside {names[1]}">'
        f'<div class="untrusted">{UNTRUSTED.format(*names)}</div></div>'
        '<figcaption style="display: flex; justify-content: space-between; gap: 2em; '
        'margin-top: 4px; font-size: small">'
        f'<span>◂ {names[0]}</span> <span style="text-align: right">{names[1]} ▸</span>'
        "</figcaption></figure>"
    )


def _embedded(values: np.ndarray, label: str) -> str:
    """A picture as an HTML element of bounded size."""
    from PIL import Image

    values = reduced(values, MOST_PIXELS)
    lossless = max(values.shape[:2]) <= LOSSLESS_BELOW
    kind, options = ("png", {}) if lossless else ("jpeg", {"quality": 92, "subsampling": "4:4:4"})
    buffer = BytesIO()
    Image.fromarray(np.rint(values * 255).astype(np.uint8)).save(buffer, kind, **options)
    return image_tag(buffer.getvalue(), kind, label)
