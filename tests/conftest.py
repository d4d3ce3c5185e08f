"""What all tests share: fresh random numbers whose seed is shown on failure, small pictures."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import Page

if not torch.cuda.is_available():  # GPU kernels then run as NumPy; Triton reads this on import
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture
def seed(record_property, request) -> int:
    """A fresh seed; pytest shows the printed line when the test fails."""
    value = secrets.randbits(31)
    print(f"seed = {value}")
    return value


@pytest.fixture
def rng(seed) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture
def generator(seed) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def smooth_picture(height: int, width: int, channels: int = 3) -> np.ndarray:
    """A picture (H, W, C) uint8 that a few dozen Gaussians can fit: two blobs on a gradient."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    planes = [x, y, 1 - x][:channels] if channels == 3 else [x]
    blob = np.exp(-((x - 0.3) ** 2 + (y - 0.3) ** 2) / 0.01) - 0.5 * np.exp(
        -((x - 0.7) ** 2 + (y - 0.4) ** 2) / 0.02
    )
    values = np.stack([0.3 + 0.4 * plane + 0.3 * blob for plane in planes], axis=2)
    return (np.clip(values, 0, 1) * 255).round().astype(np.uint8)


@pytest.fixture
def input_dir(tmp_path: Path) -> Path:
    """A folder with ``small.png`` (64×48)."""
    folder = tmp_path / "input"
    folder.mkdir()
    Image.fromarray(smooth_picture(48, 64)).save(folder / "small.png")
    return folder


@pytest.fixture
def page() -> Iterator[Page]:
    """A page of a real browser, which fails the test where a script of a page fails."""
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("there is no chromium on the path")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        problems: list[str] = []
        page.on("pageerror", lambda problem: problems.append(str(problem)))
        yield page
        browser.close()
    assert problems == []
