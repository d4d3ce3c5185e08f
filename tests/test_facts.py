"""A run.json from anywhere: what is shown of it is right, or one error says what is wrong."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import secrets
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image

from fitting.gaussians import Gaussians
from quick_start import Run, compare_batch_results, compare_slider, plot_metrics, view_results
from quick_start.runs import RunError, Runs, all_runs, find_runs
from tests.mutations import ANYWHERE, mutated
from tests.test_runs import make_run

UNHURRIED = partial(
    hypothesis_settings, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
    | st.sampled_from(
        [10**400, -1, 1e308, "\ud800", "\0", "../../x", "/etc/passwd", "x" * 3000, "<p>", "1e999"]
    ),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=6,
)  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of which everything can be shown."""
    run = make_run(tmp_path_factory.mktemp("runs") / "session_1" / "cat-50-30")
    settings, folder = run.settings, run.folder
    tensors = torch.rand(9, 2), torch.full((9, 2), 0.3), torch.zeros(9, 1), torch.rand(9, 3)
    Gaussians(*tensors, 32, 24, settings, (3,), ("cat",)).save(folder / "model.pt")
    (folder / "other").mkdir()
    Image.new("RGB", (32, 24), "red").save(folder / "other" / "ground_truth.png")
    columns = "step,total_loss,l1_loss,l2_loss,ssim_loss,psnr,ssim,num_gaussians,num_bytes"
    rows = [f"{i},1,1,1,1,{20 + i},0.5,9,99,{i},{i}" for i in range(4)]
    head = f"{columns},render_time_accum,total_time_accum"
    (folder / "metrics.csv").write_text("\n".join([head, *rows]) + "\n")
    return run


LOOKS = (
    lambda run: view_results(run).png(),
    lambda run: plot_metrics(run).png(),
    lambda run: compare_slider(run)._repr_html_().encode(),
)


def show_cheaply(run: Run) -> None:
    run.is_complete  # noqa: B018
    for html in (run._repr_html_(), Runs([run, run])._repr_html_()):
        html.encode()  # it can be sent and stored
    table = compare_batch_results([run])
    table.table_html().encode()
    assert len(table) == 1
    for name in ("status", "settings", "picture", "scores"):
        accepts_or_tells(lambda name=name: getattr(run, name))
    assert find_runs(str(run), run.folder.parent.parent) == [run]
    assert all_runs(run.folder.parent.parent) == [run]


def show_all(run: Run) -> None:
    compare_batch_results([run, run])._repr_html_().encode()
    for look in LOOKS:
        accepts_or_tells(lambda look=look: look(run))


def accepts_or_tells(action: Callable[[], Any]) -> None:
    with contextlib.suppress(RunError):
        action()


def paths(value: Any, path: tuple = ()) -> list[tuple]:
    """The place of everything in a record."""
    if not isinstance(value, dict | list):
        return [path]
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return [path, *(found for key, inner in items for found in paths(inner, (*path, key)))]


def replaced(record: dict[str, Any], path: tuple, value: Any) -> Any:
    if not path:
        return value
    changed = copy.deepcopy(record)
    place: Any = changed
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return changed


def test_what_is_whole_is_shown(whole: Run) -> None:
    show_cheaply(whole)
    for look in LOOKS:
        assert look(whole)


@UNHURRIED(max_examples=300)
@given(st.data())
@example(None)
def test_any_fact_may_be_anything(whole: Run, data: Any) -> None:
    before = (whole.folder / "run.json").read_text()
    try:
        record = json.loads(before)
        if data is None:
            record = {}
        else:
            for _ in range(data.draw(st.integers(1, 3))):
                place = data.draw(st.sampled_from(paths(record)))
                record = replaced(record, place, data.draw(JSON))
                if not isinstance(record, dict):
                    break
        (whole.folder / "run.json").write_text(json.dumps(record))
        show_cheaply(whole)
    finally:
        (whole.folder / "run.json").write_text(before)


@UNHURRIED(max_examples=40)
@given(st.data())
def test_any_fact_may_be_anything_where_pictures_are_shown(whole: Run, data: Any) -> None:
    before = (whole.folder / "run.json").read_text()
    try:
        record = json.loads(before)
        place = data.draw(st.sampled_from([p for p in paths(record) if p[:1] != ("settings",)]))
        record = replaced(record, place, data.draw(JSON))
        (whole.folder / "run.json").write_text(json.dumps(record))
        show_all(whole)
    finally:
        (whole.folder / "run.json").write_text(before)


