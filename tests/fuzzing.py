"""Feeds damaged files to the loaders, in a process of its own with little memory and time.

``python -m tests.fuzzing SUBJECT SEED FIRST COUNT`` tries some files of a seed again, and keeps
those that did neither load nor were refused in the current folder.
"""

from __future__ import annotations

import faulthandler
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tests import mutations

ROOT = Path(__file__).parent.parent
KINDS = {
    "pictures": ("png", "jpeg", "webp", "tiff", "bmp"),
    "models": ("model", "checkpoint"),
    "traps": ("crash", "hang", "error", "warning", "greed", "refusal"),
}
SECONDS = 30.0  # for one file; the slowest takes a small part of that on a slow machine
SPARE_MEGABYTES = 600  # that loading one small file may take
MOST_PIXELS = 1_000_000  # so that a picture of the largest allowed size fits into this memory
GOOD = ("loaded", "refused")


@dataclass
class Tally:
    """What became of files.

    Attributes
    ----------
    counts : per kind of file, how often each outcome came.
    bad : files that did neither load nor were refused, and what happened.
    slowest : seconds, and what loads that file again.
    """

    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    bad: list[str] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "")

    @property
    def total(self) -> int:
        """How many files were tried."""
        return sum(sum(outcomes.values()) for outcomes in self.counts.values())

    def add(self, kind: str, outcome: str, seconds: float, again: str) -> None:
        outcomes = self.counts.setdefault(kind, dict.fromkeys(GOOD, 0))
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        self.slowest = max(self.slowest, (seconds, again))


def campaign(subject: str, seed: int, count: int) -> Tally:
    """Try so many damaged files. Whoever dies of one is replaced, and goes on after it."""
    tally, first = Tally(), 0
    while first < count and len(tally.bad) < 20:
        for found in _results(subject, seed, first, count - first):
            first = found["index"] + 1
            again = f"python -m tests.fuzzing {subject} {seed} {found['index']} 1"
            tally.add(found["kind"], found["outcome"], found["seconds"], again)
            if found["outcome"] not in GOOD:
                tally.bad.append(f"{found['kind']} {found['outcome']}: {found['detail']} ({again})")
    return tally


def _results(subject: str, seed: int, first: int, count: int) -> Iterator[dict[str, Any]]:
    """What a worker says of its files; the last one may be how it died."""
    due, ready, outcome, why = first, False, "crashed", ""
    with _worker(subject, *map(str, (seed, first, count))) as (process, lines, errors):
        try:
            while due < first + count:
                line = lines.get(timeout=SECONDS if ready else 10 * SECONDS)
                if not line:
                    why = f"exit status {process.wait(SECONDS)}"
                    break
                if ready:
                    yield (found := json.loads(line))
                    due = found["index"] + 1
                ready = True  # which is the first thing that it says
        except queue.Empty:
            outcome, why = "hung", f"no answer for {SECONDS:.0f} s"
        said = errors.read_text(errors="replace")[-2000:]
    if not ready:
        raise RuntimeError(f"the worker did not start: {why} {said}")
    if due < first + count:
        facts = {"index": due, "kind": _kind(subject, due), "seconds": 0.0}
        yield facts | {"outcome": outcome, "detail": f"{why} {said}"}


