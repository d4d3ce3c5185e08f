"""A GPU that is full or gone in mid-run: one clear error, and a folder that is valid."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

from events import Evaluated, Progress
from fitting import faults
from fitting.gaussians import Gaussians
from model import GaussianSplatting2D, GpuError
from settings import Settings
from tests.conftest import smooth_picture

LOST = "CUDA error: an illegal memory access was encountered\nCompile with ..."


@pytest.fixture
def make(tmp_path):
    Image.fromarray(smooth_picture(48, 64)).save(tmp_path / "small.png")

    def build(**values) -> GaussianSplatting2D:
        chosen = {"gaussians": 60, "steps": 30, "eval_steps": 10, "lr_schedule": False}
        s = Settings.build(input_filename=str(tmp_path / "small.png"), **chosen | values)
        return GaussianSplatting2D(s, tmp_path / "run")

    return build


def break_at(run: GaussianSplatting2D, step: int, error: Exception) -> None:
    """Train up to a step, from which on the device fails."""
    for event in (events := run.optimize()):
        if isinstance(event, Evaluated) and event.step == step:
            run.kept = run.gaussians.on_host()
            break

    def fail(*_):
        raise error

    run.stepper.advance = run.stepper.stored = fail
    list(events)


def facts(run: GaussianSplatting2D) -> dict:
    return json.loads((run.folder / "run.json").read_text())


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ({"use_amp": False}, "Set use_amp=True, which saves about"),
        ({}, "Set use_gradient_checkpointing=True, which saves about"),
        (
            {"use_gradient_checkpointing": True},
            "Use fewer Gaussians than 60, or a smaller picture than 64×48: downsample_ratio=2",
        ),
    ],
)
def test_a_full_gpu_names_the_next_switch_and_keeps_what_was_reached(
    make, monkeypatch, options, advice
):
    def needed(settings, shape):  # as it is for a large picture
        whole = 30 if settings.use_amp else 50
        return (20 if settings.use_gradient_checkpointing else whole) << 30

    monkeypatch.setattr("fitting.memory.gpu_bytes", needed)
    run = make(**options)
    with pytest.raises(GpuError, match=f"step 10: the GPU's memory is full.*{advice}"):
        break_at(run, 10, torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB"))
    found = facts(run)
    assert found["status"] == "failed"
    assert found["steps_done"] == 10
    assert advice in found["error"]
    assert found["scores"]["psnr"] > 5
    assert Gaussians.load(run.folder / "model.pt").step == 10
    assert "Tried to allocate" in (run.folder / "other" / "log.txt").read_text()


@pytest.mark.parametrize(
    "error", [RuntimeError(LOST), RuntimeError("Triton Error [CUDA]: unspecified launch failure")]
)
def test_a_lost_gpu_is_one_clear_error_and_the_last_copy_is_kept(make, error):
    run = make()
    with pytest.raises(GpuError, match=r"the GPU stopped working .*Restart Python.*step 10\."):
        break_at(run, 10, error)
    found = facts(run)
    assert (found["status"], found["steps_done"]) == ("failed", 10)
    assert Gaussians.load(run.folder / "model.pt").step == 10
    assert (run.folder / "rendered.jpg").exists()


def test_a_gpu_that_fails_while_results_are_drawn_leaves_them_to_the_cpu(make, monkeypatch):
    run = make()
    events = run.optimize()
    for event in events:
        if isinstance(event, Evaluated) and event.step == 30:
            run.kept = run.gaussians.on_host()
            break
    monkeypatch.setattr(
        run.gaussians, "picture", lambda *_: (_ for _ in ()).throw(RuntimeError(LOST))
    )
    *_, ended = events
    assert ended.status == facts(run)["status"] == "finished"
    assert ended.scores["psnr"] > 5
    assert "the results were drawn on the CPU" in facts(run)["notices"][0]


def test_other_errors_are_no_matter_of_the_gpu(make):
    run = make()
    with pytest.raises(RuntimeError, match=r"^something else$"):
        break_at(run, 10, RuntimeError("something else"))
    assert not faults.is_gpu_lost(ValueError("CUDA error"))
    assert faults.is_memory_full(RuntimeError("Triton Error [CUDA]: out of memory"))
    assert not faults.is_gpu_lost(RuntimeError("Triton Error [CUDA]: out of memory"))


def test_signs_of_life_come_between_measurements(make):
    run = make(steps=100_000, eval_steps=100_000)
    for event in (events := run.optimize()):
        if isinstance(event, Progress):
            events.close()
    assert 0 < facts(run)["steps_done"] < 100_000
