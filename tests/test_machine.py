"""Which device a run gets, and what is said where a GPU cannot be used."""

from __future__ import annotations

import sys
import warnings

import pytest
import torch

from fitting import machine
from settings import SettingsError


@pytest.fixture(autouse=True)
def _asked_anew():
    machine.gpu_problem.cache_clear()
    yield
    machine.gpu_problem.cache_clear()


@pytest.fixture
def gpu(monkeypatch):
    """A machine whose GPU can be used; tests take something away."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *device: "NVIDIA H200")
    monkeypatch.setitem(sys.modules, "triton", object())
    monkeypatch.setattr(machine, "_try_kernel", lambda: None)
    return monkeypatch


def hide_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(machine, "has_gpu", lambda: False)


def test_the_current_gpu_is_used_where_there_is_one(gpu):
    gpu.setattr(torch.cuda, "current_device", lambda: 1)
    assert machine.gpu_problem() is None
    for wanted in ("auto", "cuda"):
        assert machine.choose_device(wanted) == (torch.device("cuda", 1), "")
    assert machine.choose_device("cpu") == (torch.device("cpu"), "")
    assert machine.describe(torch.device("cuda")) == "cuda (NVIDIA H200)"


def test_without_any_gpu_auto_takes_the_cpu_and_says_nothing(gpu):
    hide_gpus(gpu)
    assert machine.choose_device("auto") == (torch.device("cpu"), "")


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (hide_gpus, "no NVIDIA GPU was found. Use a machine that has one"),
        (lambda m: m.setattr(torch.version, "cuda", None), "is a build without CUDA. Install one"),
        (
            lambda m: m.setattr(torch.cuda, "get_device_capability", lambda: (6, 1)),
            r"NVIDIA H200 has compute capability 6\.1, and at least 7\.5 is needed",
        ),
        (lambda m: m.setitem(sys.modules, "triton", None), "package triton cannot be imported"),
        (
            lambda m: (hide_gpus(m), m.setenv("CUDA_VISIBLE_DEVICES", "")),
            "CUDA_VISIBLE_DEVICES='' hides all GPUs. Unset it",
        ),
    ],
)
def test_a_demanded_gpu_that_cannot_be_used_is_one_clear_error(gpu, break_it, message):
    break_it(gpu)
    with pytest.raises(SettingsError, match=rf"^device='cuda': .*{message}.*device='auto'"):
        machine.choose_device("cuda")


def test_a_driver_that_is_too_old_is_named_with_its_version(gpu):
    def complain() -> bool:
        text = "CUDA initialization: The NVIDIA driver on your system is too old (found version "
        warnings.warn(f"{text}11040). Please update it. (Triggered internally)", stacklevel=1)
        return False

    gpu.setattr(torch.cuda, "is_available", complain)
    problem = machine.gpu_problem()
    assert "made for CUDA 13.0: The NVIDIA driver" in problem
    assert "found version 11040" in problem
    assert "Triggered" not in problem
    device, notice = machine.choose_device("auto")
    assert device.type == "cpu"
    assert notice.startswith("the CPU trains, although there is a GPU: the NVIDIA driver")


def test_a_kernel_that_does_not_compile_makes_auto_take_the_cpu_and_say_so(gpu):
    def fail():
        raise RuntimeError("Failed to find C compiler.\nmore")

    gpu.setattr(machine, "_try_kernel", fail)
    device, notice = machine.choose_device("auto")
    assert device.type == "cpu"
    assert "RuntimeError: Failed to find C compiler.)" in notice


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_first_kernel_works_here():
    machine._try_kernel()
