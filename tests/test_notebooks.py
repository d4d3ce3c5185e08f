"""The notebooks in notebooks/: what ships, and each executed in small form."""

from __future__ import annotations

import ast
import base64
import re
import shutil
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import av
import nbformat
import pytest

from quick_start.__main__ import ROOT, execute, with_changes
from tests.test_notebook import cells, outputs

PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SMALL = {"gaussians": [60], "steps": [8]}
GRID = {"gaussians": [40, 60], "steps": [4, 8], "eval_steps": 4}
SMALL_BY_NAME = {"sweep": GRID, "workers": GRID}
MOST_BYTES = 1_500_000
LINK = re.compile(r"\]\(([^)#]+)\)")
FILM = re.compile(r'src="data:video/mp4;base64,([^"]+)"')

Notebook = nbformat.NotebookNode


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def shipped(request: pytest.FixtureRequest) -> Notebook:
    return nbformat.read(request.param, as_version=4)


# What ships


def test_all_six_are_there() -> None:
    names = {path.stem for path in PATHS}
    assert names == {"sweep", "films", "large-pictures", "textures", "rendering", "workers"}


def test_a_notebook_is_valid_and_its_cells_have_names(shipped: Notebook) -> None:
    nbformat.validate(shipped)
    assert (shipped.nbformat, shipped.nbformat_minor) >= (4, 5)
    ids = [cell.id for cell in shipped.cells]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", name) for name in ids), ids


def test_a_notebook_imports_and_shows_but_defines_nothing(shipped: Notebook) -> None:
    defining = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, ast.For, ast.While)
    for cell in cells(shipped):
        for node in ast.walk(ast.parse(cell.source)):  # plain Python: no ! and no %
            assert not isinstance(node, defining), cell.source


def test_a_notebook_shows_what_running_it_in_order_gave(shipped: Notebook) -> None:
    counts = [cell.execution_count for cell in cells(shipped)]
    assert counts == list(range(1, len(counts) + 1))
    kinds = {output.output_type for cell in cells(shipped) for output in cell.outputs}
    assert "error" not in kinds
    assert "execute_result" in kinds


