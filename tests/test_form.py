"""The form: what is typed, clicked and uploaded, and a training that it starts and stops."""

from __future__ import annotations

import io
import re
import threading
import time
from datetime import UTC, datetime
from html import unescape
from pathlib import Path
from typing import Any

import ipywidgets
import pytest
from PIL import Image

from quick_start import TrainingConfig, set_config, training
from quick_start.form import CHOOSE, FIRST, SettingsForm, settings_form
from quick_start.form.background import Latest
from quick_start.form.draft import FIELDS, kind
from quick_start.runs import Run
from settings import SettingsError, groups
from tests.conftest import smooth_picture

TINY = {"gaussians": 30, "steps": 4, "eval_steps": 2}


@pytest.fixture(autouse=True)
def current(input_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with input/small.png."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def form() -> SettingsForm:
    return settings_form()


def shown(widget: ipywidgets.Widget) -> str:
    """The text of a widget and of all in it, without HTML."""
    inner = " ".join(shown(child) for child in getattr(widget, "children", ()))
    value = widget.value if isinstance(widget, ipywidgets.HTML) else ""
    return unescape(re.sub("<style>.*?</style>|<[^>]*>", "", value, flags=re.DOTALL)) + inner


def picture(folder: Path, name: str, level: int = 0) -> None:
    Image.fromarray(smooth_picture(20, 30) // (level + 1)).save(folder / name)


def file(name: str, content: bytes) -> dict[str, Any]:
    """A file as the browser's upload gives it."""
    return {
        "name": name, "type": "image/png", "size": len(content), "content": memoryview(content),
        "last_modified": datetime.now(UTC),
    }  # fmt: skip


class TestFields:
    def test_every_setting_is_there_once_with_help_unit_and_allowed_values(self, form):
        inputs = [w for w in walk(form) if w in [f.input for f in form.fields.values()]]
        assert len(inputs) == len(set(map(id, inputs))) == len(FIELDS)
        for name, field in FIELDS.items():
            text = shown(form.fields[name].row) + shown(form.fields[name].note)
            assert field.description in text
            assert field.json_schema_extra["unit"] in text
            assert name in text

    def test_what_is_used_most_stands_first_and_the_rest_is_closed(self, form):
        assert form.more.selected_index is None
        inside = {id(widget) for widget in walk(form.more)}
        outside = {name for name, f in form.fields.items() if id(f.input) not in inside}
        assert outside == set(FIRST)
        assert [title.split(" (")[0] for title in form.tabs.titles] == list(groups(TrainingConfig))

    @pytest.mark.parametrize("name", FIELDS)
    def test_the_kind_of_input_fits_the_setting(self, form, name):
        wanted = {"switch": ipywidgets.Checkbox, "choice": ipywidgets.Dropdown}
        assert type(form.fields[name].input) is wanted.get(kind(name), ipywidgets.Text)

    def test_it_starts_with_what_is_asked_for(self):
        form = settings_form(preset="large", steps=[5, 6], seed=9, render_height=None)
        assert form.config == set_config(
            input_filenames="small.png", preset="large", steps=[5, 6], seed=9
        )
        form = settings_form(gaussians=0)
        assert "gaussians=0" in form.fields["gaussians"].problem
        with pytest.raises(SettingsError, match=r"Did you mean seed\?"):
            settings_form(sead=4)
        with pytest.raises(SettingsError, match=r"Did you mean 'large'\?"):
            settings_form(preset="larg")


def walk(widget: ipywidgets.Widget):
    yield widget
    for child in getattr(widget, "children", ()):
        yield from walk(child)


class TestTyping:
    def test_the_call_follows_what_is_typed_and_gives_the_same_configuration(self, form):
        form.fields["gaussians"].value = "10, 20"
        form.fields["blending"].value = "additive"
        form.fields["make_training_video"].value = True
        scope: dict[str, Any] = {"set_config": set_config}
        exec(form.call.value, scope)
        assert scope["config"] == form.config
        assert form.config.gaussians == (10, 20)
        assert form.config.make_training_video
        assert form.call.value in repr(form)

    def test_a_wrong_value_is_explained_where_it_is_typed_and_kept(self, form):
        field = form.fields["topk"]
        field.value = "99"
        assert "topk=99" in shown(field.note)
        assert "1 to 32" in shown(field.note)
        assert form.train.disabled
        assert "topk=99" in shown(form.status)
        assert "(1 changed, 1 to correct)" in form.more.titles[0]
        assert field.value == "99"
        with pytest.raises(SettingsError, match="topk=99"):
            _ = form.config
        field.value = "9"
        assert not form.train.disabled
        assert FIELDS["topk"].description in shown(field.note)
        assert form.more.titles[0] == "More settings (1 changed)"
        assert shown(form.status) == ""

    def test_html_that_is_typed_stays_text(self, form):
        form.fields["background"].value = "<img src=x onerror=alert(1)>"
        form.fields["topk"].value = "<b>9</b>"
        for widget in walk(form):
            if isinstance(widget, ipywidgets.HTML):
                assert "<img" not in widget.value
                assert "<b>" not in widget.value

    def test_settings_that_disagree_are_explained_at_each(self, form):
        form.fields["l1_loss_ratio"].value = "0"
        form.fields["ssim_loss_ratio"].value = "0"
        assert "nothing to optimise" in shown(form.fields["l2_loss_ratio"].note)
        assert form.train.disabled

    def test_the_call_cannot_be_changed_by_typing_into_it(self, form):
        text = form.call.value
        form.call.value = "something else"
        assert form.call.value == text

    def test_another_folder_shows_its_pictures(self, form, current):
        (current / "other").mkdir()
        picture(current / "other", "dog.png")
        form.fields["input_dir"].value = "other"
        assert list(form.chooser.tiles) == ["dog.png"]
        form.fields["input_dir"].value = "nowhere"
        assert "nowhere" in shown(form.chooser.message)
        assert form.chooser.tiles == {}


class TestPresets:
    def test_presets_combine_and_are_undone_one_by_one(self, form):
        form.fields["gaussians"].value = "7"
        before = form.values
        form.presets.choice.value = "large"
        assert form.config.gaussians == (20_000,)
        form.presets.choice.value = "film-high"
        assert form.config == set_config(input_filenames="small.png", preset=["large", "film-high"])
        assert form.presets.choice.value == ""
        assert "film-high: make_training_video=True" in shown(form.presets.box)
        form.presets.undo.click()
        assert form.config == set_config(input_filenames="small.png", preset="large")
        form.presets.undo.click()
        assert form.values == before
        assert form.presets.undo.disabled

    def test_what_a_preset_says_nothing_of_stays_even_if_it_is_wrong(self, form):
        form.fields["seed"].value = "x"
        form.presets.choice.value = "extreme"
        assert form.fields["seed"].value == "x"
        assert form.fields["gaussians"].value == "30000"

    def test_a_damaged_preset_is_explained(self, form, monkeypatch, tmp_path):
        monkeypatch.setattr("quick_start.presets.FOLDER", tmp_path)
        before = form.values
        form.presets.choice.value = "large"
        assert "no such preset" in shown(form.presets.box)
        assert form.values == before


class TestPictures:
    def test_the_only_picture_is_chosen_and_one_of_several_is_not(self, form, input_dir):
        assert form.chooser.chosen == ["small.png"]
        picture(input_dir, "cat.png")
        several = settings_form()
        assert several.chooser.chosen == []
        assert several.train.disabled
        assert shown(several.status) == CHOOSE
        assert "small.png" not in several.call.value

    def test_clicking_and_typing_choose_the_same(self, form, input_dir):
        for name in ("a.png", "b, c.png"):
            picture(input_dir, name)
        form.chooser.refresh.click()
        tiles = form.chooser.tiles
        tiles["b, c.png"].value = True
        tiles["small.png"].value = False
        tiles["a.png"].value = True
        assert form.config.input_filenames == ("b, c.png", "a.png")
        form.fields["input_filenames"].value = "small.png, a.png"
        assert {name for name, tile in tiles.items() if tile.value} == {"small.png", "a.png"}
        form.fields["input_filenames"].value = "smal.png"
        assert "Did you mean 'small.png'?" in shown(form.fields["input_filenames"].note)

    def test_a_folder_of_textures_can_be_chosen(self, form, input_dir):
        (input_dir / "wood").mkdir()
        for name in ("colour.png", "height.png"):
            picture(input_dir / "wood", name)
        form.chooser.refresh.click()
        form.chooser.tiles["wood"].value = True
        assert form.config.input_filenames == ("small.png", "wood")
        assert "wood/ (2)" in form.chooser.tiles["wood"].description

    def test_thumbnails_arrive(self, form, input_dir):
        (input_dir / "broken.png").write_bytes(b"GIF89a")
        form.chooser.refresh.click()
        assert form.chooser.wait(60)
        rules = re.findall(r"-(\d+) { background-image: url\(data:image/jpeg", sheet(form))
        assert rules == ["0"]  # what is chosen comes first; broken.png has none
        assert "is a GIF" in form.chooser.tiles["broken.png"].tooltip

    def test_of_many_pictures_some_are_shown_and_a_filter_finds_the_others(self, form, input_dir):
        for number in range(60):
            picture(input_dir, f"p{number}.png")
        form.chooser.refresh.click()
        assert len(form.chooser.tiles) == 24
        assert "small.png" in form.chooser.tiles  # because it is chosen
        assert "37 more" in shown(form.chooser.box)
        form.chooser.filter.value = "P5"
        assert list(form.chooser.tiles) == ["p5.png", *(f"p{n}.png" for n in range(50, 60))]
        form.chooser.tiles["p57.png"].value = True
        assert form.chooser.chosen == ["small.png", "p57.png"]

    def test_an_upload_joins_the_folder_and_is_chosen(self, form, input_dir):
        buffer = io.BytesIO()
        Image.fromarray(smooth_picture(8, 9)).save(buffer, "PNG")
        content = buffer.getvalue()
        form.chooser.upload.value = (
            file("new.png", content), file("../evil.png", b"GIF89a"), file("again.png", content),
        )  # fmt: skip
        assert form.chooser.chosen == ["small.png", "new.png"]
        assert form.chooser.tiles["new.png"].value
        said = shown(form.chooser.message)
        assert "new.png was added" in said
        assert "evil.png: is a GIF" in said
        assert "new.png was there already" in said
        assert sorted(p.name for p in input_dir.iterdir()) == ["new.png", "small.png"]
        assert form.chooser.upload.value == ()
        assert not form.train.disabled


def sheet(form: SettingsForm) -> str:
    texts = [w.value for w in walk(form.chooser.box) if isinstance(w, ipywidgets.HTML)]
    return "".join(text for text in texts if text.startswith("<style>"))


class TestOutlook:
    def test_runs_time_memory_and_film_are_told_before_training(self, form):
        form.fields["gaussians"].value = "10, 20"
        form.fields["steps"].value = "101"
        form.fields["make_training_video"].value = True
        assert "2 runs: 1 picture × 2 numbers of Gaussians" in shown(form.outlook.view)
        assert form.outlook.wait(300)
        said = shown(form.outlook.view)
        assert re.search(r"Time: about \d+ s", said)
        assert re.search(r"Memory: about \d.* [GM]B of main memory", said)
        assert "4 frames, 0.1 s" in said

    def test_nothing_is_estimated_of_what_is_wrong(self, form):
        form.fields["topk"].value = "0"
        assert form.outlook.wait(300)
        assert shown(form.outlook.view) == ""

    def test_an_estimate_that_fails_is_told_and_does_not_keep_from_training(
        self, form, monkeypatch
    ):
        def fail(config: Any) -> None:
            raise RuntimeError("no idea")

        monkeypatch.setattr("quick_start.form.outlook.estimate_memory", fail)
        form.fields["steps"].value = "7"
        assert form.outlook.wait(300)
        assert "cannot be told: no idea" in shown(form.outlook.view)
        assert not form.train.disabled


def wait_for_a_run(folder: Path) -> None:
    """Wait until a run has begun: stopped before that, a training leaves none."""
    until = time.monotonic() + 120
    while not list(folder.glob("output/session_*/*/run.json")):
        assert time.monotonic() < until, "no run began"
        time.sleep(0.02)


class TestTraining:
    def test_train_runs_the_configuration_and_places_the_live_view(self):
        form = settings_form(**TINY | {"gaussians": [20, 30]})
        form.train.click()
        assert form.train.disabled
        runs = form.wait(300)
        assert runs == form.runs
        assert [run.folder.name for run in runs] == ["small-20-4", "small-30-4"]
        assert [run.status for run in runs] == ["finished", "finished"]
        assert [run.settings for run in runs] == form.config.runs()
        assert len(form.live.children) == 1
        assert shown(form.status) == f"2 runs in {runs[0].folder.parent}: 2 finished."
        assert not form.train.disabled
        assert form.stop.disabled

    def test_stop_ends_it_and_keeps_what_was_reached(self, current):
        form = settings_form(gaussians=30, steps=1_000_000, lr_schedule=False)
        form.train.click()
        wait_for_a_run(current)
        assert not form.stop.disabled
        form.stop.click()
        assert form.stop.disabled
        (run,) = form.wait(300)
        assert run.status == "interrupted"
        assert run.model_path.exists()
        assert "1 interrupted" in shown(form.status)
        form.fields["steps"].value = "2"
        form.train.click()  # and the next training is not stopped
        assert [run.status for run in form.wait(300)] == ["finished"]

    def test_a_second_click_starts_nothing(self, monkeypatch):
        form, begun, go = settings_form(**TINY), [], threading.Event()

        def train(config: Any, **options: Any) -> list[Run]:
            begun.append(config)
            go.wait(60)
            return []

        monkeypatch.setattr(training, "train", train)
        clicks = [threading.Thread(target=form.train.click) for _ in range(8)]
        for click in clicks:
            click.start()
        for click in clicks:
            click.join()
        go.set()
        form.wait(60)
        assert len(begun) == 1

    def test_a_training_stopped_at_once_ends_without_an_error(self):
        form = settings_form(gaussians=30, steps=1_000_000, lr_schedule=False)
        form.train.click()
        form.stop.click()
        assert [run.status for run in form.wait(300)] in ([], ["interrupted"])
        assert re.search(r"1 interrupted|Stopped before the first run", shown(form.status))

    def test_the_form_can_be_used_while_it_trains(self, current):
        form = settings_form(gaussians=30, steps=1_000_000, lr_schedule=False)
        form.train.click()
        wait_for_a_run(current)
        form.fields["gaussians"].value = "40"
        assert form.config.gaussians == (40,)
        assert "gaussians=[40]" in form.call.value
        form.fields["seed"].value = "x"
        assert "seed='x'" in shown(form.fields["seed"].note)
        assert form.is_training
        form.stop.click()
        assert form.wait(300)[0].settings.gaussians == 30
        assert form.train.disabled  # for the seed is wrong still
        assert "seed='x'" in shown(form.status)

    @pytest.mark.parametrize(
        ("error", "said"),
        [
            (SettingsError("gaussians=9 is more than the 6 pixels"), "more than the 6 pixels"),
            (training.TrainingError("s/r failed: a <reason>", [Run(Path("r"))]), "a <reason>"),
            (KeyError("odd"), "KeyError: 'odd'"),
            (MemoryError(), "MemoryError"),
        ],
    )
    def test_an_error_is_told_in_the_form(self, monkeypatch, error, said):
        def fail(*_: Any, **__: Any) -> None:
            raise error

        form = settings_form(**TINY)
        monkeypatch.setattr(training, "train", fail)
        form.train.click()
        assert form.wait(60) == getattr(error, "runs", [])
        assert said in shown(form.status)
        assert "<reason>" not in form.status.value
        assert not form.train.disabled

    def test_more_gaussians_than_pixels_is_told_by_the_training_itself(self, current):
        form = settings_form(gaussians=100_000, steps=1)
        form.train.click()
        form.wait(300)
        assert "more than the 3072 pixels" in shown(form.status)
        assert form.runs == []


class TestLatest:
    def test_only_the_newest_request_is_done_once_and_after_the_one_going_on(self):
        work, done, go = Latest(delay=0.0), [], threading.Event()
        begun = threading.Event()

        def first() -> None:
            begun.set()
            go.wait(60)
            done.append("first")

        work.ask(first)
        assert begun.wait(60)
        for name in ("second", "third", "fourth"):
            work.ask(lambda name=name: done.append(name))
        assert not work.wait(0.0)
        go.set()
        assert work.wait(60)
        assert done == ["first", "fourth"]
        work.ask(lambda: done.append("fifth"))
        assert work.wait(60)
        assert done[-1] == "fifth"

    def test_requests_from_many_threads_end_with_one_of_the_last(self):
        work, done = Latest(delay=0.0), []

        def ask(number: int) -> None:
            for step in range(50):
                work.ask(lambda step=step: done.append((number, step)))

        threads = [threading.Thread(target=ask, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert work.wait(60)
        assert done[-1][1] == 49
