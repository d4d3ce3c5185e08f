"""What a film costs: time of a training, then time and memory of encoding, and size of the file."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import common

GAUSSIANS = {"cat": 1000, "astronaut": 2000}
OVERHEAD_STEPS, REPEATS = 250, 7
EVERY = 2  # steps between the frames that are encoded
COUNTS = (200, 1000)
GOALS = {"overhead_percent": 5, "seconds_of_200": 8, "growth_mb": 100, "mb_of_200": 8}


def main() -> dict[str, Any]:
    """Measure everything on two pictures."""
    result: dict[str, Any] = {"goals": GOALS, "overhead": {}, "encoding": {}}
    with tempfile.TemporaryDirectory() as temporary:
        folder = common.input_folder(Path(temporary) / "input")
        for name in GAUSSIANS:
            result["overhead"][name] = overhead(folder, name)
            print(name, result["overhead"][name], flush=True)
        for name in GAUSSIANS:
            result["encoding"][name] = encoding(folder, name)
    common.save("film_cpu", result)
    return result


def overhead(folder: Path, name: str) -> dict[str, Any]:
    """Training time with a film, beside that with the same measurements and no film."""
    seconds: dict[bool, list[float]] = {False: [], True: []}
    _train(folder, name, steps=50, make_training_video=True)  # kernels are compiled here
    for _ in range(REPEATS):
        for filmed, times in seconds.items():
            run = _train(folder, name, steps=OVERHEAD_STEPS, make_training_video=filmed)
            times.append(run.seconds)
    plain, filmed = (statistics.median(times) for times in seconds.values())
    captures = _captures(folder, name)
    frames = OVERHEAD_STEPS / 50 + 1
    return {
        "steps": OVERHEAD_STEPS,
        "without_film": common.spread(seconds[False]),
        "with_film": common.spread(seconds[True]),
        "percent": round(100 * (filmed / plain - 1), 2),
        "capture": captures,
        # What keeping the frames takes of the time, which is small beside the spread of the above.
        "percent_by_captures": round(100 * frames * captures["median_ms"] / 1e3 / plain, 2),
    }


def _captures(folder: Path, name: str) -> dict[str, float]:
    """Keeping one frame on disk, by itself."""
    from events import Evaluated
    from model import GaussianSplatting2D

    settings = _settings(folder, name, steps=0, make_training_video=True)
    model = GaussianSplatting2D(settings, folder / "captures")
    (measured,) = [event for event in model.optimize() if isinstance(event, Evaluated)]
    model.film.open(0)
    steps = iter(range(1000))

    def capture() -> None:
        model.film.add(next(steps), measured.image, 30.0, 0.9, model.gaussians.xy)

    return common.spread(common.timed(capture))


def encoding(folder: Path, name: str) -> list[dict[str, Any]]:
    """Encode the frames of a real training in every codec, each in a process of its own."""
    steps = EVERY * max(COUNTS)
    film = {"make_training_video": True, "video_keep_frames": True, "video_iterations": EVERY}
    run = _train(folder, name, steps=steps, **film)
    found = []
    for count in COUNTS:
        for codec in ("h264", "h265", "vp9") if count == min(COUNTS) else ("h264",):
            command = [sys.executable, "-m", "benchmarks.film", str(run.folder), str(count), codec]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found.append(json.loads(done.stdout.splitlines()[-1]))
            print(name, found[-1], flush=True)
    return found


def encode(run: str, count: int, codec: str) -> dict[str, Any]:
    """Encode so many frames, evenly taken from those of a run."""
    import av  # noqa: F401  (its memory is not that of a film)

    from fitting.filming import coding, frames_folder, look
    from imaging.film import make_film
    from imaging.frames import FramesOnDisk
    from settings import Settings

    settings = Settings.build(input_filename="none.png", video_codec=codec)
    frames = FramesOnDisk(frames_folder(Path(run)))
    frames._steps = frames._steps[:: len(frames._steps) // count][:count]
    path = Path(run) / "benchmark.mp4"
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    begun = time.perf_counter()
    done = list(make_film(frames, path, look(settings), coding(settings)))
    seconds = time.perf_counter() - begun
    height, width = frames.truth.shape[:2]
    return {
        "codec": codec,
        "crf": settings.video_crf,
        "frames": len(done),
        "film": [2 * width, height],
        "seconds": round(seconds, 2),
        "growth_mb": round(resident("VmHWM") - before, 1),
        "file_mb": round(path.stat().st_size / 1e6, 3),
    }


def resident(name: str) -> float:
    """Resident memory in 10⁶ bytes: VmRSS is now, VmHWM the peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(name))


def _settings(folder: Path, name: str, **values: Any) -> Any:
    from settings import Settings

    chosen = {
        "input_dir": str(folder), "input_filename": f"{name}.png", "gaussians": GAUSSIANS[name],
        "eval_steps": 50, "video_iterations": 50, "lr_schedule": False, "device": "cpu",
    } | values  # fmt: skip
    return Settings.build(**chosen)


def _train(folder: Path, name: str, **values: Any) -> Any:
    from model import GaussianSplatting2D

    run = GaussianSplatting2D(_settings(folder, name, **values), folder / "runs" / name)
    for _ in run.optimize():
        pass
    return run


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(encode(sys.argv[1], int(sys.argv[2]), sys.argv[3])))
    else:
        main()
