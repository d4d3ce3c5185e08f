"""Runs and sessions from anywhere are gone on with inside their own folders, or refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from PIL import Image

from fitting.results import record_failure
from quick_start import Run, set_config, train, view_results
from quick_start.config import TrainingConfig
from quick_start.sweep import plan
from quick_start.sweep.mailbox import Inbox
from settings import Settings, SettingsError
from tests.conftest import smooth_picture
from tests.test_runs import make_run


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.mkdir()
    (path / "keep.txt").write_text("keep")
    (path / "checkpoint-00000001.pt").write_text("keep")
    return path


def untouched(secret: Path) -> bool:
    names = ["checkpoint-00000001.pt", "keep.txt"]
    return sorted(os.listdir(secret)) == names and all(
        (secret / name).read_text() == "keep" for name in names
    )


@pytest.mark.parametrize("name", ["run.json", "metrics.csv", "other", "other/log.txt", "model.pt"])
def test_nothing_is_written_through_a_link_in_a_run(
    tmp_path: Path, secret: Path, name: str
) -> None:
    run = make_run(tmp_path / "session_1" / "r")
    (run.folder / name).parent.mkdir(exist_ok=True)
    (run.folder / name).unlink(missing_ok=True)
    (run.folder / name).symlink_to(secret if name == "other" else secret / "keep.txt")
    with pytest.raises(OSError, match="is a link that leads out of"):
        record_failure(run.folder, Settings.build(input_filename="a"), ValueError("x"))
    assert untouched(secret)


@pytest.mark.parametrize("name", [".live", ".lock", "session.json", "small-5-2"])
def test_nothing_is_written_through_a_link_in_a_session(
    tmp_path: Path, input_dir: Path, secret: Path, name: str
) -> None:
    session = tmp_path / "output" / "session_1"
    session.mkdir(parents=True)
    (session / name).symlink_to(secret if name in (".live", "small-5-2") else secret / "keep.txt")
    options = {"input_dir": str(input_dir), "output_dir": str(tmp_path / "output")}
    config = set_config(input_filenames="small.png", gaussians=5, steps=2, **options)
    with pytest.raises(SettingsError):
        train(config, resume="session_1", show=False)
    assert untouched(secret)


@pytest.mark.parametrize(
    "content", ["{}", "[]", "[" * 100_000, '{"steps_done": "x"}', '{"notices": 5, "steps_done": 1}']
)
def test_a_failure_is_recorded_over_any_damaged_record(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    record_failure(tmp_path, Settings.build(input_filename="a"), ValueError("why"))
    assert Run(tmp_path).status == "failed"
    assert json.loads((tmp_path / "run.json").read_text())["error"] == "ValueError: why"


def test_measurements_that_are_too_long_do_not_stop_a_run(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"steps_done": 3}')
    (tmp_path / "metrics.csv").write_text(f'step\n"{"1" * 200_000}"\n')
    record_failure(tmp_path, Settings.build(input_filename="a"), ValueError("why"))
    assert Run(tmp_path).status == "failed"


def test_a_number_that_is_none_in_a_session_is_told(tmp_path: Path) -> None:
    config = TrainingConfig.build(input_filenames="a").model_dump(mode="json")
    run = {"picture": "a", "gaussians": float("inf"), "steps": 1, "folder": "x"}
    content = {"format": plan.FORMAT, "config": config, "runs": [run]}
    (tmp_path / plan.FILE).write_text(json.dumps(content))
    with pytest.raises(SettingsError, match=r"session\.json cannot be used"):
        plan._read(tmp_path)


@pytest.mark.parametrize(("name", "line"), [("x", ""), ("²", ""), ("1", "[" * 100_000 + "\n")])
def test_odd_messages_of_runs_are_passed_over(tmp_path: Path, name: str, line: str) -> None:
    (tmp_path / ".live").mkdir()
    inbox = Inbox(tmp_path)
    (tmp_path / ".live" / f"{name}.jsonl").write_text(line)
    assert list(inbox.events()) == []


@pytest.mark.skipif(os.name != "posix", reason="names are shorter elsewhere")
def test_pictures_of_a_stack_with_the_longest_names_are_saved_and_shown(tmp_path: Path) -> None:
    (tmp_path / "stack").mkdir()
    for name in ("y" * 250 + "a", "y" * 250 + "b"):
        Image.fromarray(smooth_picture(8, 8)).save(tmp_path / "stack" / f"{name}.png")
    options = {"gaussians": 2, "steps": 1, "device": "cpu", "output_dir": str(tmp_path / "output")}
    (run,) = train(set_config(input_filenames=str(tmp_path / "stack"), **options), show=False)
    assert run.status == "finished"
    assert view_results(run).png()