@contextmanager
def _worker(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], queue.Queue[str], Path]]:
    """A process that loads files, the lines that it writes as they come, and its stderr."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
    environment = os.environ | threads | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.fuzzing", *arguments]
    lines: queue.Queue[str] = queue.Queue()
    with tempfile.TemporaryDirectory() as folder, Path(folder, "stderr").open("wb") as errors:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        reader = threading.Thread(target=_pass_on, args=(process, lines), daemon=True)
        reader.start()
        try:
            yield process, lines, Path(folder, "stderr")
        finally:
            process.kill()
            process.wait()
            reader.join()
            process.stdout.close()


def _pass_on(worker: subprocess.Popen[str], lines: queue.Queue[str]) -> None:
    for line in worker.stdout:
        lines.put(line)
    lines.put("")


# In the worker


def _kind(subject: str, index: int) -> str:
    return KINDS[subject][index % len(KINDS[subject])]


def work(subject: str, seed: int, first: int, count: int) -> None:
    """Load files, and print a line of JSON for each."""
    faulthandler.enable()
    folder = Path(tempfile.mkdtemp(dir="."))
    samples, load, refusal, damage = SETUPS[subject](np.random.default_rng(seed), folder)
    for kind, files in samples.items():
        for number, data in enumerate(files):
            path = folder / f"{kind}-{number}"
            path.write_bytes(data)
            load(kind, path)  # which must work, and warms up
            path.unlink()
    _limit_memory()
    print("ready", flush=True)
    for index in range(first, first + count):
        rng, kind = np.random.default_rng([seed, index]), _kind(subject, index)
        files = samples[kind]
        path = folder / f"{kind}-{index}.bin"
        path.write_bytes(damage(rng, kind, files[rng.integers(len(files))], files))
        begun = time.perf_counter()
        outcome, detail = _outcome(partial(load, kind, path), refusal)
        seconds = round(time.perf_counter() - begun, 4)
        facts = {"index": index, "kind": kind, "outcome": outcome, "seconds": seconds}
        print(json.dumps({**facts, "detail": detail}), flush=True)
        if outcome in GOOD:
            path.unlink()


def _outcome(load: Callable[[], None], refusal: type[Exception]) -> tuple[str, str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            load()
            outcome, detail = "loaded", ""
        except refusal as error:
            cause = error.__cause__
            greedy = isinstance(cause, MemoryError) or "can't allocate" in str(cause)
            outcome, detail = "took too much memory" if greedy else "refused", str(error)
        except BaseException as error:
            outcome, detail = "failed", f"{type(error).__name__}: {error}"
    return ("warned", str(caught[0].message)) if caught and outcome in GOOD else (outcome, detail)


def _limit_memory() -> None:
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (ImportError, OSError):  # neither Windows nor macOS has both
        return
    limit = pages * resource.getpagesize() + SPARE_MEGABYTES * 1_000_000
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _pictures(rng: np.random.Generator, folder: Path) -> tuple:
    from imaging.files import PictureError, load_picture, picture_shape

    def load(kind: str, path: Path) -> None:
        pixels = load_picture(path, max_pixels=MOST_PIXELS).pixels
        assert pixels.dim() == 3
        assert len(pixels) in (1, 3)
        assert 0 <= pixels.min() <= pixels.max() <= 1
        assert picture_shape(path)[1:] == tuple(pixels.shape[1:])

    def damage(rng: np.random.Generator, kind: str, data: bytes, others: list[bytes]) -> bytes:
        return mutations.mutated(rng, data, others, mutations.KNOWN.get(kind, ()))

    return mutations.valid_pictures(rng), load, PictureError, damage


def _models(rng: np.random.Generator, folder: Path) -> tuple:
    from fitting import checkpoints
    from fitting.gaussians import CheckpointError, Gaussians
    from tests.models import odd_facts, trained

    run, samples = trained(rng, folder)

    def load(kind: str, path: Path) -> None:
        if kind == "checkpoint":  # as a run that goes on takes it
            place = checkpoints.resume_folder(run.folder) / "checkpoint-00000002.pt"
            place.write_bytes(path.read_bytes())
            checkpoints.restore(run)
            return
        gaussians = Gaussians.load(path)
        if gaussians.width_at(8) <= 1000:
            assert gaussians.picture(8).isfinite().all()

    def damage(rng: np.random.Generator, kind: str, data: bytes, others: list[bytes]) -> bytes:
        if rng.integers(2):
            return odd_facts(rng, data)
        return mutations.mutated(rng, data, others, mutations.KNOWN[kind])

    return samples, load, CheckpointError, damage


def _traps(rng: np.random.Generator, folder: Path) -> tuple:
    """Loaders that do what none should, so that it can be tested that this is noticed."""

    def load(kind: str, path: Path) -> None:
        if path.suffix != ".bin":  # whole
            return
        if kind == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if kind == "hang":
            time.sleep(60)
        if kind == "warning":
            warnings.warn("odd", stacklevel=1)
        if kind == "error":
            raise KeyError(kind)
        if kind == "greed":
            _refuse(MemoryError())
        if kind == "refusal":
            _refuse(TypeError())

    samples = {kind: [b"whole"] for kind in KINDS["traps"]}
    return samples, load, ValueError, lambda rng, kind, data, others: data


def _refuse(error: Exception) -> None:
    raise ValueError("refused") from error


SETUPS = {"pictures": _pictures, "models": _models, "traps": _traps}


if __name__ == "__main__":
    work(sys.argv[1], *map(int, sys.argv[2:5]))
