"""train() with the real trainer on a tiny picture: order, records, interruption, failure."""

from __future__ import annotations

import html
import json
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

import model
from events import Evaluated, Event, RunEnded
from fitting.gaussians import Gaussians
from imaging import metrics
from imaging.files import PictureError
from model import GaussianSplatting2D
from quick_start import (
    Run,
    TrainingConfig,
    compare_batch_results,
    set_config,
    train,
    training,
)
from quick_start.dashboard import TerminalView, View
from quick_start.training import TrainingError, train_one
from settings import Settings, SettingsError

SESSION = {".lock", "session.json"}  # what a session's folder holds beside runs
GO_ON = "train(resume='session_1'), or main.py resume output/session_1, goes on with what is left."
TINY = {"gaussians": 50, "steps": 30, "eval_steps": 10}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_sweep_trains_every_run_in_order_in_one_session(workplace: Path) -> None:
    config = set_config(
        input_filenames=["cat.png", "dog.png"], gaussians=[60, 50], steps=[20], eval_steps=10
    )
    runs = train(config, show=False)
    assert [str(run) for run in runs] == [
        "session_1/cat-60-20", "session_1/cat-50-20", "session_1/dog-60-20", "session_1/dog-50-20",
    ]  # fmt: skip
    for run, settings in zip(runs, config.runs(), strict=True):
        assert isinstance(run, Run)
        assert run.settings == settings
        assert run.status == "finished"
        assert run.record["num_gaussians"] == settings.gaussians
        assert run.scores["psnr"] > 10
        assert list(pd.read_csv(run.metrics_path)["step"]) == [0, 10, 20]
        with Image.open(run.rendered_path) as picture:
            assert picture.size == (32, 24)
        assert Gaussians.load(run.model_path).picture().shape == (3, 24, 32)
    started = [run.record["started"] for run in runs]
    assert started == sorted(started)


def test_every_call_is_a_new_session(workplace: Path) -> None:
    config = set_config(input_filenames="cat.png", **TINY)
    first, second = train(config, show=False)[0], train(config, show=False)[0]
    assert (str(first), str(second)) == ("session_1/cat-50-30", "session_2/cat-50-30")
    assert first.scores == second.scores  # the same seed


def test_zero_steps_leave_a_complete_run(workplace: Path) -> None:
    (run,) = train(set_config(input_filenames="cat.png", gaussians=50, steps=0), show=False)
    assert run.status == "finished"
    assert run.model_path.exists()
    assert run.rendered_path.exists()


def test_pictures_with_one_stem_are_kept_apart(workplace: Path) -> None:
    Image.open("input/dog.png").save("cat.bmp")
    config = set_config(input_filenames=["cat.png", "cat.bmp"], **TINY)
    first, second = train(config, show=False)
    assert (first.folder.name, second.folder.name) == ("cat-50-30", "cat-50-30-2")
    assert second.settings.input_filename == "cat.bmp"


# What is refused before anything is written


def broken(path: str) -> None:
    Path(path).write_bytes(Path(path).read_bytes()[:60])


def spoil_all() -> None:
    broken("input/cat.png")
    broken("input/dog.png")


REFUSED = [
    (spoil_all, {}, PictureError, r"cat\.png"),
    (lambda: Path("input/cat.png").rename("c") and Path("input/dog.png").unlink(), {},
     SettingsError, r"input_filenames: 'cat\.png'"),
    (lambda: None, {"gaussians": [5000, 6000]}, SettingsError, "gaussians=5000"),
    (lambda: None, {"init_gaussian_file": "none.pt"}, ValueError, r"none\.pt"),
    (lambda: Path("output").touch(), {}, SettingsError, "output_dir='output'"),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "wrong", "kind", "message"), REFUSED)
def test_a_sweep_of_which_no_run_can_start_is_not_begun(
    workplace: Path, spoil: Any, wrong: dict[str, Any], kind: type[Exception], message: str
) -> None:
    config = set_config(input_filenames=["cat.png", "dog.png"], **(TINY | wrong))
    spoil()
    with pytest.raises(kind, match=message):
        train(config, show=False)
    assert not Path("output").is_dir()


