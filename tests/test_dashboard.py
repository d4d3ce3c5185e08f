"""The live view: what it learns from events, how often it draws, what it leaves behind."""

from __future__ import annotations

import io
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

from events import (
    Evaluated,
    Event,
    FilmProgress,
    GaussiansAdded,
    Notice,
    Progress,
    RunEnded,
    RunStarted,
)
from imaging import drawing
from quick_start.dashboard import (
    NotebookView,
    RunState,
    TerminalView,
    View,
    in_notebook,
    open_view,
    panels,
)
from quick_start.dashboard.view import Curve

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


class Drawing(View):
    """Counts what it draws; each drawing takes some seconds."""

    def __init__(self, clock: Clock, seconds: float = 0.0):
        super().__init__(["r"], clock=clock, work=clock)
        self.drawn: list[tuple[float, Event]] = []
        self._seconds = seconds

    def draw(self, index: int, event: Event) -> None:
        self.drawn.append((self._clock(), event))
        self._clock.now += self._seconds


def test_a_view_draws_at_most_twice_a_second() -> None:
    clock = Clock()
    view = Drawing(clock)
    for i in range(1000):  # ten seconds
        clock.now = i / 100
        view.take(0, Progress(i, clock.now, 1000))
    assert 18 <= len(view.drawn) <= 21


@pytest.mark.parametrize("seconds", [0.001, 0.02, 0.1, 2.0])
@pytest.mark.parametrize("step", [0.001, 0.2, 2.0])
def test_drawing_costs_a_small_share_of_the_time_however_slow_it_is(
    seconds: float, step: float
) -> None:
    clock = Clock()
    view = Drawing(clock, seconds)
    training = 0.0
    while training < 400 * max(step, 0.001 + seconds):
        clock.now += step
        training += step
        view.take(0, Progress(1, training, 1000))
    spent = seconds * len(view.drawn)
    assert spent <= 0.0101 * clock.now + 0.06 + seconds
    assert len(view.drawn) >= 2


def test_a_burst_of_short_runs_is_not_drawn_run_by_run() -> None:
    clock = Clock()
    view = NotebookView(["r"] * 200, Screen().display, clock=clock)
    drawn = []
    view.draw = lambda *arguments: drawn.append(arguments)
    for i in range(200):
        for event in (started(), evaluated(50, 1.0), ended()):
            clock.now += 0.01
            view.take(i, event)
    assert len(drawn) <= 2 * 6 + 1


def test_an_event_of_an_unknown_kind_only_tells_step_and_time() -> None:
    @dataclass(frozen=True)
    class Novelty(Event):
        colour: str

    run = RunState("r")
    run.take(started())
    run.take(Novelty(7, 1.5, "green"))
    assert (run.step, run.seconds, run.status) == (7, 1.5, "running")


def test_the_film_is_counted_in_frames_until_the_run_ends() -> None:
    run = RunState("r")
    run.take(started())
    run.take(FilmProgress(100, 9.0, 30, 120))
    assert run.film == (30, 120)
    assert "film 30/120 frames" in run.summary()
    run.take(ended())
    assert run.film is None
    assert "film" not in run.summary()


def test_after_the_last_step_the_result_is_being_measured() -> None:
    run = RunState("r")
    run.take(started())
    run.take(evaluated(100, 9.0))
    assert run.summary().endswith("| measuring the result")


# Curves


def test_a_curve_keeps_a_bounded_number_of_points_with_both_ends() -> None:
    curve = Curve(most=50)
    for step in range(100_003):
        curve.add(step, step**0.5)
        assert len(curve.points) <= 51
    steps = [step for step, _ in curve.points]
    assert steps == sorted(set(steps))
    assert (steps[0], steps[-1]) == (0, 100_002)
    assert len(steps) >= 25
    assert all(value == step**0.5 for step, value in curve.points)


# Giving up


@pytest.mark.parametrize("event", [started(), evaluated(10, 1.0), None])
def test_a_view_that_fails_is_given_up_with_a_note(
    event: Event | None, capsys: pytest.CaptureFixture[str]
) -> None:
    view = Drawing(Clock())
    view.draw = lambda *arguments: 1 / 0
    view.take(0, event)  # None is no event at all
    view.take(0, ended())
    view.note("that is all")
    view.__exit__(None, None, None)
    assert view.runs[0].status == "finished"  # it still knows
    assert "Error: " in view.given_up
    assert capsys.readouterr().err.count("Training goes on without it.") == 1


def test_an_interruption_is_no_failure_of_the_view() -> None:
    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    view = Drawing(Clock())
    view.draw = interrupted
    with pytest.raises(KeyboardInterrupt):
        view.take(0, started())


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


def values_of(view: NotebookView) -> str:
    """All the text that the view shows."""
    texts = (view.text, view.charts, view.messages, *view.table.children)
    return " ".join(widget.value for widget in texts)


