"""Presets: every shipped one is valid, they combine, and they are found from anywhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

import main
from quick_start import set_config
from quick_start.presets import preset_names, preset_path, preset_purpose, preset_values
from quick_start.runs import Runs
from settings import Settings, SettingsError

PICTURE = {"input_filenames": "cat.png"}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder far from the repository, with a picture."""
    Image.new("RGB", (4, 3)).save(tmp_path / "cat.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_presets_of_the_documents_are_there() -> None:
    sizes, films = {"standard", "large", "extreme"}, {"film-high", "film-balanced", "film-compact"}
    assert sizes | films <= set(preset_names())
    assert "default" not in preset_names()


@pytest.mark.parametrize("name", preset_names())
def test_a_shipped_preset_is_valid_and_says_what_it_is_for(name: str) -> None:
    values = preset_values(name)
    config = set_config(**PICTURE, preset=name)
    for setting, value in values.items():
        found = getattr(config, setting)
        assert found in (value, (value,)), setting
    assert "input_filenames" not in values  # a preset does not choose the picture
    assert len(preset_purpose(name)) > 10


@pytest.mark.parametrize(
    ("name", "gaussians", "steps", "bands"),
    [
        ("standard", 10_000, 5_000, False),
        ("large", 20_000, 8_000, False),
        ("extreme", 30_000, 10_000, True),
    ],
)
def test_sizes_have_the_documented_values(
    name: str, gaussians: int, steps: int, bands: bool
) -> None:
    (run,) = set_config(**PICTURE, preset=name).runs()
    assert (run.gaussians, run.steps, run.use_gradient_checkpointing) == (gaussians, steps, bands)
    assert run.use_amp
    assert run.video_save_to_disk
    assert not run.make_training_video


@pytest.mark.parametrize(("name", "every"), [("high", 25), ("balanced", 50), ("compact", 100)])
def test_films_have_the_documented_values(name: str, every: int) -> None:
    config = set_config(**PICTURE, preset=f"film-{name}")
    assert (config.make_training_video, config.video_iterations, config.eval_steps) == (
        True, every, every,
    )  # fmt: skip
    assert config.gaussians == (Settings.model_fields["gaussians"].default,)


def test_several_presets_combine_the_later_one_and_keywords_win() -> None:
    config = set_config(**PICTURE, preset=["large", "film-high"])
    assert (config.gaussians, config.video_iterations) == ((20_000,), 25)
    assert set_config(**PICTURE, preset=("large", "standard")).gaussians == (10_000,)
    assert set_config(**PICTURE, preset="large", gaussians=[7, 8]).gaussians == (7, 8)
    Path("mine.yaml").write_text("seed: 5\n")
    mixed = set_config(**PICTURE, preset=["large", Path("mine.yaml")])
    assert (mixed.gaussians, mixed.seed) == ((20_000,), 5)
    assert set_config(**PICTURE, preset=[]) == set_config(**PICTURE)


def test_a_file_of_ones_own_is_told_from_a_name_by_its_suffix_or_folder() -> None:
    Path("large.yaml").write_text("seed: 5\n")
    assert preset_values("large.yaml") == {"seed": 5}
    assert preset_values("./large.yaml") == {"seed": 5}
    assert preset_path("large").parent.name == "cfgs"


@pytest.mark.parametrize(
    ("wrong", "fragments"),
    [
        ("larg", ["preset='larg'", "Did you mean 'large'?", "extreme"]),
        ("", ["preset=''", "standard"]),
        (["large", "nope.yaml"], ["nope.yaml"]),
        (7, ["preset=7", "a list"]),
        (["large", None], ["None", "a list"]),
        ("../cfgs", ["../cfgs"]),
    ],
)
def test_a_wrong_preset_is_explained(wrong: object, fragments: list[str]) -> None:
    with pytest.raises(SettingsError) as refused:
        set_config(**PICTURE, preset=wrong)
    for fragment in fragments:
        assert fragment in str(refused.value)


def test_a_value_out_of_range_names_all_presets_that_were_used() -> None:
    Path("bad.yaml").write_text("topk: 99\n")
    with pytest.raises(SettingsError, match=r"(?s)topk=99.*\['large', 'bad\.yaml'\]"):
        set_config(**PICTURE, preset=["large", "bad.yaml"])


@pytest.mark.parametrize(
    "options", [["--preset", "large", "film-high"], ["--preset", "large", "film-high", "--seed=3"]]
)
def test_the_shell_takes_names_too(options: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr("quick_start.train", lambda config, **_: seen.append(config) or Runs())
    main.cli(["train", "--input-filenames", "cat.png", *options, "--steps", "3"])
    (config,) = seen
    assert (config.gaussians, config.steps, config.video_iterations) == ((20_000,), (3,), 25)


def test_the_shell_explains_an_unknown_preset(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main.cli(["train", "--input-filenames", "cat.png", "--preset", "larg"])
    assert "Did you mean 'large'?" in capsys.readouterr().err
