"""What a training will be: how many runs, how long, how much memory, how many frames."""

from __future__ import annotations

import html

import ipywidgets

from quick_start._format import plural
from quick_start.config import TrainingConfig
from quick_start.estimate import device_of, estimate_time, forget, is_measured
from quick_start.form.background import Latest
from quick_start.memory import estimate_memory

FRAMES_PER_SECOND = 30


class Outlook:
    """Shows it below the settings; what takes time is found out in the background.

    Attributes
    ----------
    view : the widget.
    """

    def __init__(self) -> None:
        self.view = ipywidgets.HTML()
        self._work = Latest()
        self._asked = 0
        self._busy = False

    def show(self, config: TrainingConfig | None, *, busy: bool = False) -> None:
        """Show what a configuration will be; None is one that cannot be trained.

        Parameters
        ----------
        busy : whether a training goes on, beside which nothing is measured.
        """
        self._asked += 1
        self._busy = busy
        if config is None:
            self.view.value = ""
            self._work.ask(lambda: None)
            return
        asked = self._asked
        self._say(config, "estimating", "estimating")
        self._work.ask(lambda: self._estimate(config, asked, busy))

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the estimates; whether they came within so many seconds."""
        return self._work.wait(timeout)

    def _estimate(self, config: TrainingConfig, asked: int, busy: bool) -> None:
        try:
            memory = memory_text(config)
            if not is_measured(config):
                wait = "known after this training" if busy else "measuring this machine"
                self._say(config, wait, memory, asked)
                if busy:
                    return
            time = str(estimate_time(config))
            if self._busy and not busy:  # a training began meanwhile and disturbed the measuring
                forget()
                time = "known after this training"
            self._say(config, time, memory, asked)
        except Exception as error:  # no estimate is no reason not to train
            self._say(config, f"cannot be told: {error}", "", asked)

    def _say(self, config: TrainingConfig, time: str, memory: str, asked: int = 0) -> None:
        if asked and asked != self._asked:
            return  # something else was typed meanwhile
        lines = [config.title(), f"Time: {time}"]
        if memory:
            lines.append(f"Memory: {memory}")
        if config.make_training_video:
            lines.append(f"Film: {film_text(config)}")
        said = "<br>".join(map(html.escape, lines))
        self.view.value = f'<div class="splatbook-summary">{said}</div>'


def memory_text(config: TrainingConfig) -> str:
    """Memory of the largest run where it will be trained."""
    from fitting.memory import bytes_text

    device = device_of(config)
    found = estimate_memory(config.model_copy(update={"device": device}))
    host = f"about {bytes_text(found.host_bytes)} of main memory"
    if device == "cpu":
        return host
    return f"about {bytes_text(found.gpu_bytes)} on the GPU, {host}"


def film_text(config: TrainingConfig) -> str:
    """Frames and length of the longest film; making it takes time beyond the estimate."""
    steps = max(config.steps)
    frames = len({*range(0, steps, config.video_iterations), steps})
    length = frames / FRAMES_PER_SECOND
    return f"{plural(frames, 'frame')}, {length:.1f} s; encoding it takes some more time"
