"""The shell's commands do what the notebook does, and say in one line what is wrong."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import main
import model
from tests.conftest import smooth_picture

TINY = ["--gaussians", "40", "--steps", "6", "--eval-steps", "3"]


@pytest.fixture
def shell(input_dir, tmp_path, monkeypatch, capsys):
    """Call a command as a shell would: (exit status, lines of stdout, lines of stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: Any) -> tuple[int, list[str], list[str]]:
        status = 0
        try:
            main.cli([str(argument) for argument in arguments])
        except SystemExit as end:
            status = end.code or 0
        said = capsys.readouterr()
        return status, said.out.splitlines(), said.err.splitlines()

    return call


def train(shell, *arguments: Any) -> list[Path]:
    """The folders of the runs that a training left."""
    status, out, err = shell("train", *arguments)
    assert status == 0, err
    folders = [Path(line) for line in out if (Path(line) / "run.json").is_file()]
    assert out[-len(folders) :] == [str(folder) for folder in folders]
    return folders


@pytest.fixture
def run(shell) -> Path:
    """The folder of a tiny run."""
    (folder,) = train(shell, "--input-filenames", "small.png", *TINY)
    return folder


@pytest.fixture
def stack(input_dir) -> Path:
    """A folder with an RGB and a grey picture of 64×48."""
    folder = input_dir / "both"
    folder.mkdir()
    Image.fromarray(smooth_picture(48, 64)).save(folder / "colour.png")
    Image.fromarray(smooth_picture(48, 64, 1)[:, :, 0]).save(folder / "grey.png")
    return folder


