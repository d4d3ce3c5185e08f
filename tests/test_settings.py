"""Settings: declared once, documented from there, and nothing wrong gets in unexplained."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import annotated_types
import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import settings_files
from quick_start import TrainingConfig
from settings import OLD_NAMES, Settings, SettingsError, describe_range, groups
from settings_files import load_yaml

ROOT = Path(__file__).parent.parent
FIELDS = Settings.model_fields
KINDS = (annotated_types.Ge, annotated_types.Gt, annotated_types.Le, annotated_types.Lt)
UNHURRIED = hypothesis_settings(deadline=None)  # the machine may be busy with other things
GIVEN = {"input_filename": "cat.png"}
DEFAULTS = Settings.build(**GIVEN)


def bounds(name: str) -> list[Any]:
    return [bound for bound in FIELDS[name].metadata if isinstance(bound, KINDS)]


def limit_of(bound: Any) -> float:
    return getattr(bound, type(bound).__name__.lower())


def kinds(name: str) -> set[type]:
    """int for ``int | None``."""
    annotation = FIELDS[name].annotation
    return set(getattr(annotation, "__args__", (annotation,))) & {int, float, str, bool}


NUMERIC = [name for name in FIELDS if kinds(name) & {int, float}]
FLOATS = [name for name in FIELDS if float in kinds(name)]
BOUNDS = [(name, bound) for name in NUMERIC for bound in bounds(name)]


def another(name: str) -> Any:
    """An allowed value that is not the default."""
    value = getattr(DEFAULTS, name)
    if isinstance(value, bool):
        return not value
    if name in NUMERIC:
        closed = [b for b in bounds(name) if not isinstance(b, annotated_types.Gt)]
        return next(limit for limit in map(limit_of, closed) if limit != value)
    if (options := re.findall(r"\w+", describe_range(Settings, name)))[0] == "one":
        return next(option for option in options[2:] if option != value)
    return "else # where: 'ü'"


class TestDeclarations:
    @pytest.mark.parametrize("name", FIELDS)
    def test_every_setting_has_a_help_a_group_and_a_unit(self, name):
        field = FIELDS[name]
        assert re.fullmatch(r"[\w\d].{10,}\.", field.description)
        assert field.json_schema_extra["group"] in groups()
        assert field.json_schema_extra["unit"] in ("", "px", "bit", "steps")
        assert describe_range(Settings, name)

    @pytest.mark.parametrize("name", NUMERIC)
    def test_every_number_has_a_lower_and_an_upper_bound(self, name):
        assert sum(isinstance(bound, KINDS[:2]) for bound in bounds(name)) == 1
        assert sum(isinstance(bound, KINDS[2:]) for bound in bounds(name)) == 1

    def test_the_settings_of_the_documents_are_all_there(self):
        names = """gaussians steps use_progressive init_gaussian_file allow_partial
            adaptive_refinement adaptive_error_threshold eval_steps seed device quantize pos_bits
            scale_bits rot_bits feat_bits gamma downsample_ratio init_scale init_mode
            init_random_ratio topk blending inverse_scale color_init l1_loss_ratio l2_loss_ratio
            ssim_loss_ratio pos_lr scale_lr rot_lr feat_lr lr_schedule decay_ratio
            check_decay_steps max_decay_times decay_threshold initial_ratio add_steps add_times
            post_min_steps save_ckpt_steps save_image_steps vis_gaussians render_height use_amp
            use_gradient_checkpointing"""
        assert set(names.split()) <= FIELDS.keys()

    def test_defaults_are_those_of_the_method(self):
        wanted = {
            "topk": 10, "blending": "normalized", "init_random_ratio": 0.3, "init_scale": 5.0,
            "l1_loss_ratio": 1.0, "l2_loss_ratio": 0.0, "ssim_loss_ratio": 0.1, "pos_lr": 5e-4,
            "scale_lr": 2e-3, "rot_lr": 2e-3, "feat_lr": 5e-3, "eval_steps": 100,
            "decay_ratio": 10.0, "check_decay_steps": 1000, "max_decay_times": 1,
            "decay_threshold": 1e-3, "initial_ratio": 0.5, "add_steps": 500, "add_times": 4,
            "post_min_steps": 3000, "adaptive_error_threshold": 0.3, "pos_bits": 16,
        }  # fmt: skip
        assert {name: getattr(DEFAULTS, name) for name in wanted} == wanted

    def test_groups_hold_every_setting_once_with_what_is_trained_on_first(self):
        for model in (Settings, TrainingConfig):
            grouped = groups(model)
            names = [name for group in grouped.values() for name in group]
            assert sorted(names) == sorted(model.model_fields)
            assert next(iter(grouped.values()))[0].startswith("input_filename")
            assert grouped["Gaussians"][0] == "gaussians"
            assert grouped["Training"][0] == "steps"


class TestDerivedFiles:
    @pytest.mark.parametrize(
        ("path", "text"),
        [
            ("cfgs/default.yaml", settings_files.as_yaml()),
            ("docs/settings.md", settings_files.as_markdown()),
        ],
    )
    def test_the_file_is_what_the_declarations_give(self, path, text):
        found = (ROOT / path).read_text(encoding="utf-8")
        assert found == text, f"{path} is out of date: run python -m settings"

    def test_python_m_settings_writes_both(self, tmp_path):
        for folder in ("cfgs", "docs"):
            (tmp_path / folder).mkdir()
        for name in ("settings.py", "settings_files.py"):
            (tmp_path / name).write_bytes((ROOT / name).read_bytes())
        subprocess.run([sys.executable, "-m", "settings"], cwd=tmp_path, check=True)
        for path in ("cfgs/default.yaml", "docs/settings.md"):
            assert (tmp_path / path).read_bytes() == (ROOT / path).read_bytes()

    def test_default_yaml_loads_back_to_the_defaults(self):
        assert Settings.build(**load_yaml(ROOT / "cfgs" / "default.yaml")) == DEFAULTS

    def test_the_table_shows_every_setting(self):
        lines = settings_files.as_markdown().splitlines()
        for name, field in FIELDS.items():
            (line,) = (line for line in lines if f"| `{name}` |" in line)
            assert line.count("|") == 5
            assert field.description in line
            assert describe_range(Settings, name) in line


class TestRoundTrip:
    @pytest.mark.parametrize("name", [name for name in FIELDS if name != "input_filename"])
    def test_a_changed_setting_survives_yaml(self, tmp_path, name):
        changed = Settings.build(**GIVEN | {name: another(name)})
        assert changed != DEFAULTS
        path = tmp_path / "preset.yaml"
        path.write_text(yaml.safe_dump(changed.model_dump(), allow_unicode=True), encoding="utf-8")
        assert Settings.build(**load_yaml(path)) == changed

    @UNHURRIED
    @given(st.data())
    def test_any_settings_survive_yaml(self, data):
        chosen = {}
        for name in data.draw(st.sets(st.sampled_from(NUMERIC))):
            low, high = sorted(map(limit_of, bounds(name)))
            draw = st.integers(low, high) if int in kinds(name) else st.floats(low, high)
            chosen[name] = data.draw(draw)
        try:
            settings = Settings.build(**GIVEN | chosen)
        except SettingsError:  # an open bound, or all losses 0
            return
        again = yaml.safe_load(yaml.safe_dump(settings.model_dump()))
        assert Settings.build(**again) == settings


class TestRefusals:
    @pytest.mark.parametrize(
        ("name", "bound"), BOUNDS, ids=[f"{n}-{type(b).__name__.lower()}" for n, b in BOUNDS]
    )
    def test_a_bound_holds_on_its_very_edge(self, name, bound):
        limit = limit_of(bound)
        outwards = -1 if isinstance(bound, KINDS[:2]) else 1
        beyond = limit + outwards if int in kinds(name) else math.nextafter(limit, outwards * 1e9)
        is_open = isinstance(bound, annotated_types.Gt | annotated_types.Lt)
        for value in (limit, beyond) if is_open else (beyond,):
            with pytest.raises(SettingsError, match=rf"^{name}=.*; allowed: ") as refused:
                Settings.build(**GIVEN | {name: value})
            assert describe_range(Settings, name) in str(refused.value)
            assert "\n" not in str(refused.value)
        if not is_open:
            assert getattr(Settings.build(**GIVEN | {name: limit}), name) == limit

    @pytest.mark.parametrize("name", NUMERIC)
    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_what_is_no_finite_number_is_refused(self, name, value):
        with pytest.raises(SettingsError, match=f"^{name}="):
            Settings.build(**GIVEN | {name: value})

    @pytest.mark.parametrize("name", FIELDS)
    def test_a_value_of_another_kind_is_refused(self, name):
        with pytest.raises(SettingsError, match=f"^{name}="):
            Settings.build(**GIVEN | {name: object()})

    @pytest.mark.parametrize("name", [n for n in FIELDS if FIELDS[n].default is not None])
    def test_none_is_refused_where_it_means_nothing(self, name):
        with pytest.raises(SettingsError, match=f"^{name}=None"):
            Settings.build(**GIVEN | {name: None})

    @pytest.mark.parametrize(
        "name",
        ["input_filename", "input_dir", "output_dir", "saliency_map", "init_gaussian_file",
         "lpips_weights"],
    )  # fmt: skip
    def test_an_empty_file_name_is_refused(self, name):
        with pytest.raises(SettingsError, match=f"^{name}=''"):
            Settings.build(**GIVEN | {name: ""})

    def test_a_fraction_is_no_whole_number(self):
        with pytest.raises(SettingsError, match=r"gaussians=10\.5.*whole number"):
            Settings.build(**GIVEN, gaussians=10.5)

    def test_a_loss_of_nothing_is_refused(self):
        with pytest.raises(SettingsError, match="nothing to optimise"):
            Settings.build(**GIVEN, l1_loss_ratio=0, ssim_loss_ratio=0)
        Settings.build(**GIVEN, l1_loss_ratio=0, l2_loss_ratio=1, ssim_loss_ratio=0)

    def test_the_picture_must_be_named(self):
        with pytest.raises(SettingsError, match=r"^input_filename is missing"):
            Settings.build()

    def test_every_problem_is_told_at_once(self):
        with pytest.raises(SettingsError) as refused:
            Settings.build(gaussians=0, topk="many", sede=4)
        lines = str(refused.value).splitlines()
        assert len(lines) == 4
        for word in ("gaussians=0", "topk='many'", "seed?", "input_filename is missing"):
            assert sum(word in line for line in lines) == 1

    @pytest.mark.parametrize("name", FIELDS)
    def test_settings_cannot_be_changed(self, name):
        with pytest.raises(ValueError, match="frozen"):
            setattr(DEFAULTS, name, getattr(DEFAULTS, name))


class TestNames:
    @pytest.mark.parametrize("name", FIELDS)
    def test_a_letter_typed_twice_is_answered_with_the_right_name(self, rng, name):
        at = int(rng.integers(len(name)))
        slip = name[:at] + name[at] + name[at:]
        with pytest.raises(SettingsError) as told:
            Settings.build(**GIVEN, **{slip: 1})
        assert f"no setting {slip}. Did you mean {name}?" in str(told.value)

    @pytest.mark.parametrize("name", OLD_NAMES)
    def test_an_old_name_is_answered_with_the_one_of_today(self, name):
        assert name not in TrainingConfig.model_fields
        assert re.match(r"\w+", OLD_NAMES[name])[0] in TrainingConfig.model_fields
        with pytest.raises(SettingsError) as told:
            TrainingConfig.build(input_filenames="cat.png", **{name: 1})
        assert str(told.value) == f"There is no setting {name}; it is now {OLD_NAMES[name]}."

    def test_a_name_like_no_other_is_answered_with_the_documentation(self):
        with pytest.raises(SettingsError, match=r"no setting xqzw\. All settings: docs/"):
            Settings.build(**GIVEN, xqzw=1)


class TestFileNames:
    def test_paths_become_text_and_a_tilde_the_home_folder(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("USERPROFILE", str(tmp_path))
        settings = Settings.build(
            input_filename=Path("a.png"), input_dir=tmp_path, output_dir="~/out",
            saliency_map=Path("~/map.png"),
        )  # fmt: skip
        assert settings.input_filename == "a.png"
        assert settings.input_dir == str(tmp_path)
        assert settings.output_dir == str(tmp_path / "out")
        assert settings.saliency_map == str(tmp_path / "map.png")


class TestLoadYaml:
    @pytest.mark.parametrize(
        "text",
        ["", "- 1\n- 2\n", "gamma", "a: [", "a: 2024-99-99\n", "\0", "[" * 2000, "a: !!x 1\n"],
    )
    def test_a_file_that_holds_no_settings_is_named(self, tmp_path, text):
        path = tmp_path / "bad.yaml"
        path.write_text(text)
        with pytest.raises(SettingsError, match=r"bad\.yaml"):
            load_yaml(path)

    @pytest.mark.parametrize("name", ["missing.yaml", ".", "a\0b", "x" * 300])
    def test_a_file_that_cannot_be_read_is_named(self, tmp_path, monkeypatch, name):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SettingsError, match="Cannot read settings"):
            load_yaml(name)

    def test_bytes_that_are_no_text_are_refused(self, tmp_path):
        (tmp_path / "bad.yaml").write_bytes(b"a: \xff\xfe\n")
        with pytest.raises(SettingsError, match=r"bad\.yaml"):
            load_yaml(tmp_path / "bad.yaml")

    def test_names_are_text_so_that_they_can_be_keywords(self, tmp_path):
        (tmp_path / "odd.yaml").write_text("7: 2\ntrue: 3\n")
        assert load_yaml(tmp_path / "odd.yaml") == {"7": 2, "True": 3}


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
    | st.complex_numbers() | st.decimals() | st.dates()
    | st.sampled_from([object(), np.float32(0.5), np.int64(3), np.nan, Path("a"), int]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=4,
)  # fmt: skip
ANY_NAME = st.sampled_from([*FIELDS, "cls", "self", "values", "model_config"]) | st.text()


@UNHURRIED
@given(st.dictionaries(ANY_NAME, VALUES, max_size=6))
def test_any_keywords_give_settings_or_an_explanation(keywords):
    try:
        settings = Settings.build(**GIVEN | keywords)
    except SettingsError:
        return
    assert Settings.build(**settings.model_dump()) == settings


def test_a_value_too_long_to_be_shown_is_refused_all_the_same():
    with pytest.raises(SettingsError, match=r"^gaussians=\(int\): "):
        Settings.build(**GIVEN, gaussians=10**5000)  # which Python itself refuses to print
    with pytest.raises(SettingsError) as refused:
        Settings.build(**GIVEN, gaussians="9" * 100_000)
    assert len(str(refused.value)) < 500
