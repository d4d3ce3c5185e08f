"""The live view: what it learns from events, how often it draws, what it leaves behind."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch

from events import Evaluated, Event, GaussiansAdded, Notice, Progress, RunEnded, RunStarted
from quick_start import dashboard
from quick_start.dashboard import NotebookView, RunState, TerminalView, View, in_notebook, open_view

SCORES = {"psnr": 31.5, "ssim": 0.9, "ms_ssim": None, "flip": None, "lpips": None}
IMAGE = torch.zeros(3, 2, 2)


def started(steps: int = 100) -> RunStarted:
    return RunStarted(0, 0.0, Path("r"), steps, 4, 3, 3, 50, "cpu", IMAGE)


def evaluated(step: int, seconds: float, psnr: float = 20.0) -> Evaluated:
    return Evaluated(step, seconds, 100, 0.25, 0.2, 0.0, 0.5, psnr, 0.7, 60, 999, IMAGE)


def ended(status: Any = "finished", error: str = "") -> RunEnded:
    return RunEnded(100, 10.0, status, Path("r"), SCORES, error)


class Clock:
    """Time that moves only when told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    """A terminal that keeps what was written to it."""

    def isatty(self) -> bool:
        return True


class Screen:
    """Stands for a notebook: keeps what is displayed and what replaces it."""

    def __init__(self) -> None:
        self.shown: list[Any] = []
        self.replaced: list[tuple[Any, dict[str, Any]]] = []

    def display(self, content: Any, *, display_id: bool, metadata: dict[str, Any]) -> Screen:
        assert display_id
        self.shown.append((content, metadata))
        return self

    def update(self, content: Any, *, metadata: dict[str, Any]) -> None:
        self.replaced.append((content, metadata))


# What is known of a run


def test_a_run_learns_from_every_event() -> None:
    run = RunState("session_1/cat")
    assert (run.status, run.fraction) == ("waiting", 0.0)
    run.take(started())
    assert (run.status, run.steps, run.num_gaussians) == ("running", 100, 50)
    run.take(evaluated(20, 2.0))
    assert (run.step, run.psnr, run.ssim, run.loss, run.num_gaussians) == (20, 20, 0.7, 0.25, 60)
    run.take(GaussiansAdded(30, 3.0, 20, 5, 80))
    assert (run.num_gaussians, run.fraction) == (80, 0.3)
    run.take(Notice(30, 3.0, "scaled down"))
    assert run.notices == ["scaled down"]
    run.take(ended())
    assert (run.status, run.step, run.psnr, run.ssim) == ("finished", 100, 31.5, 0.9)
    assert run.remaining is None


def test_the_remaining_time_follows_the_pace_of_the_last_steps() -> None:
    run = RunState("r")
    run.take(started(1000))
    assert run.remaining is None
    run.take(Progress(1, 20.0, 1000))  # kernels were compiled in the first step
    assert run.remaining is None
    for i in range(1, 100):
        run.take(Progress(1 + i, 20.0 + 0.5 * i, 1000))
    assert run.remaining == pytest.approx(900 * 0.5)
    for i in range(1, 101):  # twice as fast from here
        run.take(Progress(100 + i, 69.5 + 0.25 * i, 1000))
    assert run.remaining == pytest.approx(800 * 0.25)


def test_no_step_in_the_meantime_gives_no_remaining_time() -> None:
    run = RunState("r")
    run.take(started())
    for seconds in (1.0, 2.0):
        run.take(Progress(5, seconds, 100))
    assert run.remaining is None


@pytest.mark.parametrize(("steps", "fraction"), [(0, 1.0), (100, 0.0)])
def test_a_run_of_no_steps_is_done_when_it_starts(steps: int, fraction: float) -> None:
    run = RunState("r")
    run.take(started(steps))
    assert run.fraction == fraction


def test_the_summary_has_step_quality_loss_count_and_times() -> None:
    run = RunState("r")
    run.take(started())
    assert run.summary() == "step 0/100 | 50 Gaussians | 0.0 s"
    run.take(evaluated(0, 0.0))
    run.take(evaluated(20, 2.0, psnr=float("inf")))
    assert run.summary() == (
        "step 20/100 | PSNR ∞ dB | SSIM 0.7000 | loss 0.2500 | 60 Gaussians | 2.0 s | 8.0 s left"
    )


# How often it draws


def test_a_view_draws_at_most_twice_a_second_but_never_misses_what_matters() -> None:
    class Counting(View):
        drawn: list[Event]

        def draw(self, index: int, event: Event) -> None:
            self.drawn.append(event)

    clock = Clock()
    view = Counting(["r"], clock=clock)
    view.drawn = []
    view.take(0, started())
    for i in range(1000):  # ten seconds
        clock.now = i / 100
        view.take(0, Progress(i, clock.now, 1000))
    assert 18 <= len(view.drawn) <= 21
    before = len(view.drawn)
    for event in (Notice(1000, 10.0, "hint"), ended()):
        view.take(0, event)
    assert len(view.drawn) == before + 2


# In a shell


def test_a_terminal_line_is_renewed_in_place_and_fits() -> None:
    clock, stream = Clock(), Terminal()
    with TerminalView(["session_1/" + "x" * 300], stream, clock=clock) as view:
        view.take(0, started())
        for i in range(1, 6):
            clock.now = float(i)
            view.take(0, Progress(i, clock.now, 100))
        assert stream.getvalue().count("\n") == 0
        view.take(0, ended())
    *live, last = stream.getvalue().removeprefix("\r\x1b[K").split("\r\x1b[K")
    assert len(live) == 6
    assert all(len(line) < 80 for line in live)
    assert "finished" in last
    assert last.count("\n") == 1