def facts(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run.json").read_text())


def steps_of(folder: Path) -> list[int]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [int(row["step"]) for row in csv.DictReader(file)]


def opened(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture) / 255


class TestTrain:
    def test_one_picture_gives_one_run_with_the_options_as_settings(self, shell):
        options = ["--seed", "9", "--no-lr-schedule", "--blending", "additive", "--gamma", "1.5"]
        (folder,) = train(shell, "--input-filenames", "small.png", *TINY, *options)
        assert folder == Path("output/session_1/small-40-6")
        found = facts(folder)
        assert found["status"] == "finished"
        wanted = {
            "gaussians": 40, "steps": 6, "eval_steps": 3, "seed": 9, "lr_schedule": False,
            "blending": "additive", "gamma": 1.5, "topk": 10,
        }  # fmt: skip
        assert {name: found["settings"][name] for name in wanted} == wanted

    def test_several_values_give_every_combination(self, shell, input_dir):
        Image.fromarray(255 - smooth_picture(30, 20)).save(input_dir / "other.png")
        folders = train(
            shell, "--input-filenames", "small.png", "other.png", "--gaussians", 20, 30,
            "--steps", 2, "--output-dir", "elsewhere",
        )  # fmt: skip
        assert [str(folder) for folder in folders] == [
            f"elsewhere/session_1/{name}"
            for name in ("small-20-2", "small-30-2", "other-20-2", "other-30-2")
        ]

    @pytest.mark.parametrize("form", [["--preset", "fast.yaml"], ["--preset=fast.yaml"]])
    def test_options_win_over_a_preset_and_the_preset_over_defaults(self, shell, form):
        Path("fast.yaml").write_text(
            "input_filename: small.png\ngaussians: 30\nsteps: [2, 3]\nseed: 5\ngamma: 2\n"
        )
        folders = train(shell, *form, "--seed", 6, "--steps", 4)
        assert [folder.name for folder in folders] == ["small-30-4"]
        found = facts(folders[0])["settings"]
        assert (found["seed"], found["gamma"], found["topk"]) == (6, 2.0, 10)

    def test_a_preset_may_leave_the_picture_to_the_command_line(self, shell):
        Path("fast.yaml").write_text("gaussians: [20, 30]\nsteps: 2\n")
        folders = train(shell, "--input-filenames", "small.png", "--preset", "fast.yaml")
        assert [folder.name for folder in folders] == ["small-20-2", "small-30-2"]

    def test_the_default_preset_changes_nothing(self, shell):
        preset = Path(main.__file__).parent / "cfgs" / "default.yaml"
        (folder,) = train(shell, "--input-filenames", "small.png", *TINY, "--preset", preset)
        (plain,) = train(shell, "--input-filenames", "small.png", *TINY)
        assert facts(folder)["settings"] == facts(plain)["settings"]

    def test_an_interrupted_training_keeps_its_run_and_exits_as_shells_expect(
        self, shell, monkeypatch
    ):
        interrupt_at(monkeypatch, 4)
        status, out, _ = shell("train", "--input-filenames", "small.png", *TINY)
        assert status == 130
        assert out[-1] == "output/session_1/small-40-6"
        assert facts(Path(out[-1]))["status"] == "interrupted"

    def test_a_run_that_fails_is_told_in_one_line(self, shell, monkeypatch):
        def fail(self: Any, *arguments: Any) -> None:
            raise ArithmeticError("no longer finite")

        monkeypatch.setattr(model.GaussianSplatting2D, "_evaluate", fail)
        status, _, err = shell("train", "--input-filenames", "small.png", *TINY)
        assert status == 1
        assert err[-1].startswith("error: session_1/small-40-6 failed: ArithmeticError: no longer")
        assert not any("Traceback" in line for line in err)


def interrupt_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Press Ctrl-C when a run reaches a step."""
    update = model.Adam.update

    def stop(self: Any, tensors: Any) -> None:
        if self.steps == step:
            raise KeyboardInterrupt
        update(self, tensors)

    monkeypatch.setattr(model.Adam, "update", stop)


class TestResume:
    def test_an_interrupted_run_goes_on_in_its_own_folder(self, shell, monkeypatch):
        with monkeypatch.context() as patch:
            interrupt_at(patch, 5)
            options = ["--save-ckpt-steps", 2]
            _, out, _ = shell("train", "--input-filenames", "small.png", *TINY, *options)
        folder = Path(out[-1])
        assert facts(folder)["status"] == "interrupted"
        status, out, _ = shell("resume", folder)
        assert status == 0
        assert out[-1] == str(folder)
        found = facts(folder)
        assert (found["status"], found["steps_done"]) == ("finished", 6)
        assert steps_of(folder) == [0, 3, 6]
        assert [path.name for path in Path("output").iterdir()] == ["session_1"]

    def test_a_run_is_found_by_its_short_name(self, shell, monkeypatch):
        options = ["--save-ckpt-steps", 4]
        train(shell, "--input-filenames", "small.png", *TINY, *options)
        assert shell("resume", "session_1/small-40-6")[0] == 0

    def test_a_run_without_checkpoint_cannot_go_on(self, shell, run):
        status, _, err = shell("resume", run)
        assert status == 1
        assert len(err) == 1
        assert "save_ckpt_steps" in err[0]

    def test_a_run_that_does_not_exist_is_told(self, shell):
        status, _, err = shell("resume", "session_7/cat")
        assert status == 1
        assert len(err) == 1
        assert err[0].startswith("error: There is no run 'session_7/cat'")


class TestRender:
    @pytest.mark.parametrize(
        ("height", "size"), [(None, (64, 48)), (24, (32, 24)), (96, (128, 96))]
    )
    def test_a_model_is_drawn_at_any_height(self, shell, run, height, size):
        options = [] if height is None else ["--height", height]
        status, out, _ = shell("render", run / "model.pt", "drawn.png", *options)
        assert (status, out) == (0, ["drawn.png"])
        with Image.open("drawn.png") as picture:
            assert picture.size == size
        if height is None:
            assert abs(opened(Path("drawn.png")) - opened(run / "rendered.jpg")).mean() < 0.01

    def test_a_stack_gives_a_file_for_each_picture(self, shell, stack):
        (folder,) = train(shell, "--input-filenames", "both", *TINY)
        assert folder.name == "both-40-6"
        Path("drawn").mkdir()
        assert shell("render", folder / "model.pt", "drawn/all.png", "--height", 12)[0] == 0
        assert sorted(path.name for path in Path("drawn").iterdir()) == [
            "all.png", "all_colour.png", "all_grey.png",
        ]  # fmt: skip
        assert opened(Path("drawn/all_colour.png")).shape == (12, 16, 3)
        assert opened(Path("drawn/all_grey.png")).shape == (12, 16)

    @pytest.mark.parametrize("height", [0, -5])
    def test_a_height_of_nothing_is_refused(self, shell, run, height):
        status, _, err = shell("render", run / "model.pt", "drawn.png", f"--height={height}")
        assert status == 1
        assert len(err) == 1
        assert f"--height {height}" in err[0]

    @pytest.mark.parametrize("output", ["drawn.txt", "nowhere/drawn.png"])
    def test_a_place_that_cannot_be_written_is_told(self, shell, run, output):
        status, _, err = shell("render", run / "model.pt", output)
        assert status == 1
        assert len(err) == 1
        assert output in err[0]


class TestEvaluate:
    def scores(self, out: list[str]) -> dict[str, str]:
        return {line.split()[0]: line.split(maxsplit=1)[1] for line in out}

    @pytest.mark.parametrize(
        "options",
        [
            [],
            ["--quantize", "--pos-bits", "8", "--feat-bits", "6"],
            ["--gamma", "2.2", "--downsample-ratio", "2"],
        ],
    )
    def test_scores_are_those_of_the_run(self, shell, input_dir, options):
        Image.fromarray(smooth_picture(37, 101)).save(input_dir / "odd.png")
        (folder,) = train(shell, "--input-filenames", "odd.png", *TINY, *options)
        status, out, _ = shell("evaluate", folder / "model.pt", input_dir / "odd.png")
        assert status == 0
        printed, recorded = self.scores(out), facts(folder)
        for name in ("psnr", "ssim", "flip"):
            assert float(printed[name]) == pytest.approx(recorded["scores"][name], abs=2e-4), name
        for name in ("ms_ssim", "lpips"):
            assert recorded["scores"][name] is None
            assert printed[name] == recorded["reasons"][name]

    def test_a_stack_is_compared_with_its_folder(self, shell, stack):
        (folder,) = train(shell, "--input-filenames", "both", *TINY)
        status, out, _ = shell("evaluate", folder / "model.pt", stack)
        assert status == 0
        found = float(self.scores(out)["psnr"])
        assert found == pytest.approx(facts(folder)["scores"]["psnr"], abs=1e-4)

    def test_transparency_is_laid_over_the_background_of_the_run(self, shell, input_dir):
        values = np.dstack([smooth_picture(48, 64), np.full((48, 64), 128, np.uint8)])
        Image.fromarray(values).save(input_dir / "glass.png")
        options = ["--background", "#000000"]
        (folder,) = train(shell, "--input-filenames", "glass.png", *TINY, *options)
        _, out, _ = shell("evaluate", folder / "model.pt", input_dir / "glass.png")
        found = float(self.scores(out)["psnr"])
        assert found == pytest.approx(facts(folder)["scores"]["psnr"], abs=1e-4)
        assert math.isfinite(found)

    def test_a_picture_of_another_shape_is_refused(self, shell, run, input_dir):
        Image.fromarray(smooth_picture(48, 60)).save(input_dir / "narrow.png")
        Image.fromarray(smooth_picture(48, 64, 1)[:, :, 0]).save(input_dir / "grey.png")
        for name, found in (("narrow", "60×48"), ("grey", "64×48 with 1 ")):
            status, _, err = shell("evaluate", run / "model.pt", input_dir / f"{name}.png")
            assert status == 1
            assert len(err) == 1
            assert found in err[0]


class TestMisuse:
    @pytest.mark.parametrize("arguments", [[], ["paint"], ["--preset", "a.yaml"], ["", "train"]])
    def test_a_wrong_command_exits_with_2_and_the_usage(self, shell, arguments):
        status, out, err = shell(*arguments)
        assert (status, out) == (2, [])
        assert err[0].startswith("usage: main.py COMMAND")
        for command in ("train", "resume", "render", "evaluate"):
            assert any(line.strip().startswith(command) for line in err)

    @pytest.mark.parametrize(
        "arguments",
        [
            ["train"],
            ["train", "--input-filenames", "small.png", "--colour", "red"],
            ["train", "--input-filenames", "small.png", "--steps", "many"],
            ["train", "--input-filenames", "small.png", "--blending", "multiply"],
            ["train", "--input-filenames", "small.png", "--preset"],
            ["resume"],
            ["render", "model.pt"],
            ["render", "model.pt", "out.png", "--height", "tall"],
            ["evaluate", "model.pt"],
        ],
        ids=" ".join,
    )
    def test_wrong_options_exit_with_2_and_name_the_help(self, shell, arguments):
        status, _, err = shell(*arguments)
        assert status == 2
        assert any("--help" in line for line in err)

    @pytest.mark.parametrize(
        ("arguments", "fragment"),
        [
            (["--input-filenames", "smal.png"], "Did you mean 'small.png'?"),
            (["--input-filenames", "broken.png"], "broken.png"),
            (["--input-filenames", ""], "input_filenames=''"),
            (["--input-filenames", "small.png", "--gaussians", "0"], "gaussians=0"),
            (["--input-filenames", "small.png", "--gaussians", "9999"], "gaussians=9999"),
            (["--input-filenames", "small.png", "--gamma", "nan"], "gamma=nan"),
            (["--input-filenames", "small.png", "--topk", "33"], "allowed: whole number from 1"),
            (["--input-filenames", "small.png", "--background", "none"], "background"),
            (["--input-filenames", "small.png", "--saliency-map", "no.png",
              "--init-mode", "saliency"], "no.png"),
            (["--input-filenames", "small.png", "--init-gaussian-file", "no.pt"], "no.pt"),
            (["--input-filenames", "small.png", "--output-dir", "input/small.png"], "output_dir"),
            (["--input-filenames", "small.png", "--preset", "no.yaml"], "no.yaml"),
        ],
    )  # fmt: skip
    def test_a_run_that_cannot_start_is_told_in_one_line(
        self, shell, input_dir, arguments, fragment
    ):
        (input_dir / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
        status, _, err = shell("train", *arguments)
        assert status == 1
        assert len(err) == 1
        assert err[0].startswith("error: ")
        assert fragment in err[0]
        assert not Path("output").exists()

    def test_a_mistake_in_a_preset_names_setting_and_file(self, shell):
        Path("bad.yaml").write_text("num_gaussians: 5\n")
        status, _, err = shell("train", "--input-filenames", "small.png", "--preset", "bad.yaml")
        assert status == 1
        assert err == [
            "error: There is no setting num_gaussians; it is now gaussians.",
            "(in --preset bad.yaml)",
        ]

    @pytest.mark.parametrize("command", ["render", "evaluate"])
    @pytest.mark.parametrize("content", [None, b"", b"not a model", b"PK\x03\x04 cut"])
    def test_a_bad_model_file_is_told_in_one_line(self, shell, command, content):
        if content is not None:
            Path("model.pt").write_bytes(content)
        status, _, err = shell(command, "model.pt", "input/small.png")
        assert status == 1
        assert len(err) == 1
        assert err[0].startswith("error: ")
        assert "model.pt" in err[0]

    def test_trouble_with_files_is_no_traceback(self, shell, monkeypatch):
        def denied(arguments: Any) -> None:
            raise PermissionError(13, "Permission denied", "secret.png")

        monkeypatch.setitem(main.COMMANDS, "render", denied)
        status, _, err = shell("render")
        assert (status, len(err)) == (1, 1)
        assert "secret.png" in err[0]


class TestHelp:
    @pytest.mark.parametrize("option", ["-h", "--help"])
    def test_help_lists_the_commands(self, shell, option):
        status, out, err = shell(option)
        assert (status, err) == (0, [])
        assert sum(line.startswith("  ") for line in out) == len(main.COMMANDS)

    @pytest.mark.parametrize("command", main.COMMANDS)
    def test_every_command_explains_itself(self, shell, command):
        status, out, _ = shell(command, "--help")
        assert status == 0
        assert f"main.py {command}" in out[0]
        assert any(main.COMMANDS[command].__doc__.split(",")[0][:20] in line for line in out)

    def test_help_for_training_shows_every_setting_pictures_first_and_presets(self, shell):
        from quick_start import TrainingConfig

        _, out, _ = shell("train", "--help")
        text = "\n".join(out)
        for name in (*TrainingConfig.model_fields, "preset"):
            assert f"--{name.replace('_', '-')}" in text
        assert text.index("--input-filenames") < text.index("--gaussians") < text.index("--gamma")
        assert "(default: 2000)" in text

    def test_help_shows_the_values_of_a_preset_as_defaults(self, shell):
        Path("fast.yaml").write_text("steps: 1234\n")
        _, out, _ = shell("train", "--preset", "fast.yaml", "--help")
        assert "(default: 1234)" in "\n".join(out)
