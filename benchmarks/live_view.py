"""What the notebook's live view costs a training that it watches.

    python -m benchmarks.live_view [more]

With ``more`` the pairs of the last result are kept, and new ones are added. What is counted is of
the new ones alone.

A training of some minutes is cut into short windows of equal work. Each pair of neighbours has one
window with the view and one without, in random order: what else the machine does then falls on both
alike, which it does not where whole trainings are compared. Counted besides are the seconds that
training waits for the view, and the processor time of the threads that send its messages: but for
effects of one on the other, that is all it costs. Everything runs in a real kernel, whose messages
a client receives as a server would. What a browser does with them is not measured. Linux only.
"""

from __future__ import annotations

import itertools
import json
import math
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import common

ROOT = Path(__file__).parents[1]
GOAL_PERCENT = 3.0
SECONDS = 360.0  # of a case, at most
OPENINGS = 20


class Case(NamedTuple):
    """A square picture's side in pixels, settings, and the steps of a window."""

    side: int
    settings: dict[str, Any]
    window: int


class Window(NamedTuple):
    """With the view or without: seconds for a step, its length, and what went into the view of it.

    ``inside`` is the share that was spent in the view, ``sending`` that of the threads that send.
    """

    shown: bool
    pace: float
    seconds: float
    inside: float
    sending: float

    @classmethod
    def between(cls, begin: dict[str, Any], end: dict[str, Any]) -> Window:
        changes = {name: end[name] - begin[name] for name in ("at", "work", "inside", "sending")}
        seconds = changes["at"]
        shares = (changes[name] / seconds for name in ("inside", "sending"))
        return cls(begin["shown"], seconds / changes["work"], seconds, *shares)


CASES = {
    "512²": Case(512, {"gaussians": 1000, "steps": 10**6}, 100),
    "2048²": Case(2048, {"gaussians": 3000, "steps": 10**5, "eval_steps": 4}, 8),
    "a sweep of 1,200 runs, 64²": Case(
        64, {"gaussians": list(range(100, 700)), "steps": [200, 201]}, 3 * 201
    ),
}

PREPARE = """
import json, random, sys, threading, time
from pathlib import Path
sys.path.insert(0, {root!r})
from events import Evaluated, RunStarted
from quick_start import set_config, train
from quick_start.dashboard import NotebookView

def sending():
    senders = {{thread.native_id for thread in threading.enumerate() if thread.name == "IOPub"}}
    nanoseconds = 0
    for task in Path("/proc/self/task").iterdir():
        if int(task.name) in senders or (task / "comm").read_text().startswith("ZMQ"):
            nanoseconds += int((task / "schedstat").read_text().split()[0])
    return nanoseconds / 1e9

class Gate:
    def __init__(self, steps, window, seconds):
        self.steps, self.window, self.seconds = steps, window, seconds
        self.marks, self.due, self.stop, self.inside = [], 0, threading.Event(), 0.0

    def take(self, view, index, event):
        if isinstance(event, (Evaluated, RunStarted)):
            work = index * self.steps + event.step
            if work >= self.due:
                self.mark(work)
        if not self.marks[-1]["shown"]:
            view.runs[index].take(event)
            return
        begun = time.perf_counter()
        take(view, index, event)
        self.inside += time.perf_counter() - begun

    def mark(self, work):
        first = len(self.marks) % 2 == 0
        shown = random.random() < 0.5 if first else not self.marks[-1]["shown"]
        now = time.perf_counter()
        spent = {{"inside": self.inside, "sending": sending()}}
        self.marks.append({{"at": now, "work": work, "shown": shown, **spent}})
        self.due = work + self.window
        if now - self.marks[0]["at"] > self.seconds:
            self.stop.set()

take = NotebookView.take

def measure(config, steps, window, seconds):
    gate = Gate(steps, window, seconds)
    NotebookView.take = lambda view, index, event: gate.take(view, index, event)
    train(config, stop=gate.stop)
    return gate.marks

def openings(count, runs):
    found = []
    for _ in range(count):
        begun = time.perf_counter()
        with NotebookView(["cat"] * runs):
            pass
        found.append(time.perf_counter() - begun)
    return found
"""
MEASURE = """
config = set_config(input_filenames={picture!r}, output_dir={output!r}, lr_schedule=False,
                    device="cpu", **{settings!r})
print(json.dumps(measure(config, {steps}, {window}, {seconds})))
"""


