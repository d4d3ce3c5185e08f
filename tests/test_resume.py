"""Resuming a session: what is complete stays as it is, the rest goes on to the same numbers."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import main
from events import Evaluated, FilmProgress, RunEnded
from fitting import filming
from fitting.recorder import Recorder
from imaging.frames import FramesOnDisk
from quick_start import set_config, train
from quick_start.config import TrainingConfig
from quick_start.runs import Run, Runs
from quick_start.sweep.locks import BusyError
from quick_start.training import TrainingError, train_one
from settings import SettingsError
from tests.sweeping import (
    TINY,
    Watching,
    assert_same,
    files,
    measurements,
    settings_of,
    stopped_at,
    watched,
)

ROOT = Path(__file__).parents[1]
FILMED = {"make_training_video": True, "video_iterations": 10, "save_ckpt_steps": 10}


def config_of(*pictures: str, **values: Any) -> TrainingConfig:
    return set_config(input_filenames=list(pictures or ["cat.png"]), **TINY | values)


def resumed(config: TrainingConfig | None = None, session: Any = "session_1", **options: Any):
    return train(config, resume=session, show=False, **options)


def assert_all_same(runs: Runs, others: Runs) -> None:
    assert [run.folder.name for run in runs] == [run.folder.name for run in others]
    for run, other in zip(runs, others, strict=True):
        assert_same(run, other)
        assert measurements(run) == measurements(other)


# What goes on, and what stays


def test_complete_runs_stay_byte_for_byte_and_the_others_end_as_if_unbroken(
    workplace: Path,
) -> None:
    config = config_of(gaussians=[50, 60, 70])
    runs = stopped_at(config, 1, 20)
    assert [run.status for run in runs] == ["finished", "interrupted"]
    before = files(runs[0].folder)
    runs = resumed()
    assert files(runs[0].folder) == before
    assert_all_same(runs, train(config, show=False))
    assert not Path("output/session_1/.live").exists()


def test_a_session_that_is_complete_is_left_as_it_is(workplace: Path) -> None:
    runs = train(config_of(gaussians=[50, 60]), show=False)
    before = [files(run.folder) for run in runs]
    view = Watching(2)
    again = watched(None, view, resume="session_1")
    assert again == runs
    assert [files(run.folder) for run in again] == before
    assert [run.fraction for run in view.runs] == [1.0, 1.0]


def test_a_run_that_failed_is_tried_again(workplace: Path) -> None:
    whole = Path("input/dog.png").read_bytes()
    Path("input/dog.png").write_bytes(whole[:60])
    config = config_of("cat.png", "dog.png")
    assert [run.status for run in train(config, show=False)] == ["finished", "failed"]
    with contextlib.suppress(TrainingError):
        resumed()
    Path("input/dog.png").write_bytes(whole)
    runs = resumed()
    assert runs[1].record["error"] == ""
    assert_all_same(runs, train(config, show=False))


@pytest.mark.parametrize("wanted", ["session_1", "output/session_1", "absolute", Path])
def test_a_session_is_named_or_a_path(workplace: Path, wanted: Any) -> None:
    stopped_at(config_of(), 0, 10)
    names = {"absolute": workplace / "output" / "session_1", Path: Path("output/session_1")}
    (run,) = resumed(session=names.get(wanted, wanted))
    assert run.is_complete
    assert [path.name for path in Path("output").iterdir()] == ["session_1"]


def test_a_configuration_may_add_runs_and_leave_others_for_later(workplace: Path) -> None:
    config = config_of("cat.png", "dog.png")
    stopped_at(config, 0, 10)
    added = resumed(config_of(gaussians=[50, 60]))
    assert [str(run) for run in added] == ["session_1/cat-50-30", "session_1/cat-60-30"]
    assert all(run.is_complete for run in added)
    before = files(added[0].folder)
    runs = resumed()
    assert [run.folder.name for run in runs] == ["cat-50-30", "cat-60-30", "dog-50-30"]
    assert all(run.is_complete for run in runs)
    assert files(runs[0].folder) == before


def test_what_changes_no_number_may_differ(workplace: Path) -> None:
    stopped_at(config_of(), 0, 10)
    (run,) = resumed(config_of(save_ckpt_steps=15, make_training_video=True, video_layout="grid"))
    (unbroken,) = train(config_of(), show=False)
    assert_same(run, unbroken)
    assert run.film_path.is_file()
    assert run.settings.save_ckpt_steps == 15


def test_other_settings_are_refused_with_name_and_both_values(workplace: Path) -> None:
    stopped_at(config_of(), 0, 10)
    before = files(Path("output"))
    with pytest.raises(SettingsError) as refused:
        resumed(config_of(pos_lr=0.125, seed=7))
    said = str(refused.value)
    for part in ("session_1", "pos_lr=0.125", "seed=7", f"pos_lr={config_of().pos_lr}", "seed=123"):
        assert part in said
    assert files(Path("output")) == before


def test_an_unknown_session_is_refused_and_the_newest_are_listed(workplace: Path) -> None:
    for number in (1, 2, 9, 10):
        Path(f"output/session_{number}").mkdir(parents=True)
    before = sorted(Path().rglob("*"))
    for wrong in ("session_3", "", ".", "output", "..", "input", "a\0b"):
        for config in (None, config_of()):
            with pytest.raises(SettingsError) as refused:
                resumed(config, wrong)
            assert f"resume={wrong!r}" in str(refused.value)
            assert "session_1, session_2, session_9, session_10." in str(refused.value)
    assert sorted(Path().rglob("*")) == before


def test_a_run_is_no_session(workplace: Path) -> None:
    (run,) = train(config_of(), show=False)
    before = files(Path("output"))
    for config in (None, config_of()):
        with pytest.raises(SettingsError, match="there is no such session"):
            resumed(config, run.folder)
    assert files(Path("output")) == before


# The session's file


def test_a_session_of_an_earlier_version_goes_on_with_a_configuration(workplace: Path) -> None:
    config = config_of(gaussians=[50, 60])
    runs = stopped_at(config, 1, 20)
    before = files(runs[0].folder)
    Path("output/session_1/session.json").unlink()
    with pytest.raises(SettingsError, match=r"there is no session\.json in it\. Give the conf"):
        resumed()
    with pytest.raises(SettingsError, match=r"made with pos_lr=.*, and not with pos_lr=0\.5"):
        resumed(config.replace(pos_lr=0.5))
    runs = resumed(config)
    assert files(runs[0].folder) == before
    assert_all_same(runs, train(config, show=False))
    assert resumed() == runs  # there is a session.json now


def changed(**values: Any) -> Callable[[str], str]:
    return lambda text: json.dumps(json.loads(text) | values)


def first_run(**values: Any) -> Callable[[str], str]:
    def change(text: str) -> str:
        content = json.loads(text)
        content["runs"][0] |= values
        return json.dumps(content)

    return change


DAMAGE = {
    "empty": lambda text: "",
    "half": lambda text: text[: len(text) // 2],
    "no JSON": lambda text: "runs: 1",
    "NUL": lambda text: "\0" * len(text),
    "list": lambda text: "[]",
    "null": lambda text: "null",
    "number": lambda text: "1" * 5000,
    "deep": lambda text: "[" * 100_000,
    "format": changed(format="splatbook-session-2"),
    "no format": lambda text: text.replace('"format"', '"from"'),
    "config list": changed(config=[]),
    "config null": changed(config=None),
    "unknown setting": changed(config={"input_filenames": ["cat.png"], "nonsense": 1}),
    "setting out of range": changed(config={"input_filenames": ["cat.png"], "steps": [-1]}),
    "odd setting": changed(config={"cls": 1}),
    "runs null": changed(runs=None),
    "runs number": changed(runs=3),
    "runs texts": changed(runs=["a", "b"]),
    "runs object": changed(runs={"a": 1}),
    "no folder": changed(runs=[{"picture": "cat.png", "gaussians": 50, "steps": 30}]),
    "infinite": first_run(gaussians=float("inf")),
    "no number": first_run(steps="many"),
    "out of range": first_run(gaussians=0),
    "list as number": first_run(steps=[]),
    "above": first_run(folder="../x"),
    "absolute": first_run(folder="/etc/x"),
    "nothing": first_run(folder=""),
    "itself": first_run(folder="."),
    "parent": first_run(folder=".."),
    "below": first_run(folder="a/b"),
    "NUL in folder": first_run(folder="a\0b"),
    "folder null": first_run(folder=None),
    "folder list": first_run(folder=["cat-50-30"]),
    "the file itself": first_run(folder="session.json"),
    "the lock": first_run(folder=".lock"),
    "the letters": first_run(folder=".live"),
    "twice": first_run(folder="cat-60-30"),
    "twice, but for case": first_run(folder="CAT-60-30"),
    "two folders": lambda text: text.replace('"gaussians": 60', '"gaussians": 50'),
}


def test_a_damaged_session_file_is_refused_and_nothing_is_written(workplace: Path) -> None:
    config = config_of(gaussians=[50, 60])
    stopped_at(config, 0, 10)
    path = Path("output/session_1/session.json")
    good = path.read_text()
    for name, damage in DAMAGE.items():
        path.write_text(damage(good))
        before = files(workplace)
        for given in (None, config):
            with pytest.raises(SettingsError) as refused:
                resumed(given)
            assert "session.json cannot be used: " in str(refused.value), name
            assert "Delete it, and give the configuration" in str(refused.value), name
        assert files(workplace) == before, name
    path.unlink()
    assert all(run.is_complete for run in resumed(config))  # as the message says


def test_a_session_file_that_cannot_be_read_is_refused(workplace: Path) -> None:
    session = Path("output/session_1")
    (session / "session.json").mkdir(parents=True)
    with pytest.raises(SettingsError, match="cannot be used: IsADirectoryError"):
        resumed()
    (session / "session.json").rmdir()
    (session / "session.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(SettingsError, match="cannot be used: UnicodeDecodeError"):
        resumed()


def test_runs_of_one_stem_keep_their_folders_in_any_order(
    workplace: Path, rng: np.random.Generator
) -> None:
    for folder in ("a", "b"):
        Path("input", folder).mkdir()
        shutil.copy("input/dog.png", f"input/{folder}/cat.png")
    Image.open("input/cat.png").save("input/cat.bmp")
    pictures = ["a/cat.png", "b/cat.png", "cat.png", "cat.bmp"]
    runs = stopped_at(config_of(*pictures, steps=10), 2, 5)
    known = {run.settings.input_filename: run.folder for run in runs}
    for _ in range(4):
        some = [str(name) for name in rng.permutation(pictures)[: rng.integers(1, 5)]]
        for run, name in zip(resumed(config_of(*some, steps=10)), some, strict=True):
            assert run.settings.input_filename == name
            assert run.is_complete
            assert known.setdefault(name, run.folder) == run.folder, some
    runs = resumed()
    assert {run.settings.input_filename: run.folder for run in runs} == known | {
        run.settings.input_filename: run.folder
        for run in runs
        if run.settings.input_filename not in known
    }
    assert len({run.folder for run in runs}) == len(runs)


# Other processes


@contextlib.contextmanager
def another_process_holds(path: Path) -> Iterator[None]:
    code = f"import filelock; x = filelock.FileLock({str(path)!r}); x.acquire(); print(1); input()"
    command = [sys.executable, "-c", code]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:
        process.stdout.readline()
        try:
            yield
        finally:
            process.kill()


def test_a_session_in_which_another_process_trains_is_refused_at_once(workplace: Path) -> None:
    stopped_at(config_of(), 0, 10)
    before = files(Path("output"))
    with another_process_holds(Path("output/session_1/.lock")):
        begun = time.monotonic()
        with pytest.raises(BusyError, match="session_1 is being trained by another process"):
            resumed()
        with pytest.raises(BusyError, match="session_1 is being trained by another process"):
            train_one(settings_of(), resume="output/session_1/cat-50-30", show=False)
        assert time.monotonic() - begun < 2
        assert files(Path("output")) == before
    assert resumed()[0].is_complete  # the lock died with its holder


def test_what_a_killed_training_left_in_the_session_stops_nothing(workplace: Path) -> None:
    stopped_at(config_of(), 0, 10)
    live = Path("output/session_1/.live")
    live.mkdir()
    for name in ("stop", "0.jsonl", "7.jsonl", "x.jsonl", "0-image.npy", "0-image.new", "0.lock"):
        (live / name).write_text("{")
    (run,) = resumed()
    assert run.is_complete
    assert not live.exists()


KILLED_IN_FILM = """
import os, sys
from fitting.filming import Film
from quick_start import set_config, train
Film._make = lambda self, step, seconds: os._exit(9)
train(set_config(**eval(sys.argv[1])), show=False)
"""


@pytest.fixture(scope="module")
def cut_off_in_film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place in which the process was killed while the film was made."""
    place = tmp_path_factory.mktemp("film")
    (place / "input").mkdir()
    Image.linear_gradient("L").resize((32, 24)).save(place / "input/cat.png")
    settings = {"input_filenames": "cat.png", **TINY, **FILMED, "save_ckpt_steps": 0}
    command = [sys.executable, "-c", KILLED_IN_FILM, repr(settings)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    assert subprocess.run(command, cwd=place, env=environment).returncode == 9
    return place


@pytest.mark.parametrize("damaged", [False, True])
def test_a_run_that_was_cut_off_in_its_film_gets_its_film(
    cut_off_in_film: Path, workplace: Path, damaged: bool
) -> None:
    shutil.copytree(cut_off_in_film, workplace, dirs_exist_ok=True)
    run = Run(Path("output/session_1/cat-50-30"))
    assert run.is_complete
    assert not run.film_path.exists()
    frames = filming.frames_folder(run.folder)
    if damaged:
        (frames / "frame-00000010.jpg").write_bytes(b"")
    parameters = run.model_path.read_bytes()
    view = Watching(1)
    watched(None, view, resume="session_1")
    assert view.runs[0].status == "finished"
    assert run.film_path.stat().st_size > 0
    assert run.record["film"]["error"] == ""
    assert run.record["film"]["frames"] == (3 if damaged else 4)
    assert not frames.exists()
    assert run.model_path.read_bytes() == parameters


def test_a_film_that_could_not_be_recorded_is_made_again(workplace: Path) -> None:
    close = Recorder.close

    def on_a_full_disk(recorder: Recorder, status: str, **facts: Any) -> None:
        if recorder.facts.get("film", {}).get("file"):
            raise OSError(errno.ENOSPC, "No space left on device")
        close(recorder, status, **facts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recorder, "close", on_a_full_disk)
        (run,) = train(config_of(**TINY | FILMED), show=False)
    assert run.record["film"]["file"] is None
    train(resume="session_1", show=False)
    film = run.record["film"]
    assert (film["file"], film["frames"], film["error"]) == (run.film_path.name, 4, "")
    assert not filming.frames_folder(run.folder).exists()


def test_stop_ends_a_film_that_was_due_and_it_stays_due(
    cut_off_in_film: Path, workplace: Path
) -> None:
    shutil.copytree(cut_off_in_film, workplace, dirs_exist_ok=True)
    run = Run(Path("output/session_1/cat-50-30"))
    view, stop = Watching(1), threading.Event()
    view.take = lambda index, event: stop.set()  # at the first frame
    watched(None, view, stop, resume="session_1")
    assert stop.is_set()
    assert [path.name for path in run.folder.iterdir() if "video" in path.name] == []
    view = Watching(1)
    watched(None, view, resume="session_1")
    assert [event.frames_done for event in view.of(0, FilmProgress)] == [1, 2, 3, 4]
    assert run.film_path.stat().st_size > 0
    assert not filming.frames_folder(run.folder).exists()


# A power cut


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run]:
    """A place with an interrupted run in session_1, and the same run unbroken."""
    place = tmp_path_factory.mktemp("broken")
    (place / "input").mkdir()
    Image.radial_gradient("L").convert("RGB").resize((32, 24)).save(place / "input/cat.png")
    config = {"input_dir": str(place / "input"), "output_dir": str(place / "output")}
    config = config_of(**TINY | FILMED | config)
    (run,) = stopped_at(config, 0, 20)
    assert run.status == "interrupted"
    (unbroken,) = train(config, show=False)
    return run.folder.parent, unbroken


