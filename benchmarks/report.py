"""Writes the figures of the README from the files in ``benchmarks/results``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, load
from benchmarks.report_work import faults, fuzz, working

ROOT = Path(__file__).parents[1]
GPU, NONE = "NVIDIA H200", "–"


def main() -> None:
    """Write the README's figures and the faults of docs/reliability.md."""
    _replace(ROOT / "README.md", "figures", [*_on_gpu(), "", *_on_cpu(), "", *working()])
    _replace(ROOT / "docs" / "reliability.md", "faults", faults())
    _replace(ROOT / "docs" / "reliability.md", "fuzz", fuzz())


def _replace(path: Path, mark: str, lines: Iterable[str]) -> None:
    """Replace what stands between two marks."""
    begin, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    before, rest = path.read_text(encoding="utf-8").split(begin)
    _, after = rest.split(end)
    body = "\n".join(lines)
    path.write_text(f"{before}{begin}\n{body}\n{end}{after}", encoding="utf-8")


# On a GPU


def _on_gpu() -> Iterator[str]:
    yield "### On a GPU"
    yield ""
    parts = (_gpu_steps, _gpu_memory, _gigapixel, _drawing, _parity)
    for at, part in enumerate(parts):
        yield from [""] * bool(at)
        yield from part()


def _gpu_steps() -> Iterator[str]:
    measured = load("step_gpu")
    baselines, machine = _baselines(), measured["machine"]
    rows = [(row, baselines.get(_case(row), {})) for row in measured["rows"]]
    yield (
        f"One training step on one {machine.get('gpu', GPU)} (torch {machine['torch']}), half "
        "precision and CUDA graph on, learning-rate schedule off, beside "
        "[Image-GS](benchmarks/results/image_gs_h200.json) on such a GPU:"
    )
    yield ""
    yield (
        "| picture | Gaussians × steps | step | goal | Image-GS | factor | PSNR | Image-GS "
        "| floor | step / floor |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for row, other in rows:
        step, floor = row["median_ms"], max(row["floor_ms"].values())
        about = "about " * other.get("approximate", False)
        their = other.get("ms_per_step")
        cells = (
            f"{_name(row)} {row['pixels'][0]}×{row['pixels'][1]}",
            f"{row['gaussians']:,} × {row['steps']:,}" + ", progressive" * row["progressive"],
            f"{step:#.3g} ms",
            _goal(row),
            f"{about}{their:g} ms" if their else NONE,
            f"{about}{their / step:.0f}" if their else NONE,
            f"{row['psnr']:.2f} dB",
            f"{other['psnr']:.2f} dB" if "psnr" in other else NONE,
            f"{floor:.3f} ms",
            f"{step / floor:.0f}",
        )
        yield f"| {' | '.join(cells)} |"
    yield ""
    yield (
        "The Kodak times of Image-GS are the ends of a range. The floor is the larger of two "
        "times: that of moving a step's pictures through memory once "
        f"({measured['copy_tb_per_s']:.1f} TB/s, as a copy reaches), and that of starting as many "
        f"empty kernels as it has ({measured['launch_us']:.1f} µs each)."
    )
    if measured["left_out"]:
        yield f"Not measured: {', '.join(measured['left_out'])}."
    yield ""
    yield f"On another machine with such a GPU: {_again(measured['rows'])}."


def _again(rows: list[dict[str, Any]]) -> str:
    """How far a second measurement is from the first."""
    first = {_case(row): row["median_ms"] for row in rows}
    second = {_case(row): row["median_ms"] for row in load("step_gpu_again")["rows"]}
    changes = {case: 100 * (ms / first[case] - 1) for case, ms in second.items()}
    (garden,) = [case for case in second if case[0] == "garden"]
    return (
        f"{min(changes.values()):+.1f} to {max(changes.values()):+.1f} % in {len(second)} of these "
        f"cases; garden {second[garden]:.3f} ms"
    )


def _baselines() -> dict[tuple[str, int, bool], dict[str, Any]]:
    return {_case(row): row for row in load("image_gs_h200")["rows"]}


def _case(row: dict[str, Any]) -> tuple[str, int, bool]:
    return _name(row), row["gaussians"], row["progressive"]


def _name(row: dict[str, Any]) -> str:
    return Path(row["picture"]).stem


def _goal(row: dict[str, Any]) -> str:
    if row["goal_ms"] is None:
        return NONE
    return f"{row['goal_ms']:g} ms" + " (missed)" * (row["median_ms"] > row["goal_ms"])


def _gpu_memory() -> Iterator[str]:
    measured = load("memory_gpu")
    modes = measured["modes"]
    (their,) = [r for r in load("image_gs_h200")["rows"] if r["picture"] == _name(measured)]
    width, height = their["pixels"]
    yield (
        f"GPU memory of a {width}×{height} picture with {measured['gaussians']:,} Gaussians, and "
        "a film of the training, from the first to the last file of the run (10⁹ bytes; Image-GS "
        f"without a film, as torch counts: {their['peak_gb']:.2f} GB):"
    )
    yield ""
    switches = ("use_amp", "video_save_to_disk", "use_gradient_checkpointing")
    yield (
        f"| {' | '.join(f'`{name}`' for name in switches)} | torch counts | the driver shows | "
        "estimated before | step | speed |"
    )
    yield "|---" * 8 + "|"
    for row in modes.values():
        if "error" in row:
            yield "| failed " * 8 + "|"
            continue
        gigabytes = (f"{row[k]:.2f} GB" for k in ("peak_gb", "device_gb", "estimated_gb"))
        speed = modes["none"]["median_ms"] / row["median_ms"]
        on = ("on" if row[name] else "off" for name in switches)
        cells = (*on, *gigabytes, f"{row['median_ms']:.2f} ms", f"{speed:.0%}")
        yield f"| {' | '.join(cells)} |"


def _on_off(on: bool) -> str:
    return "on" if on else "off"


def _gigapixel() -> Iterator[str]:
    row = load("memory_gpu").get("gigapixel", {})
    if "median_ms" in row:
        yield (
            f"A generated picture of {row['side']:,}² pixels with {row['gaussians']:,} Gaussians, "
            f"half precision and bands: {row['median_ms']:.0f} ms per step, "
            f"{row['peak_gb']:.2f} GB as torch counts, {row['device_gb']:.2f} GB as the driver "
            "shows."
        )


def _drawing() -> Iterator[str]:
    ours = load("step_gpu")["drawing"]
    rows = load("image_gs_h200")["rows"]
    (their,) = [r for r in rows if _same_drawing(r, ours)]
    yield (
        f"Drawing the {ours['picture']} with {ours['gaussians']:,} Gaussians: "
        f"{ours['median_fps']:,} pictures per second (Image-GS {their['fps']:,})."
    )


def _same_drawing(row: dict[str, Any], drawing: dict[str, Any]) -> bool:
    return all(row[name] == drawing[name] for name in ("picture", "gaussians")) and "fps" in row


def _parity() -> Iterator[str]:
    result = load("parity_gpu")
    tests, picture = result["tests"], result["picture"]
    worst = max(picture[name] for name in ("xy", "scale", "rot", "feat"))
    yield (
        f"Agreement: {tests['tests']} tests on the GPU, of which "
        f"{tests['failures'] + tests['errors']} failed and {tests['skipped']} were skipped. "
        f"Against the definition in float64 ({picture['size']}² pixels, {picture['gaussians']:,} "
        f"Gaussians) the picture differs by {picture['image']:.1e} at most, the gradients by "
        f"{worst:.1e} of their norm."
    )


# On the CPU


def _on_cpu() -> Iterator[str]:
    machine = load("step_cpu")["machine"]
    yield "### On the CPU"
    yield ""
    yield f"Measured on {machine['cores']} cores of an {machine['processor']}."
    parts = [_quality, _steps, _scaling, _waiting]
    if (RESULTS / "memory_cpu.json").exists():
        parts.insert(3, _cpu_memory)
    for part in parts:
        yield ""
        yield from part()


def _cpu_memory() -> Iterator[str]:
    measured = load("memory_cpu")
    yield (
        f"Main memory of a training of {_name(measured)} with {measured['gaussians']:,} Gaussians, "
        "Python and its packages included (10⁹ bytes):"
    )
    yield ""
    yield "| `use_gradient_checkpointing` | picture read | peak of the steps | step |"
    yield "|---|---|---|---|"
    for mode, row in measured["modes"].items():
        yield (
            f"| {_on_off(mode == 'all on')} | {row['picture_read_gb']:.2f} GB | "
            f"{row['peak_gb']:.2f} GB | {row['median_ms'] / 1e3:.2f} s |"
        )


def _quality() -> Iterator[str]:
    yield "Quality at equal count and steps, learning-rate schedule off:"
    yield ""
    yield "| picture | Gaussians × steps | growth | PSNR | Image-GS | SSIM | time |"
    yield "|---|---|---|---|---|---|---|"
    baselines = _baselines()
    for row in load("quality_cpu")["rows"]:
        baseline = baselines[_case(row)]
        growth = "progressive" if row["progressive"] else "no"
        yield (
            f"| {row['picture']} | {row['gaussians']:,} × {row['steps']:,} | {growth} | "
            f"{row['psnr']:.2f} dB | {baseline['psnr']} dB | {row['ssim']:.3f} | "
            f"{row['seconds']:.0f} s |"
        )


def _steps() -> Iterator[str]:
    yield (
        "A whole training step (forward, loss with SSIM, backward, Adam), beside a 1024³ float32 "
        "torch matrix product in the same process:"
    )
    yield ""
    yield "| picture | Gaussians | step | matrix product | ratio | goal |"
    yield "|---|---|---|---|---|---|"
    for name, case in load("step_cpu")["cases"].items():
        width, height = case["pixels"]
        yield (
            f"| {name} {width}×{height} | {case['gaussians']:,} | "
            f"{case['step']['median_ms']:.1f} ms | {case['product']['median_ms']:.1f} ms | "
            f"{case['ratio']:.2f} | {case['goal']} |"
        )


def _scaling() -> Iterator[str]:
    rows = load("scaling_cpu")["rows"]
    counts = sorted({row["gaussians"] for row in rows})
    yield (
        "Milliseconds of forward, loss and backward by size and count (random Gaussians of "
        "σ = 5 px):"
    )
    yield ""
    yield "| picture | " + " | ".join(f"{count:,}" for count in counts) + " |"
    yield "|---|" + "---|" * len(counts)
    for size in sorted({row["size"] for row in rows}):
        times = [row["total_ms"] for row in rows if row["size"] == size]
        yield f"| {size}² | " + " | ".join(f"{ms:.0f}" for ms in times) + " |"


def _waiting() -> Iterator[str]:
    facts = load("startup_cpu")
    yield (
        f"Waiting: `import quick_start` {facts['import_quick_start_s']:.2f} s (with the trainer "
        f"{facts['import_quick_start_and_trainer_s']:.1f} s); the first step "
        f"{facts['first_step_empty_cache_s']:.0f} s with compilation, "
        f"{facts['first_step_filled_cache_s']:.1f} s without; `make quick-start` after "
        f"installation {facts['quick_start_s']:.0f} s."
    )


if __name__ == "__main__":
    main()
