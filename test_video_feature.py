"""Checks the film of a training from end to end: ``python test_video_feature.py``, or pytest.

Small trainings are run as a notebook runs them, and their films are decoded and looked at.
"""

from __future__ import annotations

import inspect
import sys
import tempfile
import time
import traceback
from pathlib import Path

import numpy as np
from PIL import Image

from imaging.files import find_picture, load_picture
from quick_start import Run, set_config, train
from quick_start.film import make_video
from tests.films import psnr, read_film

CAT = load_picture(find_picture("cat.png", Path(__file__).parent / "input")).pixels


def pictures(folder: Path) -> Path:
    """A folder with two small cats, one of them mirrored and of odd sides."""
    given = folder / "input"
    given.mkdir()
    cat = Image.fromarray(CAT.mul(255).byte().permute(1, 2, 0).numpy())
    cat.resize((96, 64)).save(given / "cat.png")
    cat.resize((75, 51)).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(given / "dog.png")
    return given


def trained(folder: Path, **options) -> list[Run]:
    """Train a configuration; films are made unless the options say otherwise."""
    chosen = {
        "input_filenames": "cat.png", "input_dir": str(pictures(folder)),
        "output_dir": str(folder / "output"), "gaussians": [200], "steps": [200],
        "make_training_video": True, "video_iterations": 50, "lr_schedule": False, "device": "cpu",
    } | options  # fmt: skip
    return train(set_config(**chosen), show=False)


def film_of(run: Run):
    """The decoded film of a run, of which ``run.json`` must tell."""
    assert run.status == "finished"
    assert run.record["film"]["file"] == "training_video.mp4"
    assert run.record["film"]["error"] == ""
    return read_film(run.folder / "training_video.mp4")


def test_the_film_is_off_by_default(tmp_path: Path) -> None:
    """Without make_training_video there is no film."""
    (run,) = trained(tmp_path, make_training_video=False, steps=[20])
    assert not (run.folder / "training_video.mp4").exists()


def test_format(tmp_path: Path) -> None:
    """MP4, H.264, yuv420p, 30 frames a second, twice as wide as the picture, index at the front."""
    (run,) = trained(tmp_path)
    film = film_of(run)
    assert (film.codec, film.pixel_format, film.rate) == ("h264", "yuv420p", 30)
    assert film.size == (64, 192)
    assert film.boxes.index("moov") < film.boxes.index("mdat")
    assert sorted(path.name for path in run.folder.iterdir()) == [
        "metrics.csv", "model.pt", "other", "rendered.jpg", "run.json", "training_video.mp4",
    ]  # fmt: skip
    assert not (run.folder / "other" / "frames").exists()


def test_number_of_frames(tmp_path: Path) -> None:
    """A frame at the start, at every video_iterations and at the end, whatever eval_steps is."""
    for index, (every, evaluated, frames) in enumerate(
        [(25, 25, 9), (50, 50, 5), (100, 100, 3), (50, 200, 5), (70, 30, 4)]
    ):
        folder = tmp_path / str(index)
        folder.mkdir()
        (run,) = trained(folder, video_iterations=every, eval_steps=evaluated)
        assert len(film_of(run).pictures) == frames, (every, evaluated)


def test_201_frames_of_10000_steps(tmp_path: Path) -> None:
    """10,000 steps with a frame every 50 give 201 frames."""
    Image.new("L", (16, 16), 90).save(tmp_path / "dot.png")
    (run,) = trained(
        tmp_path, input_filenames=str(tmp_path / "dot.png"), gaussians=[2], steps=[10_000]
    )
    assert len(film_of(run).pictures) == 201


def test_the_rendering_becomes_the_picture(tmp_path: Path) -> None:
    """The right half grows towards the left one, and ends at the score of the run."""
    (run,) = trained(tmp_path, steps=[400], video_text_size=0, video_crf=8)
    film = film_of(run)
    qualities = [psnr(*film.halves(index)) for index in range(len(film.pictures))]
    assert qualities[-1] > qualities[0] + 3
    assert max(np.diff(qualities)) == max(abs(np.diff(qualities)))  # it grows more than it falls
    assert abs(qualities[-1] - run.scores["psnr"]) < 0.7  # coding is lossy, most of all in colour
    truth = film.halves(-1)[0]
    with Image.open(run.folder / "other" / "ground_truth.png") as picture:
        assert psnr(truth, np.asarray(picture) / 255) > 33


def test_text_is_drawn(tmp_path: Path) -> None:
    """Both halves are labelled, and the numbers change from frame to frame."""
    (run,) = trained(tmp_path, steps=[50], video_keep_frames=True)
    labelled = film_of(run)
    make_video(run, text_size=0, show=False)
    plain = film_of(run)
    differs = abs(labelled.pictures.astype(int) - plain.pictures).max(axis=3) > 40
    assert differs[:, :32, :96].any()
    assert differs[:, :32, 96:].any()
    assert (differs[0] != differs[1]).any()


def test_batch(tmp_path: Path) -> None:
    """Two pictures times two numbers of Gaussians give four films."""
    runs = trained(
        tmp_path, input_filenames=["cat.png", "dog.png"], gaussians=[50, 100], steps=[50]
    )
    assert [run.folder.name for run in runs] == [
        "cat-50-50", "cat-100-50", "dog-50-50", "dog-100-50",
    ]  # fmt: skip
    assert [film_of(run).size for run in runs] == [(64, 192)] * 2 + [(52, 150)] * 2


def test_adaptive_refinement(tmp_path: Path) -> None:
    """A film of a run that adds and moves Gaussians."""
    (run,) = trained(
        tmp_path, adaptive_refinement=True, adaptive_error_threshold=0.3, use_progressive=True,
        add_steps=20, add_times=4, post_min_steps=40,
    )  # fmt: skip
    film = film_of(run)
    assert len(film.pictures) == 5
    assert psnr(*film.halves(-1)) > psnr(*film.halves(0))


def test_frames_in_memory(tmp_path: Path) -> None:
    """The same film without a file per frame."""
    (run,) = trained(tmp_path, video_save_to_disk=False)
    assert len(film_of(run).pictures) == 5


def test_codecs_and_layouts(tmp_path: Path) -> None:
    """H.265 and VP9, and the grid with error and positions, from the frames of one run."""
    (run,) = trained(tmp_path, video_keep_frames=True, video_layout="grid")
    assert film_of(run).size == (128, 192)
    for codec, name in (("h265", "hevc"), ("vp9", "vp9")):
        make_video(run, codec=codec, layout="pair", show=False)
        film = film_of(run)
        assert name in film.codec
        assert film.size == (64, 192)
        assert len(film.pictures) == 5


def main() -> int:
    """Run all checks and say how each went; the number of those that failed."""
    checks = [f for name, f in list(globals().items()) if name.startswith("test_")]
    failed = 0
    for check in checks:
        begun = time.perf_counter()
        print(inspect.getdoc(check), end=" ", flush=True)
        try:
            with tempfile.TemporaryDirectory() as folder:
                check(Path(folder))
        except Exception:
            failed += 1
            print("FAILED")
            traceback.print_exc()
        else:
            print(f"ok ({time.perf_counter() - begun:.1f} s)")
    print(f"{len(checks) - failed} of {len(checks)} checks passed")
    return failed


if __name__ == "__main__":
    sys.exit(min(main(), 1))