def files_of(session: Path) -> list[Path]:
    return sorted(p.relative_to(session) for p in session.rglob("*") if p.is_file())


CUTS = [
    lambda path: path.write_bytes(b""),
    lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    lambda path: path.write_bytes(bytes(path.stat().st_size)),
    lambda path: path.unlink(),
]


def test_whichever_file_a_power_cut_spoils_the_run_ends_with_the_same_numbers(
    broken: tuple[Path, Run], workplace: Path, rng: np.random.Generator
) -> None:
    session, unbroken = broken
    names = files_of(session)
    assert len(names) > 15
    for name in names:
        if name.name in ("session.json", ".lock"):
            continue
        way = int(rng.integers(len(CUTS)))
        shutil.copytree(session, "output/session_1")
        CUTS[way](Path("output/session_1", name))
        config = config_of(**TINY | FILMED)
        Path("input/cat.png").write_bytes((session.parents[1] / "input/cat.png").read_bytes())
        (run,) = resumed(config)
        assert_same(run, unbroken)
        last = measurements(unbroken)[-1]
        assert measurements(run)[-1] == last, (name, way)
        assert run.film_path.stat().st_size > 0, (name, way)
        assert run.record["error"] == "", (name, way)
        found, expected = (set(map(str, files_of(r.folder))) for r in (run, unbroken))
        # An older checkpoint that is gone stays gone.
        assert found <= expected, (name, way)
        assert expected - found <= {str(Path(*name.parts[1:]))}, (name, way)
        shutil.rmtree("output")