def test_a_sweep_has_an_overall_bar_and_a_list_and_one_run_has_neither() -> None:
    one, two = (NotebookView(names, Screen().display) for names in (["a"], ["a", "b"]))
    assert one.total not in one.box.children
    assert two.total in two.box.children
    assert (len(one.table.children), len(two.table.children)) == (0, 1)


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
    assert "finished" in values_of(view)
    assert not screen.replaced


def test_the_run_that_goes_on_is_highlighted_in_the_list() -> None:
    clock = Clock()
    view = NotebookView(["a", "b", "c"], Screen().display, clock=clock)
    assert view.table.children[0].value.count("waiting") == 3
    view.take(0, started())
    view.take(0, ended())
    clock.now = 1.0
    view.take(1, started())
    rows = view.table.children[0].value.split("<tr ")[1:]
    assert [("background" in row.split(">")[0], "<b>" in row) for row in rows] == [
        (False, False), (True, True), (False, False),
    ]  # fmt: skip
    assert ["100 %" in row for row in rows] == [True, False, False]


def test_only_the_part_of_a_long_list_is_renewed_in_which_a_run_goes_on() -> None:
    clock = Clock()
    view = NotebookView([f"run{i}" for i in range(1000)], Screen().display, clock=clock)
    assert len(view.table.children) == 40
    sent = []
    for widget in view.table.children:
        widget.observe(lambda change: sent.append(change["owner"]), "value")
    for i in range(60):
        clock.now += 1.0
        view.take(i, started())
        clock.now += 1.0
        view.take(i, ended())
    assert set(sent) == set(view.table.children[:3])
    first, second, third, fourth = (widget.value for widget in view.table.children[:4])
    assert "runs 1 to 25: 25 finished; PSNR 31.50 to 31.50 dB" in first
    assert "<details open" not in first + second + fourth
    assert "run24<" in first
    assert "runs 51 to 75: 10 finished, 15 waiting" in third
    assert "run999<" in view.table.children[-1].value


def test_the_film_has_a_bar_of_its_own_while_it_is_encoded() -> None:
    clock = Clock()
    view = NotebookView(["a"], Screen().display, clock=clock)
    view.take(0, started())
    assert view.film.layout.display == "none"
    clock.now = 1.0
    view.take(0, FilmProgress(100, 9.0, 30, 120))
    assert (view.film.value, view.film.layout.display) == (0.25, None)
    clock.now = 2.0
    view.take(0, ended())
    assert view.film.layout.display == "none"


# Pictures


def decoded(widget: Any) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(widget.value)))


def view_of(target: torch.Tensor, image: torch.Tensor, splits: tuple[int, ...] = ()) -> Any:
    """A view that has drawn one measurement, and its clock."""
    clock = Clock()
    view = NotebookView(["a"], Screen().display, clock=clock)
    channels, height, width = target.shape
    view.take(0, RunStarted(
        0, 0.0, Path("r"), 100, width, height, channels, 50, "cpu", target, splits,
    ))  # fmt: skip
    clock.now = 1.0
    view.take(0, replace(evaluated(20, 1.0), image=image))
    return view


@pytest.mark.parametrize(
    ("shape", "size"), [((300, 900), (360, 120)), ((48, 64), (64, 48)), ((3000, 3), (1, 360))]
)
def test_pictures_are_reduced_and_keep_their_aspect(
    shape: tuple[int, int], size: tuple[int, int]
) -> None:
    target = torch.full((3, *shape), 0.5)
    reduced = torch.nn.functional.avg_pool2d(target[None], 2, ceil_mode=True)[0]  # as Evaluated's
    view = view_of(target, reduced)
    for name in ("target", "rendering"):
        picture = decoded(view.pictures.images[name])
        assert picture.shape == (*size[::-1], 3)
        assert abs(picture.astype(int) - 128).max() <= 1


def test_a_grey_picture_and_one_that_is_no_number_are_shown() -> None:
    grey = torch.linspace(0, 1, 64).expand(1, 48, 64)
    view = view_of(grey, torch.full_like(grey, float("nan")))
    target = decoded(view.pictures.images["target"]).astype(int)
    assert abs(target[..., 0] - target[..., 2]).max() <= 2
    assert target[0, -1, 0] - target[0, 0, 0] > 240
    assert decoded(view.pictures.images["rendering"]).max() <= 2


def test_pictures_of_a_stack_lie_beside_each_other() -> None:
    red, white, blue = torch.tensor([1.0, 0, 0]), torch.tensor([1.0]), torch.tensor([0.0, 0, 1])
    stack = torch.cat([red, white, blue])[:, None, None].expand(7, 40, 60)
    view = view_of(stack, stack, (3, 1, 3))
    shown = decoded(view.pictures.images["rendering"]).astype(int)
    assert shown.shape == (80, 120, 3)
    corners = shown[20, 30], shown[20, 90], shown[60, 30], shown[60, 90]
    wanted = (255, 0, 0), (255, 255, 255), (0, 0, 255), (0, 0, 0)
    assert np.abs(np.array(corners) - wanted).max() <= 3


