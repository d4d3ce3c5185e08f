"""What a sweep is to do: each run and its folder, written down so that it can be gone on with."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from fitting.recorder import refuse_links
from imaging.files import atomic_write, picture_shape
from quick_start import film
from quick_start._format import plural
from quick_start.config import AXES, TrainingConfig, picture_path
from quick_start.runs import SESSION, Run, RunError, natural, new_session, run_name, runs_in
from quick_start.sweep import leftovers
from quick_start.sweep.locks import held
from settings import CommonSettings, Settings, SettingsError

FILE = "session.json"
FORMAT = "splatbook-session-1"
LOCK = ".lock"
LIVE = ".live"  # folder of what runs tell each other while they go on

Key = tuple[str, int, int]  # picture, Gaussians, steps: what tells the runs of a sweep apart


@dataclass(frozen=True)
class Task:
    """One run of a sweep; ``index`` counts them from 0."""

    index: int
    settings: Settings
    folder: Path

    @property
    def run(self) -> Run:
        """What the folder holds."""
        return Run(self.folder)

    @property
    def is_complete(self) -> bool:
        """Whether the run is, for the number of steps that is asked for now."""
        try:
            return self.run.is_complete and self.run.settings.steps == self.settings.steps
        except RunError:
            return False


@dataclass(frozen=True)
class Plan:
    """All runs of a sweep, in order, in the folders of one session.

    Attributes
    ----------
    others : the folders' names of the session's other runs.
    written : whether the session has a record of it; not so where one run of it is trained alone.
    """

    session: Path
    config: TrainingConfig
    tasks: tuple[Task, ...]
    others: Mapping[Key, str] = field(default_factory=dict)
    written: bool = True

    @property
    def runs(self) -> list[Run]:
        """The runs, whether or not they were begun."""
        return [task.run for task in self.tasks]

    def to_do(self) -> list[Task]:
        """The runs that have not ended by themselves, or not been tidied up after their end."""
        return [task for task in self.tasks if not task.is_complete or _is_untidy(task.run)]

    @contextmanager
    def begun(self) -> Iterator[None]:
        """Hold the session, so that no other training works in it, and write the plan down.

        What runs told each other through files is deleted in the end.

        Raises
        ------
        BusyError
            Where another training does.
        SettingsError
            Where a link in it leads elsewhere.
        """
        try:
            refuse_links(self.session)
        except OSError as error:
            raise SettingsError(f"{error}.") from error
        with held(self.session / LOCK, f"{self.session}"):
            if self.written:
                self._write()
            yield
            shutil.rmtree(self.session / LIVE, ignore_errors=True)

    def _write(self) -> None:
        folders = {_key(task.settings): task.folder.name for task in self.tasks} | self.others
        content = {
            "format": FORMAT,
            "written": datetime.now().astimezone().isoformat(timespec="seconds"),
            "config": self.config.model_dump(mode="json"),
            "runs": [
                {"picture": picture, "gaussians": gaussians, "steps": steps, "folder": folder}
                for (picture, gaussians, steps), folder in folders.items()
            ],
        }
        with atomic_write(self.session / FILE) as path:
            path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def new_plan(config: TrainingConfig) -> Plan:
    """A plan in a new session, whose folder is created.

    Raises
    ------
    SettingsError
        Where the session's folder cannot be created.
    """
    return _plan(config, config.runs(), new_session(config.output_dir), {})


def resumed_plan(
    config: TrainingConfig | None, session: str | os.PathLike[str], output_dir: str = "output"
) -> Plan:
    """The plan to go on in a session: with all of its runs, or with those of a configuration.

    A given configuration may name other runs, which are added, and change what
    :data:`~fitting.checkpoints.MAY_DIFFER` lists.

    Parameters
    ----------
    session : ``session_3`` within the output folder, or a path.
    output_dir : of the configuration, if one is given, else this one.

    Raises
    ------
    SettingsError
        Where there is no such session, it cannot be read, or it was made with other settings.
    """
    folder = _find_session(session, config.output_dir if config else output_dir)
    config_then, folders = _read(folder)
    if config is None:
        if config_then is None:
            raise SettingsError(
                f"resume={os.fspath(session)!r}: {folder} does not tell what to train, for there "
                f"is no {FILE} in it. Give the configuration: train(config, resume=...)."
            )
        return _plan(config_then, _all_runs(config_then, folders), folder, folders)
    for other in [config_then] if config_then else _configs(folder):
        _check_same(folder, other, config)
    return _plan(config, config.runs(), folder, folders)


def refused(settings: Settings) -> SettingsError | ValueError | None:
    """Why a run cannot start, as far as its picture's header tells; None where it may."""
    try:
        path = picture_path(settings.input_filename, settings.input_dir)
        _, *sides = picture_shape(path, background=settings.background)
    except ValueError as error:
        return error
    height, width = (max(1, round(side / settings.downsample_ratio)) for side in sides)
    if settings.gaussians > height * width:
        return SettingsError(
            f"gaussians={settings.gaussians} is more than the {height * width} pixels of "
            f"{settings.input_filename} ({width}×{height}); use at most {height * width}"
        )
    return None


