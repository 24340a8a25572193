"""Starts the gateway as an operator would: gunicorn with the configuration of the repository."""

from __future__ import annotations

import http.client
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from app.dev import Child, start_child
from benchmarks.machine import CannotRun, ResourceUsage, free_port, get_resource_usage, pinned

# The files that a gateway needs. Copies leave out .env.local, because its settings would affect the run.
_PARTS = ("app", "benchmarks", "migrations", "wsgi.py", "gunicorn.conf.py", ".env")
_BOOT_TIMEOUT_S = 60.0
# The polling interval of a starting gateway, in seconds; its start-up time is measured at most this much too long.
_BOOT_STEP_S = 0.005


def copy_tree(tree: Path, to: Path) -> None:
    """Copies the parts of a checkout that the gateway needs, so that edits during a run do not affect it."""
    shutil.rmtree(to, ignore_errors=True)
    to.mkdir(parents=True)
    for name in _PARTS:
        source = tree / name
        if source.is_dir():
            shutil.copytree(source, to / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            shutil.copy(source, to / name)


def clean_environment() -> dict[str, str]:
    """Returns the environment variables that any process needs, without settings of the gateway."""
    kept = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ")
    return {name: os.environ[name] for name in kept if name in os.environ}


def run_flask(tree: Path, url: str, *words: str) -> str:
    """Runs a command of the gateway on a database, and returns its output.

    Raises:
        CannotRun: it failed.
    """
    environment = clean_environment() | {"DATABASE_URL": url}
    command = [sys.executable, "-m", "flask", "--app", "wsgi", *words]
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise CannotRun(f"`flask {' '.join(words)}` failed: {done.stderr.strip()[-500:]}")
    return done.stdout.strip()


def prepare_database(tree: Path, url: str) -> str:
    """Migrates the database and returns a fresh gateway key from it."""
    run_flask(tree, url, "db", "upgrade")
    return run_flask(tree, url, "keys", "create", "benchmark")


@dataclass
class Gateway:
    """A running gateway.

    Attributes:
        port: where it listens.
        boot_s: the time from the start of the process to its first response, in seconds.
    """

    child: Child
    port: int
    boot_s: float

    def workers(self) -> list[int]:
        """Returns the process ids of its workers."""
        return [child.pid for child in psutil.Process(self.child.process.pid).children()]

    def get_resource_usage(self) -> ResourceUsage:
        """Returns the CPU time and memory of its workers."""
        return get_resource_usage(self.workers())


def start_gateway(
    tree: Path,
    place: Path,
    settings: Mapping[str, str],
    *,
    cores: Sequence[int],
    workers: int = 1,
    application: str = "wsgi:app",
    probe: str = "/health",
    python: str = sys.executable,
) -> Gateway:
    """Starts gunicorn in `tree` and returns when it responds.

    Args:
        tree: a copy made by `copy_tree`.
        place: a directory of its own for the journal and the log.
        settings: DATABASE_URL and the providers.
        cores: the cores that it may run on.
        workers: how many processes.
        application: the WSGI application.
        probe: the path that is polled until it responds.
        python: the interpreter that it runs on.
    """
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    port = free_port()
    fixed = {"PORT": str(port), "WEB_CONCURRENCY": str(workers), "JOURNAL_DIR": str(place / "journal")}
    command = pinned(cores, [python, "-m", "gunicorn", application])
    started_s = time.monotonic()
    child = start_child(
        "gunicorn", command, environment=clean_environment() | dict(settings) | fixed, output=place / "log", cwd=tree
    )
    child.grace_s = 40.0  # Above the gateway's own graceful timeout.
    wait_until_answers(child, port, probe, place / "log")
    return Gateway(child, port, time.monotonic() - started_s)


def wait_until_answers(child: Child, port: int, probe: str, log: Path, timeout_s: float = _BOOT_TIMEOUT_S) -> None:
    """Requests `probe` until the response is a 200.

    Raises:
        CannotRun: the process ended, or did not respond in time.
    """
    deadline_s = time.monotonic() + timeout_s
    while not _answers(port, probe):
        if child.process.poll() is not None or time.monotonic() > deadline_s:
            output = log.read_text()[-1000:]
            child.stop()
            raise CannotRun(f"{child.name} did not start: {output}")
        time.sleep(_BOOT_STEP_S)


def _answers(port: int, probe: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", probe)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
