"""Breaks sweeps for real: kills processes, fills disks, takes folders away; then compares.

The tests do each of these a few times, ``benchmarks.reliability`` as often as is written down.
"""

from __future__ import annotations

import contextlib
import csv
import ctypes
import functools
import multiprocessing
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numba
import numpy as np
import psutil
import torch
from PIL import Image

from quick_start import cluster, process_pool, set_config, train
from quick_start.config import TrainingConfig
from quick_start.runs import Run, runs_in
from quick_start.training import TrainingError
from tests.conftest import smooth_picture

SETTINGS: dict[str, Any] = {
    "gaussians": [60, 90], "steps": [200, 300], "eval_steps": 25, "save_ckpt_steps": 25,
    "use_progressive": True, "adaptive_refinement": True, "add_steps": 50, "add_times": 3,
    "make_training_video": True, "video_iterations": 50, "lr_schedule": False,
}  # fmt: skip
PATIENCE = 300.0  # seconds
TIMES = ("render_time_accum", "total_time_accum")


def prepare(folder: Path, **settings: Any) -> TrainingConfig:
    """Pictures in ``folder/input``, and a sweep of eight runs over them; works in the folder."""
    os.chdir(folder)
    Path("input").mkdir(exist_ok=True)
    picture = smooth_picture(48, 64)
    Image.fromarray(picture).save("input/a.png")
    Image.fromarray(255 - picture).save("input/b.png")
    return set_config(input_filenames=["a.png", "b.png"], **SETTINGS | settings)


# Comparing


def assert_same_session(found: Path, expected: Path) -> int:
    """All runs of two sessions have the same results, and nothing is left over.

    Returns
    -------
    How many runs were compared.
    """
    runs, others = runs_in(found), runs_in(expected)
    assert [run.folder.name for run in runs] == [run.folder.name for run in others]
    for run, other in zip(runs, others, strict=True):
        _assert_same_run(run, other)
    left = [path for path in found.rglob("*") if path.name.startswith(".") and path.name != ".lock"]
    assert not left, left
    return len(runs)


def _assert_same_run(run: Run, other: Run) -> None:
    assert run.status == other.status, run
    ours, theirs = (_files(r.folder) for r in (run, other))
    assert ours == theirs, (run, ours ^ theirs)
    models = [torch.load(r.model_path, weights_only=True) for r in (run, other)]
    for name in ("xy", "scale", "rot", "feat"):
        assert torch.equal(models[0][name], models[1][name]), (run, name)
    assert run.scores == other.scores, run
    assert _measurements(run) == _measurements(other), run
    assert run.rendered_path.read_bytes() == other.rendered_path.read_bytes(), run
    assert run.record["film"]["frames"] == other.record["film"]["frames"], run
    assert _film(run) == _film(other), run


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def _measurements(run: Run) -> list[dict[str, str]]:
    with run.metrics_path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


def _film(run: Run) -> bytes:
    return run.film_path.read_bytes()


# Killing


@dataclass
class Kills:
    """What twenty times kill -9 did."""

    delays: list[float] = field(default_factory=list)
    statuses: list[str] = field(default_factory=list)  # of the run that was hit
    compared: int = 0
    sweeps: int = 0


def kill_at_random(folder: Path, rng: np.random.Generator, times: int) -> Kills:
    """Kill the process of a sweep at random moments, so many times, and go on after each.

    A sweep that is completed is compared with an unbroken one, and another is begun.
    """
    config = prepare(folder)
    unbroken = _run_alone(config, None)
    seconds = _seconds(unbroken)
    result = Kills()
    while len(result.delays) < times:
        session = None
        result.sweeps += 1
        while len(result.delays) < times:
            delay = float(rng.uniform(0, 0.4 * seconds))
            child = Child(config, session)
            ended = child.kill_after(delay)
            session = child.session
            if ended:
                break
            result.delays.append(round(delay, 3))
            result.statuses.append(_hit(Path("output", session)) if session else "")
        if session is not None:
            session = _run_alone(config, session).name
            result.compared += assert_same_session(Path("output", session), unbroken)
            shutil.rmtree(Path("output", session))
    return result


class Child:
    """A process that trains a sweep, or goes on with one.

    It is forked from a process that has loaded all modules and does nothing else, which is fast.
    """

    def __init__(self, config: TrainingConfig, session: str | None, *, privileged: bool = True):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tests.survival", "model"])
        self._before = _sessions()
        self.session = session
        listening, telling = context.Pipe(duplex=False)
        self.process = context.Process(target=_train, args=(config, session, telling, privileged))
        self.process.start()
        telling.close()
        assert listening.recv() == "begun"

    def wait_for_session(self) -> Path:
        """The folder of its new session, once it is there."""
        deadline = time.monotonic() + PATIENCE
        while not (new := _sessions() - self._before):
            assert time.monotonic() < deadline, "it hangs"
            time.sleep(0.01)
        (self.session,) = new
        return Path("output", self.session)

    def kill_after(self, seconds: float) -> bool:
        """Send SIGKILL after some time; whether it had ended by then."""
        self.process.join(seconds)
        ended = not self.process.is_alive()
        self.process.kill()
        self.process.join()
        if self.session is None:
            (self.session,) = _sessions() - self._before or {None}
        if ended:
            assert self.process.exitcode == 0
        return ended


def _run_alone(config: TrainingConfig, session: str | None) -> Path:
    """Train all, or what is left of a session, in a process of its own; the session's folder."""
    child = Child(config, session)
    assert child.kill_after(PATIENCE), "it hangs"
    return Path("output", child.session)