def test_a_complete_run_whose_model_was_cut_is_trained_again(workplace: Path) -> None:
    (run,) = train(config_of(), show=False)
    whole = run.model_path.read_bytes()
    run.model_path.write_bytes(whole[: len(whole) // 2])
    assert not run.is_complete
    (again,) = resumed()
    assert_same(again, train(config_of(), show=False)[0])


def test_frames_in_memory_are_kept_for_a_run_that_goes_on(workplace: Path) -> None:
    config = config_of(**FILMED, video_save_to_disk=False)
    (run,) = stopped_at(config, 0, 20)
    assert run.status == "interrupted"
    assert FramesOnDisk(filming.kept_folder(run.folder)).steps == [0, 10, 20]
    (run,) = resumed()
    (unbroken,) = train(config, show=False)
    assert_same(run, unbroken)
    assert run.record["film"]["frames"] == unbroken.record["film"]["frames"] == 4
    assert files_of(run.folder) == files_of(unbroken.folder)


# One run, and the shell


def test_a_complete_run_may_go_on_for_longer(workplace: Path) -> None:
    run = train_one(settings_of(save_ckpt_steps=30), show=False)
    longer = settings_of(steps=40, save_ckpt_steps=30)
    again = train_one(longer, resume=run, show=False)
    assert again.folder == run.folder
    assert_same(again, train_one(longer, show=False))
    before = files(run.folder)
    train_one(longer, resume=run, show=False)
    assert files(run.folder) == before


def test_one_run_of_a_session_leaves_the_others_and_the_plan(workplace: Path) -> None:
    config = config_of(gaussians=[50, 60])
    run = stopped_at(config, 0, 10)[0]
    plan = Path("output/session_1/session.json").read_bytes()
    assert_same(train_one(run.settings, resume=run, show=False), train(config, show=False)[0])
    assert Path("output/session_1/session.json").read_bytes() == plan
    assert not Path("output/session_1/cat-60-30").exists()


@pytest.fixture
def shell(workplace: Path, capsys: pytest.CaptureFixture) -> Callable[..., tuple[int, list[str]]]:
    """Call a command as a shell would: (exit status, lines of stdout)."""

    def call(*arguments: str) -> tuple[int, list[str]]:
        status = 0
        try:
            main.cli(arguments)
        except SystemExit as end:
            status = end.code
        return status or 0, capsys.readouterr().out.splitlines()

    return call


SHELL = ["--gaussians", "50", "60", "--steps", "30", "--eval-steps", "10"]
BOTH = ["output/session_1/cat-50-30", "output/session_1/cat-60-30"]


def interrupting(monkeypatch: pytest.MonkeyPatch, run: int, step: int, kind: type) -> None:
    """Send Ctrl-C for real when a run reaches a step."""
    take = Watching.take

    def pressed(self: Watching, index: int, event: Any) -> None:
        take(self, index, event)
        if index == run and event.step == step and isinstance(event, kind):
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Watching, "take", pressed)
    view = Watching(2)
    monkeypatch.setattr("quick_start.training.open_view", lambda *names, **options: view)


def test_the_shell_goes_on_with_a_session_and_exits_as_expected(
    shell: Callable[..., tuple[int, list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["train", "--input-filenames", "cat.png", *SHELL]
    with monkeypatch.context() as patch:
        interrupting(patch, 0, 10, Evaluated)
        assert shell(*command) == (130, BOTH[:1])
    with monkeypatch.context() as patch:
        interrupting(patch, 0, 30, RunEnded)
        assert shell("resume", "output/session_1") == (130, BOTH[:1])  # one was not begun
    picture = Path("input/cat.png").read_bytes()
    Path("input/cat.png").write_bytes(picture[:60])
    assert shell("resume", "output/session_1") == (1, BOTH)
    Path("input/cat.png").write_bytes(picture)
    assert shell("resume", "output/session_1") == (0, BOTH)
    assert shell("resume", "output/session_1") == (0, BOTH)
    assert shell("resume", "output/session_2")[0] == 1


def test_the_shell_trains_with_several_processes(
    shell: Callable[..., tuple[int, list[str]]],
) -> None:
    assert shell("resume", "output/session_1", "--workers", "0")[0] == 1
    stopped_at(config_of(gaussians=[50, 60]), 0, 10)
    assert shell("resume", "output/session_1", "--workers", "2") == (0, BOTH)
    assert shell("train", "--input-filenames", "cat.png", *SHELL, "--workers", "0")[0] == 1


def test_a_stop_that_was_asked_for_before_begins_nothing(workplace: Path) -> None:
    stopped_at(config_of(), 0, 10)
    before = files(Path("output/session_1/cat-50-30"))
    stop = threading.Event()
    stop.set()
    resumed(stop=stop)
    assert files(Path("output/session_1/cat-50-30")) == before
