"""Asks whether a pinned dependency is known to be vulnerable; fails only where one is.

Where the service cannot be reached in time, one line says so.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tools.pins import FILE

SECONDS = 60.0
# The pins are complete, so nothing is to be resolved or downloaded.
OPTIONS = ("--no-deps", "--disable-pip", "--progress-spinner=off", "--format=json", "--timeout=15")


def main(
    command: Sequence[str] = (sys.executable, "-m", "pip_audit"),
    file: Path = FILE,
    seconds: float = SECONDS,
) -> int:
    """Audit the pins; returns the exit status.

    Parameters
    ----------
    command : pip-audit.
    file : the pins.
    seconds : that it may take.
    """
    try:
        done = subprocess.run(
            [*command, *OPTIONS, "--requirement", str(file)],
            capture_output=True, text=True, timeout=seconds, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return _skipped(f"there was no answer within {seconds:g} s")
    except OSError as error:
        return _skipped(f"{command[0]} cannot be started ({error})")
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError, TypeError):  # it says what went wrong elsewhere
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        return _skipped(lines[-1][:200])
    return _told(packages)


def _skipped(why: str) -> int:
    print(f"The audit of dependencies was skipped: {why}.")
    return 0


def _told(packages: list[dict[str, Any]]) -> int:
    unsafe = [package for package in packages if package.get("vulns")]
    unknown = [package["name"] for package in packages if "skip_reason" in package]
    for package in unsafe:
        for problem in package["vulns"]:
            fixed = ", ".join(problem.get("fix_versions", [])) or "no version yet"
            print(
                f"{package['name']} {package['version']} is vulnerable: {problem['id']}, "
                f"fixed in {fixed}",
                file=sys.stderr,
            )
    audited = len(packages) - len(unknown)
    if not audited:
        return _skipped(f"the service knows none of {len(packages)} packages")
    note = f"; not known there: {', '.join(unknown)}" if unknown else ""
    print(f"Dependencies audited: {audited}, vulnerable: {len(unsafe)}{note}.")
    if unsafe:
        print("Raise their versions in requirements.txt, and run: make pins", file=sys.stderr)
    return 1 if unsafe else 0


if __name__ == "__main__":
    sys.exit(main())
