"""Makes a film of the frames that a run kept: again, or in another codec, layout or quality."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from events import FilmProgress
from imaging.files import atomic_write
from quick_start.runs import Run, RunError, find_run
from settings import Settings

if TYPE_CHECKING:
    from imaging.frames import FramesOnDisk

SECONDS_BETWEEN_SIGNS = 0.5


def make_video(
    run: Run | str | os.PathLike[str],
    *,
    codec: str | None = None,
    crf: int | None = None,
    layout: str | None = None,
    text_size: float | None = None,
    text_place: str | None = None,
    output_dir: str | os.PathLike[str] = "output",
    show: bool = True,
) -> Path:
    """Encode ``training_video.mp4`` anew from the frames that a run kept.

    Frames are kept where a film could not be made, with ``video_keep_frames=True``, and while an
    interrupted run can be resumed. They stay; delete ``other/frames`` to be rid of them.

    Parameters
    ----------
    run : as for :func:`quick_start.view_results`.
    codec, crf, layout, text_size, text_place : like the settings ``video_codec`` and so on; None
        takes what the run was made with.
    show : whether to tell how far it is.

    Returns
    -------
    The path of the film.

    Raises
    ------
    RunError
        Where there is no such run, or it kept no frames.
    SettingsError
        Where an option is out of its range.
    FilmError, FramesError
        Where the film cannot be encoded or a frame is damaged; an older film stays as it was.
    """
    run = find_run(run, output_dir)
    options = {
        "video_codec": codec, "video_crf": crf, "video_layout": layout,
        "video_text_size": text_size, "video_text_place": text_place,
    }  # fmt: skip
    given = {name: value for name, value in options.items() if value is not None}
    settings = Settings.build(**run.settings.model_dump() | given)
    due = 0.0
    with closing(_encoded(run, settings)) as progress:
        for done, count in progress:
            if show and (time.monotonic() > due or done == count):
                due = time.monotonic() + SECONDS_BETWEEN_SIGNS
                print(f"\r{run.film_path}: {done} of {count} frames", end="", flush=True)
    if show:
        print()
    return run.film_path


def is_due(run: Run) -> bool:
    """Whether a run was cut off while its film was made, and its frames are there."""
    from fitting.filming import NOT_YET, frames_folder

    film = run.record.get("film") or {}
    return film.get("error") == NOT_YET and any(frames_folder(run.folder).glob("frame-*.json"))


def make_due(run: Run) -> Iterator[FilmProgress]:
    """Make the film of a run that was cut off then. Where that fails, the frames stay."""
    from fitting.filming import frames_folder
    from imaging.film import FilmError
    from imaging.frames import FramesError, FramesOnDisk

    step = run.record.get("steps_done", 0)
    seconds = (run.record.get("seconds") or {}).get("training", 0.0)
    with suppress(FilmError, FramesError):
        FramesOnDisk(frames_folder(run.folder)).delete_damaged()  # by a power cut
        with closing(_encoded(run, run.settings)) as progress:
            for done, count in progress:
                yield FilmProgress(step, seconds, done, count)
        if not run.settings.video_keep_frames:
            FramesOnDisk(frames_folder(run.folder)).delete()


def _encoded(run: Run, settings: Settings) -> Iterator[tuple[int, int]]:
    """Encode the kept frames and record it; yields how many of how many are done."""
    from fitting import filming
    from imaging.film import make_film

    frames = _kept_frames(run)
    begun, count = time.perf_counter(), len(frames.steps)
    film = make_film(frames, run.film_path, filming.look(settings), filming.coding(settings))
    with closing(film):
        for done in film:
            yield done, count
    seconds = time.perf_counter() - begun
    _record(run, filming.facts(run.folder, settings, made=True, frames=count, seconds=seconds))


def _kept_frames(run: Run) -> FramesOnDisk:
    from fitting.filming import frames_folder
    from imaging.frames import FramesOnDisk

    folder = frames_folder(run.folder)
    if not any(folder.glob("frame-*.json")):
        raise RunError(
            f"{run} kept no frames: there are none in {folder}. Train again with "
            "make_training_video=True and video_keep_frames=True."
        )
    return FramesOnDisk(folder)


def _record(run: Run, film: dict[str, Any]) -> None:
    """Put what is known of the film into ``run.json``."""
    record = run.record | {"film": film}
    with atomic_write(run.folder / "run.json") as path:
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
