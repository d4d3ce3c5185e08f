"""What is typed becomes a configuration, or says under its setting why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image

from quick_start import TrainingConfig, set_config
from quick_start.form.draft import (
    FIELDS,
    call_text,
    choices,
    defaults,
    join_names,
    kind,
    read,
    split_names,
    typed,
)
from settings import SettingsError
from tests.test_settings import DEFAULTS, another

NAMES = ["cat.png", "a, b.png", 'say "hi".png', "ünï.png", "#.png", "it's.png"]


@pytest.fixture(autouse=True)
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with some pictures of unusual names."""
    for name in NAMES:
        Image.new("RGB", (4, 3)).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def reading(**changes: Any):
    return read(defaults() | {"input_filenames": "cat.png"} | changes)


def config_of(text: str) -> TrainingConfig:
    """What the shown call makes when it is run."""
    scope: dict[str, Any] = {"set_config": set_config}
    exec(text, scope)
    return scope["config"]


def test_what_nobody_touched_is_the_default_configuration() -> None:
    assert reading().config == set_config(input_filenames="cat.png")
    assert reading().problems == {}


@pytest.mark.parametrize("name", [name for name in FIELDS if name != "input_filenames"])
def test_every_setting_can_be_typed_and_survives_the_call(name: str) -> None:
    value = another(name) if name in type(DEFAULTS).model_fields else 7
    found = reading(**{name: typed(name, value)})
    if name == "input_dir":  # in which there is no such folder, but the picture lies here, too
        assert found.config is not None
    assert found.problems == {}
    wanted = set_config(**{"input_filenames": "cat.png", name: value})
    assert found.config == wanted
    assert config_of(call_text(found.config)) == wanted


@pytest.mark.parametrize("name", FIELDS)
def test_kinds_come_from_the_declarations(name: str) -> None:
    default = defaults()[name]
    assert isinstance(default, bool) == (kind(name) == "switch")
    if kind(name) == "choice":
        assert default in choices(name)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("1000, 5000", (1000, 5000)), ("1000,5000", (1000, 5000)), (" 7 ", (7,)),
        ("5, 6,", (5, 6)), ("12,34", (12, 34)), ("1_000", (1000,)),
    ],
)  # fmt: skip
def test_lists_of_numbers(text: str, wanted: tuple[int, ...]) -> None:
    assert reading(gaussians=text).config.gaussians == wanted


@pytest.mark.parametrize("text", ["1,000", "500,600", "5, 1,000,000"])
def test_a_comma_that_may_be_either_is_asked_about(text: str) -> None:
    said = reading(steps=text).problems["steps"]
    assert f"steps={text!r}" in said
    assert "space after each comma" in said


WRONG = [
    ("gaussians", "0", "gaussians=0"), ("gaussians", "many", "gaussians='many'"),
    ("gaussians", "", "list is empty"), ("gaussians", "5, 5", "more than once"),
    ("gaussians", "1e99", "gaussians=1e+99"), ("steps", "-1", "steps=-1"),
    ("steps", "1.5", "whole number"), ("topk", "33", "1 to 32"), ("topk", "", "topk=''"),
    ("gamma", "nan", "gamma=nan"), ("gamma", "1,5", "gamma='1,5'"), ("seed", "9" * 6000, "seed="),
    ("input_dir", "", "input_dir=''"), ("render_height", "0", "render_height=0"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "said"), WRONG, ids=[f"{n}-{t[:9]}" for n, t, _ in WRONG])
def test_a_wrong_value_is_explained_in_the_settings_own_words(
    name: str, text: str, said: str
) -> None:
    found = reading(**{name: text})
    assert found.config is None
    assert list(found.problems) == [name]
    assert said in found.problems[name]
    assert FIELDS[name].description in found.problems[name]


def test_every_wrong_field_is_explained_at_once() -> None:
    assert set(reading(seed="x", topk="y").problems) == {"seed", "topk"}


def test_what_only_several_settings_show_stands_under_each_of_them() -> None:
    found = reading(l1_loss_ratio="0", ssim_loss_ratio="0").problems
    assert set(found) == {"l1_loss_ratio", "l2_loss_ratio", "ssim_loss_ratio"}
    assert "nothing to optimise" in found["l1_loss_ratio"]


def test_a_missing_picture_is_explained_under_the_pictures() -> None:
    found = reading(input_filenames="cat.png, dog.png, cow.png").problems
    assert list(found) == ["input_filenames"]
    assert "'dog.png'" in found["input_filenames"]
    assert "'cow.png'" in found["input_filenames"]


def test_nothing_is_typed_where_nothing_is_meant() -> None:
    config = reading(render_height=" ", saliency_map="").config
    assert (config.render_height, config.saliency_map) == (None, None)


def test_pictures_with_commas_and_quotes_survive_typing_and_the_call() -> None:
    config = reading(input_filenames=join_names(NAMES)).config
    assert config.input_filenames == tuple(NAMES)
    assert config_of(call_text(config)) == config


@given(st.lists(st.text(min_size=1).filter(lambda t: t == " ".join(t.split()) and t.isprintable())))
def test_names_survive_joining_and_splitting(names: list[str]) -> None:
    assert split_names(join_names(names)) == names


@hypothesis_settings(deadline=None)
@given(st.dictionaries(st.sampled_from([n for n in FIELDS if kind(n) != "switch"]), st.text()))
@example({"input_filenames": "\rcat.png"})  # pasted from elsewhere
def test_whatever_is_typed_gives_a_configuration_or_explanations(values: dict[str, str]) -> None:
    found = read(defaults() | {"input_filenames": "cat.png"} | values)
    assert (found.config is None) == bool(found.problems)
    assert all(text and name in FIELDS for name, text in found.problems.items())


@hypothesis_settings(deadline=None)
@given(st.text(st.characters(codec="utf-8")), st.text(st.characters()))
def test_the_call_holds_any_text(output: str, colour: str) -> None:
    try:
        config = set_config(input_filenames="cat.png", output_dir=output, background=colour)
    except SettingsError:
        return
    text = call_text(config)
    text.encode()
    assert config_of(text) == config


def test_the_call_shows_what_differs_and_what_is_trained_alone() -> None:
    config = set_config(input_filenames=["cat.png", "ünï.png"], gaussians=[5, 6], topk=3)
    assert call_text(config) == (
        "config = set_config(\n"
        '    input_filenames=["cat.png", "ünï.png"],\n'
        "    gaussians=[5, 6],\n"
        "    steps=[2000],\n"
        "    topk=3,\n"
        ")"
    )
