"""What the notebook's live view costs: the same training with and without it, in turn.

Trains in a real kernel, whose messages a client receives as a server would. Measured are the time
on the clock and the processor time of all threads, from the start of training to its end, without
the writing of results; and the share that is spent in the view by its own account.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import common

ROOT = Path(__file__).parents[1]
CASES = {  # picture's side in pixels: settings
    "512": {"gaussians": 1000, "steps": 500},
    "2048": {"gaussians": 3000, "steps": 28, "eval_steps": 4},
    "sweep of 40 runs, 64": {"gaussians": list(range(100, 500, 10)), "steps": 200},
}
REPEATS = 5
GOAL_PERCENT = 3.0

PREPARE = """
import json, sys, time
sys.path.insert(0, {root!r})
from fitting import results
from quick_start import set_config, train
from quick_start.dashboard import View, NotebookView

spent = dict.fromkeys(("wall", "cpu", "view"), 0.0)

def counting(function, **names):
    def counted(*values):
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            return function(*values)
        finally:
            for name, sign in names.items():
                spent[name] += sign * (
                    time.process_time() - cpu if name == "cpu" else time.perf_counter() - wall
                )
    return counted

write = results.write
# Final scores take long, and no view changes them.
results.write = counting(lambda run, recorder, status: write(run, recorder, "interrupted"),
                         wall=-1, cpu=-1)
NotebookView.take = counting(NotebookView.take, view=1)
NotebookView.close = counting(NotebookView.close, view=1)

def measure(config, show):
    spent.update(wall=0.0, cpu=0.0, view=0.0)
    counting(lambda: train(config, show=show), wall=1, cpu=1)()
    return dict(spent)
"""
MEASURE = """
config = set_config(input_filenames={picture!r}, output_dir={output!r}, lr_schedule=False,
                    device="cpu", **{settings!r})
print(json.dumps(measure(config, {show})))
"""


def main() -> dict[str, Any]:
    """Train each case a few times with the view and without."""
    result: dict[str, Any] = {"repeats": REPEATS, "goal_percent": GOAL_PERCENT, "cases": {}}
    columns = ("wall_percent", "wall_percent_of_fastest", "cpu_percent", "in_view_percent")
    print(f"{'case':>22}", *columns, "training_s")
    with tempfile.TemporaryDirectory() as folder, Kernel() as kernel:
        kernel.run(PREPARE.format(root=str(ROOT)))
        for name, settings in CASES.items():
            case = _measure(kernel, Path(folder), name, settings)
            result["cases"][name] = case
            shown = (f"{case[column]:{len(column)}.2f}" for column in columns)
            print(f"{name:>22}", *shown, f"{case['training_s']:10.2f}")
    common.save("live_view_cpu", result)
    return result


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

        reply = self._client.execute_interactive(code, output_hook=receive, timeout=600)
        if reply["content"]["status"] != "ok":
            raise RuntimeError("\n".join(reply["content"]["traceback"]))
        return "".join(printed)


def _measure(kernel: Kernel, folder: Path, name: str, settings: dict[str, Any]) -> dict[str, Any]:
    side = int(name.split()[-1])
    code = {
        show: MEASURE.format(
            picture=str(_picture(folder, side)), output=str(folder), settings=settings, show=show
        )
        for show in (False, True)
    }
    kernel.run(code[True])  # compiles
    pairs = []
    for i in range(REPEATS):
        order = (False, True) if i % 2 else (True, False)
        found = {show: json.loads(kernel.run(code[show])) for show in order}
        pairs.append((found[False], found[True]))

    def percent(kind: str, typical: Callable[..., float] = statistics.median) -> float:
        plain, shown = (typical(p[i][kind] for p in pairs) for i in (0, 1))
        return round(100 * (shown / plain - 1), 2)

    return {
        "settings": settings | {"gaussians": str(settings["gaussians"])},
        "training_s": round(statistics.median(p[0]["wall"] for p in pairs), 3),
        "wall_percent": percent("wall"),
        "wall_percent_of_fastest": percent("wall", min),  # others on the machine disturb it least
        "cpu_percent": percent("cpu"),
        "in_view_percent": round(
            statistics.median(100 * p[1]["view"] / p[1]["wall"] for p in pairs), 2
        ),
        "wall_s": [[round(p[i]["wall"], 3) for i in (0, 1)] for p in pairs],
        "cpu_s": [[round(p[i]["cpu"], 3) for i in (0, 1)] for p in pairs],
    }


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
    main()
