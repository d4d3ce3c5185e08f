"""What a notebook imports: configure, train, look, compare.

Nothing heavy is loaded until it is used, so that a notebook's first cell returns at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quick_start.analysis import (
        compare_batch_results,
        load_metrics,
        plot_metrics,
        view_results,
    )
    from quick_start.config import TrainingConfig, set_config
    from quick_start.environment import verify_setup
    from quick_start.memory import MemoryEstimate, estimate_memory
    from quick_start.runs import Run
    from quick_start.training import train

__all__ = [
    "MemoryEstimate",
    "Run",
    "TrainingConfig",
    "compare_batch_results",
    "estimate_memory",
    "load_metrics",
    "plot_metrics",
    "set_config",
    "train",
    "verify_setup",
    "view_results",
]

_MODULES = {
    "MemoryEstimate": "memory",
    "Run": "runs",
    "TrainingConfig": "config",
    "compare_batch_results": "analysis",
    "estimate_memory": "memory",
    "load_metrics": "analysis",
    "plot_metrics": "analysis",
    "set_config": "config",
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
