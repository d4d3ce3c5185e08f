"""Runs in a table: who was best, how large, how long, and what went wrong."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from quick_start._format import EMPTY, Cell, escaped, html_table, image_tag, number, plural
from quick_start.facts import is_count
from quick_start.runs import Run, RunError, RunNames, find_runs
from settings import Settings, shown

if TYPE_CHECKING:
    from quick_start.analysis.figure import Chart

HIGHEST_IS_BEST = ("psnr", "ssim", "ms_ssim")
LOWEST_IS_BEST = ("flip", "lpips", "seconds", "theoretical_bytes", "theoretical_bpp")
SCORES = (*HIGHEST_IS_BEST, "flip", "lpips")
MEASURED = (*SCORES, "seconds", "theoretical_bytes", "theoretical_bpp")
ASKED = ("run", "image", "gaussians", "steps")
# Other settings have a column where the runs differ in them: all that may change the result.
PLACES = ("input_dir", "output_dir", "input_filename")
ELSEWHERE = ("Results", "Film")  # groups that say what is kept of a training, not how it goes
OTHERS = tuple(
    name
    for name, field in Settings.model_fields.items()
    if name not in (*ASKED, *PLACES) and field.json_schema_extra["group"] not in ELSEWHERE
)
DIGITS = {
    "gaussians": 0, "steps": 0, "psnr": 2, "ssim": 4, "ms_ssim": 4, "flip": 4, "lpips": 4,
    "seconds": 1, "theoretical_bytes": 0, "theoretical_bpp": 3,
}  # fmt: skip
PLOTTED = ("image", "psnr", "ssim", "theoretical_bpp", "seconds", "status")
SHOWN = 100  # rows in a notebook; the table itself holds all
LISTED = 20  # reasons below it


class Comparison(pd.DataFrame):
    """A table of runs that marks the best values, and draws the plots, when a notebook shows it."""

    @property
    def _constructor(self) -> type[pd.DataFrame]:
        return pd.DataFrame

    def plots(self) -> Chart:
        """PSNR and SSIM over the size in bits per pixel, and over the training time."""
        from quick_start.analysis.tradeoffs import draw_tradeoffs

        return draw_tradeoffs(self)

    def table_html(self) -> str:
        """The table alone."""
        best = {name: _best(self[name], max) for name in HIGHEST_IS_BEST if name in self}
        best |= {name: _best(self[name], min) for name in LOWEST_IS_BEST if name in self}
        head = [Cell(_title(name), number=name in DIGITS) for name in self.columns]
        rows = [
            [_cell(name, value, best.get(name)) for name, value in row.items()]
            for row in self.head(SHOWN).to_dict("records")
        ]
        caption = "Bold is the best of its column." if len(self) > 1 else ""
        return html_table(rows, head, caption) + "".join(
            f"<div>{escaped(note)}</div>" for note in self._notes()
        )

    def _notes(self) -> Iterator[str]:
        if len(self) > SHOWN:
            yield f"{plural(len(self) - SHOWN, 'run')} more: the table itself holds all."
        reasons = self.attrs.get("reasons", [])
        yield from reasons[:LISTED]
        if len(reasons) > LISTED:
            yield f"{len(reasons) - LISTED:,} more reasons are in .attrs['reasons']."

    def _repr_html_(self) -> str:
        table = self.table_html()
        if not self._can_be_plotted():
            return table
        figure = self.plots()
        return table + image_tag(figure.png(), "png", figure.description)

    def _can_be_plotted(self) -> bool:
        """Whether there are runs to weigh against each other, and no column was taken away."""
        return set(PLOTTED) <= set(self.columns) and self["psnr"].notna().sum() > 1


def compare_batch_results(
    runs: RunNames, *, output_dir: str | os.PathLike[str] = "output"
) -> Comparison:
    """Runs in a table, the highest PSNR first, and plots of quality over size and over time.

    Parameters
    ----------
    runs : what :func:`train` returned, a session such as ``session_1``, or a list of names.
    output_dir : folder in which names are looked up.

    Returns
    -------
    A DataFrame with ``run image gaussians steps psnr ssim ms_ssim flip lpips seconds
    theoretical_bytes theoretical_bpp status``. ``gaussians`` and ``steps`` are those asked for;
    after them comes each other setting that may change the result and in which the runs differ.
    ``seconds`` is training time. What was not measured is NaN, and the notebook shows why. A run
    whose ``run.json`` is damaged has the status ``unreadable``. Its ``plots()`` are a figure.

    Raises
    ------
    RunError
        Where there is no such run.
    """
    facts, reasons = [], []
    for run in find_runs(runs, output_dir):
        try:
            record = run.record
            facts.append(_facts(run, record))
            reasons += _reasons(run, record)
        except (RunError, KeyError, TypeError, ValueError) as error:
            facts.append({"run": str(run), "image": "", "status": "unreadable"})
            reasons.append(f"{run} is unreadable: {_brief(error)}")
    columns = [*ASKED, *_differing(facts), *MEASURED, "status"]
    table = pd.DataFrame(facts, columns=columns).astype(dict.fromkeys(MEASURED, float))
    table = table.sort_values("psnr", ascending=False, kind="stable", na_position="last")
    comparison = Comparison(table.reset_index(drop=True))
    comparison.attrs["reasons"] = list(dict.fromkeys(reasons))
    return comparison


def _facts(run: Run, record: Mapping[str, Any]) -> dict[str, Any]:
    """A row; the settings are not checked again, for that would take most of the time."""
    size, scores = record.get("size") or {}, record.get("scores") or {}
    settings = record["settings"]
    return {
        **{name: settings[name] for name in OTHERS if name in settings},
        "run": str(run),
        "image": record["picture"]["name"],
        "gaussians": _asked(record, "gaussians"),
        "steps": _asked(record, "steps"),
        **{name: _number(scores.get(name)) for name in SCORES},
        "seconds": _number((record.get("seconds") or {}).get("training")),
        "theoretical_bytes": _number(size.get("theoretical_bytes")),
        "theoretical_bpp": _number(size.get("theoretical_bpp")),
        "status": record["status"],
    }


def _differing(facts: list[dict[str, Any]]) -> list[str]:
    """Those of the other settings that not all runs share."""
    values = {name: {shown(row[name]) for row in facts if name in row} for name in OTHERS}
    return [name for name in OTHERS if len(values[name]) > 1]


def _asked(record: Mapping[str, Any], name: str) -> int:
    value = record["settings"][name]
    if not is_count(value):
        raise ValueError(f"{name}={shown(value)}")
    return value


def _number(value: Any) -> float:
    return np.nan if value is None else float(value)


def _brief(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"its run.json does not tell {error.args[0]}."
    return str(error) if isinstance(error, RunError) else f"its run.json holds {error}."


def _reasons(run: Run, record: Mapping[str, Any]) -> Iterator[str]:
    """Why scores are empty, for runs that ended by themselves."""
    if record["status"] in ("finished", "stopped early"):
        for name, reason in (record.get("reasons") or {}).items():
            yield f"{name} is empty: {reason}."
    elif record.get("error"):
        yield f"{run} {record['status']}: {record['error']}"


def _best(values: pd.Series, choose: Any) -> float | None:
    """The best of several measured values; where all are equal, none is marked."""
    measured = values.dropna()
    return choose(measured) if measured.nunique() > 1 else None


def _title(name: str) -> str:
    """A column's heading; a setting is named as it is written in a call."""
    return name if name in OTHERS else name.replace("_", " ")


def _cell(name: str, value: Any, best: float | None) -> Cell:
    if name in OTHERS:
        return Cell(_setting_text(value))
    if name not in DIGITS:
        return Cell(str(value))
    return Cell(number(value, DIGITS[name]), number=True, bold=best is not None and value == best)


def _setting_text(value: Any) -> str:
    nothing = value is None or (isinstance(value, float) and math.isnan(value))
    return EMPTY if nothing else shown(value).strip("'")
