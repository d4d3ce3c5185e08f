"""What verify_setup() finds, and what it says where something is missing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from fitting import machine
from quick_start import environment, verify_setup

DRIVER_TEXT = """\
NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build  (dvs-builder)
GCC version:  gcc version 13.3.0 (Ubuntu 13.3.0-6ubuntu2)
"""


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    (tmp_path / "input").mkdir()
    Image.new("RGB", (4, 3)).save(tmp_path / "input" / "cat.png")
    return {"input_dir": tmp_path / "input", "output_dir": tmp_path / "output"}


def test_a_complete_setup_is_ready_and_says_what_is_used(folders: dict[str, Path]) -> None:
    setup = verify_setup(**folders)
    rows = dict(setup.rows)
    assert setup.ok, setup.problems
    assert sys.executable in rows["Python"]
    assert rows["torch"] == torch.__version__
    assert rows["numba"][0].isdigit()
    assert rows["gsplat"][0].isdigit()
    assert "thread" in rows["processor"]
    assert rows["pictures"] == f"cat.png in {folders['input_dir']}"
    assert rows["results"] == f"{folders['output_dir']} (writable)"
    assert repr(setup).endswith("Ready.")
    assert "Ready." in setup._repr_html_()


def test_looking_writes_nothing(folders: dict[str, Path], tmp_path: Path) -> None:
    verify_setup(**folders)
    assert [p.name for p in tmp_path.rglob("*")] == ["input", "cat.png"]


def test_it_fits_on_one_screen(folders: dict[str, Path]) -> None:
    for i in range(500):
        (folders["input_dir"] / f"{i}.png").touch()
    lines = repr(verify_setup(**folders)).splitlines()
    assert len(lines) <= 12
    assert "and 493 more" in repr(verify_setup(**folders))


def test_without_a_gpu_it_says_so(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "gpu_problem", lambda: "no NVIDIA GPU was found.")
    monkeypatch.setattr(machine, "has_gpu", lambda: False)
    monkeypatch.setattr(environment, "_threads", lambda: 2)
    setup = verify_setup(**folders)
    assert dict(setup.rows)["trains on"].startswith("CPU, 2 threads (no NVIDIA GPU found; ")
    assert setup.ok


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine with a GPU that can be used; the file in which its driver says its version."""

    class Properties:
        name, total_memory, major, minor = "NVIDIA H200", 140 * 10**9, 9, 0

    found = environment._version
    monkeypatch.setattr(machine, "gpu_problem", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: Properties)
    monkeypatch.setattr(
        environment, "_version", lambda name: "3.6.0" if name == "triton" else found(name)
    )
    monkeypatch.setattr(environment, "DRIVER_VERSION", tmp_path / "version")
    return tmp_path / "version"


@pytest.mark.parametrize(
    "text", [DRIVER_TEXT, "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.95.05  Tue Sep 23"]
)
def test_a_gpu_that_will_be_used_is_named_with_what_drives_it(
    folders: dict[str, Path], gpu: Path, text: str
) -> None:
    gpu.write_text(text)
    setup = verify_setup(**folders)
    assert dict(setup.rows)["trains on"] == (
        "NVIDIA H200 (140 GB), compute 9.0, driver 580.95.05, Triton 3.6.0: "
        "half precision, CUDA graph"
    )
    assert setup.ok, setup.problems


@pytest.mark.parametrize("text", [None, "another text"])
def test_a_driver_that_tells_no_version_is_left_out(
    folders: dict[str, Path], gpu: Path, text: str | None
) -> None:
    if text is not None:
        gpu.write_text(text)
    trainer = dict(verify_setup(**folders).rows)["trains on"]
    assert trainer.startswith("NVIDIA H200 (140 GB), compute 9.0, Triton 3.6.0: ")


def test_a_gpu_that_cannot_be_used_says_why(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "gpu_problem", lambda: "the driver is too old. Update it.")
    monkeypatch.setattr(machine, "has_gpu", lambda: True)
    monkeypatch.setattr(environment, "_threads", lambda: 2)
    setup = verify_setup(**folders)
    assert dict(setup.rows)["trains on"] == (
        "CPU, 2 threads; there is a GPU that is not used: the driver is too old. Update it."
    )
    assert setup.ok


def test_a_broken_torch_is_a_problem_not_a_crash(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> str:
        raise OSError("libcudart.so is missing")

    monkeypatch.setattr(machine, "gpu_problem", fail)
    setup = verify_setup(**folders)
    assert not setup.ok
    assert "libcudart.so is missing" in repr(setup)


def test_missing_and_old_packages_come_with_the_command_that_helps(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = ["torch>=2.7", "numba>=999", "no-such-package>=1.5"]
    monkeypatch.setattr(environment, "_requirements", lambda: wanted)
    setup = verify_setup(**folders)
    (problem,) = setup.problems
    assert "numba is 0." in problem
    assert "needed is >=999" in problem
    assert "no-such-package is missing" in problem
    assert problem.endswith('-m pip install "numba>=999" "no-such-package>=1.5"')
    assert "torch" not in problem
    assert "1 problem to solve" in repr(setup)
    assert "&quot;numba&gt;=999&quot;" in setup._repr_html_()


def test_requirements_are_those_of_the_project() -> None:
    found = environment._requirements()
    assert any(line.startswith("torch>=") for line in found)
    assert not any(line.startswith("pytest") for line in found)


def test_no_picture_is_a_problem(folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    empty = verify_setup(input_dir=tmp_path / "empty", output_dir=folders["output_dir"])
    assert not empty.ok
    assert "empty holds no picture" in repr(empty)
    missing = verify_setup(input_dir=tmp_path / "missing", output_dir=folders["output_dir"])
    assert "missing" in repr(missing)
    assert not missing.ok


def test_an_output_folder_that_cannot_be_written_is_a_problem(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    for output in (tmp_path / "file", tmp_path / "file" / "below"):
        setup = verify_setup(input_dir=folders["input_dir"], output_dir=output)
        assert "(not writable)" in dict(setup.rows)["results"]
        assert "Set another output_dir." in repr(setup)
