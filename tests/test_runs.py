"""Session and run folders: their names, and reading them back."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

from quick_start import Run
from quick_start.runs import (
    RunError,
    Runs,
    all_runs,
    find_run,
    find_runs,
    new_session,
    run_name,
)
from settings import Settings, SettingsError
from tests.films import make_film


def make_run(folder: Path, **facts: object) -> Run:
    """A run folder with the facts that a finished run leaves, and those given."""
    folder.mkdir(parents=True)
    record = {
        "settings": Settings.build(input_filename="cat.png", gaussians=50, steps=30).model_dump(),
        "status": "finished",
        "error": "",
        "seconds": {"training": 65.4, "total": 70.0},
        "steps_done": 30,
        "num_gaussians": 50,
        "picture": {"name": "cat", "names": ["cat"], "width": 32, "height": 24, "channels": 3},
        "scores": {"psnr": 31.746, "ssim": 0.85, "ms_ssim": 0.97, "flip": 0.08, "lpips": None},
        "reasons": {"lpips": "no weights"},
        "size": {"theoretical_bytes": 1600, "theoretical_bpp": 16.7, "file_bytes": 5000},
    }
    (folder / "run.json").write_text(json.dumps(record | facts))
    Image.new("RGB", (32, 24), "red").save(folder / "rendered.jpg")
    return Run(folder)


def settings(name: str = "cat.png", **values: object) -> Settings:
    return Settings.build(input_filename=name, **values)


# New folders


def test_the_first_session_is_1_and_the_folder_is_created(tmp_path: Path) -> None:
    session = new_session(tmp_path / "a" / "output")
    assert session == tmp_path / "a" / "output" / "session_1"
    assert session.is_dir()


def test_a_session_follows_the_highest_not_the_number_of_sessions(tmp_path: Path) -> None:
    for name in ("session_2", "session_10", "session_x", "session_99b", "my_session_50"):
        (tmp_path / name).mkdir()
    (tmp_path / "session_11").touch()  # a file in the way counts too
    assert new_session(tmp_path).name == "session_12"


def test_threads_that_start_sessions_at_once_get_different_ones(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        sessions = list(pool.map(new_session, [tmp_path] * 64))
    assert sorted(int(s.name.split("_")[1]) for s in sessions) == list(range(1, 65))


def test_processes_that_start_sessions_at_once_get_different_ones(tmp_path: Path) -> None:
    code = (
        "import sys; from quick_start.runs import new_session\n"
        "sys.stdin.readline()\n"
        "print(*[new_session(sys.argv[1]).name for _ in range(50)])"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for process in processes:  # all wait for this line, so that they go together
        process.stdin.write("go\n")
        process.stdin.flush()
    names = [name for process in processes for name in process.communicate()[0].split()]
    assert len(names) == len(set(names)) == 150


def test_an_output_folder_that_cannot_be_used_names_output_dir(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    for output in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(SettingsError, match=r"output_dir='.*Choose a folder"):
            new_session(output)

    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(SettingsError, match=r"output_dir=.*Permission denied"):
        new_session(tmp_path)


def test_a_run_folder_is_named_after_picture_gaussians_and_steps(tmp_path: Path) -> None:
    made = run_name(settings("some/where/my.cat.png", gaussians=7, steps=9), tmp_path)
    assert made == "my.cat-7-9"
    assert not list(tmp_path.iterdir())


def test_a_stack_is_named_after_its_folder(tmp_path: Path) -> None:
    (tmp_path / "input" / "brick.v2").mkdir(parents=True)
    for name in ("brick.v2", "brick.v2/"):
        made = run_name(settings(name, input_dir=str(tmp_path / "input")), tmp_path)
        assert made == "brick.v2-1000-2000"


def test_pictures_with_one_stem_get_different_folders(tmp_path: Path) -> None:
    taken: list[str] = []
    for name in ("Cat.png", "cat.jpg", "a/cat.png", "cat.png"):
        used = [other.casefold() for other in taken]
        taken.append(run_name(settings(name), tmp_path, used))
    # The second has a number too, because some file systems ignore case.
    assert taken == [
        "Cat-1000-2000", "cat-1000-2000-2", "cat-1000-2000-3", "cat-1000-2000-4",
    ]  # fmt: skip
    (tmp_path / "cat-1000-2000").mkdir()
    assert run_name(settings("cat.png"), tmp_path) == "cat-1000-2000-2"


@pytest.mark.parametrize("stem", ["x" * 251, "ü" * 120, "画" * 80])
def test_a_long_name_is_cut_so_that_the_folder_can_be_made(tmp_path: Path, stem: str) -> None:
    made = run_name(settings(stem + ".png", gaussians=10_000_000, steps=10_000_000), tmp_path)
    (tmp_path / made).mkdir()
    assert made.endswith("-10000000-10000000")
    assert made.startswith(stem[0] * 30)


# Reading back


def test_str_of_a_run_finds_it_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "output" / "session_3" / "cat-50-30")
    assert str(run) == "session_3/cat-50-30"
    assert repr(run) == "Run('session_3/cat-50-30')"
    assert find_run(str(run), tmp_path / "output") == run
    assert find_run(run) is run
    assert find_run(run.folder) == run
    assert find_run(str(run.folder)) == run
    monkeypatch.chdir(tmp_path)
    assert find_run("session_3/cat-50-30").folder.resolve() == run.folder
    assert find_run("output/session_3/cat-50-30").folder.resolve() == run.folder
    monkeypatch.chdir(run.folder)
    assert str(find_run(".")) == "session_3/cat-50-30"


def test_a_run_is_a_path_and_can_be_compared_and_stored_in_sets(tmp_path: Path) -> None:
    run = make_run(tmp_path / "session_1" / "cat-50-30")
    assert Path(run) == run.folder
    assert {run, Run(str(run.folder))} == {run}
    with pytest.raises(AttributeError):
        run.folder = tmp_path


def test_facts_come_from_run_json_not_from_the_name(tmp_path: Path) -> None:
    run = make_run(tmp_path / "renamed" / "dog-1-2")
    assert run.settings == settings("cat.png", gaussians=50, steps=30)
    assert run.status == "finished"
    assert run.picture["width"] == 32
    assert run.scores["psnr"] == 31.746
    assert run.scores["lpips"] is None
    assert run.model_path == run.folder / "model.pt"
    assert run.rendered_path == run.folder / "rendered.jpg"
    assert run.metrics_path == run.folder / "metrics.csv"


@pytest.mark.parametrize("infinite", [float("inf"), "inf", "Infinity"])
def test_the_psnr_of_a_perfect_copy_is_infinite(tmp_path: Path, infinite: object) -> None:
    run = make_run(tmp_path / "s" / "r", scores={"psnr": infinite})
    assert run.scores["psnr"] == float("inf")
    assert "∞ dB" in run._repr_html_()


def test_a_run_that_goes_on_shows_its_new_status(tmp_path: Path) -> None:
    run = make_run(tmp_path / "s" / "r", status="running")
    assert run.status == "running"
    record = run.record
    (run.folder / "run.json").write_text(json.dumps(record | {"status": "finished"}))
    assert run.status == "finished"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"status": 1', "\xff\xfe"])
def test_a_damaged_run_json_is_named(tmp_path: Path, content: str) -> None:
    run = make_run(tmp_path / "s" / "r")
    (run.folder / "run.json").write_text(content, encoding="latin-1")
    with pytest.raises(RunError, match=r"run\.json"):
        _ = run.status


def test_a_fact_that_is_missing_or_wrong_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "s" / "r", settings={"gaussians": "many"})
    with pytest.raises(RunError, match=r"(?s)run\.json: .*gaussians='many'"):
        _ = run.settings
    (run.folder / "run.json").write_text("{}")
    with pytest.raises(RunError, match=r"run\.json does not tell status"):
        _ = run.status
    with pytest.raises(RunError, match="no run"):
        _ = Run(tmp_path / "nothing").status


def test_a_run_that_does_not_exist_is_answered_with_the_nearest(tmp_path: Path) -> None:
    for name in ("cat-50-30", "cat-500-30", "dog-7-7"):
        make_run(tmp_path / "session_1" / name)
    with pytest.raises(RunError, match=r"no run 'session_1/cat-50-300'.*session_1/cat-50-30") as e:
        find_run("session_1/cat-50-300", tmp_path)
    assert "dog" not in str(e.value)
    with pytest.raises(RunError, match="session_1/dog-7-7"):
        find_run("zzz", tmp_path)
    with pytest.raises(RunError, match="no runs yet"):
        find_run("session_1/cat", tmp_path / "none")


def test_a_session_stands_for_its_runs_in_natural_order(tmp_path: Path) -> None:
    for name in ("cat-1000-30", "cat-50-30", "cat-500-30", "2-1-1"):
        make_run(tmp_path / "session_2" / name)
    make_run(tmp_path / "session_10" / "cat-1-1")
    (tmp_path / "session_2" / "notes").mkdir()
    names = ["2-1-1", "cat-50-30", "cat-500-30", "cat-1000-30"]
    assert [run.folder.name for run in find_runs("session_2", tmp_path)] == names
    assert [run.folder.name for run in find_runs(tmp_path / "session_2")] == names
    assert [str(run) for run in all_runs(tmp_path)][-1] == "session_10/cat-1-1"


def test_one_run_or_a_list_stands_for_itself(tmp_path: Path) -> None:
    run = make_run(tmp_path / "session_1" / "cat-50-30")
    assert find_runs(run) == [run]
    assert find_runs([run, "session_1/cat-50-30"], tmp_path) == [run, run]
    assert find_runs("session_1/cat-50-30", tmp_path) == [run]
    with pytest.raises(RunError, match="No run was named"):
        find_runs([])
    with pytest.raises(RunError, match=r"no run 'session_7'.*session_1/cat-50-30"):
        find_runs("session_7", tmp_path)


def test_the_card_of_a_run_has_picture_and_numbers(tmp_path: Path) -> None:
    html = make_run(tmp_path / "session_1" / "cat <b>-50-30")._repr_html_()
    assert "data:image/jpeg;base64," in html
    for shown in ("31.75 dB", "0.8500", "finished", "1 min 05 s", "50", "cat &lt;b&gt;-50-30"):
        assert shown in html
    assert "<b>" not in html


def test_the_card_of_a_failed_run_says_why(tmp_path: Path) -> None:
    run = make_run(tmp_path / "s" / "r", status="failed", error="DivergedError: loss", scores={})
    os.remove(run.rendered_path)
    html = run._repr_html_()
    assert "<img" not in html
    for shown in ("failed", "DivergedError: loss", "– dB"):
        assert shown in html


def with_curve(run: Run, values: list[float]) -> Run:
    rows = "".join(f"{10 * index},{value}\n" for index, value in enumerate(values))
    run.metrics_path.write_text("step,psnr\n" + rows)
    return run


def drawings(html: str) -> list[ElementTree.Element]:
    """The vector drawings of a page."""
    found = re.findall(r"data:image/svg\+xml;base64,([^\"]+)", html)
    return [ElementTree.fromstring(base64.b64decode(data)) for data in found]


def test_the_card_draws_the_course_of_the_psnr(tmp_path: Path) -> None:
    run = with_curve(make_run(tmp_path / "s" / "r"), [10.0, 20.0, 30.0])
    html = run._repr_html_()
    (drawing,) = drawings(html)
    line = next(element for element in drawing if element.tag.endswith("polyline"))
    points = [tuple(map(float, point.split(","))) for point in line.get("points").split()]
    (x0, y0), (x1, y1), (x2, y2) = points
    assert (x1 - x0, y1 - y0) == pytest.approx((x2 - x1, y2 - y1), abs=0.2)
    assert y2 < y0  # better is higher
    assert "PSNR from 10.00 to 30.00 dB over steps 0 to 20" in html


@pytest.mark.parametrize(
    ("content", "count"),
    [
        (None, 0), ("", 0), ("step,psnr\n0,5\n", 0), ("a,b\n1,2\n", 0), ("step,psnr\n0,x\n", 0),
        ("step,psnr\n0,5\n1,inf\n", 0), ("step,psnr\n0,5\n1,5\n", 1), ("step,psnr\n1\n2,3,4\n", 0),
        ("step,psnr\n" + "".join(f"{i},{i % 30}\n" for i in range(5000)), 1),
    ],
)  # fmt: skip
def test_odd_measurements_leave_a_card(content: str | None, count: int, tmp_path: Path) -> None:
    run = make_run(tmp_path / "s" / "r")
    if content is not None:
        run.metrics_path.write_text(content)
    html = run._repr_html_()
    assert len(drawings(html)) == count
    assert "31.75 dB" in html
    assert len(html) < 20_000


def test_the_card_has_a_small_film_and_names_a_large_one(tmp_path: Path) -> None:
    run = make_run(tmp_path / "s" / "r")
    assert "video" not in run._repr_html_()
    make_film(run.film_path)
    assert run._repr_html_().count("<video") == 1
    with run.film_path.open("ab") as file:
        file.write(bytes(5_000_000))
    html = run._repr_html_()
    assert "<video" not in html
    assert "film of 5.0 MB: play_video(&#x27;s/r&#x27;)" in html


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"status": 1, "scores": 5}'])
def test_the_card_of_a_damaged_run_says_what_is_wrong(content: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "s" / "r")
    (run.folder / "run.json").write_text(content)
    assert "run.json" in run._repr_html_()


# Several runs


def test_runs_are_a_list_that_shows_a_table(tmp_path: Path) -> None:
    made = [make_run(tmp_path / "s" / name) for name in ("a", "b", "c")]
    runs = Runs(made)
    assert runs == made
    assert isinstance(runs[1], Run)
    html = runs._repr_html_()
    assert html.count("<table") == 1
    for run in made:
        assert str(run) in html
    assert Runs(made[:1])._repr_html_() == made[0]._repr_html_()
    assert Runs()._repr_html_() == "<div>No runs.</div>"


def test_what_is_derived_from_runs_is_runs(tmp_path: Path) -> None:
    a, b = (make_run(tmp_path / "s" / name) for name in ("a", "b"))
    runs = Runs([a])
    runs += [b]
    assert isinstance(runs, Runs)
    others = [b]
    for derived in (runs[:1], Runs([a]) + others, Runs([a]) + Runs(others)):
        assert isinstance(derived, Runs)
    assert Runs([a]) + others == [a, b]


def test_runs_of_which_one_is_gone_still_show_the_others(tmp_path: Path) -> None:
    runs = Runs(make_run(tmp_path / "s" / name) for name in ("a", "b"))
    (runs[0].folder / "run.json").unlink()
    html = runs._repr_html_()
    assert "s/a is unreadable" in html
    assert "31.75" in html
