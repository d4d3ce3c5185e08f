"""A run with a film trains as one without, and its film is there however the run ends."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from events import Evaluated, FileSaved, FilmProgress, Notice, RunEnded
from fitting.filming import kept_folder
from fitting.measure import quality
from fitting.memory import host_bytes
from imaging import film as film_module
from imaging.film import FilmError
from imaging.frames import FramesError, FramesOnDisk
from model import GaussianSplatting2D
from quick_start.film import make_video
from quick_start.runs import Run, RunError
from settings import Settings, SettingsError
from tests.conftest import smooth_picture
from tests.films import psnr, read_film


@pytest.fixture
def make(input_dir, tmp_path):
    """Build a trainer that films the small picture; ``run=`` names its folder."""

    def build(run: str = "run", resume: bool = False, **values) -> GaussianSplatting2D:
        chosen = {
            "input_filename": "small.png", "gaussians": 60, "steps": 40, "lr_schedule": False,
            "eval_steps": 20, "make_training_video": True, "video_iterations": 10,
        } | values  # fmt: skip
        settings = Settings.build(input_dir=str(input_dir), **chosen)
        return GaussianSplatting2D(settings, tmp_path / run, resume=resume)

    return build


def facts(model: GaussianSplatting2D) -> dict:
    return json.loads((model.folder / "run.json").read_text())


def film(model: GaussianSplatting2D):
    return read_film(model.folder / "training_video.mp4")


def frames(model: GaussianSplatting2D) -> Path:
    return model.folder / "other" / "frames"


def steps_measured(model: GaussianSplatting2D) -> list[int]:
    with (model.folder / "metrics.csv").open(newline="") as file:
        return [int(row["step"]) for row in csv.DictReader(file)]


def until(model: GaussianSplatting2D, kind: type, step: int = 0) -> None:
    """Close a run at the first event of a kind from a step on."""
    events = model.optimize()
    for event in events:
        if isinstance(event, kind) and event.step >= step:
            events.close()
            return
    pytest.fail(f"there was no {kind.__name__}")


def hidden(folder: Path) -> list[Path]:
    """Files that are half written."""
    return [path for path in folder.rglob(".*") if path.is_file()]


PLANS = {
    "plain": {},
    "growing": {"use_progressive": True, "adaptive_refinement": True, "add_steps": 10,
                "add_times": 3, "post_min_steps": 10},
    "in bands": {"use_gradient_checkpointing": True},
    "rounded": {"quantize": True},
    "decaying": {"lr_schedule": True, "check_decay_steps": 15, "decay_threshold": 0.05,
                 "eval_steps": 6, "max_decay_times": 3},
    "reduced": {"downsample_ratio": 1.5, "gamma": 2.0},
}  # fmt: skip


@pytest.mark.parametrize("plan", PLANS)
def test_a_film_does_not_change_what_is_trained(make, plan):
    options = {"steps": 75, "video_iterations": 7} | PLANS[plan]
    without, filmed = (make(run=f"{on}", make_training_video=on, **options) for on in (False, True))
    plain, shown = (list(model.optimize()) for model in (without, filmed))
    for name, tensor in without.gaussians.tensors().items():
        assert torch.equal(tensor, filmed.gaussians.tensors()[name]), name
    assert plain[-1].scores == shown[-1].scores
    assert (plain[-1].status, plain[-1].step) == (shown[-1].status, shown[-1].step)
    assert set(steps_measured(without)) < set(steps_measured(filmed))


@pytest.mark.parametrize("on_disk", [True, False])
@pytest.mark.parametrize("eval_steps", [1, 7, 1000])
def test_frames_do_not_depend_on_measurements(make, on_disk, eval_steps):
    model = make(steps=45, eval_steps=eval_steps, video_save_to_disk=on_disk)
    events = list(model.optimize())
    assert len(film(model).pictures) == 6  # 0, 10, 20, 30, 40 and the end
    assert set(steps_measured(model)) >= {0, 10, 20, 30, 40, 45}
    progress = [event for event in events if isinstance(event, FilmProgress)]
    assert (progress[-1].frames_done, progress[-1].frames) == (6, 6)
    assert events[-2].path == model.folder / "training_video.mp4"
    assert isinstance(events[-1], RunEnded)
    recorded = facts(model)["film"]
    assert recorded["file"] == "training_video.mp4"
    assert (recorded["frames"], recorded["error"]) == (6, "")
    assert recorded["bytes"] == (model.folder / "training_video.mp4").stat().st_size
    assert not frames(model).exists()
    assert not hidden(model.folder)


def test_no_step_gives_a_film_of_the_start(make):
    model = make(steps=0)
    list(model.optimize())
    assert len(film(model).pictures) == 1


def test_a_run_that_stops_early_shows_its_end(make):
    options = {"check_decay_steps": 5, "decay_threshold": 1, "eval_steps": 4}
    model = make(steps=1000, lr_schedule=True, **options)
    end = list(model.optimize())[-1]
    assert end.status == "stopped early"
    assert len(film(model).pictures) == end.step // 10 + 2 - (end.step % 10 == 0)


def test_without_a_film_nothing_of_it_is_there(make):
    model = make(make_training_video=False)
    list(model.optimize())
    assert "film" not in facts(model)
    assert not (model.folder / "training_video.mp4").exists()
    assert not frames(model).exists()
    code = "import sys, model; print('av' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "False"


def opened(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")) / 255.0


@pytest.mark.parametrize(
    "options", [{}, {"gamma": 2.2}, {"downsample_ratio": 2.0}, {"use_gradient_checkpointing": True}]
)
def test_it_shows_the_picture_and_what_is_rendered(make, options):
    model = make(steps=200, video_iterations=50, video_text_size=0, video_crf=5, **options)
    list(model.optimize())
    shown = film(model)
    assert shown.size == (48, 128)
    left, right = shown.halves(-1)
    assert psnr(left, opened(model.folder / "other" / "ground_truth.png")) > 38
    assert psnr(right, opened(model.folder / "rendered.jpg")) > 36
    qualities = [psnr(*shown.halves(index)) for index in (0, 2, 4)]
    assert qualities == sorted(qualities)


@pytest.mark.parametrize("kind", ["grey", "stack"])
def test_grey_pictures_and_stacks_are_shown(make, input_dir, kind):
    if kind == "grey":
        Image.fromarray(smooth_picture(49, 63, 1)[..., 0]).save(input_dir / "p.png")
        values, size = {"input_filename": "p.png"}, (50, 126)
    else:
        folder = input_dir / "stack"
        folder.mkdir()
        Image.fromarray(smooth_picture(40, 30)).save(folder / "a.png")
        Image.fromarray(255 - smooth_picture(40, 30)).save(folder / "b.png")
        Image.fromarray(smooth_picture(40, 30, 1)[..., 0]).save(folder / "c.png")
        values, size = {"input_filename": "stack"}, (80, 120)
    model = make(steps=150, video_text_size=0, video_crf=8, **values)
    list(model.optimize())
    shown = film(model)
    assert shown.size == size
    assert psnr(*shown.halves(-1)) > psnr(*shown.halves(0)) + 3
    if kind == "stack":
        truth = shown.halves(-1)[0]
        assert psnr(truth[:40, 30:], opened(input_dir / "stack" / "b.png")) > 28
        grey = truth[40:, :30]
        assert abs(grey - grey.mean(axis=2, keepdims=True)).mean() < 0.02


def test_a_wide_picture_is_scaled_and_said_to_be(make):
    model = make(video_max_width=64)
    events = list(model.optimize())
    assert film(model).size == (24, 64)
    (notice,) = [e.message for e in events if isinstance(e, Notice)]
    assert "64×48" in notice
    assert "32×24" in notice
    assert "video_max_width=64" in notice
    assert facts(model)["notices"] == [notice]


def test_pictures_drawn_in_bands_are_as_large_as_the_film(make, input_dir):
    Image.fromarray(smooth_picture(1100, 1300)).save(input_dir / "large.png")
    options = {"input_filename": "large.png", "use_gradient_checkpointing": True, "steps": 0}
    options["device"] = "cpu"  # where the target is, with which the test compares in the end
    for most, least in ((3840, 1300), (1000, 500)):
        model = make(run=f"{most}", video_max_width=most, **options)
        (measured,) = [e for e in model.optimize() if isinstance(e, Evaluated)]
        assert measured.image.shape[2] >= least
        assert film(model).size[1] == 2 * least
    stored = model.target.pixels
    reduced = quality(model.gaussians, model.target, None, lambda rows: stored[:, slice(*rows)])
    assert reduced.image.shape[2] == 650  # without a film, about a megapixel


class TestEnds:
    @pytest.mark.parametrize("on_disk", [True, False])
    def test_an_interrupted_run_keeps_its_film_so_far(self, make, on_disk):
        model = make(steps=500, video_save_to_disk=on_disk)
        until(model, Evaluated, 30)
        assert facts(model)["status"] == "interrupted"
        assert len(film(model).pictures) == 4
        assert facts(model)["film"]["frames"] == 4
        assert not frames(model).exists()

    @pytest.mark.parametrize("on_disk", [True, False])
    def test_a_resumed_run_makes_the_film_of_an_unbroken_one(self, make, on_disk):
        options = {"steps": 60, "save_ckpt_steps": 15, "video_save_to_disk": on_disk}
        whole, broken = make(run="whole", **options), make(run="broken", **options)
        list(whole.optimize())
        until(broken, Evaluated, 40)
        assert len(film(broken).pictures) == 5
        assert not frames(broken).exists()
        assert FramesOnDisk(kept_folder(broken.folder)).steps == [0, 10, 20, 30, 40]
        again = make(run="broken", resume=True, **options)
        assert again.step == 40
        list(again.optimize())
        found, expected = film(again).pictures, film(whole).pictures
        assert found.shape == expected.shape
        # Frames that were in memory went through JPEG to be kept for the resumed run.
        assert abs(found.astype(int) - expected).mean() <= (0 if on_disk else 2)
        assert not frames(again).exists()
        assert not kept_folder(again.folder).exists()

    def test_frames_that_a_power_cut_emptied_are_left_out(self, make):
        until(broken := make(steps=60), Evaluated, 40)
        (kept_folder(broken.folder) / "frame-00000020.jpg").write_bytes(b"")
        (kept_folder(broken.folder) / "frame-00000030.json").write_bytes(b"")
        again = make(steps=60, resume=True)
        list(again.optimize())
        assert facts(again)["status"] == "finished"
        assert len(film(again).pictures) == 5  # 0, 10, 40, 50, 60

    def test_a_film_of_another_size_begins_where_the_run_goes_on(self, make):
        options = {"steps": 60, "save_ckpt_steps": 15}
        until(make(**options), Evaluated, 40)
        again = make(resume=True, video_max_width=64, **options)
        list(again.optimize())
        assert film(again).pictures.shape == (2, 24, 64, 3)  # steps 50 and 60

    def test_a_new_run_does_not_show_what_an_old_one_left(self, make):
        list(make(video_keep_frames=True, steps=90).optimize())
        model = make(steps=20, video_keep_frames=True)
        list(model.optimize())
        assert len(film(model).pictures) == 3
        assert FramesOnDisk(frames(model)).steps == [0, 10, 20]

    def test_a_run_that_fails_keeps_its_film_so_far(self, make):
        model = make(steps=100)

        def spoil() -> None:
            for event in model.optimize():
                if isinstance(event, Evaluated) and event.step == 30:
                    model.gaussians.xy.data[0] = float("nan")

        with pytest.raises(ArithmeticError):
            spoil()
        assert facts(model)["status"] == "failed"
        assert len(film(model).pictures) == 4
        assert not frames(model).exists()

    @pytest.mark.parametrize("on_disk", [True, False])
    def test_stopping_while_the_film_is_made_keeps_the_run_and_the_frames(self, make, on_disk):
        model = make(video_save_to_disk=on_disk)
        until(model, FilmProgress)
        found = facts(model)
        assert found["status"] == "finished"
        assert found["film"]["file"] is None
        assert "interrupted" in found["film"]["error"]
        assert not (model.folder / "training_video.mp4").exists()
        assert not hidden(model.folder)
        assert make_video(model.folder, show=False).exists()
        assert len(film(model).pictures) == 5

    def test_ctrl_c_while_the_film_is_made_is_passed_on(self, make, monkeypatch):
        def pressed(*_):
            raise KeyboardInterrupt

        monkeypatch.setattr(film_module, "_converted", pressed)
        model = make()
        with pytest.raises(KeyboardInterrupt):
            list(model.optimize())
        assert facts(model)["status"] == "finished"
        assert facts(model)["film"]["file"] is None
        assert not hidden(model.folder)
        assert len(FramesOnDisk(frames(model)).steps) == 5

    @pytest.mark.parametrize("on_disk", [True, False])
    def test_where_no_film_can_be_made_the_results_stand(self, make, on_disk):
        model = make(video_save_to_disk=on_disk)
        (model.folder / "training_video.mp4").mkdir(parents=True)  # nothing can replace it
        events = list(model.optimize())
        assert events[-1].status == "finished"
        assert events[-1].scores["psnr"] > 20
        (message,) = [e.message for e in events if isinstance(e, Notice)]
        found = facts(model)
        assert (found["status"], found["notices"]) == ("finished", [message])
        assert found["film"]["error"] == message
        assert "make_video(" in message
        assert message in (model.folder / "other" / "log.txt").read_text()
        assert not [e for e in events if isinstance(e, FileSaved)]
        (model.folder / "training_video.mp4").rmdir()
        make_video(model.folder, show=False)
        assert len(film(model).pictures) == 5
        assert facts(model)["film"]["error"] == ""

    def test_a_damaged_frame_is_named_and_the_results_stand(self, make):
        model = make()
        for event in model.optimize():
            if isinstance(event, Evaluated) and event.step == 20:
                (frames(model) / "frame-00000010.jpg").write_bytes(b"broken")
        assert facts(model)["status"] == "finished"
        assert "frame-00000010.jpg" in facts(model)["film"]["error"]
        with pytest.raises(FramesError, match=r"frame-00000010\.jpg"):
            make_video(model.folder, show=False)
        for path in frames(model).glob("frame-00000010.*"):
            path.unlink()
        make_video(model.folder, show=False)
        assert len(film(model).pictures) == 4

    def test_where_frames_cannot_be_kept_the_run_goes_on(self, make):
        model = make()
        for event in model.optimize():
            if isinstance(event, Evaluated) and event.step == 20:
                for path in frames(model).iterdir():
                    path.unlink()
                frames(model).rmdir()
                frames(model).write_text("in the way")
        found = facts(model)
        assert found["status"] == "finished"
        assert "from step 30 on" in " ".join(found["notices"])
        assert found["film"]["file"] is None


class TestMakeVideo:
    @pytest.fixture
    def run(self, make) -> Run:
        model = make(video_keep_frames=True, gaussians=100)
        list(model.optimize())
        return Run(model.folder)

    def test_it_makes_another_film_of_kept_frames(self, run, capsys):
        assert len(read_film(run.folder / "training_video.mp4").pictures) == 5
        path = make_video(
            run, codec="h265", crf=30, layout="grid", text_size=2, text_place="bottom"
        )
        shown = read_film(path)
        assert (shown.codec, shown.size) == ("hevc", (96, 128))
        assert "5 of 5 frames" in capsys.readouterr().out
        assert run.record["film"] == run.record["film"] | {
            "codec": "h265", "crf": 30, "layout": "grid", "frames": 5, "error": "",
        }  # fmt: skip
        assert run.status == "finished"
        make_video(run, show=False)
        assert read_film(path).size == (48, 128)
        assert capsys.readouterr().out == ""

    @pytest.mark.parametrize(
        ("options", "said"),
        [({"codec": "av1"}, "h264"), ({"crf": 52}, "video_crf"), ({"layout": "row"}, "pair"),
         ({"text_size": -1}, "video_text_size"), ({"text_place": "left"}, "bottom")],
    )  # fmt: skip
    def test_options_out_of_range_are_refused(self, run, options, said):
        before = (run.folder / "training_video.mp4").read_bytes()
        with pytest.raises(SettingsError, match=said):
            make_video(run, **options)
        assert (run.folder / "training_video.mp4").read_bytes() == before

    def test_a_run_without_frames_is_refused(self, make, tmp_path):
        model = make()
        list(model.optimize())
        with pytest.raises(RunError, match="video_keep_frames=True"):
            make_video(model.folder)
        with pytest.raises(RunError, match="no run"):
            make_video("session_9/none", output_dir=tmp_path)

    def test_a_film_that_cannot_be_made_leaves_the_old_one(self, run, monkeypatch):
        before = (run.folder / "training_video.mp4").read_bytes()
        monkeypatch.setitem(film_module.ENCODERS, "vp9", ("libnonesuch", {}))
        with pytest.raises(FilmError, match="libnonesuch"):
            make_video(run, codec="vp9", show=False)
        assert (run.folder / "training_video.mp4").read_bytes() == before


def test_frames_in_memory_count_in_the_estimate():
    shape, full = (3, 1000, 2000), (1000, 2000)

    def needed(**values) -> int:
        settings = Settings.build(input_filename="none.png", steps=10_000, **values)
        return host_bytes(settings, shape, full, gpu=False)

    film = {"make_training_video": True}
    kept = needed(**film, video_save_to_disk=False) - needed(**film)
    width = 3840 // 2
    assert kept == pytest.approx(201 * 3 * width * (width // 2), rel=0.02)
    assert needed() <= needed(**film)
