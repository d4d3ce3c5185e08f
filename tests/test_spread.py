"""Runs spread over an executor's workers: the same numbers, whatever happens to these."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from events import Evaluated, Event, RunEnded, RunStarted
from model import GaussianSplatting2D
from quick_start import cluster, process_pool, set_config, train
from quick_start.config import TrainingConfig
from quick_start.dashboard import NotebookView
from quick_start.dashboard.panels import panel
from quick_start.dashboard.view import INTERVAL
from quick_start.runs import Run, Runs
from quick_start.sweep import engines, gpus
from quick_start.sweep.locks import BusyError, held
from quick_start.sweep.mailbox import Inbox, Outbox
from quick_start.sweep.plan import FILE, Task
from quick_start.sweep.work import Order, WorkerError, train_apart
from quick_start.training import TrainingError
from settings import SettingsError
from tests.conftest import two_pictures
from tests.sweeping import TINY, Watching, assert_same, measurements, settings_of, watched
from tests.test_dashboard import Screen

ROOT = Path(__file__).parents[1]
PATIENCE = 60.0  # seconds
LONG = TINY | {"gaussians": [50, 60, 70], "steps": 250, "eval_steps": 10}


def config_of(*pictures: str, **values: Any) -> TrainingConfig:
    return set_config(input_filenames=list(pictures or ["cat.png"]), **TINY | values)


def long(**values: Any) -> TrainingConfig:
    """Three runs, each of which takes a second or more."""
    return config_of(**LONG | values)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """The three long runs, trained one after another."""
    place = tmp_path_factory.mktemp("unbroken")
    two_pictures(place)
    folders = {"input_dir": str(place / "input"), "output_dir": str(place / "output")}
    return train(long(**folders), show=False)


@pytest.fixture(scope="module")
def pool() -> Iterator[Executor]:
    with process_pool(2) as executor:
        yield executor


@pytest.fixture(scope="module")
def dask() -> Iterator[Executor]:
    with cluster(workers=2) as executor:
        yield executor


@pytest.fixture(scope="module")
def ipython() -> Iterator[Executor]:
    import ipyparallel

    with ipyparallel.Cluster(n=2) as client:
        yield client.load_balanced_view().executor


def assert_all_same(runs: Runs, others: Runs) -> None:
    assert [run.folder.name for run in runs] == [run.folder.name for run in others]
    for run, other in zip(runs, others, strict=True):
        assert_same(run, other)
        assert measurements(run) == measurements(other)
    assert {path.name for path in runs[0].folder.parent.glob(".*")} <= {".lock"}


class Doing(Watching):
    """Does something once, when a run, or any, reaches a step."""

    def __init__(self, count: int, index: int | None, step: int, action: Callable[[], None]):
        super().__init__(count)
        self._when, self._action = (index, step), action
        self.done = False

    def take(self, index: int, event: Event) -> None:
        super().take(index, event)
        wanted, step = self._when
        if not self.done and wanted in (None, index) and event.step >= step:
            self.done = True
            self._action()


# The same as one by one


def test_processes_give_the_numbers_of_one_by_one(
    workplace: Path, pool: Executor, unbroken: Runs
) -> None:
    runs = train(long(), executor=pool, show=False)
    assert_all_same(runs, unbroken)


def test_threads_give_the_numbers_of_one_by_one(workplace: Path, unbroken: Runs) -> None:
    with ThreadPoolExecutor(2) as executor:
        assert_all_same(train(long(), executor=executor, show=False), unbroken)


def test_dask_gives_the_numbers_of_one_by_one(
    workplace: Path, dask: Executor, unbroken: Runs
) -> None:
    assert_all_same(train(long(), executor=dask, show=False), unbroken)


def test_ipyparallel_gives_the_numbers_of_one_by_one(
    workplace: Path, ipython: Executor, unbroken: Runs
) -> None:
    assert_all_same(train(long(), executor=ipython, show=False), unbroken)


def test_a_run_that_fails_in_a_worker_is_told_and_the_others_go_on(
    workplace: Path, pool: Executor
) -> None:
    Path("input/dog.png").write_bytes(Path("input/dog.png").read_bytes()[:60])
    view = Watching(2)
    runs = watched(config_of("cat.png", "dog.png"), view, executor=pool)
    assert [run.status for run in runs] == ["finished", "failed"]
    assert [run.status for run in view.runs] == ["finished", "failed"]
    assert view.runs[1].error.startswith("PictureError: input/dog.png")
    assert "Traceback" in runs[1].log_path.read_text()


# What is seen


def test_events_travel_complete_and_in_order(workplace: Path, pool: Executor) -> None:
    config = config_of("cat.png", "dog.png", gaussians=[50, 60])
    view = Watching(4)
    runs = watched(config, view, executor=pool)
    for index, run in enumerate(runs):
        events = view.of(index)
        assert isinstance(events[0], RunStarted)
        assert isinstance(events[-1], RunEnded)
        assert (events[0].folder, events[-1].scores) == (run.folder, run.scores)
        assert [event.step for event in events] == sorted(event.step for event in events)
        found = view.of(index, Evaluated)
        rows = measurements(run)
        assert [event.step for event in found] == [0, 10, 20, 30]
        for name in ("psnr", "ssim", "total_loss", "num_gaussians"):
            assert [repr(getattr(event, name)) for event in found] == [row[name] for row in rows]
        assert all(event.image is None for event in found)  # nobody looks
        assert events[0].target is None
    assert view.ends() == ["finished"] * 4


def test_pictures_come_as_panels_no_more_often_than_they_are_drawn(
    workplace: Path, pool: Executor
) -> None:
    view = Watching(1, shows_pictures=True)
    begun = time.monotonic()
    (run,) = watched(config_of(steps=200, eval_steps=1), view, executor=pool)
    seconds = time.monotonic() - begun
    (start,) = view.of(0, RunStarted)
    model = GaussianSplatting2D(run.settings, run.folder)
    assert np.array_equal(start.target, panel(model.target.full_pixels, 32, 24))
    measured = view.of(0, Evaluated)
    assert len(measured) == 201
    images = [event.image for event in measured if event.image is not None]
    assert all((image.dtype, image.shape) == (np.uint8, (24, 32, 3)) for image in images)
    assert 1 <= len(images) <= 1 + seconds / INTERVAL


def test_a_shell_sees_each_run_begin_and_end(
    workplace: Path, pool: Executor, capsys: pytest.CaptureFixture
) -> None:
    train(config_of(gaussians=[50, 60, 70]), executor=pool)
    out, err = capsys.readouterr()
    assert out == ""
    for number, count in enumerate((50, 60, 70), 1):
        name = f"[{number}/3] session_1/cat-{count}-30"
        assert f"{name}: step 0/30" in err
        assert f"{name}: finished | step 30/30 | PSNR" in err


class Recording(NotebookView):
    """A live view that keeps which run it showed, and what target, at each drawing."""

    def __init__(self, *arguments: Any, **options: Any):
        self.seen: list[tuple[int, str, float, np.ndarray]] = []
        super().__init__(*arguments, **options)

    def _affordable(self, event: Event) -> bool:
        return True

    def draw(self, index: int, event: Event) -> None:
        super().draw(index, event)
        target = self.pictures._panels["target"]
        self.seen.append((self._shown, self.text.value, self.total.value, target))


def test_a_notebook_shows_one_run_until_it_ends_and_then_the_other(workplace: Path) -> None:
    session, names = Path("output/session_1"), ["session_1/cat", "session_1/dog"]
    (session / ".live").mkdir(parents=True)
    screen, inbox = Screen(), Inbox(session)
    view = Recording(names, screen.display)
    models = [
        GaussianSplatting2D(settings_of(input_filename=f"{name}.png", steps=steps), session / name)
        for name, steps in (("cat", 30), ("dog", 60))
    ]
    going_on = {index: model.optimize() for index, model in enumerate(models)}
    outboxes = [Outbox(session, index, inbox.token, pictures=True) for index in going_on]
    with view, outboxes[0], outboxes[1]:
        while going_on:  # each an event in turn, as from two processes
            for index, events in list(going_on.items()):
                if event := next(events, None):
                    outboxes[index].put(event)
                    for number, told in inbox.events():
                        view.take(number, told)
                else:
                    del going_on[index]
    shown = [index for index, *_ in view.seen]
    assert shown == sorted(shown)
    assert set(shown) == {0, 1}
    for index, text, _, target in view.seen:
        assert names[index] in text
        assert np.array_equal(target, panel(models[index].target.full_pixels, 32, 24))
    totals = [total for _, _, total, _ in view.seen]
    assert totals == sorted(totals)
    assert (totals[0], totals[-1]) == (0, 2)
    ((page, _),) = screen.replaced
    assert all(name in page.data for name in names)


# Stopping


@pytest.mark.parametrize("kind", ["pool", "dask", "ipython"])
def test_stop_ends_all_within_seconds_and_keeps_what_was_reached(
    workplace: Path, unbroken: Runs, request: pytest.FixtureRequest, kind: str
) -> None:
    executor = request.getfixturevalue(kind)
    stop = threading.Event()
    pressed: list[float] = []
    view = Doing(9, None, 20, lambda: (pressed.append(time.monotonic()), stop.set()))
    config = long(gaussians=list(range(50, 140, 10)))
    runs = watched(config, view, stop, executor=executor)
    assert time.monotonic() - pressed[0] < 10
    assert 1 <= len(runs) <= 3  # two went on, and one may have begun just then
    assert all(run.status in ("interrupted", "finished") for run in runs)
    assert max(run.record["steps_done"] for run in runs) >= 20
    assert sorted(Path("output/session_1").glob("cat*")) == sorted(run.folder for run in runs)
    assert runs.left == 9 - len(runs)
    assert any("were not started" in note for note in view.notes)
    assert not Path("output/session_1/.live").exists()
    time.sleep(0.3)
    assert not Path("output/session_1/.live").exists()  # nothing goes on
    runs = train(long(), resume="session_1", executor=executor, show=False)
    assert_all_same(runs, unbroken)


def test_a_worker_that_begins_when_nobody_listens_any_more_trains_nothing(workplace: Path) -> None:
    (run,) = train(config_of(steps=0), show=False)
    settings, folder = settings_of(gaussians=60), run.folder.parent / "cat-60-30"
    order = Order(Task(0, settings, folder), "gone", {}, os.getcwd(), False)
    assert train_apart(order) == ""
    assert not folder.exists()


# Workers that die


def test_a_killed_process_costs_nothing(workplace: Path, unbroken: Runs) -> None:
    with process_pool(2) as executor:

        def kill() -> None:
            os.kill(next(iter(executor._processes)), signal.SIGKILL)

        view = Doing(3, 0, 100, kill)
        runs = watched(long(save_ckpt_steps=50), view, executor=executor)
        assert view.done
        assert_all_same(runs, unbroken)
        assert [run.status for run in view.runs] == ["finished"] * 3
        # A pool that lost a process takes no more work; the next sweep replaces it.
        assert train(config_of(), executor=executor, show=False)[0].is_complete


def test_a_killed_dask_worker_costs_nothing(
    workplace: Path, dask: Executor, unbroken: Runs
) -> None:
    def kill() -> None:
        os.kill(next(iter(dask._client.run(os.getpid).values())), signal.SIGKILL)

    view = Doing(3, 0, 100, kill)
    runs = watched(long(), view, executor=dask)
    assert view.done
    assert_all_same(runs, unbroken)


def deadly() -> None:
    """Make a worker die of every run of 60 Gaussians."""
    evaluate = GaussianSplatting2D._evaluate

    def die(self: GaussianSplatting2D) -> Evaluated:
        if len(self.gaussians) == 60:
            os._exit(11)
        return evaluate(self)

    GaussianSplatting2D._evaluate = die


def test_a_run_that_kills_its_workers_fails_alone(workplace: Path) -> None:
    context = multiprocessing.get_context("spawn")
    config = config_of(gaussians=[60, 50, 70])
    with ProcessPoolExecutor(2, mp_context=context, initializer=deadly) as executor:
        runs = train(config, executor=executor, show=False)
    assert [run.status for run in runs] == ["failed", "finished", "finished"]
    assert (
        runs[0]
        .record["error"]
        .startswith(f"RemoteError: {engines.MOST_ATTEMPTS} processes died while they trained it")
    )
    assert_all_same(train(config, resume="session_1", show=False), train(config, show=False))


KILLED = """
import sys
from quick_start import process_pool, set_config, train

