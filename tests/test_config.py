"""What set_config accepts, refuses and shows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from quick_start import TrainingConfig, set_config
from quick_start.config import AXES
from settings import Settings, SettingsError


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with input/cat.png, input/dog.png and elsewhere.png."""
    (tmp_path / "input").mkdir()
    for name in ("input/cat.png", "input/dog.png", "elsewhere.png"):
        Image.new("RGB", (4, 3)).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


WRONG = [
    ({}, ["input_filenames is missing"]),
    ({"input_filename": "cat.png"}, ["input_filename", "it is now input_filenames"]),
    ({"num_gaussians": 5}, ["num_gaussians", "it is now gaussians"]),
    ({"max_steps": 5}, ["max_steps", "it is now steps"]),
    ({"sed": 5}, ["no setting sed", "Did you mean seed?"]),
    ({"gaussians": 0}, ["gaussians=0", "1 to 10000000"]),
    ({"gaussians": [10, 0]}, ["gaussians=0", "1 to 10000000"]),
    ({"gaussians": "many"}, ["gaussians='many'", "whole number"]),
    ({"gaussians": 10.5}, ["gaussians=10.5", "whole number"]),
    ({"gaussians": True}, ["gaussians=True", "no number"]),
    ({"gaussians": []}, ["gaussians=[]", "empty"]),
    ({"gaussians": {10, 20}}, ["gaussians=", "no order"]),
    ({"gaussians": [10, 20, 10]}, ["gaussians=", "10 is named more than once"]),
    ({"gaussians": None}, ["gaussians=None", "whole number"]),
    ({"steps": -1}, ["steps=-1", "0 to 10000000"]),
    ({"steps": [5, 5]}, ["steps=", "5 is named more than once"]),
    ({"input_filenames": []}, ["input_filenames=[]", "empty"]),
    ({"input_filenames": ""}, ["input_filenames=''"]),
    ({"input_filenames": 7}, ["input_filenames=7", "text"]),
    ({"input_filenames": "cta.png"}, ["input_filenames", "'cta.png'", "Did you mean 'cat.png'?"]),
    ({"input_filenames": ["cat.png", "x.png"]}, ["'x.png'", "cat.png, dog.png"]),
    ({"input_filenames": "no/cat.png"}, ["'no/cat.png'", "Check input_dir='input'"]),
    ({"input_filenames": ["cat.png", "input/cat.png"]}, ["are one picture"]),
    ({"input_filenames": ["cat.png", "./cat.png"]}, ["are one picture"]),
    ({"input_filenames": "x" * 300}, ["input_filenames", "xxx"]),
    ({"input_filenames": "cat\0.png"}, ["input_filenames", "cat"]),
    ({"input_dir": "nowhere"}, ["'cat.png'", "nowhere", "Check input_dir"]),
    ({"blending": "add"}, ["blending='add'", "normalized, additive"]),
    ({"topk": 99}, ["topk=99", "1 to 32"]),
    ({"gamma": float("nan")}, ["gamma=nan"]),
    ({"l1_loss_ratio": 0, "ssim_loss_ratio": 0}, ["nothing to optimise"]),
    ({"preset": "none.yaml"}, ["none.yaml"]),
]


@pytest.mark.parametrize(("wrong", "fragments"), WRONG, ids=[str(w)[:40] for w, _ in WRONG])
def test_a_wrong_setting_is_refused_with_its_name_and_what_is_allowed(
    pictures: Path, wrong: dict, fragments: list[str]
) -> None:
    good = {} if wrong.keys() & {"input_filename"} or not wrong else {"input_filenames": "cat.png"}
    with pytest.raises(SettingsError) as refused:
        set_config(**(good | wrong))
    for fragment in fragments:
        assert fragment in str(refused.value)


def test_every_problem_is_told_at_once_and_only_once(pictures: Path) -> None:
    with pytest.raises(SettingsError) as refused:
        set_config(input_filenames="cat.png", gaussians=[0], steps=-1, sed=4)
    lines = str(refused.value).splitlines()
    assert len(lines) == 3
    assert sorted(line.split()[0] for line in lines) == ["There", "gaussians=0:", "steps=-1:"]


def test_every_missing_picture_is_told_at_once(pictures: Path) -> None:
    with pytest.raises(SettingsError, match=r"(?s)'a\.png'.*'b\.png'"):
        set_config(input_filenames=["a.png", "cat.png", "b.png"])


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        (500, (500,)),
        ([500, 100], (500, 100)),
        ((7,), (7,)),
        (range(100, 400, 100), (100, 200, 300)),
        (np.array([3, 2]), (3, 2)),
        (np.int64(9), (9,)),
        ((n for n in (4, 5)), (4, 5)),
    ],
)
def test_an_axis_takes_one_value_or_several_and_keeps_their_order(
    pictures: Path, given: object, stored: tuple[int, ...]
) -> None:
    assert set_config(input_filenames="cat.png", gaussians=given).gaussians == stored


