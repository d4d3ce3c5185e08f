"""Dependencies: all are pinned, and one that is known to be unsafe is not overlooked."""

from __future__ import annotations

import ast
import json
import re
import stat
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tools import audit, pins

ROOT = Path(__file__).parent.parent
PINS = {
    canonicalize_name(line.name): line
    for line in map(Requirement, pins.pinned_lines(ROOT / "constraints.txt"))
}


def version(name: str) -> Version:
    (only,) = PINS[canonicalize_name(name)].specifier
    assert only.operator == "=="
    return Version(only.version)


@pytest.mark.parametrize("wanted", pins.direct(), ids=str)
def test_every_requirement_has_a_pin_that_agrees(wanted):
    assert version(wanted.name) in wanted.specifier


def test_what_is_needed_in_turn_is_pinned_to_what_was_tested():
    found = pins.installed(pins.direct())
    assert len(found) > 100
    assert {name: Version(number) for name, number in found.items()} == {
        name: version(name) for name in found
    }


def test_no_build_of_torch_is_preferred():
    assert str(PINS["torch"]) == "torch==2.13.0"
    assert "+" not in "".join(map(str, PINS.values()))
    assert not [name for name in PINS if re.match(r"nvidia-|cuda-|pip$", name)]


# Modules whose package has another name.
NAMED = {"cv2": "opencv-python-headless", "PIL": "pillow", "yaml": "pyyaml", "IPython": "ipython",
         "skimage": "scikit-image", "zmq": "pyzmq"}  # fmt: skip
# Packages that are part of another one, which asks for them.
PARTS = {"annotated-types": "pydantic", "pydantic-core": "pydantic", "jaxtyping": "gsplat",
         "ipykernel": "jupyterlab", "jupyter-client": "nbclient", "nbformat": "nbclient",
         "pyzmq": "jupyterlab", "ipython": "ipywidgets", "traitlets": "ipywidgets",
         "packaging": "jupyterlab"}  # fmt: skip


def imported(path: Path) -> set[str]:
    """Modules of other people that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module.split(".")[0])
    return found - sys.stdlib_module_names - {place.stem for place in ROOT.iterdir()}


def test_everything_that_is_imported_is_asked_for():
    known = {canonicalize_name(wanted.name) for wanted in pins.direct()}
    folders = ("quick_start", "fitting", "imaging", "ops", "tools")
    files = [*ROOT.glob("*.py"), *(f for folder in folders for f in (ROOT / folder).rglob("*.py"))]
    for path in files:
        packages = {canonicalize_name(NAMED.get(name, name)) for name in imported(path)}
        assert {PARTS.get(package, package) for package in packages} <= known, path


# The audit


def fake(tmp_path: Path, body: str) -> tuple[str, ...]:
    """A pip-audit that does as it is told."""
    path = tmp_path / "pip-audit"
    path.write_text(f"#!{sys.executable}\nimport sys, time\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return (str(path),)


def answering(tmp_path: Path, packages: list[dict[str, Any]], status: int) -> tuple[str, ...]:
    answer = json.dumps({"dependencies": packages, "fixes": []})
    return fake(tmp_path, f"print({answer!r}); sys.exit({status})")


SAFE = {"name": "numpy", "version": "2.4.6", "vulns": []}
UNSAFE = {
    "name": "pillow",
    "version": "13.0.0",
    "vulns": [{"id": "PYSEC-2026-1", "fix_versions": ["13.0.1"]}, {"id": "PYSEC-2026-2"}],
}


def test_a_vulnerable_dependency_fails_and_is_listed(tmp_path, capsys):
    assert audit.main(answering(tmp_path, [SAFE, UNSAFE], 1)) == 1
    told = capsys.readouterr()
    assert "pillow 13.0.0 is vulnerable: PYSEC-2026-1, fixed in 13.0.1" in told.err
    assert "PYSEC-2026-2, fixed in no version yet" in told.err
    assert "audited: 2, vulnerable: 1" in told.out


def test_safe_dependencies_pass(tmp_path, capsys):
    assert audit.main(answering(tmp_path, [SAFE], 0)) == 0
    assert capsys.readouterr().out == "Dependencies audited: 1, vulnerable: 0.\n"


def test_all_pins_are_handed_over_without_installing_any(tmp_path):
    note = tmp_path / "arguments"
    body = f"open({str(note)!r}, 'w').write(repr(sys.argv[1:]))"
    audit.main(fake(tmp_path, body), file=tmp_path / "pins.txt")
    given = ast.literal_eval(note.read_text())
    assert {"--no-deps", "--disable-pip"} <= set(given)
    assert given[-2:] == ["--requirement", str(tmp_path / "pins.txt")]


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("sys.exit('ERROR: no route to the service')", "ERROR: no route to the service"),
        ("print('<html>'); sys.exit(1)", "exit status 1"),
        ("print('{}')", "exit status 0"),
        ("time.sleep(60)", "there was no answer within 0.5 s"),
    ],
)
def test_without_an_answer_it_is_skipped_in_one_line_and_nothing_fails(tmp_path, capsys, body, why):
    begun = time.perf_counter()
    assert audit.main(fake(tmp_path, body), seconds=0.5 if "sleep" in body else 30) == 0
    assert capsys.readouterr().out == f"The audit of dependencies was skipped: {why}.\n"
    assert time.perf_counter() - begun < 20


def test_a_service_that_knows_no_package_has_audited_nothing(tmp_path, capsys):
    unknown = [{"name": name, "skip_reason": "not found"} for name in ("a", "b")]
    assert audit.main(answering(tmp_path, unknown, 0)) == 0
    assert "was skipped: the service knows none of 2 packages" in capsys.readouterr().out


def test_a_missing_tool_is_told(tmp_path, capsys):
    assert audit.main((str(tmp_path / "none"),)) == 0
    assert "none cannot be started" in capsys.readouterr().out


def test_the_whole_check_audits():
    assert "make audit" in (ROOT / ".ci" / "run").read_text()
    makefile = (ROOT / "Makefile").read_text()
    installs = re.findall(r"pip install.*", makefile.split("$(BIN)/python:")[1])
    pinned = [line for line in installs if "--no-deps" not in line]
    assert len(pinned) == 2
    assert all("--constraint constraints.txt" in line for line in pinned)
