"""The pictures of a run, as arrays: what was to be fitted, what came out, where it began."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from imaging.files import PictureError, load_picture, part_name
from quick_start.runs import Run, RunError

if TYPE_CHECKING:  # torch takes a second to import
    from fitting.gaussians import Gaussians


@dataclass(frozen=True)
class Rendering:
    """One picture of a run; arrays are (H, W) or (H, W, 3) of float32 in [0, 1].

    Attributes
    ----------
    name : of the picture, which matters in a stack.
    truth : what was to be fitted.
    image : the Gaussians, drawn.
    start : the Gaussians that the run started from, drawn; None where it started from none, or
        where their file is gone.
    """

    name: str
    truth: np.ndarray
    image: np.ndarray
    start: np.ndarray | None = None

    @cached_property
    def error(self) -> np.ndarray:
        """Mean over the channels of the absolute difference, (H, W)."""
        return abs(self.truth - self.image).reshape(*self.truth.shape[:2], -1).mean(axis=2)


def renderings(run: Run) -> Iterator[Rendering]:
    """Each picture of a run drawn from its model, for rendered.jpg may have another size.

    Raises
    ------
    RunError
        Where the run has left no model, or no ground truth.
    """
    from fitting.gaussians import Gaussians

    if not run.model_path.exists():
        raise RunError(f"{run} left no model ({run.status}), so there is no picture to show.")
    names = run.picture["names"]
    gaussians = Gaussians.load(run.model_path)
    if len(names) != len(gaussians.channels):
        raise RunError(
            f"{run}: run.json names {len(names)} pictures, and its model.pt has the channels of "
            f"{len(gaussians.channels)}. Train again."
        )
    files = [part_name("ground_truth", name, ".png") for name in names]
    files = files if len(names) > 1 else ["ground_truth.png"]
    truths = [read_picture(run.folder / "other" / file) for file in files]
    # Not the size in run.json, for which memory would be needed before it proved to be wrong.
    height, width = truths[0].shape[:2]
    images = _drawn(gaussians, height, width)
    start = _start(gaussians)
    starts = _drawn(start, height, width) if start else [None] * len(images)
    for name, truth, image, begun in zip(names, truths, images, starts, strict=True):
        if truth.shape != image.shape:
            raise RunError(
                f"{run}: its ground truth of {name} is {truth.shape}, its model {image.shape}. "
                "Train again."
            )
        yield Rendering(name, truth, image, begun)


def _drawn(gaussians: Gaussians, height: int, width: int) -> list[np.ndarray]:
    parts = gaussians.picture(height, width).split(gaussians.channels)
    return [part.permute(1, 2, 0).squeeze(2).numpy() for part in parts]


def _start(gaussians: Gaussians) -> Gaussians | None:
    """The Gaussians that a run started from, blended as they were made."""
    from fitting.gaussians import CheckpointError, Gaussians

    path = gaussians.settings.init_gaussian_file
    try:
        start = Gaussians.load(path) if path else None
    except CheckpointError:  # it was moved or deleted since
        return None
    fits = start is not None and sum(start.channels) == sum(gaussians.channels)
    if not fits:
        return None
    start.channels = gaussians.channels
    return start


def read_picture(path: Path) -> np.ndarray:
    """A picture file of 8 bits as (H, W) or (H, W, 3) float32 in [0, 1].

    Raises
    ------
    RunError
        Where it cannot be read.
    """
    try:
        pixels = load_picture(path).pixels
    except PictureError as error:
        raise RunError(f"{path} cannot be read: {error}. Train again.") from error
    return pixels.permute(1, 2, 0).squeeze(2).numpy()


def reduced(values: np.ndarray, side: int) -> np.ndarray:
    """At most ``side`` pixels wide and high, each pixel the mean of those it covers."""
    import cv2

    ratio = side / max(values.shape[:2])
    if ratio >= 1:
        return values
    height, width = (max(1, round(length * ratio)) for length in values.shape[:2])
    return cv2.resize(values, (width, height), interpolation=cv2.INTER_AREA)
