"""Writes constraints.txt: the version of every package that ours need, as installed here.

``make pins`` calls it after a change of requirements.txt or pyproject.toml.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "constraints.txt"
# pip itself is older or newer in every environment.
LEFT_OPEN = re.compile(r"nvidia-|cuda-|pip$")
HEAD = """\
# Written by `make pins`. The versions that were tested together, dependencies of dependencies too;
# pip installs none of them because of this file. It has no nvidia-* package: a torch for CUDA names
# the versions of those by itself, and which build of torch is installed is left open.
"""


def main() -> None:
    """Write the file."""
    FILE.write_text(text(), encoding="utf-8")
    print(f"written: {FILE}")


def text() -> str:
    """What is to stand in the file."""
    found = installed(direct())
    lines = [f"{name}=={found[name]}" for name in sorted(found)]
    return HEAD + "\n".join(lines) + "\n"


def direct() -> list[Requirement]:
    """What requirements.txt, pyproject.toml and its optional parts ask for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    lines = [line for group in groups for line in group]
    lines += pinned_lines(ROOT / "requirements.txt")
    return [Requirement(line) for line in lines]


def pinned_lines(path: Path) -> list[str]:
    """A requirements file without its comments."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line for line in (line.split("#")[0].strip() for line in lines) if line]


def installed(wanted: Iterable[Requirement]) -> dict[str, str]:
    """Versions of packages and of all that they need in turn, as far as it is installed."""
    found: dict[str, str] = {}
    seen: set[str] = set()
    waiting = list(wanted)
    while waiting:
        requirement = waiting.pop()
        if str(requirement) in seen:
            continue
        seen.add(str(requirement))
        name = canonicalize_name(requirement.name)
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:  # for another system
            continue
        if not LEFT_OPEN.match(name):
            found[name] = Version(distribution.version).public  # without +cpu
        waiting += _needed_by(distribution, requirement.extras)
    return found


def _needed_by(distribution: metadata.Distribution, extras: Iterable[str]) -> Iterator[Requirement]:
    for line in distribution.requires or []:
        requirement = Requirement(line)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield requirement


if __name__ == "__main__":
    main()
