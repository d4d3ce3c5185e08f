"""Training steps of the GPU do what those of the CPU do.

Without a GPU the kernels run in Triton's interpreter, some seconds a step: pictures are tiny.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

import model as trainer
from events import Evaluated
from fitting import placement
from fitting.faults import DivergedError
from fitting.gaussians import NAMES, Gaussians
from fitting.step import CpuStep
from imaging.files import Target
from ops.adam import Adam
from settings import Settings

triton = pytest.importorskip("triton", reason="Triton exists for Linux only")

from fitting import step_cuda  # noqa: E402
from fitting.step_cuda import CudaStep, stored_kind  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
HEIGHT, WIDTH = 16, 20
needs_gpu = pytest.mark.skipif(DEVICE == "cpu", reason="graphs need a GPU")


@pytest.fixture
def pixels(rng):
    """Some channels of noise in [0, 1] of 8 bits, (C, H, W)."""

    def make(channels: int = 1, height: int = HEIGHT, width: int = WIDTH) -> torch.Tensor:
        values = rng.integers(0, 256, (channels, height, width)) / np.float32(255)
        return torch.from_numpy(values.astype(np.float32))

    return make


def settings(**values) -> Settings:
    chosen = {
        "gaussians": 7, "ssim_loss_ratio": 0.0, "l2_loss_ratio": 0.5, "use_amp": False,
        "init_scale": 3.0, "init_mode": "random",
    }  # fmt: skip
    return Settings.build(input_filename="none.png", **chosen | values)


def begin(kind, s: Settings, pixels: torch.Tensor):
    """A step of some kind for Gaussians that are the same for every kind."""
    channels = (len(pixels),)
    target = Target(pixels, pixels, channels, ("noise",), (), "noise")
    gaussians = placement.start(s, target, s.gaussians, np.random.default_rng(1))
    with torch.no_grad():  # such that no symmetry hides a mistake
        generator = torch.Generator().manual_seed(2)
        gaussians.scale *= 0.6 + torch.rand(gaussians.scale.shape, generator=generator)
        gaussians.rot += torch.rand(gaussians.rot.shape, generator=generator)
        gaussians.feat += 0.3 * torch.rand(gaussians.feat.shape, generator=generator)
    rates = (s.pos_lr, s.scale_lr, s.rot_lr, s.feat_lr)
    optimizer = Adam(dict(zip(NAMES, rates, strict=True)))
    if kind is CpuStep:
        return CpuStep(s, gaussians, pixels, optimizer)
    gaussians.move_to(torch.device(DEVICE))
    graph = DEVICE == "cuda" and s.use_cuda_graph
    return CudaStep(s, gaussians, pixels, optimizer, graph=graph, device=DEVICE)


def advance(step, count: int) -> dict[str, torch.Tensor]:
    goal = step.gaussians.step + count
    while step.gaussians.step < goal:
        step.advance(goal - step.gaussians.step)
    return {n: t.detach().cpu().clone() for n, t in step.gaussians.tensors().items()}


def assert_same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], atol=2e-5):
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, atol=atol, rtol=1e-4, msg=name)


@pytest.mark.parametrize(
    ("channels", "options"),
    [
        (1, {"ssim_loss_ratio": 0.4}),
        (3, {}),
        (5, {}),
        (3, {"blending": "additive"}),
        (1, {"inverse_scale": False}),
        (1, {"topk": 2}),
        (1, {"quantize": True, "pos_bits": 10, "scale_bits": 8, "rot_bits": 8, "feat_bits": 9}),
    ],
    ids=str,
)
def test_steps_are_those_of_the_cpu(pixels, channels, options):
    s, picture = settings(**options), pixels(channels)
    ours, theirs = begin(CudaStep, s, picture), begin(CpuStep, s, picture)
    found, wanted = ours.measure(), theirs.measure()
    assert found[:3] == pytest.approx(wanted[:3], rel=1e-5)
    assert found.ssim == pytest.approx(wanted.ssim, rel=1e-4, nan_ok=True)
    assert_same(advance(ours, 2), advance(theirs, 2))
    assert ours.gaussians.step == ours.optimizer.steps == 2
    for name in NAMES:
        pairs = zip(ours.optimizer.moments[name], theirs.optimizer.moments[name], strict=True)
        for moment, expected in pairs:
            torch.testing.assert_close(moment.cpu(), expected, atol=1e-6, rtol=1e-3)


def test_bands_are_the_whole_picture(pixels, monkeypatch):
    monkeypatch.setattr(step_cuda, "BAND_ROWS", 16)
    picture = pixels(1, 24, 12)
    options = {"ssim_loss_ratio": 0.4, "gaussians": 9}
    whole = begin(CudaStep, settings(**options), picture)
    cut = begin(CudaStep, settings(use_gradient_checkpointing=True, **options), picture)
    assert [len(step.bands) for step in (whole, cut)] == [1, 2]
    assert cut.painter.memory.shape[1] < 24
    assert_same(advance(cut, 1), advance(whole, 1), atol=1e-6)
    assert cut.measure()[:4] == pytest.approx(whole.measure()[:4], rel=1e-6)


def shorten(step: CudaStep) -> None:
    """Leave hardly any room for lists."""
    step.painter._new_members(2)
    step.painter.owners = step.painter.owners.new_empty(len(step.painter.owners), 1)
    step.graph = None


def test_lists_that_are_too_short_grow_and_change_nothing(pixels, monkeypatch):
    monkeypatch.setattr(step_cuda, "BAND_ROWS", 16)
    picture = pixels(1, 34, 12)
    s = settings(gaussians=12, use_gradient_checkpointing=True)
    roomy, narrow = begin(CudaStep, s, picture), begin(CudaStep, s, picture)
    wanted = advance(roomy, 2)
    narrow.advance(1)
    shorten(narrow)
    found = advance(narrow, 1)
    assert len(narrow.painter.members) > 2
    assert narrow.painter.owners.shape[1] > 1
    assert narrow.optimizer.steps == narrow.gaussians.step == 2
    for name, tensor in wanted.items():
        assert torch.equal(found[name], tensor), name


def test_measuring_with_short_lists_makes_room(pixels):
    s, picture = settings(), pixels()
    roomy, narrow = begin(CudaStep, s, picture), begin(CudaStep, s, picture)
    shorten(narrow)
    assert narrow.measure()[:3] == roomy.measure()[:3]
    assert int(narrow.flags) == 0


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of NumPy, in the interpreter
@pytest.mark.parametrize(("name", "rate"), [("xy", "pos_lr"), ("feat", "feat_lr")])
def test_a_parameter_that_is_no_number_stops_the_run_and_is_named(pixels, name, rate):
    step = begin(CudaStep, settings(use_amp=True), pixels())
    advance(step, 1)
    step.optimizer.moments[name][0][2] = math.inf
    message = rf"step 2: the parameter {name} is no longer finite.*{rate}.*use_amp=False"
    with pytest.raises(DivergedError, match=message):
        advance(step, 3)
    assert all(tensor.isfinite().all() for tensor in step.gaussians.tensors().values())
    assert step.gaussians.step == 2


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_loss_that_is_no_number_stops_the_run_before_anything_moves(pixels):
    picture = pixels()
    picture[0, 3, 4] = math.nan
    step = begin(CudaStep, settings(), picture)
    before = {n: t.detach().clone() for n, t in step.gaussians.tensors().items()}
    with pytest.raises(DivergedError, match=r"step 0: the loss is no longer finite"):
        step.measure()
    step = begin(CudaStep, settings(), picture)
    step._drawing = 0.0
    with pytest.raises(DivergedError, match=r"step 0: the loss is no longer finite"):
        step.advance(2)
    for name, tensor in step.gaussians.tensors().items():
        assert torch.equal(tensor, before[name])


def test_learning_rates_may_fall_between_stretches(pixels):
    s, picture = settings(), pixels()
    steps = begin(CudaStep, s, picture), begin(CpuStep, s, picture)
    for step in steps:
        advance(step, 1)
        step.optimizer.divide_rates(10)
    assert_same(advance(steps[0], 1), advance(steps[1], 1))


def test_a_stretch_ends_at_its_limit_and_does_one_step_at_least(pixels, monkeypatch):
    step = begin(CudaStep, settings(), pixels())
    step._pace = 50
    assert step.advance(1) > 0
    assert step.gaussians.step == 1
    monkeypatch.setattr(step_cuda, "STRETCH_SECONDS", 0)
    step.advance(1)
    assert step._pace == 1


def test_the_picture_is_kept_in_the_smallest_exact_form(pixels):
    exact = pixels()
    assert stored_kind(exact, half=True) == torch.uint8
    assert stored_kind(exact * 0.999, half=True) == torch.float16
    assert stored_kind(exact * 0.999, half=False) == torch.float32
    for picture in (exact, exact * 0.999):
        step = begin(CudaStep, settings(), picture)
        rows = step_cuda.Rows(3, 7)
        assert torch.equal(step.stored(rows).cpu(), picture[:, 3:7])
    assert begin(CudaStep, settings(use_amp=True), exact * 0.999).stored(rows) is None


def test_half_precision_trains_almost_the_same(pixels):
    picture = pixels()
    half = begin(CudaStep, settings(use_amp=True), picture)
    full = begin(CudaStep, settings(), picture)
    assert half.painter.memory.dtype == torch.float16
    assert half.measure().total == pytest.approx(full.measure().total, rel=1e-3)
    assert_same(advance(half, 2), advance(full, 2), atol=1e-2)


@needs_gpu
def test_a_graph_does_what_its_kernels_do(pixels):
    picture = pixels(3, 200, 300)
    for options in ({}, {"quantize": True}, {"use_amp": True}):
        s = settings(gaussians=300, ssim_loss_ratio=0.1, **options)
        graph = begin(CudaStep, s, picture)
        plain = begin(CudaStep, s.model_copy(update={"use_cuda_graph": False}), picture)
        found, wanted = advance(graph, 50), advance(plain, 50)
        for name, tensor in wanted.items():
            assert torch.equal(found[name], tensor), name


# The whole trainer with these steps


@pytest.fixture
def make(tmp_path, rng, monkeypatch):
    """Build a trainer for a tiny grey picture; without a GPU, the interpreter does its steps."""
    values = rng.integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "tiny.png")
    if DEVICE == "cpu":
        monkeypatch.setattr(
            trainer, "make_step", lambda *args: CudaStep(*args, graph=False, device="cpu")
        )

    def build(run: str, resume: bool = False, **options) -> trainer.GaussianSplatting2D:
        s = settings(eval_steps=2, lr_schedule=False, device="auto", **options)
        s = s.model_copy(update={"input_filename": str(tmp_path / "tiny.png")})
        return trainer.GaussianSplatting2D(s, tmp_path / run, resume=resume)

    return build


def parameters(run: trainer.GaussianSplatting2D) -> dict[str, torch.Tensor]:
    return {n: t.detach().cpu() for n, t in run.gaussians.tensors().items()}


def test_a_resumed_run_ends_with_the_numbers_of_an_unbroken_one(make):
    options = {"steps": 4, "save_ckpt_steps": 2}
    whole = make("whole", **options)
    list(whole.optimize())
    broken = make("broken", **options)
    for event in (events := broken.optimize()):
        if isinstance(event, Evaluated) and event.step == 2:
            events.close()
    again = make("broken", resume=True, **options)
    assert again.step == 2
    list(again.optimize())
    for name, tensor in parameters(whole).items():
        assert torch.equal(parameters(again)[name], tensor), name


def measured(run: trainer.GaussianSplatting2D) -> list[Evaluated]:
    return [event for event in run.optimize() if isinstance(event, Evaluated)]


@pytest.mark.parametrize(
    "options",
    [
        {"steps": 2},
        {
            "steps": 4, "gaussians": 8, "use_progressive": True, "adaptive_refinement": True,
            "add_steps": 1, "add_times": 2, "post_min_steps": 0,
        },
    ],
    ids=["plain", "growing"],
)  # fmt: skip
def test_a_run_is_measured_as_on_the_cpu(make, monkeypatch, options):
    ours = make("gpu", **options)
    found = measured(ours)
    monkeypatch.undo()
    theirs = trainer.GaussianSplatting2D(
        ours.settings.model_copy(update={"device": "cpu"}), ours.folder.parent / "cpu"
    )
    for a, b in zip(found, measured(theirs), strict=True):
        assert a.image.device.type == "cpu"
        assert a.num_gaussians == b.num_gaussians
        assert (a.psnr, a.ssim, a.total_loss) == pytest.approx(
            (b.psnr, b.ssim, b.total_loss), rel=2e-3, abs=2e-3
        )
    assert ours.step == ours.optimizer.steps == options["steps"]
    assert len(Gaussians.load(ours.folder / "model.pt")) == ours.settings.gaussians
