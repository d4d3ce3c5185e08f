"""Thousands of damaged files load or are refused: no crash, no other error, no hang, no warning.

``SPLATBOOK_FUZZ`` is how many files of each subject are tried; ``python -m benchmarks.fuzz`` tries
more, and keeps the figures.
"""

from __future__ import annotations

import os

import pytest

from tests.fuzzing import GOOD, campaign

COUNTS = {"pictures": 6000, "models": 4000}  # some 15 s on two slow cores


@pytest.mark.parametrize("subject", COUNTS)
def test_damaged_files_are_loaded_or_refused(seed: int, subject: str) -> None:
    count = int(os.environ.get("SPLATBOOK_FUZZ", COUNTS[subject]))
    tally = campaign(subject, seed, count)
    assert tally.bad == [], "\n".join(tally.bad)
    assert tally.total == count
    for kind, outcomes in tally.counts.items():  # else the damage is too mild, or too great
        assert min(outcomes[name] for name in GOOD) > 0 or count < 500, (kind, outcomes)


def test_a_loader_that_crashes_hangs_or_fails_is_noticed(monkeypatch, seed: int) -> None:
    monkeypatch.setattr("tests.fuzzing.SECONDS", 2.0)
    tally = campaign("traps", seed, 6)
    outcomes = {kind: set(found) - set(GOOD) for kind, found in tally.counts.items()}
    assert outcomes == {
        "crash": {"crashed"}, "hang": {"hung"}, "error": {"failed"}, "warning": {"warned"},
        "greed": {"took too much memory"}, "refusal": set(),
    }  # fmt: skip
    assert len(tally.bad) == 5
    assert all(f"tests.fuzzing traps {seed} " in line for line in tally.bad)
