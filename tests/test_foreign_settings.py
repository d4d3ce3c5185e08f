"""Settings and file names from anywhere: any value is understood or refused, any name works."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image

from fitting.gaussians import Gaussians
from quick_start import Run, TrainingConfig, compare_batch_results, set_config, train
from quick_start.config import AXES
from quick_start.runs import find_run
from settings import Settings, SettingsError
from settings_files import load_yaml
from tests.conftest import smooth_picture

UNHURRIED = hypothesis_settings(
    deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
EDGES = st.sampled_from(
    [0, 1, -1, 2, 10, 2**31, 2**63, 10**400, 0.0, -0.0, 1e-320, 1e308, float("inf"), float("nan"),
     "", "1", "1e3", "true", "nan", "none", "\0", "a\nb", "é" * 300, "../..", "~", "~no/x", "😀"]
)  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | EDGES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
NAMES = st.sampled_from([*TrainingConfig.model_fields, *Settings.model_fields])


def any_values(wanted: str) -> st.SearchStrategy[dict[str, Any]]:
    """Some settings with values of JSON; a picture is often named rightly."""
    named = st.fixed_dictionaries({}, optional={wanted: st.just("cat.png")})
    values = st.dictionaries(NAMES | st.text(max_size=9), JSON, max_size=4)
    return st.builds(lambda named, values: values | named, named, values)


@UNHURRIED
@given(any_values("input_filenames"))
@example({"input_filenames": ["a", "A"], "gaussians": [1, 10_000_000], "steps": [0]})
def test_any_configuration_is_refused_or_survives_json(values: dict[str, Any]) -> None:
    try:
        config = TrainingConfig.build(**values)
    except SettingsError:
        return
    for mode in ("python", "json"):
        dumped = config.model_dump(mode=mode)
        assert TrainingConfig.build(**dumped) == config
    assert TrainingConfig.build(**json.loads(json.dumps(config.model_dump(mode="json")))) == config
    counts = [len(getattr(config, name)) for name in AXES]
    assert len(config.runs()) == counts[0] * counts[1] * counts[2]
    assert str(config)
    assert config._repr_html_().encode()


@UNHURRIED
@given(any_values("input_filename"))
def test_any_settings_of_a_run_are_refused_or_survive_json(values: dict[str, Any]) -> None:
    try:
        settings = Settings.build(**values)
    except SettingsError:
        return
    assert Settings.build(**json.loads(json.dumps(settings.model_dump()))) == settings
    assert TrainingConfig.of(settings).runs() == [settings]


@UNHURRIED
@given(any_values("input_filenames"))
def test_set_config_takes_anything_that_is_written_down(
    input_dir: Path, values: dict[str, Any]
) -> None:
    given_values = values | {"input_dir": str(input_dir)}
    if values.get("input_filenames") == "cat.png":
        given_values["input_filenames"] = "small.png"
    try:
        config = set_config(**given_values)
    except SettingsError:
        return
    assert config.replace() == config


@UNHURRIED
@given(st.binary(max_size=80) | st.text(max_size=80).map(str.encode))
@example(b"{<<: {a: 1}}")
@example(b"? [a]\n: 1")
@example(b"? {a: 1}\n: 1")
@example(b"a: !!python/object/apply:os.mkdir [trap]")
@example(b"a: !!binary x")
@example(b"a: !!set {a, b}")
@example(b"a: !!timestamp 2000-13-99")
@example(b"a: 1:99999999999999999999:1")
@example(b"%TAG ! tag:x,2000:\n--- !a b")
def test_any_file_of_settings_is_read_or_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.yaml").write_bytes(content)
    try:
        values = load_yaml(tmp_path / "a.yaml")
    except SettingsError:
        return
    assert all(isinstance(name, str) for name in values)
    with pytest.raises(SettingsError):
        Settings.build(**values)
    assert not Path("trap").exists()


class TestMultiplication:
    """A few lines that stand for more than fits into memory."""

    def test_a_reference_is_refused(self, tmp_path):
        (tmp_path / "a.yaml").write_text("a: &a 1\nb: *a\n")
        with pytest.raises(SettingsError, match=r"a\.yaml: the reference \*a is not allowed"):
            load_yaml(tmp_path / "a.yaml")

    @pytest.mark.parametrize("form", ["[{}]", "{{<<: [{}]}}"])
    def test_references_do_not_multiply(self, tmp_path, form):
        first = "a0: &a0 [x, x]\n" if form == "[{}]" else "a0: &a0 {x: 1}\n"
        lines = [
            f"a{i + 1}: &a{i + 1} {form.format(', '.join([f'*a{i}'] * 10))}" for i in range(30)
        ]
        (tmp_path / "a.yaml").write_text(first + "\n".join(lines))
        begun = time.perf_counter()
        with pytest.raises(SettingsError, match="reference"):
            load_yaml(tmp_path / "a.yaml")
        assert time.perf_counter() - begun < 5

    def test_a_value_that_names_itself_over_and_over_is_shown_in_short(self):
        many: Any = "ha"
        for _ in range(50):
            many = {"a": many, "b": [many] * 9}
        begun = time.perf_counter()
        with pytest.raises(SettingsError) as refused:
            Settings.build(input_filename="a", gamma=many, blending=many, lpips_weights=many)
        assert len(str(refused.value)) < 2000
        assert time.perf_counter() - begun < 5

    def test_a_large_file_is_refused(self, tmp_path):
        (tmp_path / "a.yaml").write_text("a: 1\n" * 100_000)
        with pytest.raises(SettingsError, match="more than 262144 bytes"):
            load_yaml(tmp_path / "a.yaml")

    @pytest.mark.skipif(not Path("/dev/zero").exists(), reason="the system has no /dev/zero")
    def test_a_file_without_end_is_refused(self):
        with pytest.raises(SettingsError, match="more than"):
            load_yaml("/dev/zero")

    def test_a_long_list_is_checked_in_time(self):
        begun = time.perf_counter()
        config = TrainingConfig.build(input_filenames="a", steps=list(range(100_000)))
        assert len(config.steps) == 100_000
        with pytest.raises(SettingsError, match="7 is named more than once"):
            TrainingConfig.build(input_filenames="a", steps=[*range(100_000), 7])
        assert time.perf_counter() - begun < 10


# File names

ODD_NAMES = [
    "plain", "two words", "dots.in.it", "..two", "-rf", "--help", "木目", "😀", "é", "e\u0301", "ß",
    "con", "NUL", "aux.x", "new\nline", "tab\t", "%s{}", "'quoted\"", "$(touch trap)", "a&b;c",
    "#1", "Case", "case", "[x]", "*", "?", "~", "x" * 120, "ü" * 60, "y" * 240, "run.json",
]  # fmt: skip


@pytest.fixture
def odd_pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "input"
    folder.mkdir()
    for index, name in enumerate(ODD_NAMES):
        Image.fromarray(smooth_picture(8, 8) + np.uint8(index)).save(folder / f"{name}.png")
    if len(list(folder.iterdir())) < len(ODD_NAMES):
        pytest.skip("this file system has no two names that differ in case or composition alone")
    return folder


@pytest.mark.skipif(sys.platform == "win32", reason="Windows forbids such names")
def test_pictures_may_have_any_name(tmp_path: Path, odd_pictures: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = [f"{name}.png" for name in ODD_NAMES]
    config = set_config(
        input_filenames=names, gaussians=2, steps=1, device="cpu", input_dir=str(odd_pictures)
    )
    assert TrainingConfig.build(**json.loads(json.dumps(config.model_dump(mode="json")))) == config
    runs = train(config, show=False)
    assert [run.status for run in runs] == ["finished"] * len(names)
    session = tmp_path / "output" / "session_1"
    folders = [Path(run).resolve() for run in runs]
    assert {folder.parent for folder in folders} == {session}
    assert len({folder.name.casefold() for folder in folders}) == len(names)
    for run, name in zip(runs, names, strict=True):
        check_named(run, name)
    table = compare_batch_results("session_1")
    assert sorted(table["image"]) == sorted(ODD_NAMES)
    assert table._repr_html_().encode()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["input", "output"]


def check_named(run: Run, name: str) -> None:
    assert run.settings.input_filename == name
    assert run.picture["name"] == name.removesuffix(".png")
    assert find_run(str(run), run.folder.parent.parent).status == "finished"
    assert Gaussians.load(run.model_path).names == (name.removesuffix(".png"),)
    assert run._repr_html_().encode()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows forbids such names")
def test_a_stack_may_be_of_pictures_of_any_name(tmp_path: Path, odd_pictures: Path) -> None:
    names = [name for name in ODD_NAMES if len(name) < 200 and name[0] != "."]
    # Longer ones leave no room for "ground_truth_", and those with a dot in front are hidden.
    (tmp_path / "stack").mkdir()
    for name in names:
        with Image.open(odd_pictures / f"{name}.png") as image:
            image.convert("L").save(tmp_path / "stack" / f"{name}.png")
    options = {"gaussians": 2, "steps": 1, "device": "cpu", "output_dir": str(tmp_path / "output")}
    (run,) = train(set_config(input_filenames=str(tmp_path / "stack"), **options), show=False)
    written = {path.name for path in (run.folder / "other").iterdir()}
    assert {f"ground_truth_{name}.png" for name in names} <= written
    assert sorted(Gaussians.load(run.model_path).names) == sorted(names)
