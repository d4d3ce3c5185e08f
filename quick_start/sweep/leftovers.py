"""What a process leaves that is killed when its run was complete already, but for tidying up."""

from __future__ import annotations

import shutil
from pathlib import Path

from imaging.encoding import delete_unfinished, unfinished
from quick_start.runs import Run


def exist(run: Run) -> bool:
    """Whether there is something to delete."""
    return any(map(unfinished, _folders(run))) or any(path.exists() for path in _needless(run))


def delete(run: Run) -> None:
    """Delete it."""
    for folder in _folders(run):
        delete_unfinished(folder)
    for path in _needless(run):
        shutil.rmtree(path, ignore_errors=True)


def _folders(run: Run) -> tuple[Path, Path]:
    return run.folder, run.folder / "other"


def _needless(run: Run) -> list[Path]:
    """Folders that nothing needs any more: of going on, and of frames whose film is made."""
    record = run.record
    filmed = (record.get("film") or {}).get("file") is not None
    kept = record["settings"].get("video_keep_frames", False)
    frames = [run.folder / "other" / "frames"] if filmed and not kept else []
    return [run.folder / "other" / "resume", *frames]
