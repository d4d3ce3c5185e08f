"""What a run is said to need is what its buffers take, and no picture is read for it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from fitting.memory import buffer_bytes, bytes_text, gpu_bytes, storage_bytes
from imaging.files import load_target, picture_shape
from quick_start import estimate_memory, set_config
from settings import Settings, SettingsError

triton = pytest.importorskip("triton", reason="Triton exists for Linux only")


def settings(**values) -> Settings:
    return Settings.build(**{"input_filename": "none.png", "gaussians": 500} | values)


@pytest.mark.parametrize("shape", [(3, 40, 60), (1, 300, 200), (4, 700, 90), (3, 1100, 1900)])
@pytest.mark.parametrize("amp", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_buffers_take_what_was_said(shape, amp, checkpointing):
    from fitting.gaussians import Gaussians
    from fitting.step_cuda import CudaStep
    from ops.adam import Adam

    s = settings(use_amp=amp, use_gradient_checkpointing=checkpointing)
    count, device = s.gaussians, "cuda" if torch.cuda.is_available() else "cpu"
    parameters = {"xy": 2, "scale": 2, "rot": 1, "feat": shape[0]}
    gaussians = Gaussians(
        **{n: torch.rand(count, columns, device=device) for n, columns in parameters.items()},
        width=shape[2], height=shape[1], settings=s, channels=(shape[0],), names=("none",),
    )  # fmt: skip
    pixels = torch.randint(0, 256, shape) / torch.tensor(255.0)
    optimizer = Adam(dict.fromkeys(parameters, 1e-3))
    step = CudaStep(s, gaussians, pixels, optimizer, graph=False, device=device)
    said = buffer_bytes(s, count, shape)
    assert said == pytest.approx(storage_bytes(step.tensors()), rel=0.02)
    assert gpu_bytes(s, shape) > said


def test_every_switch_saves_memory_for_a_large_picture():
    shape = (3, 4320, 7680)
    plain, amp, both = (
        gpu_bytes(settings(gaussians=30_000, **options), shape)
        for options in (
            {"use_amp": False}, {}, {"use_gradient_checkpointing": True},
        )
    )  # fmt: skip
    assert both < 0.7 * amp < 0.6 * plain
    assert plain < 3 << 30


def test_a_sweep_needs_what_its_largest_run_needs(tmp_path, monkeypatch):
    Image.new("RGB", (640, 480)).save(tmp_path / "large.png")
    Image.new("L", (64, 48)).save(tmp_path / "small.png")
    monkeypatch.setattr("imaging.files.decode", lambda *_: pytest.fail("pixels were read"))
    config = set_config(
        input_filenames=["small.png", "large.png"], gaussians=[100, 900], input_dir=tmp_path
    )
    found = estimate_memory(config)
    assert (found.settings.input_filename, found.settings.gaussians) == ("large.png", 900)
    assert (found.width, found.height, found.channels) == (640, 480, 3)
    assert found.gpu_bytes > 500 << 20
    assert found == estimate_memory(config.runs()[-1])
    lines = str(found).splitlines()
    assert lines[0] == "large.png: 640×480, 3 channels, 900 Gaussians"
    assert "use_gradient_checkpointing is off, and would save" in lines[-1]


def test_a_gigabyte_is_a_thousand_million_bytes(tmp_path):
    Image.new("RGB", (2000, 2000)).save(tmp_path / "a.png")
    found = estimate_memory(settings(input_filename=str(tmp_path / "a.png"), device="cpu"))
    assert bytes_text(1_250_000_000) == "1.25 GB"
    assert bytes_text(37_400_000) == "37 MB"
    assert f"about {found.host_bytes / 10**9:.2f} GB" in str(found)


def test_a_long_sweep_is_estimated_by_its_largest_runs_alone(tmp_path, monkeypatch):
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    counts = range(1, 1001)
    config = set_config(input_filenames="a.png", gaussians=counts, steps=[5, 6], input_dir=tmp_path)
    asked = []
    monkeypatch.setattr("fitting.memory.gpu_bytes", lambda s, shape: asked.append(s) or 1)
    assert estimate_memory(config).settings.gaussians == 1000
    assert {s.gaussians for s in asked} == {1000}
    assert len(asked) < 10


def test_what_the_cpu_trains_needs_no_gpu(tmp_path):
    Image.new("RGB", (640, 480)).save(tmp_path / "a.png")
    found = estimate_memory(settings(input_filename=str(tmp_path / "a.png"), device="cpu"))
    assert found.gpu_bytes == 0
    assert "GPU" not in str(found)


def test_without_triton_the_gpu_s_need_is_unknown(tmp_path, monkeypatch):
    def missing(*_):
        raise ImportError("No module named 'triton'")

    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    monkeypatch.setattr("fitting.memory.buffer_bytes", missing)
    found = estimate_memory(settings(input_filename=str(tmp_path / "a.png")))
    assert found.gpu_bytes is None
    assert "without the package triton" in str(found)


def test_a_missing_picture_is_named():
    with pytest.raises(SettingsError, match=r"none\.png"):
        estimate_memory(settings())


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("background", ["white", "red"])
def test_the_header_tells_the_shape(tmp_path, mode, background):
    path = tmp_path / "picture.png"
    Image.new(mode, (5, 4)).save(path)  # alpha is 0 where there is one
    wanted = load_target(path, background=background).full_pixels.shape
    assert picture_shape(path, background=background) == wanted


@pytest.mark.parametrize("suffix", ["jpg", "webp", "tif", "bmp"])
def test_the_header_of_every_format_tells_the_shape(tmp_path, suffix):
    path = tmp_path / f"picture.{suffix}"
    Image.new("RGB", (7, 9)).save(path)
    assert picture_shape(path) == (3, 9, 7)


def test_a_turned_picture_and_a_stack_are_as_they_will_be_loaded(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (7, 9)).save(tmp_path / "a.jpg", exif=exif)
    Image.fromarray(np.zeros((7, 9), np.uint8)).save(tmp_path / "b.png")
    assert picture_shape(tmp_path / "a.jpg") == (3, 7, 9)
    assert picture_shape(tmp_path) == tuple(load_target(tmp_path).pixels.shape) == (4, 7, 9)
