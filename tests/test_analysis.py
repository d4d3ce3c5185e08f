"""Pictures, curves and the table of runs, on real tiny runs and on odd ones."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fitting.gaussians import Gaussians
from quick_start import (
    Run,
    compare_batch_results,
    load_metrics,
    plot_metrics,
    set_config,
    train,
    view_results,
)
from quick_start.analysis.compare import Comparison
from quick_start.analysis.figure import LONGEST_LABEL, legend_columns, look, shortened
from quick_start.analysis.plots import CURVES
from quick_start.runs import RunError

COLUMNS = [
    "run", "image", "gaussians", "steps", "psnr", "ssim", "ms_ssim", "flip", "lpips", "seconds",
    "theoretical_bytes", "theoretical_bpp", "status",
]  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """Two runs on a picture of 32×24, one on a stack of a colour and a grey one, 31×17."""
    folder = tmp_path_factory.mktemp("trained")
    rng = np.random.default_rng()
    (folder / "input" / "brick").mkdir(parents=True)
    y, x = np.mgrid[:24, :32]
    picture = np.stack([x * 8, y * 10, 255 * ((x // 8 + y // 8) % 2)], -1).astype(np.uint8)
    Image.fromarray(picture).save(folder / "input" / "cat.png")
    for name, shape in (("albedo", (17, 31, 3)), ("rough", (17, 31))):
        noise = Image.fromarray(rng.integers(0, 256, shape, np.uint8))
        noise.save(folder / "input" / "brick" / f"{name}.png")
    common = {"steps": 20, "eval_steps": 10, "output_dir": str(folder / "output")}
    common |= {"input_dir": str(folder / "input"), "downsample_ratio": 1.5, "gamma": 1.2}
    plain = set_config(input_filenames="cat.png", gaussians=[20, 80], render_height=48, **common)
    stack = plain.replace(input_filenames="brick", gaussians=20)
    return [*train(plain, show=False), *train(stack, show=False)]


@pytest.fixture
def odd(trained: list[Run], tmp_path: Path) -> Path:
    """A session: a perfect run, a usual one, one without scores, one that failed at once."""
    session = tmp_path / "output" / "session_4"
    perfect = {"psnr": float("inf"), "ssim": 1.0, "ms_ssim": 1.0, "flip": 0.0, "lpips": None}
    failed = {"status": "failed", "error": "DivergedError: <loss>", "size": {}, "seconds": {}}
    changes = {
        "a-usual": {},
        "b-perfect": {"scores": perfect, "reasons": {"lpips": "no <weights>"}},
        "c-unknown": {"scores": dict.fromkeys(perfect), "status": "interrupted"},
        "d-failed": {"scores": dict.fromkeys(perfect), **failed},
    }
    for name, facts in changes.items():
        shutil.copytree(trained[0].folder, session / name)
        path = session / name / "run.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | facts))
    for name in ("model.pt", "metrics.csv", "rendered.jpg"):
        (session / "d-failed" / name).unlink()
    table = pd.read_csv(session / "b-perfect" / "metrics.csv")
    table[["psnr", "total_loss"]] = [[20.0, 0.5], [np.inf, 0.0], [np.inf, 0.0]]
    table.to_csv(session / "b-perfect" / "metrics.csv", index=False)
    return session


def size_of(figure: object) -> tuple[int, int]:
    with Image.open(BytesIO(figure._repr_png_()[0])) as picture:
        return picture.size


def pictures(part: object) -> list[np.ndarray]:
    return [np.asarray(ax.images[0].get_array()) for ax in part.axes if ax.images]


# Pictures


def test_truth_rendering_and_error_lie_side_by_side(trained: list[Run]) -> None:
    figure = view_results(trained[1])
    (row,) = figure.subfigs
    truth, rendering, error = pictures(row)
    with Image.open(Path(trained[1].settings.input_dir) / "cat.png") as picture:
        assert np.allclose(truth, np.asarray(picture) / 255)
    assert rendering.shape == truth.shape == (24, 32, 3)  # although rendered.jpg is 48 high
    drawn = Gaussians.load(trained[1].model_path).picture(24).permute(1, 2, 0).numpy()
    assert np.allclose(rendering, drawn, atol=1e-5)
    assert np.allclose(error, abs(truth - rendering).mean(axis=2), atol=1e-6)
    psnr = -10 * np.log10(((truth - rendering) ** 2).mean())
    assert psnr == pytest.approx(trained[1].scores["psnr"], abs=0.05)
    title = row.get_suptitle()
    assert title.startswith("session_1/cat-80-20: PSNR ")
    assert f"{trained[1].scores['psnr']:.2f} dB" in title
    assert f"SSIM {trained[1].scores['ssim']:.4f}" in title
    assert [ax.get_title() for ax in row.axes[:3]] == [
        "ground truth",
        "rendering",
        "absolute error",
    ]
    assert row.axes[3].get_ylim()[0] == 0  # the scale of the error


def test_several_runs_share_one_scale_of_the_error(trained: list[Run]) -> None:
    figure = view_results(trained[:2])
    assert len(figure.subfigs) == 2
    limits = {row.axes[2].images[0].get_clim() for row in figure.subfigs}
    assert len(limits) == 1


def test_a_stack_has_a_row_per_picture(trained: list[Run]) -> None:
    colour, grey = view_results(trained[2]).subfigs
    assert [p.shape for p in pictures(colour)] == [(17, 31, 3), (17, 31, 3), (17, 31)]
    assert [p.shape for p in pictures(grey)] == [(17, 31)] * 3
    assert "albedo: the stack has PSNR" in colour.get_suptitle()
    assert "rough" in grey.get_suptitle()


def with_start(run: Run, folder: Path, start: Path) -> Run:
    """A copy of a run that says it started from a model."""
    import torch

    copy = Run(shutil.copytree(run.folder, folder))
    content = torch.load(copy.model_path, weights_only=True)
    content["settings"]["init_gaussian_file"] = str(start)
    torch.save(content, copy.model_path)
    return copy


def test_a_run_that_started_from_a_model_shows_it_in_a_fourth_panel(
    trained: list[Run], tmp_path: Path
) -> None:
    warm = with_start(trained[1], tmp_path / "warm", trained[0].model_path)
    first, second = view_results([warm, trained[1]]).subfigs
    names = [ax.get_title() for ax in first.axes if ax.images]
    assert names == ["ground truth", "rendering", "absolute error", "started from"]
    expected = Gaussians.load(trained[0].model_path).picture(24).permute(1, 2, 0).numpy()
    assert np.allclose(pictures(first)[3], expected, atol=1e-5)
    assert len(pictures(second)) == 3


@pytest.mark.parametrize("start", ["gone", "damaged", "other channels"])
def test_a_start_that_cannot_be_drawn_leaves_three_panels(
    start: str, trained: list[Run], tmp_path: Path
) -> None:
    (tmp_path / "damaged").write_bytes(b"no model")
    path = trained[2].model_path if start == "other channels" else tmp_path / start
    warm = with_start(trained[1], tmp_path / "warm", path)
    assert len(pictures(view_results(warm).subfigs[0])) == 3


def test_an_interrupted_run_says_so(odd: Path) -> None:
    (row,) = view_results(Run(odd / "c-unknown")).subfigs
    assert row.get_suptitle().endswith("(interrupted)")


def test_a_ground_truth_that_is_gone_is_named(odd: Path) -> None:
    (odd / "a-usual" / "other" / "ground_truth.png").unlink()
    with pytest.raises(RunError, match=r"ground_truth\.png cannot be read.*Train again"):
        view_results(Run(odd / "a-usual"))


def test_odd_runs_are_shown_too(odd: Path) -> None:
    figure = view_results("session_4", output_dir=odd.parent)
    titles = [row.get_suptitle() for row in figure.subfigs]
    assert "PSNR ∞ dB, SSIM 1.0000" in titles[1]
    assert "PSNR – dB, SSIM –" in titles[2]
    assert "failed, so there is no picture. DivergedError: <loss>" in titles[3]
    assert not figure.subfigs[3].axes
    assert size_of(figure)[0] < 1300


def test_a_large_picture_is_reduced_before_it_goes_into_a_figure(
    trained: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quick_start.analysis.panels.PANEL_PIXELS", 16)
    assert {p.shape[:2] for p in pictures(view_results(trained[0]).subfigs[0])} == {(12, 16)}


# Curves


def test_metrics_are_a_table_with_the_documented_columns(trained: list[Run]) -> None:
    table = load_metrics(trained[0])
    assert list(table.columns) == [
        "step", "total_loss", "l1_loss", "l2_loss", "ssim_loss", "psnr", "ssim", "num_gaussians",
        "num_bytes", "render_time_accum", "total_time_accum",
    ]  # fmt: skip
    assert list(table["step"]) == [0, 10, 20]
    assert table["psnr"].iloc[-1] == pytest.approx(trained[0].scores["psnr"], abs=1e-6)


def test_missing_metrics_are_an_empty_table_and_damaged_ones_an_error(odd: Path) -> None:
    empty = load_metrics(Run(odd / "d-failed"))
    assert len(empty) == 0
    assert list(empty.columns) == list(load_metrics(Run(odd / "a-usual")).columns)
    (odd / "a-usual" / "metrics.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RunError, match=r"metrics\.csv cannot be read"):
        load_metrics(Run(odd / "a-usual"))


def curves(ax: object) -> list[object]:
    """The lines of a panel that are runs."""
    return [line for line in ax.lines if not line.get_label().startswith("_")]


def test_curves_show_every_measurement_of_every_run(trained: list[Run]) -> None:
    figure = plot_metrics(trained)
    assert [ax.get_ylabel() for ax in figure.axes] == [
        "PSNR (dB)", "SSIM", "loss", "L1 loss", "L2 loss", "1 − SSIM loss", "Gaussians",
        "size (kB)", "training time (s)",
    ]  # fmt: skip
    for ax, column in zip(figure.axes, CURVES, strict=True):
        unit = 1e-3 if column == "num_bytes" else 1
        for line, run in zip(curves(ax), trained, strict=True):
            assert list(line.get_xdata()) == [0, 10, 20]
            assert line.get_ydata() == pytest.approx(load_metrics(run)[column] * unit)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [str(run) for run in trained]


def test_curves_are_told_apart_without_colour() -> None:
    looks = [look(index) for index in range(40)]
    assert len({(line.linestyle, line.marker) for line in looks}) == 40


def test_of_very_many_runs_the_best_are_named_and_the_others_grey(
    trained: list[Run], tmp_path: Path
) -> None:
    runs = []
    for index in range(30):
        run = Run(shutil.copytree(trained[0].folder, tmp_path / "session_1" / f"r-{index}"))
        table = load_metrics(run)
        table["psnr"] = [10.0, 20.0, 20.0 + index]
        table.to_csv(run.metrics_path, index=False)
        runs.append(run)
    figure = plot_metrics(runs)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == [f"session_1/r-{index}" for index in range(6, 30)] + ["6 other runs"]
    psnr = figure.axes[0]
    assert len(curves(psnr)) == 24
    (others,) = psnr.collections[:1]
    assert sorted(line[-1, 1] for line in others.get_segments()) == [20, 21, 22, 23, 24, 25]
    width, height = size_of(figure)
    assert (width, height) < (1000, 1000)


def test_a_curve_of_very_many_points_is_thinned_and_keeps_its_end(
    trained: list[Run], tmp_path: Path
) -> None:
    run = Run(shutil.copytree(trained[0].folder, tmp_path / "long"))
    table = load_metrics(run)
    table = pd.concat([table] * 2000, ignore_index=True).assign(step=range(6000))
    table.to_csv(run.metrics_path, index=False)
    steps = curves(plot_metrics(run).axes[0])[0].get_xdata()
    assert 400 < len(steps) <= 500
    assert steps[-1] == 5999


def test_steps_of_growth_are_marked_up_to_where_a_run_came(
    trained: list[Run], tmp_path: Path
) -> None:
    run = Run(shutil.copytree(trained[0].folder, tmp_path / "grown"))
    record = run.record
    record["settings"] |= {"use_progressive": True, "steps": 100, "add_times": 4}
    record["settings"] |= {"add_steps": 5, "post_min_steps": 0}
    record["steps_done"] = 17
    (run.folder / "run.json").write_text(json.dumps(record))
    figure = plot_metrics([run, trained[1]])
    for ax in figure.axes:
        assert sorted(ax.collections[0].get_offsets()[:, 0]) == [5, 10, 15]
    assert "Gaussians were added or moved" in [t.get_text() for t in figure.legends[0].get_texts()]


def test_no_growth_no_marks(trained: list[Run]) -> None:
    figure = plot_metrics(trained[0])
    assert not any(len(marks.get_offsets()) for ax in figure.axes for marks in ax.collections)
    assert len(figure.legends[0].get_texts()) == 1


def test_long_names_are_cut_and_take_fewer_columns() -> None:
    name = "session_1/" + "x" * 200 + "-1000-2000"
    assert len(shortened(name)) == LONGEST_LABEL
    assert shortened(name).startswith("session_1/")
    assert shortened(name).endswith("-1000-2000")
    assert legend_columns([shortened(name)] * 5) == 1
    assert legend_columns(["session_1/cat-1000-2000"] * 8) == 4
    assert legend_columns(["a"]) == 1


def test_infinite_and_missing_values_leave_a_readable_figure(odd: Path) -> None:
    figure = plot_metrics("session_4", output_dir=odd.parent)
    psnr, _, loss = figure.axes[:3]
    assert list(curves(psnr)[1].get_ydata()) == [20.0]
    assert [text.get_text() for text in psnr.texts] == ["∞"]
    assert np.isfinite([*psnr.get_ylim(), *loss.get_ylim()]).all()
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[3] == "session_4/d-failed (nothing was measured)"
    size_of(figure)


def test_only_runs_without_measurements_still_give_a_figure(odd: Path) -> None:
    size_of(plot_metrics(Run(odd / "d-failed")))


@pytest.mark.parametrize("name", ["$x^{$", "_hidden", "a\nb\x1b[31m", "画", "x" * 150, "<b>&"])
def test_any_name_of_a_picture_can_be_shown(name: str, trained: list[Run], tmp_path: Path) -> None:
    session = tmp_path / "_session"
    for index, run in enumerate(trained[:2]):
        copy = Run(shutil.copytree(run.folder, session / f"{name}-{index}"))
        record = copy.record
        record["picture"]["name"] = name
        (copy.folder / "run.json").write_text(json.dumps(record))
    for figure in (view_results(session), plot_metrics(session)):
        size_of(figure)
    table = compare_batch_results(session)
    size_of(table.plots())
    assert len(table.plots().legends[0].get_texts()) == 1
    assert len(plot_metrics(session).legends[0].get_texts()) == 2
    assert "<b>&<" not in table._repr_html_()


def test_forty_figures_neither_warn_nor_pile_up(trained: list[Run]) -> None:
    import matplotlib.pyplot as plt

    for _ in range(40):  # warnings are errors in these tests
        plot_metrics(trained[0])
    assert plt.get_fignums() == []


def test_figures_have_a_description_for_those_who_cannot_see_them(trained: list[Run]) -> None:
    _, shown = plot_metrics(trained[:2])._repr_png_()
    assert shown["alt"].startswith("PSNR (dB), SSIM, loss, ")
    assert shown["alt"].endswith(" over the steps of session_1/cat-20-20, session_1/cat-80-20")
    _, costs = compare_batch_results(trained).plots()._repr_png_()
    assert "bits per pixel" in costs["alt"]
    assert "brick, cat" in costs["alt"]
    _, pictures = view_results(trained[0])._repr_png_()
    assert f"session_1/cat-20-20: PSNR {trained[0].scores['psnr']:.2f} dB" in pictures["alt"]


def test_figures_are_light_enough_for_a_notebook(trained: list[Run]) -> None:
    width, height = size_of(plot_metrics(trained))
    assert width <= 1000
    assert height <= 1000
    assert len(plot_metrics(trained)._repr_png_()[0]) < 200_000


@pytest.mark.parametrize("backend", ["agg", "svg", "pdf"])
def test_figures_do_not_depend_on_the_backend(trained: list[Run], backend: str) -> None:
    with matplotlib.rc_context({"backend": backend}):
        assert size_of(view_results(trained[0]))[0] > 500


# The table


def test_the_best_psnr_comes_first_and_unknown_ones_last(odd: Path) -> None:
    table = compare_batch_results("session_4", output_dir=odd.parent)
    assert isinstance(table, pd.DataFrame)
    assert list(table.columns) == COLUMNS
    names = [run.partition("/")[2] for run in table["run"]]
    assert names == ["b-perfect", "a-usual", "c-unknown", "d-failed"]
    assert list(table.index) == [0, 1, 2, 3]
    assert table["psnr"][0] == np.inf
    assert table["psnr"][2:].isna().all()
    assert list(table["status"]) == ["finished", "finished", "interrupted", "failed"]


def test_the_table_repeats_the_facts_of_the_runs(trained: list[Run]) -> None:
    table = compare_batch_results(trained).set_index("run")
    for run in trained:
        row, record = table.loc[str(run)], run.record
        assert row["image"] == record["picture"]["name"]
        assert (row["gaussians"], row["steps"]) == (run.settings.gaussians, 20)
        for name in ("psnr", "ssim", "ms_ssim", "flip", "lpips"):
            if record["scores"][name] is None:
                assert np.isnan(row[name])
            else:
                assert row[name] == record["scores"][name]
        assert row["seconds"] == record["seconds"]["training"]
        assert row["theoretical_bytes"] == record["size"]["theoretical_bytes"]
        assert row["theoretical_bpp"] == record["size"]["theoretical_bpp"]


def test_settings_in_which_runs_differ_have_a_column_each(odd: Path) -> None:
    changes = {
        "a-usual": {"use_progressive": True, "l1_loss_ratio": 0.5, "video_crf": 30},
        "b-perfect": {"init_gaussian_file": "<start>.pt", "output_dir": "elsewhere"},
        "c-unknown": {"pos_lr": ["x" * 1000] * 9, "seed": 10**400},
    }
    for name, settings in changes.items():
        path = odd / name / "run.json"
        record = json.loads(path.read_text())
        path.write_text(json.dumps(record | {"settings": record["settings"] | settings}))
    (odd / "d-failed" / "run.json").write_text("{")
    table = compare_batch_results("session_4", output_dir=odd.parent)
    differing = ["init_gaussian_file", "seed", "l1_loss_ratio", "pos_lr", "use_progressive"]
    assert list(table.columns) == [*COLUMNS[:4], *differing, *COLUMNS[4:]]
    names = [run.partition("/")[2] for run in table["run"]]
    assert names == ["b-perfect", "a-usual", "c-unknown", "d-failed"]
    assert list(table["use_progressive"][:3]) == [False, True, False]
    assert list(table["l1_loss_ratio"][:3]) == [1.0, 0.5, 1.0]
    html = table.table_html()
    assert "l1_loss_ratio</th>" in html
    assert "theoretical bytes</th>" in html
    assert "&lt;start&gt;.pt" in html
    assert "nan" not in html
    assert len(html) < 10_000


def test_the_notebook_marks_the_best_values_and_says_why_some_are_missing(odd: Path) -> None:
    html = compare_batch_results("session_4", output_dir=odd.parent).table_html()
    assert html.count("<b>∞</b>") == 1
    assert "<b>1.0000</b>" in html
    assert "<b>0.0000</b>" in html  # FLIP: the lowest is the best
    assert "lpips is empty: no &lt;weights&gt;." in html
    assert "session_4/d-failed failed: DivergedError: &lt;loss&gt;" in html
    assert "nan" not in html
    assert html.count("<table") == 1


def points(ax: object) -> set[tuple[float, float]]:
    """What a panel shows as single runs."""
    return {
        xy
        for line in ax.lines
        if line.get_marker() != "None"
        for xy in zip(*line.get_data(), strict=True)
    }


def lines(ax: object) -> list[list[tuple[float, float]]]:
    """What a panel joins."""
    joined = [line for line in ax.lines if line.get_marker() == "None"]
    return [list(zip(*line.get_data(), strict=True)) for line in joined]


def costs_of(*rows: tuple, status: str = "finished") -> Comparison:
    """A table of (image, psnr, ssim, bpp, seconds) as compare_batch_results makes it."""
    names = ("image", "psnr", "ssim", "theoretical_bpp", "seconds")
    return Comparison([dict(zip(names, row, strict=True)) | {"status": status} for row in rows])


def test_quality_is_drawn_over_size_and_over_time() -> None:
    table = costs_of(("cat", 30.0, 0.9, 2.0, 8.0), ("cat", 25.0, 0.8, 1.0, 4.0))
    figure = table.plots()
    assert [ax.get_xlabel() for ax in figure.axes[2:]] == [
        "size (bits per pixel)", "training time (s)",
    ]  # fmt: skip
    assert [ax.get_ylabel() for ax in figure.axes[::2]] == ["PSNR (dB)", "SSIM"]
    expected = [
        [(1.0, 25.0), (2.0, 30.0)], [(4.0, 25.0), (8.0, 30.0)],
        [(1.0, 0.8), (2.0, 0.9)], [(4.0, 0.8), (8.0, 0.9)],
    ]  # fmt: skip
    for ax, wanted in zip(figure.axes, expected, strict=True):
        assert points(ax) == set(wanted)
        assert lines(ax) == [wanted]


def test_each_picture_has_a_line_through_the_runs_that_no_cheaper_one_beats() -> None:
    table = costs_of(
        ("cat", 30.0, 0.9, 3.0, 1.0), ("cat", 25.0, 0.8, 1.0, 1.0), ("cat", 24.0, 0.7, 2.0, 1.0),
        ("dog", 20.0, 0.5, 1.0, 1.0), ("dog", 21.0, 0.6, 2.0, 1.0),
    )  # fmt: skip
    figure = table.plots()
    over_size = figure.axes[0]
    assert lines(over_size) == [[(1.0, 25.0), (3.0, 30.0)], [(1.0, 20.0), (2.0, 21.0)]]
    assert (2.0, 24.0) in points(over_size)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["cat", "dog"]


def test_the_plots_leave_out_what_has_no_numbers_and_mark_interrupted_runs(odd: Path) -> None:
    table = compare_batch_results("session_4", output_dir=odd.parent)
    table.loc[table["run"] == "session_4/c-unknown", ["psnr", "ssim"]] = 22.0, 0.7
    figure = table.plots()
    assert {psnr for _, psnr in points(figure.axes[0])} == {22.0, table["psnr"][1]}
    hollow = [
        x for x in figure.axes[0].lines if x.get_markerfacecolor() == "white" and len(x.get_xdata())
    ]
    assert [list(line.get_ydata()) for line in hollow] == [[22.0]]
    assert "hollow: interrupted or failed" in str(
        [text.get_text() for text in figure.legends[0].get_texts()]
    )
    size_of(figure)


def test_very_many_pictures_are_grey_beyond_those_that_are_named() -> None:
    rows = [(f"p{i}", 20.0 + i, 0.5, 1.0 + j, 1.0 + j) for i in range(40) for j in range(2)]
    figure = costs_of(*rows).plots()
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == [f"p{i}" for i in range(16)] + ["24 other pictures"]
    assert len(points(figure.axes[0])) == 80
    size_of(figure)


def test_the_notebook_shows_the_plots_below_the_table(trained: list[Run]) -> None:
    table = compare_batch_results(trained)
    assert "<img" in table._repr_html_()
    assert "<img" not in table.table_html()
    assert "<img" not in compare_batch_results(trained[0])._repr_html_()  # nothing to compare
    del table["seconds"]
    assert "<img" not in table._repr_html_()


def test_only_failed_runs_are_a_table_without_plots(odd: Path) -> None:
    table = compare_batch_results([Run(odd / "d-failed")] * 2)
    assert "<img" not in table._repr_html_()
    size_of(table.plots())


@pytest.mark.parametrize("content", ["{", "[]", '{"status": "finished"}', '{"picture": 3}'])
def test_a_damaged_run_is_a_row_that_says_so(content: str, odd: Path) -> None:
    (odd / "a-usual" / "run.json").write_text(content)
    table = compare_batch_results("session_4", output_dir=odd.parent)
    assert dict(zip(table["run"], table["status"], strict=True)) == {
        "session_4/a-usual": "unreadable", "session_4/b-perfect": "finished",
        "session_4/c-unknown": "interrupted", "session_4/d-failed": "failed",
    }  # fmt: skip
    html = table.table_html()
    assert "session_4/a-usual is unreadable: " in html
    assert "nan" not in html


def test_a_long_table_is_cut_in_the_notebook_but_not_in_itself(odd: Path) -> None:
    runs = [Run(odd / "a-usual")] * 150
    table = compare_batch_results(runs)
    assert len(table) == 150
    html = table._repr_html_()
    assert html.count("<tr>") == 101
    assert "50 runs more" in html


def test_reading_a_session_loads_no_model_and_no_torch(odd: Path) -> None:
    for model in odd.glob("*/model.pt"):
        model.write_bytes(b"no model")
    code = (
        "import sys; from quick_start import compare_batch_results\n"
        "table = compare_batch_results('session_4', output_dir=sys.argv[1])\n"
        "assert '<img' in table._repr_html_()\n"
        "print(len(table), 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(odd.parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["4", "False"]


def test_where_all_are_equal_none_is_the_best(trained: list[Run]) -> None:
    html = compare_batch_results([trained[0], trained[0]])._repr_html_()
    assert "<b>" not in html


def test_one_run_is_a_table_too(trained: list[Run]) -> None:
    assert "<b>" not in compare_batch_results(trained[0])._repr_html_()


def test_what_is_derived_from_the_table_is_a_plain_dataframe(trained: list[Run]) -> None:
    table = compare_batch_results(trained)
    assert type(table[["run", "psnr"]]) is pd.DataFrame
    assert type(table.sort_values("ssim")) is pd.DataFrame
    del table["psnr"]
    assert isinstance(table, Comparison)
    assert "<table" in table._repr_html_()


@pytest.mark.parametrize("look", [view_results, load_metrics, plot_metrics, compare_batch_results])
def test_a_run_that_does_not_exist_is_refused(look: object, trained: list[Run]) -> None:
    output = trained[0].folder.parent.parent
    with pytest.raises(RunError, match=r"no run 'session_1/cat-80-2'.*session_1/cat-80-20"):
        look("session_1/cat-80-2", output_dir=output)
    assert look("session_1/cat-80-20", output_dir=output) is not None
