"""The parts of the report on working with it: films, the live view, sweeps, and what survives."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.common import RESULTS, load


def working() -> Iterator[str]:
    """Lines of the README."""
    yield "### At work"
    for part in (_films, _watching, _estimates, _sweeps, _gpu_sweep):
        lines = list(part())
        if lines:
            yield ""
            yield from lines


def _films() -> Iterator[str]:
    measured = load("film_cpu")
    yield (
        "A film costs "
        + ", ".join(
            f"{case['percent']:.1f} % ({name})" for name, case in measured["overhead"].items()
        )
        + " of the training beyond the evaluations it asks for. Encoding:"
    )
    yield ""
    yield "| frames | size | codec | time | memory | file |"
    yield "|---|---|---|---|---|---|"
    for row in measured["encoding"]["astronaut"]:
        width, height = row["film"]
        yield (
            f"| {row['frames']:,} | {width}×{height} | {row['codec']} | {row['seconds']:.1f} s | "
            f"+{row['growth_mb']:.0f} MB | {row['file_mb']:.2f} MB |"
        )


def _watching() -> Iterator[str]:
    measured = load("live_view_cpu")
    costs = "; ".join(
        f"{name}: {case['percent']:+.1f} % ({case['interval_95'][0]:+.1f} to "
        f"{case['interval_95'][1]:+.1f}), counted {case['in_view_percent']:.1f} % and "
        f"{case['sending_percent']:.1f} %"
        for name, case in measured["cases"].items()
    )
    looks = load("compare_cpu")["picture_per_run"]
    compared, curves = (
        looks[name]["median_ms"] / 1e3
        for name in ("compare_batch_results_shown", "plot_metrics_shown")
    )
    yield (
        f"What the live view adds to the time of a training (goal {measured['goal_percent']:g} %): "
        "by pairs of neighbouring stretches with it and without, with the 95 % interval, on a "
        "machine whose pace varies by ten times as much; and as counted, in the view itself and in "
        f"the threads that send its messages. {costs}. To open and to close it takes "
        f"{measured['opening_and_closing_s']:.2f} s. Of 1,000 runs, "
        f"the table and its plots take {compared:.1f} s, their curves {curves:.1f} s."
    )


def _estimates() -> Iterator[str]:
    measured = load("estimate_cpu")
    least, most = measured["least_and_most"]
    yield (
        f"`estimate_time` said {least:g} to {most:g} times what {len(measured['runs'])} runs then "
        "took."
    )


def _sweeps() -> Iterator[str]:
    measured = load("sweeps_cpu")
    beyond = ", ".join(
        f"{row['beyond_training_s']:.2f} s ({size.replace('x', '×')})"
        for size, row in measured["overhead"].items()
    )
    yield f"Beyond its training a run costs {beyond}: reading, placing, all scores and all files."
    small = measured["two_workers"]
    yield (
        "Two processes on two cores, against one run after another, which has both cores (goal "
        f"{measured['goals']['share_of_two_workers']:g} for small runs): "
        + "; ".join(
            f"{case['runs']} runs of {size.replace('x', '×')} take {case['share']:.2f} of the time "
            f"({case['share_with_their_start']:.2f} with the start of the processes, "
            f"{case['share_of_training']:.2f} in training steps alone)"
            for size, case in small.items()
        )
        + ". One run already uses both cores in its steps, the better the larger the picture."
    )
    many = measured["many_runs"]
    pace, after = many["seconds_of_each_hundred"], many["after_each_hundred"]
    yield (
        f"A sweep of {many['runs']:,} tiny runs takes {many['seconds']:.0f} s: its first hundred "
        f"{pace[0]:.1f} s, its last {pace[-1]:.1f} s. After the first hundred the process has "
        f"{after[0]['resident_mb']:.0f} MB and {after[0]['open_files']} open files, after the last "
        f"{after[-1]['resident_mb']:.0f} MB and {after[-1]['open_files']}."
    )


def _gpu_sweep() -> Iterator[str]:
    if not (RESULTS / "sweep_gpu.json").exists():
        return
    measured = load("sweep_gpu")
    yield (
        f"On {measured['gpus']} GPUs of one host, {measured['runs']} runs of "
        f"{measured['settings']['steps']:,} steps end {measured['speedup']:.2f} times as fast as "
        f"on one (goal {measured['goal']:g}). It is more than {measured['gpus']}, probably because "
        "a worker that is alone spreads the processor's part over too many cores."
    )


def faults() -> Iterator[str]:
    """Lines of docs/reliability.md."""
    yield "| fault | times | runs compared with an unbroken sweep | different | lost |"
    yield "|---|---|---|---|---|"
    cases = load("reliability_cpu")["cases"] | load("reliability_gpu")["cases"]
    for name, case in cases.items():
        compared = case.get("compared", case.get("runs"))
        yield f"| {name} | {case['times']} | {compared} | {case['different']} | {_lost(case)} |"


def fuzz() -> Iterator[str]:
    """Lines of docs/reliability.md on damaged files."""
    measured = load("fuzz_cpu")
    yield (
        f"{measured['files']:,} damaged files were loaded, by processes with "
        f"{measured['limits']['spare_megabytes']} MB to spare; the slowest took "
        f"{measured['slowest'][0]:.1f} s:"
    )
    yield ""
    yield "| kind | tried | loaded | refused with one error | crashed, hung, warned or other |"
    yield "|---|---|---|---|---|"
    for kind, row in measured["kinds"].items():
        counts = (f"{row[name]:,}" for name in ("files", "loaded", "refused", "other"))
        yield f"| {kind} | {' | '.join(counts)} |"


def _lost(case: dict[str, Any]) -> str:
    return "nothing" if not case["different"] else f"{case['different']} runs"