def _train(
    config: TrainingConfig, session: str | None, telling: Connection, privileged: bool
) -> None:
    if not privileged:
        forget_privileges()
    numba.set_num_threads(1)  # more would wait for each other where the machine is busy
    if torch.cuda.is_available():
        _warm_up()
    telling.send("begun")
    train(config, resume=session, show=False)


def _warm_up() -> None:
    """Train a little elsewhere: to start CUDA takes longer than the whole sweep."""
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        train(prepare(Path(folder), gaussians=60, steps=120, make_training_video=False), show=False)
        os.chdir(before)


def _sessions() -> set[str]:
    return {path.name for path in Path("output").glob("session_*")}


def _seconds(session: Path) -> float:
    """How long a sweep took."""
    return sum(run.record["seconds"]["total"] for run in runs_in(session))


def _hit(session: Path) -> str:
    """What a sweep was at when it was killed."""
    for run in runs_in(session):
        if run.status == "running":
            return "writing results" if run.rendered_path.exists() else "training"
        if run.record["film"]["file"] is None:
            return "making a film"
    return "between runs"


# File systems


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system in memory of a size such as ``3m``, mounted on a folder."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder]
    subprocess.run(command, check=True, capture_output=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)  # a process may still end there


def remount(folder: Path, options: str) -> None:
    """Change a mounted file system: ``ro``, ``rw`` or ``size=64m``."""
    subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)


@functools.cache
def can_mount() -> bool:
    """Whether this user may mount file systems here, which in a container not even root may."""
    try:
        with tempfile.TemporaryDirectory() as folder, small_disk(Path(folder, "disk"), "64k"):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


def fill_disk(folder: Path, size: str) -> dict[str, int]:
    """Train a sweep on a disk that is too small, enlarge it, go on, and compare.

    Returns
    -------
    How many runs were complete on the small disk, how many failed, and how many were compared.
    """
    config = prepare(folder)
    unbroken = train(config, show=False)[0].folder.parent
    with small_disk(folder / "disk", size) as disk:
        cramped = config.replace(output_dir=str(disk))
        try:
            runs = list(train(cramped, show=False))
        except TrainingError as error:
            runs = error.runs
        complete = sum(run.is_complete for run in runs)
        remount(disk, "size=64m")
        runs = train(cramped, resume="session_1", show=False)
        compared = assert_same_session(disk / "session_1", unbroken)
    return {"complete": complete, "failed": 8 - complete, "compared": compared}


def forbid_writing(folder: Path, rng: np.random.Generator) -> dict[str, int]:
    """Take away the permission to write in mid-sweep, give it back, go on; see fill_disk."""
    config = prepare(folder)
    unbroken = _run_alone(config, None)
    moment = float(rng.uniform(0.1, 0.7)) * _seconds(unbroken)
    child = Child(config, None, privileged=False)
    session = child.wait_for_session()
    child.process.join(moment)
    _permit(session, 0o555)
    child.process.join(PATIENCE)
    assert child.process.exitcode in (0, 1)
    _permit(session, 0o755)
    complete = sum(run.is_complete for run in runs_in(session))
    compared = assert_same_session(_run_alone(config, session.name), unbroken)
    return {"complete": complete, "failed": 8 - complete, "compared": compared}


def _permit(folder: Path, mode: int) -> None:
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            path.chmod(mode)


def forget_privileges() -> None:
    """Make permissions bind this process, even if it is root's."""
    if os.geteuid() == 0:
        version_3, nothing = 0x20080522, (ctypes.c_uint32 * 6)()
        header = (ctypes.c_uint32 * 2)(version_3, 0)
        if ctypes.CDLL(None, use_errno=True).capset(header, nothing):
            raise OSError(ctypes.get_errno(), "capset failed")


# Workers


def kill_workers(folder: Path, rng: np.random.Generator, times: int) -> dict[str, int]:
    """Kill a worker of a process pool in each of some sweeps, and compare."""
    return _kill_children(folder, rng, times, lambda: process_pool(2))


def kill_dask_workers(folder: Path, rng: np.random.Generator, times: int) -> dict[str, int]:
    """Kill a worker of a Dask cluster in each of some sweeps, and compare."""
    return _kill_children(folder, rng, times, lambda: cluster(workers=2))


def _kill_children(
    folder: Path, rng: np.random.Generator, times: int, workers: Callable[[], Any]
) -> dict[str, int]:
    config = prepare(folder)
    result = {"times": 0, "runs": 0, "failed": 0, "different": 0}
    with workers() as executor:
        unbroken = train(config, executor=executor, show=False)[0].folder.parent
    seconds = _seconds(unbroken) / 2
    while result["times"] < times:
        with workers() as executor:
            train(config.replace(steps=1), executor=executor, show=False)  # starts them
            killer = Killer(float(rng.uniform(0, 0.7 * seconds)), rng)
            runs = train(config, executor=executor, show=False)
            result["times"] += killer.killed()
        result["runs"] += assert_same_session(runs[0].folder.parent, unbroken)
        result["failed"] += len(runs.failed)
    return result


class Killer(threading.Thread):
    """Kills one of the processes that train under this one, after some time."""

    def __init__(self, delay: float, rng: np.random.Generator):
        super().__init__(daemon=True)
        self._delay, self._rng, self._done = delay, rng, False
        self.start()

    def run(self) -> None:
        time.sleep(self._delay)
        children = psutil.Process().children(recursive=True)
        at_work = [
            child for child in children if any("/.live/" in f.path for f in child.open_files())
        ]
        if at_work:
            at_work[self._rng.integers(len(at_work))].kill()
            self._done = True

    def killed(self) -> bool:
        """Whether one was at work then."""
        self.join()
        return self._done
