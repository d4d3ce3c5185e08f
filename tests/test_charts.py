"""Charts as SVG: what is drawn where, ticks at round numbers, hostile values and names."""

from __future__ import annotations

import math
import re
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from quick_start.dashboard.charts import HEIGHT, WIDTH, Line, legend, line_chart, short, ticks

SVG = "{http://www.w3.org/2000/svg}"


def parsed(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text)


def labels(chart: str) -> list[str]:
    return [node.text for node in parsed(chart).iter(f"{SVG}text")]


def curves(chart: str) -> list[np.ndarray]:
    """Corners of the curves, (N, 2) in pixels."""
    paths = [p for p in parsed(chart).iter(f"{SVG}path") if p.get("fill") == "none"]
    return [np.array(re.findall(r"([\d.]+) ([\d.]+)", p.get("d")), float) for p in paths]


def test_a_curve_rises_to_the_right_and_stays_inside() -> None:
    points = [(0, 20.0), (50, 25.0), (100, 30.0)]
    (corners,) = curves(line_chart("PSNR", [Line("a", points)], steps=200, unit="dB"))
    x, y = corners.T
    assert np.all(np.diff(x) > 0)
    assert np.all(np.diff(y) < 0)  # pixels count downwards
    assert y[1] == pytest.approx((y[0] + y[2]) / 2, abs=0.11)
    assert x[2] < WIDTH * 0.6  # half of the steps
    assert corners.min() >= 0
    assert np.all(corners <= (WIDTH, HEIGHT))


def test_title_unit_and_ticks_are_written() -> None:
    chart = line_chart("PSNR", [Line("a", [(0, 20.0), (1000, 31.0)])], steps=2000, unit="dB")
    found = labels(chart)
    assert found[0] == "PSNR (dB)"
    assert {"0", "500", "1,000", "1,500", "2,000", "step", "20", "30"} <= set(found)


def test_a_chart_describes_itself_and_follows_the_theme() -> None:
    chart = line_chart("SSIM", [Line("a", [(0, 0.5), (10, 0.75)])], steps=10)
    assert parsed(chart).get("aria-label") == "SSIM from 0.5 to 0.75 over 10 steps"
    assert "currentColor" in chart
    assert not re.search(r'(fill|stroke)="(black|white|#)', chart)


def test_a_logarithmic_axis_has_equal_distances_for_equal_ratios() -> None:
    points = [(0, 1.0), (1, 0.1), (2, 0.01), (3, 0.0), (4, -1.0)]
    chart = line_chart("loss", [Line("a", points)], steps=4, log=True)
    (corners,) = curves(chart)
    assert len(corners) == 3  # 0 and below have no logarithm
    assert np.diff(corners[:, 1])[0] == pytest.approx(np.diff(corners[:, 1])[1], abs=0.11)
    assert {"0.01", "0.1", "1"} <= set(labels(chart))


def test_stairs_stay_until_the_next_point_and_begin_at_zero() -> None:
    chart = line_chart("Gaussians", [Line("a", [(0, 50), (10, 100)])], steps=20, stairs=True)
    path = next(p for p in parsed(chart).iter(f"{SVG}path") if p.get("fill") == "none").get("d")
    assert re.fullmatch(r"M[\d. ]+H[\d.]+V[\d.]+", path)
    assert "0" in labels(chart)


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_values_that_are_no_finite_numbers_are_left_out(bad: float) -> None:
    chart = line_chart("PSNR", [Line("a", [(0, 20.0), (1, bad), (2, 30.0)])], steps=2)
    (corners,) = curves(chart)
    assert len(corners) == 2
    assert "nan" not in chart
    assert "inf" not in chart.replace("-ui-font-family", "")


@pytest.mark.parametrize("points", [[], [(0, math.nan)]])
def test_nothing_measured_is_said(points: list[Any]) -> None:
    assert "nothing measured yet" in labels(line_chart("PSNR", [Line("a", points)], steps=0))
    assert "nothing measured yet" in labels(line_chart("PSNR", [], steps=0))


@pytest.mark.parametrize("value", [0.0, 1e-12, 31.5, -3.0, 1e9])
@pytest.mark.parametrize("log", [False, True])
def test_one_value_makes_a_chart(value: float, log: bool) -> None:
    chart = line_chart("x", [Line("a", [(0, value)])], steps=0, log=log)
    assert len(curves(chart)) == (0 if log and value <= 0 else 1)


def test_marks_show_where_gaussians_came_and_rates_fell() -> None:
    chart = line_chart(
        "PSNR", [Line("a", [(0, 1.0), (9, 2.0)])], steps=10, additions=[2, 4], decays=[8]
    )
    titles = [node.text for node in parsed(chart).iter(f"{SVG}title")][1:]
    assert titles == [
        "Gaussians added at step 2", "Gaussians added at step 4",
        "learning rates divided at step 8",
    ]  # fmt: skip


def test_several_curves_have_colours_and_names_of_their_own() -> None:
    lines = [Line(f"<run {i}> & co", [(0, i), (1, i + 1.0)]) for i in range(10)]
    chart = line_chart("PSNR", lines, steps=1)
    styles = [
        (p.get("style"), p.get("stroke-dasharray"))
        for p in parsed(chart).iter(f"{SVG}path")
        if p.get("fill") == "none"
    ]
    assert len(set(styles)) == 10
    names = legend([line.name for line in lines])
    assert names.count("&lt;run") == 10
    assert "<run" not in names + chart


@pytest.mark.parametrize("repetition", range(20))
def test_ticks_are_few_round_and_inside(rng: np.random.Generator, repetition: int) -> None:
    low = rng.normal() * 10.0 ** rng.integers(-6, 7)
    high = low + abs(rng.normal()) * 10.0 ** rng.integers(-3, 7) + 1e-4 * abs(low) + 1e-9
    found = ticks(low, high)
    room = 1e-6 * (high - low) + 1e-9 * abs(high)
    assert 2 <= len(found) <= 6
    assert found[0] >= low - room
    assert found[-1] <= high + room
    apart = found[1] - found[0]
    leading = apart / 10.0 ** math.floor(math.log10(apart) + 1e-6)
    assert min(abs(leading - digit) for digit in (1, 2, 5)) < 1e-4


def test_labels_are_short() -> None:
    shown = [short(v) for v in (0, 0.05, 31.5, 1500, 9999, 20_000, 123_400, 3e6)]
    assert shown == ["0", "0.05", "31.5", "1,500", "9,999", "20k", "123.4k", "3M"]
