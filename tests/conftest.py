"""What all tests share: fresh random numbers whose seed is shown on failure, small pictures."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image

from tests import browser

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

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


def two_pictures(folder: Path) -> None:
    """``input/cat.png`` and ``input/dog.png`` in a folder, both 32×24."""
    (folder / "input").mkdir()
    y, x = np.mgrid[:24, :32]
    picture = np.stack([x * 8, y * 10, 255 * ((x // 8 + y // 8) % 2)], -1).astype(np.uint8)
    Image.fromarray(picture).save(folder / "input" / "cat.png")
    Image.fromarray(255 - picture).save(folder / "input" / "dog.png")


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with two pictures."""
    two_pictures(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


# A real browser


@pytest.fixture(scope="session")
def jupyter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Server]:
    """A running JupyterLab."""
    _skip_without("jupyterlab")
    with browser.server(tmp_path_factory.mktemp("jupyter")) as server:
        yield server


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A real browser; not for all tests together, for asyncio stands still while there is one."""
    _skip_without()
    with browser.chromium() as started:
        yield started


@pytest.fixture
def lab(jupyter: browser.Server, chromium: Browser) -> Iterator[browser.Lab]:
    """A window of JupyterLab and a folder for notebooks."""
    with browser.lab(jupyter, chromium) as opened:
        yield opened


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    """A page of a real browser, which fails the test where a script of a page fails."""
    page = chromium.new_page(viewport={"width": 1280, "height": 900})
    problems: list[str] = []
    page.on("pageerror", lambda problem: problems.append(str(problem)))
    yield page
    page.close()
    assert problems == []


def _skip_without(*packages: str) -> None:
    if reason := browser.missing(*packages):
        pytest.skip(reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Iterator[None]:
    """Keep a picture of what a browser showed when a test failed."""
    report = yield
    if report.failed and call.when == "call":
        for name, value in getattr(item, "funcargs", {}).items():
            if isinstance(value, browser.Lab | browser.NotebookPage):
                report.sections.append((f"screenshots of {name}", "\n".join(value.screenshots())))
    return report
