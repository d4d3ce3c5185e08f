"""The same from a shell: train, resume, render, evaluate. ``python main.py --help`` says how."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

if TYPE_CHECKING:
    from fitting.gaussians import Gaussians
    from imaging.files import Target
    from quick_start import TrainingConfig
    from quick_start.runs import Runs

FAILED = 1
INTERRUPTED = 130  # what a shell expects after Ctrl-C
WORKERS = "Processes that train at the same time, one run each; with GPUs one for each of these."


def train(arguments: Sequence[str]) -> None:
    """Fit pictures; every setting is an option, and --preset large gives other defaults."""
    from quick_start import set_config
    from quick_start import train as train_all

    # The preset must be known first, because the help shows its values as the defaults.
    usage = "main.py train --help says how"
    first = argparse.ArgumentParser("main.py train", usage, add_help=False, allow_abbrev=False)
    first.add_argument("--preset", nargs="+", default=())
    presets = tuple(first.parse_known_args(arguments)[0].preset)
    options = _options(_defaults(presets), presets)
    chosen = tyro.cli(options, args=arguments, prog="main.py train", description=train.__doc__)
    values = vars(chosen)
    del values["preset"]
    workers = values.pop("workers")
    config = set_config(**values)
    with _executor(workers) as executor:
        _report(train_all(config, executor=executor))


def _defaults(presets: tuple[str, ...]) -> TrainingConfig:
    """All settings as presets have them. Without one, and where none names a picture: defaults."""
    from quick_start import TrainingConfig
    from quick_start.presets import preset_values
    from settings import SettingsError

    values = preset_values(presets)
    unnamed = {} if "input_filenames" in values else {"input_filenames": tyro.MISSING}
    try:
        config = TrainingConfig.build(**{"input_filenames": "any"} | values)
    except SettingsError as error:
        raise SettingsError(f"{error}\n(in --preset {' '.join(presets)})") from error
    return TrainingConfig.model_construct(**dict(config) | unnamed)


def _options(defaults: TrainingConfig, presets: tuple[str, ...]) -> type:
    """A plain class with one attribute per setting: ranges are checked, and explained, later."""
    from quick_start.config import AXES

    def option(name: str, kind: Any, help: str, default: Any) -> tuple[str, Any, Any]:
        return name, Annotated[kind, tyro.conf.arg(help=help)], field(default=default)

    settings = type(defaults).model_fields
    fields = [
        option(name, settings[name].annotation, settings[name].description, getattr(defaults, name))
        for name in sorted(settings, key=lambda name: name not in AXES)
    ]
    help = "Presets of cfgs/ by name, or YAML files: their values replace the defaults."
    fields.append(option("preset", tuple[str, ...], help, presets))
    return make_dataclass("Options", [*fields, option("workers", int, WORKERS, 1)])


@dataclass(frozen=True)
class Resume:
    """What to go on with."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of a session such as output/session_1, or of one run in it."""
    workers: Annotated[int, tyro.conf.arg(help=WORKERS)] = 1


def resume(arguments: Sequence[str]) -> None:
    """Go on with what is left of a session, or with one run, from the newest checkpoints."""
    from quick_start.runs import Runs, find_run
    from quick_start.training import train as train_all
    from quick_start.training import train_one

    chosen = tyro.cli(Resume, args=arguments, prog="main.py resume", description=resume.__doc__)
    if (chosen.run / "session.json").is_file():
        with _executor(chosen.workers) as executor:
            _report(train_all(resume=chosen.run, executor=executor))
        return
    run = find_run(chosen.run)
    _report(Runs([train_one(run.settings, resume=run.folder)]))


def _executor(workers: int) -> AbstractContextManager[Executor | None]:
    """Processes that train at the same time, or nothing where one is enough."""
    from quick_start import process_pool

    return nullcontext() if workers == 1 else process_pool(workers)