def test_the_error_map_is_made_on_demand_only(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr(panels, "error_map", lambda *p: made.append(p) or drawing.error_map(*p))
    target = torch.zeros(3, 40, 60)
    image = target.clone()
    image[:, :, 30:] = 0.5
    view = view_of(target, image)
    assert not made
    assert view.pictures.columns["error"].layout.display == "none"
    view.error.value = True  # pressed: shown at once, not with the next drawing
    assert view.pictures.columns["error"].layout.display is None
    shown = decoded(view.pictures.images["error"]).astype(int)
    assert shown[20, 10].max() < 20
    assert shown[20, 50].min() > 100
    view.error.value = False
    assert view.pictures.columns["error"].layout.display == "none"
    assert len(made) == 1


def test_a_picture_is_encoded_again_only_when_it_has_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    view = view_of(torch.zeros(3, 40, 60), torch.ones(3, 40, 60))
    encoded = []
    monkeypatch.setattr(panels, "jpeg", lambda picture: encoded.append(picture) or b"")
    view._clock.now = 2.0
    view.take(0, Progress(30, 2.0, 100))
    assert not encoded
    view._clock.now = 3.0
    view.take(0, evaluated(40, 3.0))
    assert len(encoded) == 1


# Buttons


def answer(view: NotebookView) -> None:
    """What a browser sends that was asked."""
    *_, last = view._hearing._widgets
    last.set_state({"value": 1})


def test_buttons_appear_when_the_browser_is_heard() -> None:
    view = NotebookView(["a"], Screen().display)
    controls = (view.stop, view.error)
    assert all(control.layout.display == "none" for control in controls)
    answer(view)
    assert all(control.layout.display is None for control in controls)


def test_a_front_end_that_is_not_heard_is_told_how_to_stop() -> None:
    clock = Clock()
    view = NotebookView(["a"], Screen().display, clock=clock)
    view.take(0, started())
    assert "interrupt the kernel" not in view.messages.value
    for i in range(10):
        clock.now += 1.0
        view.take(0, Progress(i, clock.now, 100))
    assert "interrupt the kernel" in view.messages.value
    answer(view)
    clock.now += 1.0
    view.take(0, Progress(20, clock.now, 100))
    assert "interrupt the kernel" not in view.messages.value


def test_the_stop_button_sets_the_event_and_says_so() -> None:
    stop = threading.Event()
    view = NotebookView(["a"], Screen().display, stop=stop)
    assert not stop.is_set()
    view.stop.click()
    assert stop.is_set()
    assert (view.stop.description, view.stop.disabled) == ("Stopping", True)
    assert "at the end of this step" in view.messages.value


# What is left


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


def test_the_record_has_curves_and_pictures_that_need_no_kernel() -> None:
    screen, clock = Screen(), Clock()
    with NotebookView(["a", "b"], screen.display, clock=clock) as view:
        for i in range(2):
            view.take(i, started())
            for step in (0, 20, 40):
                clock.now += 1.0
                view.take(i, evaluated(step, float(step), psnr=20.0 + step))
            view.take(i, GaussiansAdded(50, 50.0, 20, 5, 80))
            view.take(i, ended())
    html = screen.replaced[0][0].data
    assert html.count('role="img"') == 4  # PSNR, SSIM, loss, Gaussians
    assert html.count("<figure") == 4  # target and rendering of the last, small ones of both
    assert "<script" not in html
    assert ElementTree.fromstring(f"<body>{html}</body>") is not None  # every element is closed


def test_the_record_of_a_long_sweep_is_bounded_but_lists_every_run() -> None:
    screen, clock = Screen(), Clock()
    with NotebookView([f"run{i}" for i in range(1000)], screen.display, clock=clock) as view:
        for i in range(1000):
            view.take(i, started())
            for step in range(0, 100, 5):
                view.take(i, evaluated(step, 1.0))
            clock.now += 5.0
            view.take(i, ended())
    html = screen.replaced[0][0].data
    assert all(f">run{i}<" in html for i in range(1000))
    assert html.count("<figure") == 2 + 24
    assert html.count('role="img"') == 3
    assert len(html) < 1_500_000


def test_a_place_without_a_handle_keeps_the_record_inside_the_widget() -> None:
    shown = []
    with NotebookView(["a"], lambda widget, **options: shown.append(widget)) as view:
        view.take(0, started())
        view.take(0, evaluated(20, 1.0))
        view.take(0, ended())
    (box,) = shown
    (record,) = box.children
    assert box.comm is not None
    assert record.comm is not None
    assert "finished" in record.value
    assert "<svg" in record.value
    assert view.bar.comm is None


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
    assert View(["r"]).interval >= 0.5
    assert TerminalView(["r"], io.StringIO()).interval >= 5.0
    assert TerminalView(["r"], Terminal()).interval >= 0.5