def test_a_notebook_carries_no_noise(shipped: Notebook) -> None:
    assert set(shipped.metadata) == {"kernelspec", "language_info"}
    assert {name for cell in shipped.cells for name in cell.metadata} <= {"tags"}
    text = nbformat.writes(shipped)
    assert "application/vnd.jupyter.widget" not in text
    assert str(ROOT) not in text
    assert str(Path.home()) not in text


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_notebook_is_light(path: Path) -> None:
    assert path.stat().st_size < MOST_BYTES


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_notebook_leads_to_all_others_and_back(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    text = "\n".join(cell.source for cell in cells(notebook, "markdown"))
    found = {(path.parent / link).resolve() for link in LINK.findall(text) if ":" not in link}
    assert found == {*PATHS, ROOT / "quick-start.ipynb"} - {path}
    assert all(file.is_file() for file in found)


# Executed


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with notebooks/ and input/ as in a fresh clone."""
    folder = tmp_path_factory.mktemp("clone")
    shutil.copytree(ROOT / "notebooks", folder / "notebooks")
    shutil.copytree(ROOT / "input", folder / "input")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))  # as `make lab` installs it
        yield folder


@pytest.fixture
def executed(request: pytest.FixtureRequest, checkout: Path) -> Notebook:
    """The notebook of a test's name in small form, run where JupyterLab would run it."""
    name = request.param
    path = checkout / "notebooks" / f"{name}.ipynb"
    notebook = nbformat.read(path, as_version=4)
    shutil.rmtree(checkout / "output", ignore_errors=True)  # of the notebook before
    before = {file.name for file in path.parent.iterdir()}
    for cell in cells(notebook):
        cell.outputs, cell.execution_count = [], None
    problem = execute(with_changes(notebook, SMALL_BY_NAME.get(name, SMALL)), path.parent)
    assert problem == ""
    assert {file.name for file in path.parent.iterdir()} == before  # all goes to output/
    streams = [o for c in cells(notebook) for o in c.outputs if o.output_type == "stream"]
    assert all(stream.name == "stdout" for stream in streams), streams
    return notebook


def html(notebook: Notebook, cell_id: str) -> str:
    return "".join(o.data.get("text/html", "") for o in outputs(notebook, cell_id) if "data" in o)


def printed(notebook: Notebook, cell_id: str) -> str:
    return "".join(o.get("text", "") for o in outputs(notebook, cell_id))


def frames(shown: str) -> list[tuple[int, int]]:
    """(width, height) of each frame of the only film in a cell's HTML."""
    (film,) = FILM.findall(shown)
    with av.open(BytesIO(base64.b64decode(film))) as container:
        return [(frame.width, frame.height) for frame in container.decode(video=0)]


@pytest.mark.parametrize("executed", ["sweep"], indirect=True)
def test_sweep_compares_every_run_and_names_the_affordable_ones(executed: Notebook) -> None:
    changed = next(
        c.id for c in cells(executed) if "injected-parameters" in c.metadata.get("tags", [])
    )
    assert "8 runs: 2 pictures × 2 numbers of Gaussians × 2" in html(executed, changed)
    assert printed(executed, "time").startswith("about ")
    record, table = html(executed, "training"), html(executed, "comparison")
    for name in ("cat-40-4", "cat-60-8", "coffee-40-4", "coffee-60-8"):
        assert f"session_1/{name}" in record
        assert f"session_1/{name}" in table
    assert table.count("data:image/png") == 1  # quality over size and over time
    affordable = html(executed, "budget")
    assert affordable.count("session_1/cat-") == affordable.count("session_1/coffee-") == 1
    for name in ("budget-pictures", "curves"):
        assert "image/png" in outputs(executed, name)[0].data
    assert "splatbook-slider" in html(executed, "slider")


@pytest.mark.parametrize("executed", ["workers"], indirect=True)
def test_workers_train_here_and_in_a_cluster_and_go_on(executed: Notebook) -> None:
    for name, session in (("pool", 1), ("resume", 2), ("cluster", 3)):
        record = html(executed, name)
        for run in ("cat-40-4", "cat-40-8", "cat-60-4", "cat-60-8"):
            assert f"session_{session}/{run}" in record
        assert record.count(">finished<") == 4
        assert "failed" not in record
    assert "No runs." in html(executed, "failed")


@pytest.mark.parametrize("executed", ["films"], indirect=True)
def test_films_play_in_both_layouts_and_are_made_again(executed: Notebook, checkout: Path) -> None:
    pair, grid = (902, 300), (902, 600)
    assert set(frames(html(executed, "play"))) == {pair}
    assert set(frames(html(executed, "adaptive"))) == {grid}
    assert set(frames(html(executed, "progressive"))) == {grid}
    assert set(frames(html(executed, "pair"))) == {pair}
    assert "vp9" in html(executed, "again")
    assert "film-compact" in html(executed, "film-facts")
    kept = list((checkout / "output").glob("session_*/cat-60-8/other/frames"))
    assert len(kept) == 1  # of the run that asked for it


@pytest.mark.parametrize("executed", ["large-pictures"], indirect=True)
def test_large_pictures_are_estimated_and_fitted_in_three_ways(executed: Notebook) -> None:
    assert printed(executed, "standard").startswith("empty-4k.png: 3840×2160")
    for name, count in (("large", "20,000"), ("extreme", "30,000")):
        assert f"empty-8k.png: 7680×4320, 3 channels, {count} Gaussians" in printed(executed, name)
    on_disk, in_memory = map(float, re.findall(r": +(.+) GB of", printed(executed, "film")))
    assert in_memory > on_disk + 1
    assert len(re.findall(r"about ", printed(executed, "time"))) == 2
    for session in (1, 2, 3):
        assert f"session_{session}/retina-60-8" in html(executed, "comparison")


@pytest.mark.parametrize("executed", ["textures"], indirect=True)
def test_textures_are_compared_one_by_one_at_equal_bytes(executed: Notebook) -> None:
    assert "session_1/pavement-60-8" in html(executed, "training")
    sizes = {
        name: float(re.search(rf"{name}-\d+-8</td>.*?<td>([\d.]+)</td>\s*</tr>", text, re.S)[1])
        for text in [html(executed, "bytes")]
        for name in ("pavement", "albedo", "normal", "roughness")
    }
    assert sizes.pop("pavement") == sum(sizes.values()) == 60 * 12 * 4
    assert len(set(sizes.values())) == 1
    scores = html(executed, "scores")
    assert all(name in scores for name in sizes)
    assert len(re.findall(r"<td>\d+\.\d+</td>", scores)) == 6
    assert html(executed, "results").count("splatbook-slider") > 0


@pytest.mark.parametrize("executed", ["rendering"], indirect=True)
def test_rendering_is_larger_than_what_was_fitted_and_models_get_smaller(
    executed: Notebook,
) -> None:
    assert "(512, 512)" in printed(executed, "rendered")
    assert outputs(executed, "model")[0].data["text/plain"] == "torch.Size([3, 512, 512])"
    fair = html(executed, "fair")
    assert "256×256 pixels, bicubic" in fair
    assert "<td>960</td>" in fair  # bytes of 60 Gaussians, 8 numbers of 16 bits each
    sizes = re.findall(r"<td>(\d+)\.0</td>", html(executed, "sizes"))
    assert sorted(map(int, sizes)) == [390, 570, 960, 1920]
    for name in ("zoom", "few-slider", "bits-slider"):
        assert "splatbook-slider" in html(executed, name)