def main(more: str = "", *, seconds: float = SECONDS) -> dict[str, Any]:
    """Train each case with the view in every other window."""
    result: dict[str, Any] = {"goal_percent": GOAL_PERCENT, "cases": {}}
    kept = common.load("live_view_cpu")["cases"] if more else {}
    with tempfile.TemporaryDirectory() as folder, Kernel() as kernel:
        kernel.run(PREPARE.format(root=str(ROOT)))
        for name, case in CASES.items():
            kernel.run(_code(Path(folder), case, 5.0))  # compiles
            marks = json.loads(kernel.run(_code(Path(folder), case, seconds)).splitlines()[-1])
            result["cases"][name] = found = evaluated(marks, kept.get(name))
            print(f"{name:>26}", json.dumps(found), flush=True)
        spent = json.loads(kernel.run(f"print(json.dumps(openings({OPENINGS}, 1)))"))
        result["opening_and_closing_s"] = round(statistics.median(spent), 4)
    common.save("live_view_cpu", result)
    return result


def evaluated(marks: list[dict[str, Any]], kept: dict[str, Any] | None = None) -> dict[str, Any]:
    """How much longer a window with the view takes, in percent; ``kept`` is an earlier result."""
    windows = [Window.between(*two) for two in itertools.pairwise(marks)]
    pairs = [sorted(two) for two in zip(windows[::2], windows[1::2], strict=False)]
    percent = [100 * (shown.pace / plain.pace - 1) for plain, shown in pairs]
    percent = [round(value, 2) for value in percent] + (
        kept["percent_of_each_pair"] if kept else []
    )
    middle, low, high = _middle(percent)
    return {
        "pairs": len(percent),
        "window_s": round(statistics.median(window.seconds for window in windows), 3),
        "percent": middle,
        "interval_95": [low, high],
        "in_view_percent": round(100 * statistics.mean(two[1].inside for two in pairs), 2),
        "sending_percent": round(100 * statistics.mean(two[1].sending for two in pairs), 2),
        "percent_of_each_pair": percent,
    }


def _middle(percent: list[float]) -> tuple[float, float, float]:
    """The middle of all pairs and means of two (Hodges and Lehmann 1963), with its 95 % interval.

    Single disturbances do not move it. The interval belongs to Wilcoxon's signed-rank test.
    """
    ratios = np.log1p(np.array(percent) / 100)
    first, second = np.triu_indices(n := len(ratios))
    means = np.sort((ratios[first] + ratios[second]) / 2)
    cut = max(int(n * (n + 1) / 4 - 1.96 * math.sqrt(n * (n + 1) * (2 * n + 1) / 24)), 0)
    return _percent(np.median(means)), _percent(means[cut]), _percent(means[-1 - cut])


def _percent(logarithm: float) -> float:
    return round(100 * math.expm1(logarithm), 2)


class Kernel:
    """A Jupyter kernel that runs code and returns what it printed."""

    def __enter__(self) -> Kernel:
        from jupyter_client.manager import start_new_kernel

        self._manager, self._client = start_new_kernel(cwd=str(ROOT))
        return self

    def __exit__(self, *error: object) -> None:
        self._client.stop_channels()
        self._manager.shutdown_kernel(now=True)

    def run(self, code: str) -> str:
        printed: list[str] = []

        def receive(message: dict[str, Any]) -> None:
            if message["msg_type"] == "stream" and message["content"]["name"] == "stdout":
                printed.append(message["content"]["text"])

        reply = self._client.execute_interactive(code, output_hook=receive, timeout=1200)
        if reply["content"]["status"] != "ok":
            raise RuntimeError("\n".join(reply["content"]["traceback"]))
        return "".join(printed)


def _code(folder: Path, case: Case, seconds: float) -> str:
    steps = case.settings["steps"]
    return MEASURE.format(
        picture=str(_picture(folder, case.side)), output=str(folder), settings=case.settings,
        steps=steps if isinstance(steps, int) else max(steps), window=case.window, seconds=seconds,
    )  # fmt: skip


def _picture(folder: Path, side: int) -> Path:
    """A photograph of any size; it ships with scikit-image."""
    import skimage.data
    from PIL import Image

    path = folder / f"astronaut-{side}.png"
    Image.fromarray(skimage.data.astronaut()).resize((side, side), Image.Resampling.BICUBIC).save(
        path
    )
    return path


if __name__ == "__main__":
    main(*sys.argv[1:])
