"""Writes a run's folder while the run goes on: facts, measurements, log. Every file is whole."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import platform
import sys
import time
import traceback
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from events import Event, Status
from imaging.decoding import brief
from imaging.files import atomic_write

COLUMNS = (
    "step", "total_loss", "l1_loss", "l2_loss", "ssim_loss", "psnr", "ssim", "num_gaussians",
    "num_bytes", "render_time_accum", "total_time_accum",
)  # fmt: skip
SECONDS_BETWEEN_WRITES = 1.0


def refuse_links(folder: Path) -> None:
    """Raise an OSError where a link leads out of a folder, which may come from anybody.

    Whatever is written into it would change files elsewhere.
    """
    home = Path(os.path.realpath(folder))
    for path in folder.rglob("*"):
        if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(home):
            raise OSError(
                f"{path} is a link that leads out of {folder}; delete it, or copy the file"
            )


class Recorder:
    """The files of one run folder that are not pictures or models."""

    def __init__(self, folder: Path, facts: dict[str, Any]):
        self.folder = folder
        self.facts: dict[str, Any] = {
            "status": "running",
            "error": "",
            **facts,
            "versions": versions(),
            "started": datetime.now().astimezone().isoformat(timespec="seconds"),
            "notices": [],
        }
        self.rows: list[dict[str, Any]] = []
        self._log: list[str] = []
        self._begun = time.perf_counter()
        self._written = 0.0

    @property
    def other(self) -> Path:
        """The folder for everything that is not the result itself."""
        return self.folder / "other"

    @property
    def log_path(self) -> Path:
        """What happened, line by line; it is written when the run ends."""
        return self.other / "log.txt"

    def open(self) -> None:
        """Create the folder; an :class:`OSError` says why it cannot be, or not be written to."""
        refuse_links(self.folder)
        self.other.mkdir(parents=True, exist_ok=True)
        self._write_facts()

    def note(self, event: Event) -> None:
        """Add an event to the log."""
        shown = {k: v for k, v in vars(event).items() if not hasattr(v, "shape")}
        text = " ".join(f"{k}={v}" for k, v in shown.items() if k not in ("step", "seconds"))
        self._log.append(f"{event.seconds:9.3f}s step {event.step} {type(event).__name__} {text}")

    def notice(self, message: str) -> None:
        """Keep a message that the user should see beside the results."""
        self.facts["notices"].append(message)

    def measure(self, row: dict[str, Any]) -> None:
        """Add a row of ``metrics.csv``; the file is rewritten at most once a second."""
        self.rows.append(row)
        if time.perf_counter() - self._written > SECONDS_BETWEEN_WRITES:
            self.write_rows(durable=False)

    def load(self, last_step: int) -> None:
        """Take over the log, and the measurements up to a step, when a run is resumed.

        Measurements that cannot be read are given up, and a notice says so.
        """
        with contextlib.suppress(OSError):
            text = self.log_path.read_text(encoding="utf-8", errors="replace")
            self._log = [*text.splitlines(), f"resumed after step {last_step}"]
        try:
            with (self.folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
                rows = [{k: json.loads(v) for k, v in row.items()} for row in csv.DictReader(file)]
            rows = [{name: row[name] for name in COLUMNS} for row in rows]
            self.rows = [row for row in rows if row["step"] <= last_step]
        except FileNotFoundError:
            pass
        except (KeyError, TypeError, ValueError, OSError, RecursionError, csv.Error) as error:
            # Cut short, or changed by hand.
            self.notice(
                f"metrics.csv was damaged ({brief(error)}): it begins after step {last_step}"
            )

    def fail(self, error: BaseException) -> None:
        """Put an error and where it came from into the facts and the log."""
        self.facts["error"] = f"{type(error).__name__}: {error}"
        self._log += "".join(traceback.format_exception(error)).splitlines()

    def close(self, status: Status, **facts: Any) -> None:
        """Write everything; after this the folder is complete."""
        self.facts.update(facts, status=status)
        self.facts.setdefault("seconds", {})["total"] = time.perf_counter() - self._begun
        self.write_rows()
        with atomic_write(self.log_path) as path:
            text = "\n".join(self._log) + "\n"
            path.write_text(text, encoding="utf-8", errors="backslashreplace")  # odd file names
        self._write_facts()

    def _write_facts(self) -> None:
        with atomic_write(self.folder / "run.json") as path:
            path.write_text(json.dumps(self.facts, indent=1) + "\n", encoding="utf-8")

    def write_rows(self, *, durable: bool = True) -> None:
        """Write ``metrics.csv`` now."""
        self._written = time.perf_counter()
        if self.rows:
            with (
                atomic_write(self.folder / "metrics.csv", durable=durable) as path,
                path.open("w", newline="") as file,
            ):
                writer = csv.DictWriter(file, COLUMNS)
                writer.writeheader()
                # As JSON, so that numbers come back exactly; infinity is written Infinity.
                writer.writerows({k: json.dumps(v) for k, v in row.items()} for row in self.rows)


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    found = {"python": platform.python_version(), "platform": sys.platform}
    for package in ("splatbook", "torch", "numba", "numpy", "triton"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed as a package"
    return found
