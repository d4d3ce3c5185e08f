"""What a run leaves behind: model, pictures, scores, summary and the facts in ``run.json``."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from events import Evaluated, Status
from fitting import checkpoints, filming
from fitting.faults import leave_gpu
from fitting.gaussians import Gaussians
from fitting.machine import describe
from fitting.recorder import Recorder
from imaging import drawing
from imaging.decoding import brief
from imaging.files import atomic_write, part_name, save_picture
from imaging.metrics import Score, evaluate, psnr
from imaging.overview import Triple, overview
from ops.photometric import ssim

if TYPE_CHECKING:
    from model import GaussianSplatting2D
    from settings import Settings

JPEG_SIDE = 65_500
METRICS = ("psnr", "ssim", "ms_ssim", "flip", "lpips")


def facts(run: GaussianSplatting2D) -> dict[str, Any]:
    """What is known of a run before it begins."""
    known = {
        "settings": run.settings.model_dump(),
        "device": describe(run.device),
        "seed": run.settings.seed,
        "steps_done": run.step,
        "num_gaussians": len(run.gaussians),
        "picture": {
            "name": run.target.name,
            "names": list(run.target.names),
            "width": run.target.full_size[1],
            "height": run.target.full_size[0],
            "channels": len(run.target.full_pixels),
        },
        "scores": dict.fromkeys(METRICS),
        "reasons": {},
        "size": {},
    }
    if run.film:
        known["film"] = filming.facts(run.folder, run.settings, made=False, error=filming.NOT_YET)
    return known


def row(event: Evaluated, render_seconds: float) -> dict[str, Any]:
    """A measurement as a row of ``metrics.csv``."""
    return {
        "step": event.step,
        "total_loss": event.total_loss,
        "l1_loss": event.l1_loss,
        "l2_loss": event.l2_loss,
        "ssim_loss": event.ssim_loss,
        "psnr": event.psnr,
        "ssim": event.ssim,
        "num_gaussians": event.num_gaussians,
        "num_bytes": event.num_bytes,
        "render_time_accum": render_seconds,
        "total_time_accum": event.seconds,
    }


def write(run: GaussianSplatting2D, recorder: Recorder, status: Status) -> dict[str, float | None]:
    """Write everything that a run leaves behind, and close its folder. Returns the scores."""
    changed: dict[str, Any] = {
        "steps_done": run.step,
        "num_gaussians": len(run.gaussians),
        "seconds": {"training": run.seconds},
    }
    try:
        changed |= _write_finite(run, recorder, status)
    except Exception as error:
        recorder.fail(error)
        recorder.close("failed", **changed)
        raise
    recorder.close(status, **changed)
    return changed.get("scores", dict.fromkeys(METRICS))


def keep_for_later(run: GaussianSplatting2D, recorder: Recorder) -> None:
    """Keep what an interrupted run needs to go on; where that fails, a notice says so."""
    try:
        checkpoints.save_for_later(run)
    except OSError as error:
        recorder.notice(f"the run cannot be resumed from step {run.step}: {brief(error)}")


def record_failure(folder: Path, settings: Settings, error: BaseException) -> None:
    """Record that a run could not begin, or that the process which trained it is gone.

    Parameters
    ----------
    folder : of the run; created where it is missing. What is known of the run stays.
    """
    recorder = Recorder(folder, _unknown(settings))
    with contextlib.suppress(OSError, ValueError, AttributeError, LookupError, TypeError,
                             RecursionError):  # fmt: skip
        known = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        kept = {
            name: known[name]
            for name, fact in recorder.facts.items()
            if isinstance(known.get(name), type(fact))
        }
        recorder.facts |= kept
        recorder.load(known["steps_done"])
    recorder.open()
    recorder.fail(error)
    recorder.close("failed")


def _unknown(settings: Settings) -> dict[str, Any]:
    """The facts of a run of which nothing but its settings is known."""
    name = Path(settings.input_filename).stem
    unknown = {"width": None, "height": None, "channels": None}
    return {
        "settings": settings.model_dump(),
        "device": "",
        "seed": settings.seed,
        "steps_done": 0,
        "num_gaussians": 0,
        "picture": {"name": name, "names": [name], **unknown},
        "scores": dict.fromkeys(METRICS),
        "reasons": {},
        "size": {},
        "seconds": {},
    }


def _write_finite(run: GaussianSplatting2D, recorder: Recorder, status: Status) -> dict[str, Any]:
    """Write the results, unless the parameters are no numbers. Where the GPU fails: on the CPU."""
    quick = status in ("interrupted", "failed")
    try:
        finite = all(bool(t.isfinite().all()) for t in run.gaussians.tensors().values())
        return _write_results(run, recorder, quick) if finite else {}
    except Exception as problem:
        error = leave_gpu(run, problem)
        if error is None:
            raise
        recorder.notice(f"the results were drawn on the CPU, because at the end, {error}")
        step, count = run.step, len(run.gaussians)  # which may be those of a copy made earlier
        return {"steps_done": step, "num_gaussians": count} | _write_results(run, recorder, quick)


@torch.no_grad()
def _write_results(run: GaussianSplatting2D, recorder: Recorder, quick: bool) -> dict[str, Any]:
    folder, target = recorder.folder, run.target
    run.gaussians.save(folder / "model.pt")
    image = run.gaussians.picture(*target.full_size)
    scores = _scores(run, image, quick)
    if run.film:
        reached = scores["psnr"].value, scores["ssim"].value
        for message in run.film.add(run.step, image, *reached, run.gaussians.xy):
            recorder.notice(message)
    wanted = run.settings.render_height or target.full_size[0]
    height = _largest_jpeg(run.gaussians, wanted)
    if height < wanted:
        recorder.notice(f"rendered.jpg is {height} pixels high, not {wanted}: JPEG ends at 65,500")
    shown = image if height == target.full_size[0] else run.gaussians.picture(height)
    _save_split(run.gaussians, shown, folder / "rendered.jpg", recorder.other)
    truth = recorder.other / "ground_truth.png"
    _save_split(run.gaussians, target.full_pixels, truth, recorder.other)
    if run.settings.vis_gaussians:
        visualise(run.gaussians, image, target.full_pixels, recorder.other)
    bits = run.gaussians.bits()
    height, width = target.full_size
    changed = {
        "scores": {name: score.value for name, score in scores.items()},
        "reasons": {name: score.reason for name, score in scores.items() if score.reason},
        "size": {
            "theoretical_bytes": -(-bits // 8),
            "theoretical_bpp": bits / (height * width),
            "file_bytes": (folder / "model.pt").stat().st_size,
        },
    }
    _write_summary(recorder, run, changed, image)
    return changed


def _largest_jpeg(gaussians: Gaussians, height: int) -> int:
    """The height, or the largest one below it at which JPEG can hold both sides."""
    aspect = gaussians.width / gaussians.height
    return max(1, min(height, JPEG_SIDE, int(JPEG_SIDE / aspect)))


def _scores(run: GaussianSplatting2D, image: torch.Tensor, quick: bool) -> dict[str, Score]:
    full = run.target.full_pixels
    if not quick:
        return evaluate(
            image, full, lpips_weights=run.settings.lpips_weights, splits=run.target.channels,
            stop_asked=run.stop_asked,
        )  # fmt: skip
    unknown = Score(None, "the run did not end by itself")
    known = {"psnr": Score(psnr(image, full)), "ssim": Score(float(ssim(image, full)))}
    return dict.fromkeys(METRICS, unknown) | known


def _save_split(gaussians: Gaussians, image: torch.Tensor, path: Path, others: Path) -> None:
    """Save the first picture of a stack as ``path``, and each one by its name in ``others``."""
    parts = image.split(gaussians.channels)
    save_picture(path, parts[0])
    if len(parts) > 1:
        for name, part in zip(gaussians.names, parts, strict=True):
            save_picture(others / part_name(path.stem, name, path.suffix), part)


def save_pictures(gaussians: Gaussians, path: Path, height: int | None = None) -> None:
    """Draw and save: the first picture of a stack as ``path``, all by their names beside it."""
    _save_split(gaussians, gaussians.picture(height), path, path.parent)


def visualise(
    gaussians: Gaussians, image: torch.Tensor, target: torch.Tensor, folder: Path
) -> None:
    """Save pictures of positions, ellipses, ids and the error."""
    height, width = image.shape[1:]
    ratio = height / gaussians.height
    xy, scale, rot, feat = (t.detach().cpu().numpy() for t in gaussians.tensors().values())
    centers = xy * (width, height)
    sigmas = abs(1 / scale if gaussians.settings.inverse_scale else scale) * ratio
    angles = rot[:, 0]
    first = gaussians.channels[0]
    colors = feat[:, :first]
    colors = colors if first == 3 else colors.repeat(3, axis=1)
    shown = image[:first].expand(3, -1, -1).permute(1, 2, 0).mul(255).byte().numpy()
    pictures = {
        "positions": drawing.positions(shown, centers),
        "ellipses": drawing.ellipses((height, width), centers, sigmas, angles, colors),
        "ids": drawing.ellipses(
            (height, width), centers, sigmas, angles, drawing.id_colors(len(centers))
        ),
        "error": drawing.error_map(image.numpy(), target.numpy()),
    }
    for name, canvas in pictures.items():
        save_picture(folder / f"{name}.png", canvas.transpose(2, 0, 1) / 255)


def _write_summary(
    recorder: Recorder, run: GaussianSplatting2D, changed: dict[str, Any], image: torch.Tensor
) -> None:
    """What was reached in short, as text and as a picture."""
    size = changed["size"]
    lines = [
        f"{run.target.name}: {run.target.full_size[1]}×{run.target.full_size[0]}, "
        f"{len(run.gaussians)} Gaussians, {run.step} of {run.settings.steps} steps, "
        f"{run.seconds:.1f} s on {recorder.facts['device']}",
        f"size: {size['theoretical_bytes']} bytes theoretical "
        f"({size['theoretical_bpp']:.3f} bits per pixel), {size['file_bytes']} bytes as a file",
    ]
    scores = []
    for name, value in changed["scores"].items():
        reason = changed["reasons"].get(name, "")
        scores.append(f"{name}: {'-- ' + reason if value is None else f'{value:.4f}'}")
    with atomic_write(recorder.other / "summary.txt") as path:
        path.write_text("\n".join(lines + scores) + "\n", encoding="utf-8")
    measured = ", ".join(score for score in scores if "--" not in score)
    parts = zip(run.target.split(run.target.full_pixels), run.target.split(image), strict=True)
    pictures = [Triple(name, true.numpy(), drawn.numpy()) for (name, true), (_, drawn) in parts]
    shown = overview(pictures, [*lines, measured])
    save_picture(recorder.other / "summary.png", shown.transpose(2, 0, 1) / 255)
