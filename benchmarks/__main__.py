"""Run the benchmarks of the CPU: ``python -m benchmarks [NAME ...]``.

Those of a GPU, and ``cpu_memory``, need pictures or a GPU, and are run by themselves, such as
``python -m benchmarks.gpu_step FOLDER``; CONTRIBUTING.md lists them.
"""

from __future__ import annotations

import sys
from importlib import import_module

NAMES = (
    "step", "scaling", "photometric", "quality", "cut", "startup", "estimate", "film", "live_view",
    "compare", "sweeps", "reliability", "fuzz",
)  # fmt: skip


def main(names: list[str]) -> None:
    """Run the named benchmarks, or all."""
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        sys.exit(f"no benchmark {', '.join(unknown)}; there are: {', '.join(NAMES)}")
    for name in names or NAMES:
        print(f"\n{name}")
        import_module(f"benchmarks.{name}").main()


main(sys.argv[1:])
