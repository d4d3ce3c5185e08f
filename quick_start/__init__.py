"""What a notebook imports: configure, train, look, compare.

Nothing heavy is loaded until it is used, so that a notebook's first cell returns at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quick_start.analysis import (
        compare_batch_results,
        compare_slider,
        load_metrics,
        play_video,
        plot_metrics,
        view_results,
    )
    from quick_start.config import TrainingConfig, set_config
    from quick_start.environment import verify_setup
    from quick_start.estimate import TimeEstimate, estimate_time
    from quick_start.film import make_video
    from quick_start.form import SettingsForm, settings_form
    from quick_start.memory import MemoryEstimate, estimate_memory
    from quick_start.pools import cluster, process_pool
    from quick_start.presets import preset_names
    from quick_start.runs import Run, Runs
    from quick_start.training import train

__all__ = [
    "MemoryEstimate",
    "Run",
    "Runs",
    "SettingsForm",
    "TimeEstimate",
    "TrainingConfig",
    "cluster",
    "compare_batch_results",
    "compare_slider",
    "estimate_memory",
    "estimate_time",
    "load_metrics",
    "make_video",
    "play_video",
    "plot_metrics",
    "preset_names",
    "process_pool",
    "set_config",
    "settings_form",
    "train",
    "verify_setup",
    "view_results",
]

_MODULES = {
    "MemoryEstimate": "memory",
    "Run": "runs",
    "Runs": "runs",
    "SettingsForm": "form",
    "TimeEstimate": "estimate",
    "TrainingConfig": "config",
    "cluster": "pools",
    "compare_batch_results": "analysis",
    "compare_slider": "analysis",
    "estimate_memory": "memory",
    "estimate_time": "estimate",
    "load_metrics": "analysis",
    "make_video": "film",
    "play_video": "analysis",
    "plot_metrics": "analysis",
    "preset_names": "presets",
    "process_pool": "pools",
    "set_config": "config",
    "settings_form": "form",
    "train": "training",
    "verify_setup": "environment",
    "view_results": "analysis",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