def test_any_bytes_may_stand_in_the_file(whole: Run, rng: np.random.Generator) -> None:
    before = (whole.folder / "run.json").read_bytes()
    try:
        for _ in range(300):
            (whole.folder / "run.json").write_bytes(mutated(rng, before, [before], ANYWHERE))
            show_cheaply(whole)
    finally:
        (whole.folder / "run.json").write_bytes(before)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[" * 200_000, "nested too deeply"),
        ('{"a":' * 200_000, "nested too deeply"),
        ("1" * 5000, "is damaged"),
        ('{"steps_done": ' + "1" * 4000 + "}", "its steps_done cannot be 111"),
        ('{"num_gaussians": -1}', "its num_gaussians cannot be -1"),
        ('{"num_gaussians": true}', "its num_gaussians cannot be True"),
        ('{"status": ["finished"]}', "its status cannot be ['finished']"),
        ('{"scores": {"psnr": "best"}}', "its scores cannot be {'psnr': 'best'}"),
        ('{"scores": {"psnr": NaN}}', "its scores cannot be {'psnr': nan}"),
        ('{"picture": {"names": ["../../x"]}}', "its picture cannot be"),
        ('{"picture": {"width": 1e9}}', "its picture cannot be"),
        ("\ufeff{}", "is damaged"),
        (" " * (2**24 + 1), "more than 16777216 bytes"),
    ],
)
def test_what_cannot_be_is_named_with_the_file(tmp_path: Path, content: str, words: str) -> None:
    run = make_run(tmp_path / "s" / "r")
    (run.folder / "run.json").write_text(content)
    with pytest.raises(RunError, match=r"run\.json is damaged: ") as caught:
        _ = run.status
    assert words in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "facts",
    [
        {"status": "\ud800"},
        {"error": "\udcff", "status": "failed"},
        {"picture": {"name": "\udcff", "names": ["\udcff"]}},
        {"reasons": {"psnr": "\udcff"}},
    ],
)
def test_what_is_no_character_is_shown_escaped(tmp_path: Path, facts: dict[str, Any]) -> None:
    run = make_run(tmp_path / "s" / "r", **facts)
    for html in (run._repr_html_(), compare_batch_results([run, run])._repr_html_()):
        html.encode()
    text = run._repr_html_() + compare_batch_results([run])._repr_html_()
    assert "\\ud800" in text or "\\udcff" in text


def test_a_pipe_in_place_of_the_record_is_not_waited_for(tmp_path: Path) -> None:
    run = make_run(tmp_path / "s" / "r")
    (run.folder / "run.json").unlink()
    os.mkfifo(run.folder / "run.json")
    begun = time.perf_counter()
    with pytest.raises(RunError, match="no plain file"):
        _ = run.status
    assert time.perf_counter() - begun < 5


def test_a_record_leads_to_no_picture_elsewhere(tmp_path: Path) -> None:
    secret = secrets.token_hex(8)
    Image.new("RGB", (32, 24)).save(tmp_path / f"{secret}.png")
    run = make_run(
        tmp_path / "s" / "r", picture={"name": "a", "names": [f"/../../../{secret}", "b"]}
    )
    (run.folder / "other" / "ground_truth_").mkdir(parents=True)
    (run.folder / "model.pt").touch()
    with pytest.raises(RunError, match=r"its picture cannot be"):
        view_results(run)


def test_the_size_in_a_record_costs_no_memory(whole: Run) -> None:
    before = (whole.folder / "run.json").read_text()
    try:
        facts = json.loads(before)
        facts["picture"] |= {"width": 2**50, "height": 2**50}
        (whole.folder / "run.json").write_text(json.dumps(facts))
        assert view_results(whole).png()  # at the size of the ground truth
    finally:
        (whole.folder / "run.json").write_text(before)


@pytest.mark.parametrize("names", [[], ["a", "b"]])
def test_names_and_model_that_do_not_belong_together_are_told(whole: Run, names: list) -> None:
    before = (whole.folder / "run.json").read_text()
    try:
        facts = json.loads(before) | {"picture": {"name": "a", "names": names}}
        (whole.folder / "run.json").write_text(json.dumps(facts))
        with pytest.raises(RunError, match=rf"names {len(names)} pictures"):
            view_results(whole)
    finally:
        (whole.folder / "run.json").write_text(before)


def test_a_picture_that_is_large_is_shown_without_a_warning(tmp_path: Path, monkeypatch) -> None:
    run = make_run(tmp_path / "s" / "r")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)  # of 768 pixels: Pillow would refuse it
    assert "data:image/jpeg" in run._repr_html_()


def test_a_folder_in_place_of_the_film_leaves_a_card(tmp_path: Path) -> None:
    run = make_run(tmp_path / "s" / "r")
    run.film_path.mkdir()
    assert "31.75 dB" in run._repr_html_()


@pytest.mark.parametrize(
    "content", ["step\n1\n", "a,b\n1,2\n", "\0", "step,psnr\n1,x\n", "\ud800"[:0] + "x" * 100]
)
def test_odd_measurements_are_named(whole: Run, content: str) -> None:
    before = whole.metrics_path.read_text()
    try:
        whole.metrics_path.write_text(content)
        with pytest.raises(RunError, match=r"metrics\.csv cannot be read"):
            plot_metrics(whole)
    finally:
        whole.metrics_path.write_text(before)