def test_a_log_gets_a_line_every_few_seconds() -> None:
    clock, stream = Clock(), io.StringIO()
    view = TerminalView(["r"], stream, clock=clock)
    view.take(0, started())
    for i in range(60):
        clock.now = float(i)
        view.take(0, Progress(i, clock.now, 60))
    view.take(0, ended())
    lines = stream.getvalue().splitlines()
    assert 10 <= len(lines) <= 15
    assert "\r" not in stream.getvalue()
    assert lines[-1].startswith("r: finished | step 100/100 | PSNR 31.50 dB | SSIM 0.9000")


def test_a_sweep_in_a_shell_counts_its_runs_and_tells_notices_and_errors() -> None:
    stream = io.StringIO()
    view = TerminalView(["a", "b"], stream)
    view.take(1, started())
    view.take(1, Notice(0, 0.0, "scaled down"))
    view.take(1, ended("failed", "DivergedError: loss"))
    view.note("that is all")
    lines = stream.getvalue().splitlines()
    assert lines[0].startswith("[2/2] b: step 0/100")
    assert lines[1] == "[2/2] b: scaled down"
    assert lines[2].startswith("[2/2] b: failed: DivergedError: loss | ")
    assert lines[3] == "that is all"


# In a notebook


def test_one_run_has_one_bar_and_a_sweep_an_overall_bar_too() -> None:
    assert len(NotebookView(["a"], Screen().display).box.children) == 3
    assert len(NotebookView(["a", "b"], Screen().display).box.children) == 4


def test_widgets_are_shown_once_and_renewed_in_place() -> None:
    clock, screen = Clock(), Screen()
    view = NotebookView(["a", "b"], screen.display, clock=clock)
    view.take(0, started())
    view.take(0, ended())
    view.take(1, started())
    clock.now = 1.0
    view.take(1, evaluated(25, 2.0))
    assert [content for content, _ in screen.shown] == [view.box]
    assert (view.bar.value, view.total.value, view.total.max) == (0.25, 1.25, 2)
    assert "Run 2 of 2: b" in view.text.value
    assert "PSNR 20.00 dB" in view.text.value
    assert "finished" in view.table.value
    assert not screen.replaced


def test_a_notebook_keeps_the_end_as_html_without_widgets() -> None:
    screen = Screen()
    with NotebookView(["a<b>", "b"], screen.display, folders=["output/a", "output/b"]) as view:
        view.take(0, started())
        view.take(0, Notice(0, 0.0, "scaled <down>"))
        view.take(0, ended("stopped early"))
        view.note("Interrupted in b.")
    ((content, metadata),) = screen.replaced
    html = content.data
    assert metadata == {"splatbook": {"runs": ["output/a", "output/b"]}}
    for shown in ("a&lt;b&gt;", "stopped early", "31.50", "0.9000", ">50<", "10.0 s", "waiting"):
        assert shown in html
    assert "a&lt;b&gt;: scaled &lt;down&gt;" in html
    assert "Interrupted in b." in html
    assert view.box.comm is None  # closed: nothing of it stays in the kernel
    assert view.bar.comm is None


def test_a_failure_is_shown_with_its_reason() -> None:
    screen = Screen()
    with NotebookView(["a"], screen.display) as view:
        view.take(0, started())
        view.take(0, ended("failed", "DivergedError: loss"))
    assert "failed: DivergedError: loss" in screen.replaced[0][0].data


def test_the_record_is_left_even_after_an_exception() -> None:
    screen = Screen()
    with pytest.raises(RuntimeError), NotebookView(["a"], screen.display):
        raise RuntimeError
    assert len(screen.replaced) == 1


def test_a_long_sweep_lists_only_its_last_runs_while_it_goes_on() -> None:
    screen = Screen()
    with NotebookView([f"run{i}" for i in range(40)], screen.display) as view:
        for i in range(40):
            view.take(i, started())
            view.take(i, ended())
        assert "run39" in view.table.value
        assert "run0<" not in view.table.value
        assert "28 earlier runs not listed" in view.table.value
    assert "run0<" in screen.replaced[0][0].data


# Which view


def test_a_shell_is_no_notebook_even_with_ipython_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import IPython

    assert not in_notebook()
    monkeypatch.setattr(IPython, "get_ipython", lambda: object())  # ipython in a terminal
    assert not in_notebook()
    assert isinstance(open_view(["r"], ["r"]), TerminalView)


def test_a_kernel_is_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    import IPython

    class Shell:
        kernel = object()

    monkeypatch.setattr(IPython, "get_ipython", Shell)
    assert in_notebook()
    screen = Screen()
    monkeypatch.setattr("IPython.display.display", screen.display)
    assert isinstance(open_view(["r"], ["f"]), NotebookView)
    assert screen.shown[0][1] == {"splatbook": {"runs": ["f"]}}


def test_show_false_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with open_view(["r"], ["r"], show=False) as view:
        view.take(0, started())
        view.take(0, ended())
        view.note("hello")
    assert view.runs[0].status == "finished"
    assert capsys.readouterr() == ("", "")


def test_the_pauses_between_drawings_are_what_was_promised() -> None:
    assert dashboard.NOTEBOOK_INTERVAL >= 0.5
    assert TerminalView(["r"], io.StringIO()).interval == dashboard.LINE_INTERVAL
    assert TerminalView(["r"], Terminal()).interval == dashboard.NOTEBOOK_INTERVAL
