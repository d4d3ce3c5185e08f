"""The trainer: it fits, grows, resumes exactly, stops cleanly and refuses what cannot work."""

from __future__ import annotations

import csv
import json
import math
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from events import Evaluated, GaussiansAdded, LearningRateDecayed, Notice, RunEnded, RunStarted
from fitting import checkpoints
from fitting.gaussians import CheckpointError, Gaussians
from imaging.files import PictureError
from model import DivergedError, GaussianSplatting2D
from settings import Settings, SettingsError
from tests.conftest import smooth_picture


@pytest.fixture
def make(input_dir, tmp_path):
    """Build a trainer for the small picture; ``run=`` names its folder."""

    def build(run: str = "run", resume: bool = False, **values) -> GaussianSplatting2D:
        chosen = {
            "input_filename": "small.png", "gaussians": 60, "steps": 40, "lr_schedule": False,
            "eval_steps": 20,
        } | values  # fmt: skip
        settings = Settings.build(input_dir=str(input_dir), **chosen)
        return GaussianSplatting2D(settings, tmp_path / run, resume=resume)

    return build


def facts(model: GaussianSplatting2D) -> dict:
    return json.loads((model.folder / "run.json").read_text())


def rows(model: GaussianSplatting2D) -> list[dict]:
    with (model.folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def opened(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def last(events, kind):
    return [event for event in events if isinstance(event, kind)][-1]


def test_a_small_training_reaches_its_quality_and_fills_its_folder(make):
    model = make(gaussians=150, steps=400)
    events = list(model.optimize())
    assert isinstance(events[0], RunStarted)
    assert isinstance(events[-1], RunEnded)
    assert events[-1].status == "finished"
    assert events[-1].scores["psnr"] > 42
    assert events[-1].scores["ssim"] > 0.99
    names = {p.name for p in model.folder.iterdir()}
    assert names == {"model.pt", "rendered.jpg", "metrics.csv", "run.json", "other"}
    assert {p.name for p in (model.folder / "other").iterdir()} == {
        "log.txt", "ground_truth.png", "summary.txt", "summary.png",
    }  # fmt: skip
    found = facts(model)
    assert found["status"] == "finished"
    assert found["settings"] == model.settings.model_dump()
    assert found["steps_done"] == 400
    assert found["size"]["theoretical_bytes"] == 150 * 8 * 4
    assert found["size"]["file_bytes"] == (model.folder / "model.pt").stat().st_size
    assert found["reasons"]["lpips"]
    assert found["scores"]["psnr"] == float(rows(model)[-1]["psnr"])


def test_the_rendered_picture_is_the_one_that_was_scored(make):
    model = make(steps=100)
    end = list(model.optimize())[-1]
    image = opened(model.folder / "rendered.jpg") / 255.0
    truth = opened(model.folder / "other" / "ground_truth.png") / 255.0
    drawn = model.render().permute(1, 2, 0).double().numpy()
    assert abs(image - drawn).mean() < 0.01  # JPEG costs a little
    psnr = -10 * math.log10(((drawn - truth) ** 2).mean())
    assert psnr == pytest.approx(end.scores["psnr"], abs=0.01)


def test_measurements_come_at_every_interval_and_at_the_end(make):
    model = make(steps=50, eval_steps=20)
    list(model.optimize())
    assert [int(row["step"]) for row in rows(model)] == [0, 20, 40, 50]


def test_zero_steps_measure_the_start(make):
    model = make(steps=0)
    assert list(model.optimize())[-1].status == "finished"
    assert [int(row["step"]) for row in rows(model)] == [0]


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(make):
    first, second, third = (
        last(make(run=f"r{i}", seed=seed).optimize(), RunEnded).scores["psnr"]
        for i, seed in enumerate((1, 1, 2))
    )
    assert first == second
    assert first != third


GROWING = {"use_progressive": True, "adaptive_refinement": True, "add_steps": 10, "add_times": 4}


FLOWING = {
    "steps": 60, "eval_steps": 10, "lr_schedule": True, "check_decay_steps": 10,
    "decay_threshold": 0.01, "post_min_steps": 20, "make_training_video": False,
}  # fmt: skip


def assert_same_run(run: GaussianSplatting2D, whole: GaussianSplatting2D) -> None:
    """Parameters, measurements and scores are equal in every digit."""
    assert facts(run)["status"] == facts(whole)["status"]
    for name, tensor in whole.gaussians.tensors().items():
        assert torch.equal(tensor, run.gaussians.tensors()[name]), name
    timeless = [k for k in rows(whole)[0] if not k.endswith("accum")]
    assert [[r[k] for k in timeless] for r in rows(run)] == [
        [r[k] for k in timeless] for r in rows(whole)
    ]
    assert facts(run)["scores"] == facts(whole)["scores"]


def end_at_event(run: GaussianSplatting2D, number: int) -> bool:
    """Interrupt a run at its so-manieth event; whether it came so far."""
    for index, _ in enumerate(events := run.optimize()):
        if index == number:
            events.close()
            return True
    return False


@pytest.mark.parametrize("growth", [{}, GROWING])
def test_a_run_goes_on_from_its_newest_checkpoint_as_if_unbroken(make, growth):
    options = FLOWING | growth | {"save_ckpt_steps": 15}
    whole = make(run="whole", **options)
    list(whole.optimize())
    broken = make(run="broken", **options)
    for event in broken.optimize():
        if event.step > 35:
            break  # as if the process was killed: what it would still write is deleted
    shutil.rmtree(checkpoints.resume_folder(broken.folder))
    again = make(run="broken", resume=True, **options)
    assert again.step == 30
    list(again.optimize())
    assert_same_run(again, whole)


@pytest.mark.parametrize("growth", [{}, GROWING])
def test_a_run_that_was_interrupted_at_any_event_goes_on_as_if_unbroken(make, growth, monkeypatch):
    signs_of_life(monkeypatch, math.inf)  # whose number would depend on the machine
    options = FLOWING | growth
    whole = make(run="whole", **options)
    count = len(list(whole.optimize()))
    assert count > 8
    for number in range(2, count - 1):
        run = f"at-{number}"
        broken = make(run=run, **options)
        assert end_at_event(broken, number)
        assert facts(broken)["status"] == "interrupted"
        again = make(run=run, resume=broken.step > 0, **options)
        assert again.step == broken.step
        list(again.optimize())
        assert_same_run(again, whole)
        assert not checkpoints.resume_folder(again.folder).exists()


def signs_of_life(monkeypatch, seconds: float) -> None:
    """Have so many seconds between two events that only tell how far a run is."""
    monkeypatch.setattr("model.STRETCH_SECONDS", seconds)
    monkeypatch.setattr("fitting.step.STRETCH_SECONDS", seconds)


def test_a_run_may_be_interrupted_after_every_few_steps(make, monkeypatch):
    options = FLOWING | GROWING
    whole = make(run="whole", **options)
    list(whole.optimize())
    signs_of_life(monkeypatch, 0.0)  # one after each step
    run = make(run="broken", **options)
    interruptions = 0
    while end_at_event(run, 3):
        interruptions += 1
        run = make(run="broken", resume=run.step > 0, **options)
    assert 20 < interruptions < 80
    assert_same_run(run, whole)


def test_a_damaged_checkpoint_is_passed_over_for_an_older_one(make):
    list(make(save_ckpt_steps=20).optimize())
    newest, older, *_ = checkpoints.saved_checkpoints(make().folder)
    newest.write_bytes(newest.read_bytes()[:500])
    again = make(save_ckpt_steps=20, resume=True)
    assert again.step == int(older.stem.removeprefix("checkpoint-"))
    told = [event.message for event in again.optimize() if isinstance(event, Notice)]
    assert any(newest.name in text and "goes on from an older one" in text for text in told)


def test_checkpoints_that_are_all_damaged_are_named(make):
    list(make(save_ckpt_steps=20).optimize())
    for path in checkpoints.saved_checkpoints(make().folder):
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"checkpoint-.*No other checkpoint is left"):
        make(save_ckpt_steps=20, resume=True)


def test_resuming_with_other_settings_is_refused(make):
    list(make(save_ckpt_steps=20).optimize())
    with pytest.raises(CheckpointError, match="made with another topk"):
        make(save_ckpt_steps=20, topk=4, resume=True)


def test_resuming_without_a_checkpoint_says_so(make):
    with pytest.raises(
        CheckpointError, match="has no checkpoint to resume from; set save_ckpt_steps"
    ):
        make(resume=True)


def test_closing_the_events_keeps_what_was_reached(make):
    model = make(steps=10_000)
    for event in (events := model.optimize()):
        if isinstance(event, Evaluated) and event.step == 40:
            events.close()
    found = facts(model)
    assert found["status"] == "interrupted"
    assert found["steps_done"] == 40
    assert found["scores"]["psnr"] > 5
    assert Gaussians.load(model.folder / "model.pt").step == 40


def test_an_interrupt_in_the_middle_of_a_step_keeps_what_was_reached(make, monkeypatch):
    model = make(steps=10_000)
    plain = model.optimizer.update

    def interrupted(tensors):
        plain(tensors)
        if model.optimizer.steps == 33:
            raise KeyboardInterrupt

    monkeypatch.setattr(model.optimizer, "update", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(model.optimize())
    assert facts(model)["status"] == "interrupted"
    assert (model.folder / "rendered.jpg").exists()


def test_an_interrupt_within_a_compiled_kernel_is_an_interrupt(make, monkeypatch):
    model = make()

    def interrupted(tensors):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as stop:
            raise SystemError("returned a result with an exception set") from stop

    monkeypatch.setattr(model.optimizer, "update", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(model.optimize())
    assert facts(model)["status"] == "interrupted"
    assert (model.folder / "model.pt").exists()


def test_a_picture_too_wide_for_jpeg_is_saved_smaller_and_says_so(make, monkeypatch):
    monkeypatch.setattr("fitting.results.JPEG_SIDE", 100)
    model = make(render_height=90)  # 120 pixels wide
    list(model.optimize())
    assert opened(model.folder / "rendered.jpg").shape == (75, 100, 3)
    assert "rendered.jpg is 75 pixels high, not 90" in facts(model)["notices"][0]


def test_ssim_is_measured_where_the_loss_does_not_need_it(make):
    model = make(ssim_loss_ratio=0.0)
    list(model.optimize())
    assert all(float(row["ssim_loss"]) == 1 - float(row["ssim"]) for row in rows(model))


@pytest.mark.parametrize("name", ["xy", "scale", "rot", "feat"])
def test_a_parameter_that_diverges_stops_the_run_and_is_named(make, name):
    model = make()
    events = model.optimize()
    next(events)
    model.gaussians.tensors()[name].data[0] = math.nan
    with pytest.raises(DivergedError, match=f"parameter {name} is no longer finite"):
        list(events)
    found = facts(model)
    assert found["status"] == "failed"
    assert f"parameter {name}" in found["error"]
    assert "DivergedError" in (model.folder / "other" / "log.txt").read_text()
    assert not (model.folder / "model.pt").exists()


def test_progressive_growth_reaches_the_full_count_in_equal_shares(make):
    model = make(
        gaussians=81, steps=200, use_progressive=True, add_steps=10, add_times=4, post_min_steps=0
    )
    events = list(model.optimize())
    added = [e for e in events if isinstance(e, GaussiansAdded)]
    assert [(e.step, e.added, e.moved) for e in added] == [
        (10, 10, 0), (20, 10, 0), (30, 10, 0), (40, 11, 0),
    ]  # fmt: skip
    assert len(model.gaussians) == 81
    assert not [e for e in events if isinstance(e, Notice)]


def test_growth_is_scaled_down_to_short_runs_and_says_so(make):
    model = make(steps=50, use_progressive=True)
    events = list(model.optimize())
    assert "5000 steps and the run has 50" in last(events, Notice).message
    assert [e.step for e in events if isinstance(e, GaussiansAdded)] == [5, 10, 15, 20]
    assert model.step == 50
    assert len(model.gaussians) == 60


def test_growth_keeps_the_optimiser_s_state_of_older_gaussians(make):
    model = make(steps=50, use_progressive=True)
    events = model.optimize()
    moments = {}
    for event in events:
        if isinstance(event, GaussiansAdded):
            mean, _ = model.optimizer.moments["xy"]
            moments[event.step] = mean.clone()
            assert mean[: len(mean) - event.added].any(dim=1).all()
            assert not mean[len(mean) - event.added :].any()
    assert len(moments) == 4


def test_adaptive_refinement_moves_gaussians_and_never_exceeds_the_count(make):
    model = make(gaussians=100, steps=100, adaptive_refinement=True)
    added = [e for e in model.optimize() if isinstance(e, GaussiansAdded)]
    assert [e.moved for e in added] == [5, 5, 5, 5]
    assert all(e.num_gaussians == 100 for e in added)


def test_new_gaussians_go_where_the_error_is(make, input_dir):
    picture = np.full((64, 64, 3), 128, np.uint8)
    picture[:16, :16] = np.random.default_rng(0).integers(0, 255, (16, 16, 3))
    Image.fromarray(picture).save(input_dir / "corner.png")
    model = make(
        input_filename="corner.png", gaussians=100, steps=50, init_mode="random",
        use_progressive=True, adaptive_refinement=True,
    )  # fmt: skip
    list(model.optimize())
    inside = (model.gaussians.xy.detach() < 0.3).all(dim=1).float().mean()
    assert inside > 0.4  # evenly spread, it would be 0.09


def test_stalled_quality_lowers_the_rates_and_then_stops_early(make):
    model = make(
        steps=5000, lr_schedule=True, decay_threshold=1.0, check_decay_steps=40, eval_steps=20
    )
    rates = dict(model.optimizer.rates)
    events = list(model.optimize())
    assert last(events, LearningRateDecayed).step == 60
    assert {k: v * 10 for k, v in model.optimizer.rates.items()} == pytest.approx(rates)
    assert events[-1].status == facts(model)["status"] == "stopped early"
    assert events[-1].step == 100


@pytest.mark.parametrize(
    "options",
    [
        {"blending": "additive"}, {"inverse_scale": False}, {"gamma": 2.2}, {"topk": 3},
        {"init_mode": "saliency"}, {"init_mode": "random"}, {"color_init": False},
        {"l1_loss_ratio": 0.0, "l2_loss_ratio": 1.0, "ssim_loss_ratio": 0.0},
        {"quantize": True, "pos_bits": 12, "scale_bits": 8, "rot_bits": 8, "feat_bits": 10},
        {"downsample_ratio": 1.5}, {"use_progressive": True},
    ],
    ids=str,
)  # fmt: skip
def test_every_variant_of_the_method_learns(make, options):
    model = make(steps=250, **options)
    events = list(model.optimize())
    first = next(e for e in events if isinstance(e, Evaluated))
    assert events[-1].scores["psnr"] > max(first.psnr + 3, 26)


def test_quantised_models_are_saved_rounded_and_counted(make):
    bits = {"pos_bits": 6, "scale_bits": 5, "rot_bits": 4, "feat_bits": 5}
    model = make(quantize=True, **bits)
    list(model.optimize())
    saved = Gaussians.load(model.folder / "model.pt")
    for name, setting in zip(("xy", "scale", "rot", "feat"), bits.values(), strict=True):
        assert len(saved.tensors()[name].unique()) <= 2**setting
    assert saved.bits() == 60 * (2 * 6 + 2 * 5 + 4 + 3 * 5)
    torch.testing.assert_close(saved.picture(), model.render())


def test_a_texture_stack_is_fitted_together_and_saved_apart(make, input_dir):
    stack = input_dir / "stack"
    stack.mkdir()
    Image.fromarray(smooth_picture(40, 56)).save(stack / "albedo.png")
    Image.fromarray(smooth_picture(40, 56, 1)[:, :, 0]).save(stack / "height.png")
    model = make(input_filename="stack", steps=150, gaussians=100)
    end = list(model.optimize())[-1]
    assert end.scores["psnr"] > 28
    assert model.gaussians.feat.shape == (100, 4)
    other = {p.name for p in (model.folder / "other").iterdir()}
    assert {
        "rendered_albedo.jpg", "rendered_height.jpg", "ground_truth_albedo.png",
        "ground_truth_height.png",
    } <= other  # fmt: skip
    assert opened(model.folder / "other" / "rendered_height.jpg").shape == (40, 56)
    assert facts(model)["picture"]["names"] == ["albedo", "height"]


def test_a_reduced_fit_is_scored_at_full_size(make):
    model = make(downsample_ratio=2, steps=200)
    end = list(model.optimize())[-1]
    assert model.target.size == (24, 32)
    assert opened(model.folder / "rendered.jpg").shape == (48, 64, 3)
    assert end.scores["psnr"] > 25


@pytest.mark.parametrize("height", [24, 48, 150])
def test_any_height_shows_the_same_picture(make, height):
    model = make(steps=200)
    list(model.optimize())
    image = model.render(height)
    assert image.shape == (3, height, round(64 * height / 48))
    reference = torch.nn.functional.interpolate(
        model.target.full_pixels[None], image.shape[1:], mode="area"
    )[0]
    assert (image - reference).abs().mean() < 0.03


def test_the_height_of_the_rendered_file_can_be_chosen(make):
    model = make(render_height=96)
    list(model.optimize())
    assert opened(model.folder / "rendered.jpg").shape == (96, 128, 3)


def test_a_warm_start_continues_from_the_given_gaussians(make):
    cold = make(run="cold", steps=200)
    psnr = list(cold.optimize())[-1].scores["psnr"]
    warm = make(run="warm", init_gaussian_file=str(cold.folder / "model.pt"))
    first = next(e for e in warm.optimize() if isinstance(e, Evaluated))
    assert first.psnr == pytest.approx(psnr, abs=1e-4)


@pytest.mark.parametrize("count", [30, 60, 90])
def test_a_partial_warm_start_drops_or_adds_the_difference(make, count):
    cold = make(run="cold", steps=100)
    list(cold.optimize())
    path = str(cold.folder / "model.pt")
    if count != 60:
        with pytest.raises(CheckpointError, match=f"has 60 Gaussians, gaussians={count}"):
            make(run="warm", init_gaussian_file=path, gaussians=count)
    warm = make(run="warm", init_gaussian_file=path, gaussians=count, allow_partial=True)
    assert len(warm.gaussians) == count
    kept = min(count, 60)
    assert torch.equal(warm.gaussians.xy[:kept], cold.gaussians.xy[:kept])


def test_a_warm_start_converts_scale_and_size(make, input_dir):
    cold = make(run="cold", steps=200)
    list(cold.optimize())
    Image.fromarray(smooth_picture(96, 128)).save(input_dir / "large.png")
    warm = make(
        run="warm", input_filename="large.png", inverse_scale=False,
        init_gaussian_file=str(cold.folder / "model.pt"),
    )  # fmt: skip
    torch.testing.assert_close(warm.render(), cold.render(96), atol=1e-4, rtol=1e-4)


def test_a_saliency_map_decides_where_gaussians_start(make, input_dir):
    given = np.zeros((48, 64), np.uint8)
    given[:, 48:] = 255
    Image.fromarray(given).save(input_dir / "map.png")
    model = make(init_mode="saliency", saliency_map="map.png", init_random_ratio=0.0)
    assert (model.gaussians.xy[:, 0] > 0.74).all()


def test_a_saliency_map_of_another_size_is_refused(make, input_dir):
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(input_dir / "map.png")
    with pytest.raises(PictureError, match=r"saliency_map .*map\.png is 5×5, the picture 64×48"):
        make(init_mode="saliency", saliency_map="map.png")


def test_visualisations_and_intermediate_pictures_are_saved_on_demand(make):
    model = make(vis_gaussians=True, save_image_steps=20)
    list(model.optimize())
    names = {p.name for p in (model.folder / "other").iterdir()}
    assert {
        "positions.png", "ellipses.png", "ids.png", "error.png", "step-000020.jpg",
        "step-000040.jpg",
    } <= names  # fmt: skip
    for name in ("positions", "ellipses", "ids", "error"):
        picture = opened(model.folder / "other" / f"{name}.png")
        assert picture.shape == (48, 64, 3)
        assert picture.std() > 1


def test_more_gaussians_than_pixels_are_refused(make, tmp_path):
    with pytest.raises(SettingsError, match=r"gaussians=4000 is more than the 3072 pixels"):
        make(gaussians=4000)
    assert not (tmp_path / "run").exists()


def test_a_stack_of_too_many_channels_is_refused(make, input_dir, tmp_path):
    stack = input_dir / "stack"
    stack.mkdir()
    for index in range(11):
        Image.fromarray(smooth_picture(6, 7)).save(stack / f"{index}.png")
    with pytest.raises(PictureError, match=r"33 channels, those of 11 pictures; use .* at most 32"):
        make(input_filename="stack")
    assert not (tmp_path / "run").exists()


def test_as_many_gaussians_as_pixels_are_possible(make, input_dir):
    Image.fromarray(smooth_picture(6, 7)).save(input_dir / "tiny.png")
    model = make(input_filename="tiny.png", gaussians=42, steps=5)
    assert list(model.optimize())[-1].status == "finished"


def test_a_missing_picture_is_refused_before_anything_is_written(make, tmp_path):
    with pytest.raises(PictureError, match=r"smal\.png.*small\.png"):
        make(input_filename="smal.png")
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_made_is_one_clear_error(make, tmp_path):
    (tmp_path / "run").write_text("a file in the way")
    with pytest.raises(OSError, match="run"):
        list(make().optimize())


class Evil:
    """Pickled, it would make a file when it is read."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_code_in_a_model_file_is_not_run(tmp_path):
    trap = tmp_path / "trap"
    torch.save({"format": "splatbook-gaussians-1", "xy": Evil(trap)}, tmp_path / "evil.pt")
    (tmp_path / "evil.pickle").write_bytes(pickle.dumps(Evil(trap)))
    for name in ("evil.pt", "evil.pickle"):
        with pytest.raises(CheckpointError, match=f"{name}"):
            Gaussians.load(tmp_path / name)
    assert not trap.exists()


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.99])
def test_a_truncated_model_file_is_refused(make, tmp_path, keep):
    model = make(steps=2)
    list(model.optimize())
    content = (model.folder / "model.pt").read_bytes()
    size = int(keep * len(content)) if isinstance(keep, float) else keep
    (tmp_path / "cut.pt").write_bytes(content[:size])
    with pytest.raises(CheckpointError, match=r"cut\.pt"):
        make(run="other", init_gaussian_file=str(tmp_path / "cut.pt"))
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "is no splatbook-gaussians-1 file"),
        ({"xy": torch.zeros(3, 2)}, r"scale is \(2, 2\), it must be \(3, 2\)"),
        ({"rot": torch.zeros(2, 1).double()}, r"must be .* of float32"),
        ({"feat": "text"}, "feat is str"),
        ({"width": 0}, "its size is 0×"),
        ({"settings": {"topk": 999}}, "topk=999"),
        ({"channels": [1]}, r"feat is \(2, 3\), it must be \(2, 1\)"),
    ],
)
def test_a_model_file_of_another_shape_is_refused(make, tmp_path, change, message):
    model = make(steps=1, gaussians=2)
    list(model.optimize())
    content = torch.load(model.folder / "model.pt", weights_only=True) | change
    torch.save(content, tmp_path / "odd.pt")
    with pytest.raises(CheckpointError, match=message):
        Gaussians.load(tmp_path / "odd.pt")


def test_a_model_of_a_picture_with_other_channels_is_refused(make, input_dir):
    model = make(steps=1)
    list(model.optimize())
    Image.fromarray(smooth_picture(48, 64, 1)[:, :, 0]).save(input_dir / "grey.png")
    with pytest.raises(CheckpointError, match="has 3 channels, the picture 1"):
        make(run="x", input_filename="grey.png", init_gaussian_file=str(model.folder / "model.pt"))