def _plan(
    config: TrainingConfig, runs: Sequence[Settings], session: Path, folders: Mapping[Key, str]
) -> Plan:
    used = {name.casefold() for name in folders.values()}  # as on file systems that ignore case
    tasks, others = [], dict(folders)
    for index, settings in enumerate(runs):
        name = others.pop(_key(settings), None) or run_name(settings, session, used)
        used.add(name.casefold())
        tasks.append(Task(index, settings, session / name))
    return Plan(session, config, tuple(tasks), others)


def _all_runs(config: TrainingConfig, folders: Mapping[Key, str]) -> list[Settings]:
    """The runs of a configuration, and those that a session has beside them."""
    runs = config.runs()
    planned = {_key(settings) for settings in runs}
    for key in folders:
        if key not in planned:
            runs += TrainingConfig.build(**dict(config) | dict(zip(AXES, key, strict=True))).runs()
    return runs


def _is_untidy(run: Run) -> bool:
    return film.is_due(run) or leftovers.exist(run)


def _key(settings: Settings) -> Key:
    return settings.input_filename, settings.gaussians, settings.steps


def _find_session(session: str | os.PathLike[str], output_dir: str) -> Path:
    for folder in (Path(output_dir, session), Path(session)):
        is_one = SESSION.fullmatch(folder.name) or (folder / FILE).is_file()
        if is_one and folder.is_dir():
            return folder
    there = sorted((path.name for path in Path(output_dir).glob("session_*")), key=natural)
    raise SettingsError(
        f"resume={os.fspath(session)!r}: there is no such session in {output_dir}. "
        f"There: {', '.join(there[-10:]) or 'none'}."
    )


def _read(session: Path) -> tuple[TrainingConfig | None, dict[Key, str]]:
    """The configuration of a session, and the folders' names of its runs."""
    try:
        content = json.loads((session / FILE).read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"its format is {content['format']!r}, not {FORMAT!r}")
        config = TrainingConfig.build(**content["config"])
        folders = {
            (str(run["picture"]), int(run["gaussians"]), int(run["steps"])): _plain(run["folder"])
            for run in content["runs"]
        }
        if len({name.casefold() for name in folders.values()}) < len(content["runs"]):
            raise ValueError("two of its runs have one folder, or one run has two")
        _all_runs(config, folders)  # which fails where a number is out of range
    except FileNotFoundError:  # of an earlier version, or cut off before it was written
        return None, dict(_from_runs(session))
    except (OSError, ValueError, LookupError, TypeError, ArithmeticError, RecursionError) as error:
        raise SettingsError(
            f"{session / FILE} cannot be used: {type(error).__name__}: {error}. "
            f"Delete it, and give the configuration: train(config, resume={session.name!r})."
        ) from error
    return config, folders


def _from_runs(session: Path) -> Iterator[tuple[Key, str]]:
    for run in runs_in(session):
        with suppress(RunError):  # a damaged one is trained again, in another folder
            yield _key(run.settings), run.folder.name


def _plain(name: Any) -> str:
    """A folder's name from a file, which must not lead out of the session."""
    if not isinstance(name, str) or name in ("", ".", "..", FILE, LOCK, LIVE) or "\0" in name:
        raise ValueError(f"{name!r} is no run's folder")
    if Path(name).name != name:
        raise ValueError(f"the folder's name {name!r} leads out of the session")
    return name


def _configs(session: Path) -> Iterator[TrainingConfig]:
    """What the runs of a session were made with, each by itself."""
    for run in runs_in(session):
        with suppress(RunError):
            yield TrainingConfig.of(run.settings)


def _check_same(session: Path, then: TrainingConfig, now: TrainingConfig) -> None:
    from fitting.checkpoints import MAY_DIFFER  # with torch, which takes a second to import

    names: Sequence[str] = [
        name
        for name in CommonSettings.model_fields
        if name not in (*AXES, *MAY_DIFFER) and getattr(then, name) != getattr(now, name)
    ]
    if names:
        found = ", ".join(f"{name}={getattr(then, name)!r}" for name in names)
        asked = ", ".join(f"{name}={getattr(now, name)!r}" for name in names)
        raise SettingsError(
            f"{session.name} was made with {found}, and not with {asked}. Go on with the same "
            f"{plural(len(names), 'value')}, or train in a new session."
        )
