"""Films of trainings inside a notebook, embedded so that they play without the kernel and files."""

from __future__ import annotations

import os
from base64 import b64encode
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from quick_start.runs import Run, RunError, RunName, find_run

MOST_MEGABYTES = 64.0
PLAYS_EVERYWHERE = ("h264", "vp9", "av1")  # as browsers have it
TYPES = {".mp4": "video/mp4", ".m4v": "video/mp4", ".webm": "video/webm", ".mkv": "video/webm"}


@dataclass(frozen=True)
class InlineFilm:
    """A film that a notebook shows as a player.

    Attributes
    ----------
    path : of the film.
    note : what may keep it from playing; empty where nothing does.
    html : the player, with the film in it; or what to do instead.
    """

    path: Path
    note: str
    html: str = field(repr=False)  # long, for the film is in it

    def _repr_html_(self) -> str:
        return self.html


def play_video(
    run: RunName,
    *,
    width: int | None = None,
    autoplay: bool = False,
    loop: bool = False,
    max_mb: float = MOST_MEGABYTES,
    output_dir: str | os.PathLike[str] = "output",
) -> InlineFilm:
    """A player with the film of a training.

    The film is embedded: it also plays in a notebook that was exported as HTML, after the kernel
    has ended, and after the run's folder is gone.

    Parameters
    ----------
    run : a run, its name such as ``session_1/cat-1000-2000``, or the path of a film.
    width : in pixels; without it the film's own, or that of the page if that is less.
    autoplay : whether it starts by itself; browsers demand that it is mute, which it is.
    loop : whether it starts again at its end.
    max_mb : films of more megabytes (10^6 bytes) are not embedded, and the cell says what to do.
    output_dir : folder in which names are looked up.

    Raises
    ------
    RunError
        Where there is no such run, it has no film, or its film is damaged.
    ValueError
        Where ``width`` or ``max_mb`` is not above 0.
    """
    _check_positive("width", width)
    _check_positive("max_mb", max_mb)
    path = _film(run, output_dir)
    note = _obstacle(path)
    megabytes = path.stat().st_size / 1e6
    if megabytes > max_mb:
        shown = _too_large(path, megabytes, max_mb)
    else:
        shown = player(path, width=width, autoplay=autoplay, loop=loop)
    remark = f"<div>{escape(note)}</div>" if note else ""
    return InlineFilm(path, note, shown + remark)


def player(
    path: Path, *, width: int | None = None, autoplay: bool = False, loop: bool = False
) -> str:
    """A film as an HTML element that holds all of it; see :func:`play_video`."""
    source = b64encode(path.read_bytes()).decode()
    kind = TYPES.get(path.suffix.lower(), "video/mp4")
    switches = "controls muted playsinline" + " autoplay" * autoplay + " loop" * loop
    size = f"width: {int(width)}px; " if width else ""
    return (
        f'<video {switches} style="{size}max-width: 100%" title="{escape(path.name)}" '
        f'src="data:{kind};base64,{source}">This browser shows no films: open {escape(str(path))} '
        "in a player.</video>"
    )


def _check_positive(name: str, value: float | None) -> None:
    if value is not None and not value > 0:
        raise ValueError(f"{name}={value!r}: allowed is a number above 0. Leave it out if unsure.")


def _film(run: RunName, output_dir: str | os.PathLike[str]) -> Path:
    """The film that is meant; it exists."""
    if not isinstance(run, Run) and Path(run).suffix.lower() in TYPES:
        path = Path(run)
        if path.is_file():
            return path
        if not (path.is_dir() or Path(output_dir, path).is_dir()):  # which may be a run's folder
            raise RunError(f"There is no film {path}. Give a run, or the path of a film.")
    found = find_run(run, output_dir)
    if not found.film_path.is_file():
        raise RunError(_why_missing(found))
    return found.film_path


def _why_missing(run: Run) -> str:
    if not run.record["settings"].get("make_training_video"):
        return f"{run} has no film: train again with make_training_video=True."
    if run.status == "running":
        return f"{run} has no film yet: it is made when the training ends. Try again then."
    return (
        f"{run} has no film, although it was to make one: it {run.status}, and "
        f"{run.film_path.name} is not in its folder. Its log may say why: {run.log_path}"
    )


def _obstacle(path: Path) -> str:
    """What may keep browsers from playing a film; nothing where they all do."""
    import av

    try:
        with av.open(path) as container:
            codec = container.streams.video[0].codec_context
            name, pixels = codec.name.removeprefix("lib").split("-")[0], codec.pix_fmt
    except (av.error.FFmpegError, IndexError) as error:
        raise RunError(
            f"{path} is damaged, or no film ({error}). Train again to make it anew."
        ) from error
    if name not in PLAYS_EVERYWHERE:
        shown = {"hevc": "H.265"}.get(name, name)
        return (
            f"This film is encoded as {shown}, which Chromium and Firefox may not play. It plays "
            f'in VLC and the like: {path}. Films made with video_codec="h264" play everywhere.'
        )
    if pixels not in ("yuv420p", "yuvj420p", None):
        return (
            f"This film stores its colours as {pixels}, which some browsers do not play. It plays "
            f"in VLC and the like: {path}"
        )
    return ""


def _too_large(path: Path, megabytes: float, limit: float) -> str:
    more = -(-megabytes // 1)
    return (
        f"<div>{escape(str(path))} has {megabytes:.1f} MB, more than the {limit:g} MB that are "
        f"embedded. Open it in a player, embed it with play_video(..., max_mb={more:.0f}), or make "
        "a smaller film: raise video_crf or video_iterations, or lower video_max_width.</div>"
    )
