"""`make` installs what is pinned, once, and says in a sentence what it lacks; the pins name no place to fetch from."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.support.tree import ROOT

# One requirement is a pin, its hashes and a comment that says what asked for it.
PIN = re.compile(r"^([a-z0-9-]+)==(\S+) \\$")
OTHER = re.compile(r"^(    --hash=sha256:[0-9a-f]{64}( \\)?|\s*#.*|)$")


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text().splitlines()
    return {match[1]: match[2] for line in lines if (match := PIN.match(line))}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in ("Makefile", "requirements.txt", "requirements-dev.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def make(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # The flags of a make that runs these tests are not meant for this one.
    environment = {
        name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")
    }
    command = ["make", "-C", str(checkout), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_every_line_is_a_pin_or_its_hash_and_none_names_an_index_or_a_host(name: str) -> None:
    lines = (ROOT / name).read_text().splitlines()
    assert [line for line in lines if not PIN.match(line) and not OTHER.match(line)] == []
    assert "://" not in "\n".join(lines)


def test_development_installs_what_production_does() -> None:
    assert pins("requirements.txt").items() <= pins("requirements-dev.txt").items()


def test_what_the_project_asks_for_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for name, wanted in {
        "requirements.txt": project["dependencies"],
        "requirements-dev.txt": project["optional-dependencies"]["dev"],
    }.items():
        names = {re.split(r"[^A-Za-z0-9-]", requirement)[0].lower() for requirement in wanted}
        assert names <= pins(name).keys()


def test_an_installed_checkout_installs_again_only_when_the_pins_change(checkout: Path) -> None:
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / "installed").touch()
    assert "pip install" not in make(checkout, "-n", "run").stdout
    later = (checkout / ".venv" / "installed").stat().st_mtime + 1
    os.utime(checkout / "requirements.txt", (later, later))
    assert "pip install" in make(checkout, "-n", "run").stdout


def test_a_python_that_is_too_old_is_one_sentence(checkout: Path) -> None:
    done = make(checkout, "run", "PYTHON=false")
    assert done.returncode != 0
    assert "Python 3.11 or later is needed; name it with: make PYTHON=python3.12 run" in done.stdout
    assert not (checkout / ".venv").exists()
