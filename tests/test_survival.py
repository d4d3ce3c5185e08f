"""Sweeps that are killed, or whose disk is full or closed, go on to what an unbroken one gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests import survival

KILLS = 20


@pytest.fixture(autouse=True)
def _back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Faults change the current folder; this brings it back."""
    monkeypatch.chdir(tmp_path)


def test_a_sweep_that_is_killed_twenty_times_ends_as_an_unbroken_one(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    kills = survival.kill_at_random(tmp_path, rng, KILLS)
    assert len(kills.delays) == KILLS
    assert kills.compared == 8 * kills.sweeps > 0


@pytest.mark.skipif(not survival.can_mount(), reason="this user may not mount a file system")
@pytest.mark.parametrize("size", ["300k", "1100k"])
def test_a_sweep_on_a_full_disk_goes_on_once_there_is_room(tmp_path: Path, size: str) -> None:
    found = survival.fill_disk(tmp_path, size)
    assert found["failed"] > 0
    assert found["compared"] == 8


def test_a_sweep_that_may_not_write_any_more_goes_on_once_it_may(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    found = survival.forbid_writing(tmp_path, rng)
    assert found["failed"] > 0
    assert found["compared"] == 8