SPOILED = [
    (lambda: broken("input/cat.png"), {}, "PictureError: input/cat.png"),
    (lambda: Path("input/cat.png").unlink(), {}, "input/cat.png: does not exist"),
    (lambda: None, {"gaussians": [5000, 50]}, "gaussians=5000 is more than the 768 pixels"),
]


@pytest.mark.parametrize(("spoil", "wrong", "message"), SPOILED)
def test_a_run_that_cannot_start_is_recorded_and_the_others_go_on(
    workplace: Path, spoil: Any, wrong: dict[str, Any], message: str
) -> None:
    config = set_config(input_filenames=["cat.png", "dog.png"], **(TINY | wrong))
    spoil()
    runs = train(config, show=False)
    assert len(runs) == len(config.runs())
    assert {run.status for run in runs} == {"finished", "failed"}
    bad = runs.failed[0]
    assert message in bad.record["error"]
    assert "Traceback" in bad.log_path.read_text()
    assert bad.settings == config.runs()[runs.index(bad)]
    assert message.split(":")[0] in html.unescape(compare_batch_results(runs)._repr_html_())
    assert "failed" in bad._repr_html_()


def test_only_a_configuration_can_be_trained(workplace: Path) -> None:
    for wrong in (None, {"input_filenames": "cat.png"}, Settings.build(input_filename="cat.png")):
        with pytest.raises(SettingsError, match=r"set_config\(\)"):
            train(wrong)


# Interruption


def interrupt(monkeypatch: pytest.MonkeyPatch, where: str, run: int, step: int) -> None:
    """Press Ctrl-C in a run at a step: while it trains, or while the progress is drawn."""
    if where == "in the view":
        take = View.take

        def stop_in_view(self: View, index: int, event: Event) -> None:
            take(self, index, event)
            if index == run and isinstance(event, Evaluated) and event.step == step:
                raise KeyboardInterrupt

        monkeypatch.setattr(View, "take", stop_in_view)
        return
    evaluate, begun = GaussianSplatting2D._evaluate, []

    def stop_in_trainer(self: GaussianSplatting2D, *values: Any) -> Evaluated:
        if self.step == 0:
            begun.append(self)
        if len(begun) == run + 1 and self.step == step:
            raise KeyboardInterrupt
        return evaluate(self, *values)

    monkeypatch.setattr(GaussianSplatting2D, "_evaluate", stop_in_trainer)


@pytest.mark.parametrize("where", ["in the view", "in the trainer"])
def test_an_interruption_keeps_what_was_reached_and_ends_the_sweep(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, where: str
) -> None:
    config = set_config(input_filenames="cat.png", gaussians=[50, 60, 70], steps=30, eval_steps=10)
    interrupt(monkeypatch, where, run=1, step=20)
    runs = train(config)
    assert [run.folder.name for run in runs] == ["cat-50-30", "cat-60-30"]
    assert [run.status for run in runs] == ["finished", "interrupted"]
    assert set(names(Path("output/session_1"))) == {*SESSION, "cat-50-30", "cat-60-30"}
    assert runs[1].record["steps_done"] == 20
    assert runs[1].scores["psnr"] > 10
    assert runs[1].model_path.exists()
    shown = capsys.readouterr().err
    assert "session_1/cat-60-30: interrupted | step 20/30" in shown
    assert "Interrupted in session_1/cat-60-30. What was reached is kept" in shown
    assert "1 of 3 runs were not started" in shown
    assert GO_ON in shown


def press_ctrl_c(monkeypatch: pytest.MonkeyPatch, times: int) -> list[str]:
    """Send the real signal from within step 10; returns what happened after it."""
    evaluate, after = GaussianSplatting2D._evaluate, []

    def pressed(self: GaussianSplatting2D, *values: Any) -> Evaluated:
        for _ in range(times if self.step == 10 else 0):
            signal.raise_signal(signal.SIGINT)
            after.append("went on")
        return evaluate(self, *values)

    monkeypatch.setattr(GaussianSplatting2D, "_evaluate", pressed)
    return after