def test_runs_go_through_pictures_then_gaussians_then_steps(pictures: Path) -> None:
    config = set_config(
        input_filenames=["dog.png", "cat.png"], gaussians=[20, 10], steps=[1, 2], seed=7
    )
    runs = config.runs()
    assert [(r.input_filename, r.gaussians, r.steps) for r in runs] == [
        ("dog.png", 20, 1), ("dog.png", 20, 2), ("dog.png", 10, 1), ("dog.png", 10, 2),
        ("cat.png", 20, 1), ("cat.png", 20, 2), ("cat.png", 10, 1), ("cat.png", 10, 2),
    ]  # fmt: skip
    assert all(type(r) is Settings and r.seed == 7 for r in runs)


def test_without_more_a_config_is_one_run_with_all_defaults(pictures: Path) -> None:
    (run,) = set_config(input_filenames="cat.png").runs()
    assert run == Settings.build(input_filename="cat.png")


@pytest.mark.parametrize(
    "name", ["cat.png", "elsewhere.png", "./input/cat.png", Path("input/dog.png")]
)
def test_a_picture_is_found_in_input_dir_or_by_its_own_path(pictures: Path, name: object) -> None:
    assert set_config(input_filenames=name).input_filenames == (str(name),)
    absolute = pictures / "input" / "cat.png"
    assert set_config(input_filenames=absolute).input_filenames == (str(absolute),)


def test_a_folder_counts_as_a_picture(pictures: Path) -> None:
    assert len(set_config(input_filenames=str(pictures / "input")).runs()) == 1


def test_keywords_win_over_a_preset(pictures: Path) -> None:
    Path("fast.yaml").write_text("input_filename: dog.png\ngaussians: [5, 6]\nseed: 9\n")
    config = set_config(preset="fast.yaml", gaussians=8)
    assert config.input_filenames == ("dog.png",)
    assert config.gaussians == (8,)
    assert config.seed == 9
    assert set_config(preset="fast.yaml", input_filenames="cat.png").input_filenames == ("cat.png",)


def test_a_mistake_in_a_preset_names_the_file(pictures: Path) -> None:
    Path("bad.yaml").write_text("gausians: 5\n")
    with pytest.raises(SettingsError, match=r"(?s)gausians.*gaussians.*bad\.yaml"):
        set_config(preset="bad.yaml", input_filenames="cat.png")


def test_every_shipped_preset_is_accepted(pictures: Path) -> None:
    found = sorted((Path(__file__).parent.parent / "cfgs").glob("*.yaml"))
    assert found
    for preset in found:
        assert set_config(preset=preset, input_filenames="cat.png").runs()


def test_replace_checks_its_values_and_leaves_the_original_alone(pictures: Path) -> None:
    config = set_config(input_filenames="cat.png", gaussians=10, seed=5)
    other = config.replace(gaussians=[20, 30])
    assert (config.gaussians, other.gaussians, other.seed) == ((10,), (20, 30), 5)
    for wrong in ({"gaussians": 0}, {"sed": 1}, {"input_filenames": "x.png"}):
        with pytest.raises(SettingsError):
            config.replace(**wrong)


def test_a_config_cannot_be_changed_by_accident(pictures: Path) -> None:
    config = set_config(input_filenames="cat.png")
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 4


def test_every_setting_is_a_documented_keyword() -> None:
    parameters = set_config.__signature__.parameters
    assert set(parameters) == {*TrainingConfig.model_fields, "preset"}
    assert all(p.kind is p.KEYWORD_ONLY for p in parameters.values())
    for name, field in TrainingConfig.model_fields.items():
        assert f"\n{name} : " in set_config.__doc__
        assert field.description in set_config.__doc__
        if not field.is_required():
            assert parameters[name].default == field.default
    assert tuple(parameters)[:3] == AXES


def test_the_tab_key_completes_settings() -> None:
    from IPython.core.completer import IPCompleter, provisionalcompleter

    completer = IPCompleter(namespace={"set_config": set_config})
    text = "set_config(gauss"
    with provisionalcompleter():
        found = [c.text for c in completer.completions(text, len(text))]
    assert "gaussians=" in found


def test_a_config_shows_what_differs_and_the_number_of_runs(pictures: Path) -> None:
    config = set_config(
        input_filenames="cat.png", gaussians=[10, 20], steps=[5, 6, 7], background="<b>", topk=10
    )
    for shown in (str(config), repr(config), config._repr_html_()):
        assert "6 runs: 1 picture × 2 numbers of Gaussians × 3 numbers of steps" in shown
        assert "10, 20" in shown
        assert "5, 6, 7" in shown
        assert "topk" not in shown  # given, but the default
        assert "gamma" not in shown
    assert "background" in str(config)
    assert "&lt;b&gt;" in config._repr_html_()
    assert str(set_config(input_filenames="cat.png")).startswith("1 run\n")


def test_importing_is_fast_because_nothing_heavy_is_loaded() -> None:
    code = (
        "import sys; import quick_start; from quick_start import set_config, train, Run\n"
        "heavy = {'torch', 'numba', 'matplotlib', 'pandas', 'IPython', 'ipywidgets', 'scipy'}\n"
        "print(sorted(heavy & set(sys.modules)), sorted(dir(quick_start)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("[] ")
    assert "'view_results'" in done.stdout


def test_everything_exported_can_be_imported() -> None:
    import quick_start

    assert all(callable(getattr(quick_start, name)) for name in quick_start.__all__)
    with pytest.raises(AttributeError, match="nothing_like_this"):
        quick_start.nothing_like_this  # noqa: B018
