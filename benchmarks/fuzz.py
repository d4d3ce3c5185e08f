"""Damaged pictures and model files: how many load, how many are refused, and that no other comes.

``python -m benchmarks.fuzz [COUNT [SEED]]`` tries COUNT files, half of them pictures; the same seed
gives the same files.
"""

from __future__ import annotations

import secrets
import sys
import time
from typing import Any

from benchmarks import common
from tests import fuzzing

COUNT = 40_000
SUBJECTS = ("pictures", "models")


def main(count: int = COUNT, seed: int | None = None) -> dict[str, Any]:
    """Try the files, and write what became of them."""
    seed = secrets.randbits(31) if seed is None else seed
    result: dict[str, Any] = {
        "seed": seed,
        "goals": {"other": 0, "slowest_s": fuzzing.SECONDS},
        "limits": {"seconds": fuzzing.SECONDS, "spare_megabytes": fuzzing.SPARE_MEGABYTES},
        "files": 0,
        "other": 0,
        "slowest": (0.0, ""),
        "kinds": {},
    }
    for subject in SUBJECTS:
        begun = time.perf_counter()
        tally = fuzzing.campaign(subject, seed, count // len(SUBJECTS))
        print(f"{subject}: {tally.total} files in {time.perf_counter() - begun:.0f} s", flush=True)
        print(*tally.bad, sep="\n")
        result["files"] += tally.total
        result["other"] += len(tally.bad)
        result["slowest"] = max(result["slowest"], tally.slowest)
        for kind, outcomes in tally.counts.items():
            other = sum(n for name, n in outcomes.items() if name not in fuzzing.GOOD)
            kept = {name: outcomes[name] for name in fuzzing.GOOD}
            result["kinds"][kind] = {"files": sum(outcomes.values()), **kept, "other": other}
            print(kind, result["kinds"][kind], flush=True)
    common.save("fuzz_cpu", result)
    return result


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
