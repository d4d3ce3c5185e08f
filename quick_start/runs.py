"""Session and run folders: naming new ones, finding and reading old ones."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, SupportsIndex, overload

from quick_start import facts
from settings import Settings, SettingsError

SESSION = re.compile(r"session_(\d+)")
ENDED_BY_ITSELF = ("finished", "stopped early")
LONGEST_STEM = 120  # bytes of a picture's name, so that the folder's name stays below 255


class RunError(ValueError):
    """A run cannot be found or read; the message names it and says what is there."""


@dataclass(frozen=True, repr=False)
class Run:
    """A run's folder, and what ``run.json`` in it says.

    Attributes
    ----------
    folder : of the run.

    Raises
    ------
    RunError
        From the properties below, where ``run.json`` is missing or damaged.
    """

    folder: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", Path(self.folder))

    @property
    def record(self) -> dict[str, Any]:
        """All facts of the run, read anew each time, for it may still be going on."""
        path = self.folder / "run.json"
        try:
            return facts.read(path)
        except FileNotFoundError:
            raise RunError(f"{self.folder} is no run: there is no run.json in it.") from None
        except OSError as error:
            raise RunError(f"{path} cannot be read: {error}. Train again.") from error
        except ValueError as error:
            raise RunError(f"{path} is damaged: {error}. Train again.") from error

    def _fact(self, name: str) -> Any:
        try:
            return self.record[name]
        except KeyError:
            raise RunError(f"{self.folder / 'run.json'} does not tell {name}.") from None

    @property
    def settings(self) -> Settings:
        """The settings that the run was made with."""
        try:
            return Settings.build(**self._fact("settings"))
        except (SettingsError, TypeError) as error:
            raise RunError(f"{self.folder / 'run.json'}: {error}") from error

    @property
    def status(self) -> str:
        """``running``, ``finished``, ``stopped early``, ``interrupted`` or ``failed``."""
        return self._fact("status")

    @property
    def is_complete(self) -> bool:
        """Whether the run ended by itself and its model is there, all of it.

        False where nobody can tell.
        """
        try:
            size = self.model_path.stat().st_size
            is_whole = size == (self.record.get("size") or {}).get("file_bytes", size)
            return is_whole and self.status in ENDED_BY_ITSELF
        except (RunError, OSError, AttributeError):
            return False

    @property
    def picture(self) -> dict[str, Any]:
        """``name``, ``names`` (of a stack), ``width``, ``height`` and ``channels``."""
        return self._fact("picture")

    @property
    def scores(self) -> dict[str, float | None]:
        """``psnr`` (dB), ``ssim``, ``ms_ssim``, ``flip``, ``lpips``; None was not measured."""
        return {
            name: None if score is None else float(score)
            for name, score in (self._fact("scores") or {}).items()
        }

    @property
    def model_path(self) -> Path:
        """The Gaussians."""
        return self.folder / "model.pt"

    @property
    def rendered_path(self) -> Path:
        """The rendering."""
        return self.folder / "rendered.jpg"

    @property
    def metrics_path(self) -> Path:
        """The measurements; the file is missing where none was made."""
        return self.folder / "metrics.csv"

    @property
    def film_path(self) -> Path:
        """The film of the training; the file is missing where none was made."""
        return self.folder / "training_video.mp4"

    @property
    def log_path(self) -> Path:
        """What happened, line by line."""
        return self.folder / "other" / "log.txt"

    def __str__(self) -> str:
        folder = self.folder if self.folder.parent.name else self.folder.resolve()
        return f"{folder.parent.name}/{folder.name}"

    def __repr__(self) -> str:
        return f"Run({str(self)!r})"

    def __fspath__(self) -> str:
        return str(self.folder)

    def _repr_html_(self) -> str:
        """The picture, the main numbers, the course of the PSNR and the film."""
        from quick_start.analysis.card import card

        return card(self)


RunName = Run | str | os.PathLike[str]
RunNames = RunName | Iterable[RunName]


class Runs(list[Run]):
    """Runs in a list that a notebook shows as a table, and a single one as its card.

    Attributes
    ----------
    left : how many more the sweep has that were not begun, because it was stopped.
    """

    left = 0

    def _repr_html_(self) -> str:
        from quick_start.analysis.compare import compare_batch_results

        if len(self) == 1:
            return self[0]._repr_html_()
        return compare_batch_results(self).table_html() if self else "<div>No runs.</div>"

    @overload
    def __getitem__(self, index: SupportsIndex) -> Run: ...
    @overload
    def __getitem__(self, index: slice) -> Runs: ...
    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        return Runs(found) if isinstance(index, slice) else found

    @property
    def failed(self) -> Runs:
        """Those that failed; ``record["error"]`` of each says why."""
        return Runs(run for run in self if run.status == "failed")

    def __add__(self, others: list[Run]) -> Runs:
        return Runs([*self, *others])


def new_session(output_dir: str | os.PathLike[str]) -> Path:
    """Create ``session_N`` with N one above the highest there is.

    Two processes that ask at once get different folders.

    Raises
    ------
    SettingsError
        Where the folder cannot be created.
    """
    output = Path(output_dir)
    try:
        output.mkdir(parents=True, exist_ok=True)
        while True:
            numbers = [int(m[1]) for e in output.iterdir() if (m := SESSION.fullmatch(e.name))]
            session = output / f"session_{max(numbers, default=0) + 1}"
            try:
                session.mkdir()
            except FileExistsError:
                continue  # another process was faster
            return session
    except OSError as error:
        raise SettingsError(
            f"output_dir={str(output_dir)!r}: no session can be created there "
            f"({error.strerror or error}). Choose a folder that you may write to."
        ) from error


def run_name(settings: Settings, session: Path, used: Collection[str] = ()) -> str:
    """The name of a run's folder, ``<picture>-<gaussians>-<steps>``.

    Parameters
    ----------
    settings : of the run.
    session : the session's folder.
    used : names of the session's other runs, casefolded. Where one has this name already, because
        two pictures have one stem, ``-2``, ``-3`` and so on is added.
    """
    name = f"{_stem(settings)}-{settings.gaussians}-{settings.steps}"
    unique, count = name, 1
    while unique.casefold() in used or (session / unique).exists():
        count += 1
        unique = f"{name}-{count}"
    return unique


def _stem(settings: Settings) -> str:
    path = Path(settings.input_filename)
    is_folder = (Path(settings.input_dir) / path).is_dir() or path.is_dir()
    stem = path.resolve().name if is_folder else path.stem
    return os.fsdecode(os.fsencode(stem)[:LONGEST_STEM]).encode("utf-8", "ignore").decode()


def find_run(run: RunName, output_dir: str | os.PathLike[str] = "output") -> Run:
    """A run by itself, by its name such as ``session_1/cat-1000-2000``, or by its folder.

    Raises
    ------
    RunError
        Where there is no such run; the message lists the nearest ones.
    """
    if isinstance(run, Run):
        return run
    for folder in (Path(output_dir, run), Path(run)):
        if (folder / "run.json").is_file():
            return Run(folder)
    known = [str(other) for other in all_runs(output_dir)]
    near = difflib.get_close_matches(os.fspath(run), known, n=3, cutoff=0.7) or known[-3:]
    hint = f"Nearest: {', '.join(near)}." if near else "There are no runs yet: train() makes some."
    raise RunError(f"There is no run {os.fspath(run)!r} in {Path(output_dir)}. {hint}")


def find_runs(runs: RunNames, output_dir: str | os.PathLike[str] = "output") -> list[Run]:
    """One run, several, or all runs of a session such as ``session_1``; see :func:`find_run`.

    Raises
    ------
    RunError
        Where one of them does not exist, or none is named.
    """
    if isinstance(runs, Run):
        return [runs]
    if isinstance(runs, str | os.PathLike):
        for folder in (Path(output_dir, runs), Path(runs)):
            if not (folder / "run.json").is_file() and (found := runs_in(folder)):
                return found
        return [find_run(runs, output_dir)]
    found = [find_run(run, output_dir) for run in runs]
    if not found:
        raise RunError("No run was named. Give what train() returned, or a name 'session_1'.")
    return found


def all_runs(output_dir: str | os.PathLike[str] = "output") -> list[Run]:
    """Every run of every session, in the order of the sessions' numbers."""
    output = Path(output_dir)
    sessions = [e for e in _entries(output) if SESSION.fullmatch(e.name)]
    sessions.sort(key=lambda session: int(session.name.removeprefix("session_")))
    return [run for session in sessions for run in runs_in(session)]


def runs_in(session: Path) -> list[Run]:
    """Runs of a session in natural order: 500 Gaussians before 1000."""
    folders = [e for e in _entries(session) if (e / "run.json").is_file()]
    return [Run(folder) for folder in sorted(folders, key=lambda folder: natural(folder.name))]


def natural(name: str) -> list[tuple[int, str]]:
    """A key to sort by, with which a2 comes before a10."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:  # no such folder: nothing is in it
        return []