if __name__ == "__main__":
    with process_pool(2) as executor:
        train(set_config(**eval(sys.argv[1])), executor=executor, show=False)
"""


@contextlib.contextmanager
def sweeping_script() -> Iterator[tuple[subprocess.Popen, list[psutil.Process]]]:
    """A script that trains with a pool, once it has begun; in the end it is killed."""
    Path("sweep.py").write_text(KILLED)
    settings = {"input_filenames": "cat.png", **LONG}
    command = [sys.executable, "sweep.py", repr(settings)]
    parent = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)})
    try:
        wait_for(lambda: any(Path("output").glob("session_1/*/metrics.csv")))
        workers = psutil.Process(parent.pid).children(recursive=True)
        assert len(workers) >= 2
        yield parent, workers
    finally:
        parent.kill()
        parent.wait()
    _, alive = psutil.wait_procs(workers, 20)
    assert not alive


def test_workers_end_with_a_killed_parent_and_the_sweep_goes_on_elsewhere(
    workplace: Path, unbroken: Runs
) -> None:
    with sweeping_script():
        pass
    assert "running" not in {run.status for run in map(Run, Path("output/session_1").glob("cat*"))}
    runs = train(resume="session_1", show=False)
    assert_all_same(runs, unbroken)


def test_sigterm_ends_the_process_after_what_was_reached_is_kept(
    workplace: Path, unbroken: Runs
) -> None:
    with sweeping_script() as (parent, workers):
        for process in [parent, *workers]:  # as a batch system does
            process.terminate()
        assert parent.wait(PATIENCE) == -signal.SIGTERM
    runs = [Run(path) for path in Path("output/session_1").glob("cat*")]
    assert {run.status for run in runs} <= {"interrupted", "finished"}
    assert not Path("output/session_1/.live").exists()
    assert_all_same(train(resume="session_1", show=False), unbroken)


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.02)


# Executors that cannot do it


def test_a_worker_that_does_not_see_the_folders_says_so(workplace: Path) -> None:
    (run,) = train(config_of(), show=False)
    here = os.getcwd()
    order = Order(Task(0, run.settings, run.folder), "token", {}, "/nowhere", False)
    with pytest.raises(WorkerError, match=rf"{platform.node()} does not see /nowhere/output/sess"):
        train_apart(order)
    assert os.getcwd() == here


def test_a_worker_changes_into_the_place_of_the_order_and_back(
    workplace: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run,) = train(config_of(), show=False)
    folder = run.folder.parent / "cat-60-30"
    (run.folder.parent / ".live").mkdir()
    (run.folder.parent / ".live" / "token.going-on").touch()
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(elsewhere)
    order = Order(Task(0, settings_of(gaussians=60), folder), "token", {}, str(workplace), False)
    assert train_apart(order) == ""
    assert Path.cwd() == elsewhere
    assert list(elsewhere.iterdir()) == []
    assert Run(workplace / folder).is_complete


def test_an_executor_that_was_shut_down_is_told_and_the_session_can_go_on(workplace: Path) -> None:
    executor = process_pool(1)
    executor.shutdown()
    with pytest.raises(
        TrainingError, match=r"the executor takes no run .*after shutdown"
    ) as failed:
        train(config_of(gaussians=[50, 60]), executor=executor, show=False)
    assert [run.status for run in failed.value.runs] == ["failed", "failed"]
    assert all(run.is_complete for run in train(resume="session_1", show=False))


def test_an_executor_that_is_shut_down_in_mid_sweep_ends_what_it_began(workplace: Path) -> None:
    executor = ThreadPoolExecutor(1)
    view = Doing(3, 0, 10, lambda: executor.shutdown(wait=False, cancel_futures=True))
    runs = watched(long(), view, executor=executor)
    assert [run.status for run in runs] == ["finished", "failed", "failed"]
    assert "the executor gave the run up" in runs[1].record["error"]


def test_an_executor_that_cannot_pickle_reports_every_run(
    workplace: Path, pool: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "train_apart", lambda order: "")
    with pytest.raises(TrainingError, match="pickle") as failed:
        train(config_of(gaussians=[50, 60]), executor=pool, show=False)
    assert [run.status for run in failed.value.runs] == ["failed", "failed"]


def test_nobody_at_an_address_is_told_in_bounded_time() -> None:
    begun = time.monotonic()
    with (
        pytest.raises(SettingsError, match=r"cluster\('tcp://127\.0\.0\.1:1'\): no scheduler"),
        cluster("tcp://127.0.0.1:1"),
    ):
        pass
    assert time.monotonic() - begun < 20


@pytest.mark.parametrize("wrong", [0, -1, 1.5, "2", True])
def test_a_wrong_number_of_workers_is_refused(wrong: Any) -> None:
    with pytest.raises(SettingsError, match="allowed are whole numbers from 1 up"):
        process_pool(wrong)
    with (
        pytest.raises(SettingsError, match="allowed are whole numbers from 1 up"),
        cluster(workers=wrong),
    ):
        pass


def test_each_run_has_its_share_of_the_cores_of_its_machine(
    dask: Executor, ipython: Executor
) -> None:
    with ThreadPoolExecutor(3) as threads, process_pool(3) as processes:
        assert engines._shares(threads) == {}
        assert engines._shares(processes) == {platform.node(): 3}
    assert engines._shares(ipython) == {platform.node(): 2}
    shares = engines._shares(dask)
    assert set(shares.values()) == {2}
    assert shares.keys() == dask._client.run(os.getpid).keys()


# Several sweeps at once


def _sweep(place: str, session: str | None, begin: Any, results: Any) -> None:
    os.chdir(place)
    config = config_of(gaussians=[50, 60])
    begin.wait()
    try:
        runs = train(config, resume=session, show=False)
        results.put((session, {run.folder.parent.name for run in runs}))
    except BusyError:
        results.put((session, "busy"))


def test_sweeps_in_six_processes_never_share_a_session(workplace: Path) -> None:
    watched(config_of(gaussians=[50, 60]), view := Watching(2), threading.Event())
    assert view.ends() == ["finished"] * 2
    for name in ("cat-50-30", "cat-60-30"):
        (Path("output/session_1") / name / "model.pt").unlink()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.test_spread", "model"])
    begin, results = context.Barrier(6), context.Queue()
    sessions = ["session_1"] * 3 + [None] * 3
    processes = [
        context.Process(target=_sweep, args=(os.getcwd(), session, begin, results))
        for session in sessions
    ]
    for process in processes:
        process.start()
    found = [results.get(timeout=PATIENCE) for _ in processes]
    for process in processes:
        process.join()
    again = [names for session, names in found if session]
    assert {"session_1"} in again
    assert all(names in ("busy", {"session_1"}) for names in again)
    new = [names for session, names in found if not session]
    assert sorted(map(list, new)) == [["session_2"], ["session_3"], ["session_4"]]
    runs = [Run(path.parent) for path in Path("output").glob("session_*/*/run.json")]
    assert len(runs) == 8
    for run in runs:
        assert_same(run, Run(Path("output/session_2", run.folder.name)))


# GPUs


def test_no_gpu_ever_has_two_runs(tmp_path: Path) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    holders, most, lock = [0, 0], [0], threading.Lock()

    def use(_: int) -> None:
        with gpus.one_of(paths, lambda: None) as index:
            with lock:
                holders[index] += 1
                most.append(holders[index])
            time.sleep(0.02)
            with lock:
                holders[index] -= 1

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(5) as executor:
        patch.setattr(gpus, "SECONDS_BETWEEN_TRIES", 0.01)
        list(executor.map(use, range(40)))
    assert max(most) == 1
    assert len(most) == 41


def test_a_run_waits_for_a_gpu_until_one_is_free_or_it_is_stopped(tmp_path: Path) -> None:
    path, asked = tmp_path / "a", []

    def check() -> None:
        asked.append(1)
        if len(asked) == 3:
            raise KeyboardInterrupt

    with held(path, "a"):
        with pytest.raises(KeyboardInterrupt), gpus.one_of([path], check):
            pass
        assert len(asked) == 3
        with gpus.one_of([path], None) as index:  # which does not wait
            assert index is None
    with contextlib.ExitStack() as stack:
        stack.enter_context(held(path, "a"))
        with gpus.one_of([path], stack.close) as index:  # it is given back meanwhile
            assert index == 0
    with gpus.one_of([], check) as index:
        assert index is None


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_a_process_trains_on_one_gpu_after_the_other(workplace: Path) -> None:
    runs = [train(config_of(device="cuda"), show=False)]
    with held(gpus._lock_path(gpus._gpus()[0]), "the first GPU"):
        runs.append(train(config_of(device="cuda"), show=False))
    with ThreadPoolExecutor(2) as executor:  # which capture their graphs at about the same time
        runs.append(train(config_of(device="cuda", gaussians=[40, 50]), executor=executor))
    devices = [[run.record["device"][:6] for run in these] for these in runs]
    assert devices[:2] == [["cuda:0"], ["cuda:1"]]
    assert sorted(devices[2]) == ["cuda:0", "cuda:1"]
    assert_same(runs[0][0], runs[1][0])


def test_a_killed_holder_frees_its_gpu(tmp_path: Path) -> None:
    code = "import filelock, sys; x = filelock.FileLock(sys.argv[1]); x.acquire(); print(); input()"
    command = [sys.executable, "-c", code, str(tmp_path / "a")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        with pytest.raises(BusyError), held(tmp_path / "a", "a"):
            pass
        with gpus.one_of([tmp_path / "a"], holder.kill) as index:
            assert index == 0


def test_a_session_needs_its_record_for_workers_to_find_it(workplace: Path) -> None:
    (run,) = train(config_of(), show=False)
    (run.folder.parent / FILE).unlink()
    order = Order(Task(0, run.settings, run.folder), "token", {}, os.getcwd(), False)
    with pytest.raises(WorkerError, match="does not see"):
        train_apart(order)
