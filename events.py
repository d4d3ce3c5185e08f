"""What a run tells the world while it works; every front end reads these and nothing else.

Of a run in another process pictures come as panels, (h, w, 3) uint8, that are as small as the live
view shows them; or they are None, for not each one is sent.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

Status = Literal["running", "finished", "stopped early", "interrupted", "failed"]


@dataclass(frozen=True)
class Event:
    """Something that happened at a step; ``seconds`` counts training time from its start."""

    step: int
    seconds: float


@dataclass(frozen=True)
class RunStarted(Event):
    """The picture is read and the Gaussians are placed; training is about to begin."""

    folder: Path
    steps: int
    width: int
    height: int
    channels: int
    num_gaussians: int
    device: str
    target: Tensor  # (C, H, W) in [0, 1], as it should look
    splits: tuple[int, ...] = ()  # channels of each picture of a stack


@dataclass(frozen=True)
class Notice(Event):
    """Something a user should know: a fallback, a schedule that was scaled down."""

    message: str


@dataclass(frozen=True)
class Progress(Event):
    """A sign of life, several times a second."""

    steps: int


@dataclass(frozen=True)
class Evaluated(Event):
    """Quality was measured; the same numbers are a row of ``metrics.csv``.

    Where pictures are drawn in bands (on a GPU, or with ``use_gradient_checkpointing``) and have
    more than about a megapixel, ``image`` is reduced: both sides are divided by a whole number,
    rounded up, and its pixels are means over squares. It is never smaller than a film shows it.
    """

    steps: int
    total_loss: float
    l1_loss: float
    l2_loss: float
    ssim_loss: float
    psnr: float
    ssim: float
    num_gaussians: int
    num_bytes: int
    image: Tensor  # in main memory; (C, H, W) in [0, 1], as it should look, or see above


@dataclass(frozen=True)
class GaussiansAdded(Event):
    """New Gaussians were placed where the error is; ``moved`` of them were re-used ones."""

    added: int
    moved: int
    num_gaussians: int


@dataclass(frozen=True)
class LearningRateDecayed(Event):
    """Quality stalled: all learning rates were divided by ``ratio``."""

    ratio: float


@dataclass(frozen=True)
class FileSaved(Event):
    """A checkpoint, picture, visualisation or film was written."""

    path: Path


@dataclass(frozen=True)
class FilmProgress(Event):
    """The film of the training is being encoded, after the last step."""

    frames_done: int
    frames: int


@dataclass(frozen=True)
class RunEnded(Event):
    """The run is over, and its folder holds what was reached."""

    status: Status
    folder: Path
    scores: dict[str, float | None] = field(default_factory=dict)
    error: str = ""