def test_ctrl_c_waits_until_the_trainer_can_be_interrupted(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signal.SIGINT)
    after = press_ctrl_c(monkeypatch, times=1)
    runs = train(set_config(input_filenames=["cat.png", "dog.png"], **TINY), show=False)
    assert after == ["went on"]
    assert [(run.status, run.record["steps_done"]) for run in runs] == [("interrupted", 10)]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_does_not_wait(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    after = press_ctrl_c(monkeypatch, times=2)
    (run,) = train(set_config(input_filenames="cat.png", **TINY), show=False)
    assert after == ["went on"]
    assert run.status == "interrupted"


def test_training_works_in_a_thread(workplace: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        config = set_config(input_filenames="cat.png", **TINY)
        (run,) = pool.submit(train, config, show=False).result()
    assert run.status == "finished"


# Stopping from outside


class StopAt(View):
    """A view whose owner asks for the end when a run reaches a step."""

    def __init__(self, stop: threading.Event, run: int, step: int, kind: type[Event] = Event):
        self._rule = (stop, run, step, kind)
        super().__init__(["r"] * 9)

    def take(self, index: int, event: Event) -> None:
        super().take(index, event)
        stop, run, step, kind = self._rule
        if index == run and event.step >= step and isinstance(event, kind):
            stop.set()


def train_until(
    monkeypatch: pytest.MonkeyPatch, config: TrainingConfig, *when: Any
) -> tuple[list[Run], View]:
    stop = threading.Event()
    view = StopAt(stop, *when)
    monkeypatch.setattr(training, "open_view", lambda *names, **options: view)
    return train(config, stop=stop), view


def test_the_event_stop_ends_the_sweep_and_keeps_what_was_reached(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = set_config(input_filenames="cat.png", gaussians=[50, 60, 70], steps=30, eval_steps=10)
    runs, view = train_until(monkeypatch, config, 1, 20, Evaluated)
    assert [(run.status, run.record["steps_done"]) for run in runs] == [
        ("finished", 30), ("interrupted", 20),
    ]  # fmt: skip
    assert names(runs[1].folder) == ["metrics.csv", "model.pt", "other", "rendered.jpg", "run.json"]
    assert list(pd.read_csv(runs[1].metrics_path)["step"]) == [0, 10, 20]
    assert view.notes == [
        "Interrupted in session_1/cat-60-30. What was reached is kept; "
        "1 of 3 runs were not started.",
        GO_ON,
    ]


def test_a_stop_after_the_last_step_leaves_a_finished_run(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = set_config(input_filenames=["cat.png", "dog.png"], **TINY)
    runs, view = train_until(monkeypatch, config, 0, 30, RunEnded)
    assert [run.status for run in runs] == ["finished"]
    assert view.notes == [
        "Interrupted after session_1/cat-50-30. What was reached is kept; "
        "1 of 2 runs were not started.",
        GO_ON,
    ]


def test_a_stop_during_the_final_scores_skips_what_takes_long(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop, compare = threading.Event(), metrics.psnr

    def pressed_meanwhile(*pictures: Any) -> float:
        stop.set()
        return compare(*pictures)

    monkeypatch.setattr(metrics, "psnr", pressed_meanwhile)  # the first of the final scores
    config = set_config(input_filenames=["cat.png", "dog.png"], **TINY)
    (run,) = train(config, show=False, stop=stop)
    assert run.status == "finished"
    assert run.scores["psnr"] > 10
    assert run.scores["flip"] is None
    assert run.record["reasons"]["flip"] == "the measurement was stopped"


def test_a_sweep_that_is_stopped_before_it_begins_trains_nothing(
    workplace: Path, capsys: pytest.CaptureFixture
) -> None:
    stop = threading.Event()
    stop.set()
    config = set_config(input_filenames=["cat.png", "dog.png"], **TINY)
    assert train(config, stop=stop) == []
    assert "Stopped before the first run; 2 of 2 runs were not started." in capsys.readouterr().err


# Two at once


def test_trainings_in_two_threads_do_not_disturb_each_other(workplace: Path) -> None:
    configs = [set_config(input_filenames=f"{name}.png", **TINY) for name in ("cat", "dog")]
    alone = [train(config, show=False)[0].scores for config in configs]
    with ThreadPoolExecutor(2) as pool:
        both = [run for (run,) in pool.map(partial(train, show=False), configs)]
    assert [run.scores for run in both] == alone
    assert {run.folder.parent.name for run in both} == {"session_3", "session_4"}


def test_stopping_one_of_two_trainings_leaves_the_other(workplace: Path) -> None:
    endless = set_config(input_filenames="dog.png", gaussians=50, steps=10**6, lr_schedule=False)
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(train, endless, show=False, stop=stop)
        try:
            (run,) = train(set_config(input_filenames="cat.png", **TINY), show=False)
            assert not other.done()
        finally:
            stop.set()
        (stopped,) = other.result(60)
    assert run.status == "finished"
    assert stopped.status == "interrupted"


def test_ctrl_c_ends_the_training_of_the_main_thread_only(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless = set_config(input_filenames="dog.png", gaussians=50, steps=10**6, lr_schedule=False)
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(train, endless, show=False, stop=stop)
        try:
            interrupt_main(monkeypatch, step=10)
            (run,) = train(set_config(input_filenames="cat.png", **TINY), show=False)
            assert not other.done()
        finally:
            stop.set()
        (stopped,) = other.result(60)
    assert (run.status, run.record["steps_done"]) == ("interrupted", 10)
    assert stopped.status == "interrupted"


def interrupt_main(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Send the real signal when the training of the main thread has reached a step."""
    evaluate = GaussianSplatting2D._evaluate

    def pressed(self: GaussianSplatting2D, *values: Any) -> Evaluated:
        if threading.current_thread() is threading.main_thread() and self.step == step:
            signal.raise_signal(signal.SIGINT)
        return evaluate(self, *values)

    monkeypatch.setattr(GaussianSplatting2D, "_evaluate", pressed)


# A view that fails


@pytest.mark.parametrize("where", ["draw", "close"])
def test_a_view_that_fails_does_not_end_the_training(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, where: str
) -> None:
    calls = []

    def fail(*arguments: Any) -> None:
        calls.append(arguments)
        raise ConnectionError("the browser went away")

    monkeypatch.setattr(TerminalView, where, fail)
    runs = train(set_config(input_filenames=["cat.png", "dog.png"], **TINY))
    assert [run.status for run in runs] == ["finished", "finished"]
    assert len(calls) == 1  # it is not tried again
    shown = capsys.readouterr().err
    assert "given up (ConnectionError: the browser went away). Training goes on" in shown


def test_a_widget_that_cannot_be_shown_does_not_end_the_training(
    workplace: Path, capsys: pytest.CaptureFixture
) -> None:
    def fail(*widgets: Any, **options: Any) -> None:
        raise RuntimeError("no place")

    (run,) = train(set_config(input_filenames="cat.png", **TINY), display=fail)
    assert run.status == "finished"
    assert "The live view cannot be shown (RuntimeError: no place)." in capsys.readouterr().err


def test_a_form_shows_the_live_view_and_keeps_its_record(workplace: Path) -> None:
    shown = []
    (run,) = train(
        set_config(input_filenames="cat.png", **TINY),
        display=lambda widget, **options: shown.append(widget),
    )
    (box,) = shown
    (record,) = box.children
    assert "session_1/cat-50-30" in record.value
    assert "finished" in record.value
    assert "<svg" in record.value
    assert "data:image/jpeg" in record.value
    assert run.status == "finished"


# Failure


@pytest.fixture
def second_run_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate, begun = GaussianSplatting2D._evaluate, []

    def fail(self: GaussianSplatting2D, *values: Any) -> Evaluated:
        begun.extend([self] * (self.step == 0))
        if len(begun) == 2 and self.step == 20:
            raise model.DivergedError("the loss is no longer finite")
        return evaluate(self, *values)

    monkeypatch.setattr(GaussianSplatting2D, "_evaluate", fail)


@pytest.mark.usefixtures("second_run_fails")
def test_a_run_that_fails_is_told_and_does_not_end_the_sweep(
    workplace: Path, capsys: pytest.CaptureFixture
) -> None:
    config = set_config(input_filenames="cat.png", gaussians=[50, 60, 70], steps=30, eval_steps=10)
    runs = train(config)
    assert [run.status for run in runs] == ["finished", "failed", "finished"]
    (failed,) = runs.failed
    assert failed == runs[1]
    assert "no longer finite" in failed.record["error"]
    assert failed.model_path.exists()
    assert set(names(Path("output/session_1"))) == {*SESSION, "cat-50-30", "cat-60-30", "cat-70-30"}
    shown = capsys.readouterr().err
    assert "session_1/cat-60-30: failed: DivergedError" in shown
    assert "1 of 3 runs failed: session_1/cat-60-30." in shown


@pytest.mark.usefixtures("second_run_fails")
def test_where_no_run_is_complete_the_error_names_run_and_log(workplace: Path) -> None:
    train(set_config(input_filenames="dog.png", **TINY), show=False)
    with pytest.raises(TrainingError) as failed:
        train(set_config(input_filenames="cat.png", **TINY), show=False)
    message = str(failed.value)
    log = Path("output/session_2/cat-50-30/other/log.txt")
    assert message.startswith("session_2/cat-50-30 failed: DivergedError: the loss is no longer")
    assert str(log) in message
    assert "DivergedError" in log.read_text()
    assert isinstance(failed.value.__cause__, model.DivergedError)
    assert [run.status for run in failed.value.runs] == ["failed"]


# What is shown


def test_a_shell_sees_progress_on_stderr_and_nothing_on_stdout(
    workplace: Path, capsys: pytest.CaptureFixture
) -> None:
    train(set_config(input_filenames="cat.png", **TINY))
    out, err = capsys.readouterr()
    assert out == ""
    assert "session_1/cat-50-30: step 0/30" in err
    assert "session_1/cat-50-30: finished | step 30/30 | PSNR" in err


def test_show_false_shows_nothing(workplace: Path, capsys: pytest.CaptureFixture) -> None:
    train(set_config(input_filenames="cat.png", **TINY), show=False)
    assert capsys.readouterr() == ("", "")


# One run


def test_one_run_can_be_trained_and_resumed(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings.build(input_filename="cat.png", **TINY)
    whole = train_one(settings, show=False)
    with monkeypatch.context() as patch:
        interrupt(patch, "in the view", run=0, step=20)
        run = train_one(settings, show=False)
    assert run.status == "interrupted"
    resumed = train_one(settings, resume=run, show=False)
    assert resumed.folder == run.folder
    assert resumed.status == "finished"
    assert resumed.record["steps_done"] == 30
    assert resumed.scores == whole.scores


def test_a_run_without_checkpoint_cannot_be_resumed_and_is_left_alone(workplace: Path) -> None:
    run = train_one(Settings.build(input_filename="cat.png", **TINY), show=False)
    before = (run.folder / "run.json").read_text()
    with pytest.raises(ValueError, match="no checkpoint"):
        train_one(run.settings, resume=run.folder, show=False)
    assert (run.folder / "run.json").read_text() == before
    assert json.loads(before)["status"] == "finished"


def test_a_config_class_and_its_function_are_one(workplace: Path) -> None:
    config = TrainingConfig.build(input_filenames="cat.png", **TINY)
    assert config == set_config(input_filenames="cat.png", **TINY)
    assert train(config, show=False)[0].status == "finished"
