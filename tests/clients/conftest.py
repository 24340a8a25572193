"""Fixtures of the tests of clients: the directory with the packages for Node, and functions that run programs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.gateway import clean_environment
from tests.support.tree import ROOT

HERE = Path(__file__).parent
# Untracked and kept between runs, because fetching takes seconds and needs a network.
_PLACE = ROOT / "var" / "node-clients"
_FETCH_TIMEOUT_S = 120
# Bounds a hang; most programs here take some seconds.
_TIMEOUT_S = 90

RunPython = Callable[[str, dict[str, Any]], Any]
RunNode = Callable[[str, dict[str, Any]], Any]


@pytest.fixture(scope="session")
def node_place() -> Path:
    """The directory with the programs for Node and the packages that they import."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("node and npm are not on PATH, so the clients for Node are not tested")
    lock = HERE / "package-lock.json"
    installed = _PLACE / "installed.json"
    if not installed.exists() or installed.read_text() != lock.read_text():
        _PLACE.mkdir(parents=True, exist_ok=True)
        shutil.copy(HERE / "package.json", _PLACE)
        shutil.copy(lock, _PLACE)
        # Install scripts of packages are not run.
        command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=0"]
        try:
            subprocess.run(command, cwd=_PLACE, check=True, capture_output=True, timeout=_FETCH_TIMEOUT_S)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            pytest.skip(f"the clients for Node could not be fetched: {error}")
        shutil.copy(lock, installed)
    for program in HERE.glob("*.mjs"):
        shutil.copy(program, _PLACE)
    return _PLACE


@pytest.fixture(scope="session")
def run_node(node_place: Path) -> RunNode:
    """A function (program, job) that runs a program for Node; see `run_program`."""
    return lambda program, job: run_program(["node", str(node_place / program)], job)


@pytest.fixture(scope="session")
def run_python() -> RunPython:
    """A function (program, job) that runs a program in Python; see `run_program`."""
    return lambda program, job: run_program([sys.executable, str(HERE / program)], job)


def run_program(command: list[str], job: dict[str, Any]) -> Any:
    """Runs a program with a job as JSON on its standard input.

    Returns:
        The JSON that it printed.

    Raises:
        AssertionError: it failed; the message is its standard error.
    """
    done = subprocess.run(
        command,
        input=json.dumps(job),
        capture_output=True,
        text=True,
        env=clean_environment(),
        timeout=_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