def _report(runs: Runs) -> None:
    """Print the runs' folders, and exit as a shell expects where not all is well."""
    for run in runs:
        print(run.folder)
    if runs.left or any(run.status == "interrupted" for run in runs):
        sys.exit(INTERRUPTED)
    if any(run.status == "failed" for run in runs):
        sys.exit(FAILED)


@dataclass(frozen=True)
class Render:
    """What to draw."""

    model: Annotated[Path, tyro.conf.Positional]
    """A model.pt."""
    output: Annotated[Path, tyro.conf.Positional]
    """The picture to write; the suffix says how. A stack gives one more file per picture."""
    height: int | None = None
    """Height in pixels; without it, the height that was fitted."""


def render(arguments: Sequence[str]) -> None:
    """Draw a saved model as a picture, at any height."""
    from fitting import results
    from fitting.gaussians import Gaussians
    from settings import SettingsError

    chosen = tyro.cli(Render, args=arguments, prog="main.py render", description=render.__doc__)
    if chosen.height is not None and chosen.height < 1:
        raise SettingsError(f"--height {chosen.height}: a picture has at least one row of pixels")
    results.save_pictures(Gaussians.load(chosen.model), chosen.output, chosen.height)
    print(chosen.output)


@dataclass(frozen=True)
class Evaluate:
    """What to compare."""

    model: Annotated[Path, tyro.conf.Positional]
    """A model.pt."""
    picture: Annotated[Path, tyro.conf.Positional]
    """The picture, or the folder of a stack."""
    lpips_weights: Path | None = None
    """File with LPIPS weights; without it LPIPS is left out."""


def evaluate(arguments: Sequence[str]) -> None:
    """Measure how well a saved model matches a picture, at the picture's size."""
    from fitting.gaussians import Gaussians
    from imaging import metrics
    from imaging.files import load_target

    chosen = tyro.cli(
        Evaluate, args=arguments, prog="main.py evaluate", description=evaluate.__doc__
    )
    gaussians = Gaussians.load(chosen.model)
    target = load_target(chosen.picture, background=gaussians.settings.background)
    _check_comparable(gaussians, target)
    scores = metrics.evaluate(
        gaussians.picture(*target.full_size),
        target.full_pixels,
        lpips_weights=chosen.lpips_weights,
        splits=target.channels,
    )
    for name, score in scores.items():
        print(f"{name:8}", score.reason if score.value is None else f"{score.value:.4f}")


def _check_comparable(gaussians: Gaussians, target: Target) -> None:
    from imaging.files import PictureError

    height, width = target.full_size
    ratio, aspect = height / gaussians.height, gaussians.width / gaussians.height
    # Both sides of a reduced picture were rounded, by half a pixel at most.
    slack = 0 if height == gaussians.height else ratio * (1 + aspect)
    if abs(gaussians.width * ratio - width) > slack or gaussians.channels != target.channels:
        raise PictureError(
            f"{target.name} is {width}×{height} with {sum(target.channels)} channels, and the "
            f"model was fitted to {gaussians.width}×{gaussians.height} with "
            f"{sum(gaussians.channels)}. Compare with a picture of the same proportions."
        )


COMMANDS = {"train": train, "resume": resume, "render": render, "evaluate": evaluate}


def cli(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the ``splatbook`` command. Exits with 1 after an error, 2 after a misuse."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] not in COMMANDS:
        asked = arguments[:1] in (["-h"], ["--help"])
        print(_usage(), file=sys.stdout if asked else sys.stderr)
        sys.exit(0 if asked else 2)
    try:
        COMMANDS[arguments[0]](arguments[1:])
    except (ValueError, RuntimeError, OSError, MemoryError) as error:
        print(f"error: {error or 'out of memory'}", file=sys.stderr)
        sys.exit(FAILED)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _usage() -> str:
    lines = ["usage: main.py COMMAND [OPTIONS]   (main.py COMMAND --help tells more)", ""]
    return "\n".join(lines + [f"  {name:10} {c.__doc__}" for name, c in COMMANDS.items()])


if __name__ == "__main__":
    cli()
