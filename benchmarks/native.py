"""Compiles and runs the two C programs: a provider that uses little CPU time, and the load generator."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.dev import Child, start_child
from benchmarks.machine import CannotRun, pinned

_SOURCES = Path(__file__).parent / "native"


def compile_native(directory: Path) -> None:
    """Compiles both programs into `directory`, unless they are newer than their sources.

    Raises:
        CannotRun: there is no C compiler.
    """
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise CannotRun("A C compiler is missing; on Debian and Ubuntu: apt-get install gcc libc6-dev.")
    newest = max(path.stat().st_mtime for path in _SOURCES.iterdir())
    for name in ("upstream", "load"):
        program = directory / name
        if not program.exists() or program.stat().st_mtime < newest:
            subprocess.run([compiler, "-O2", "-o", program, _SOURCES / f"{name}.c"], check=True)


def start_upstream(directory: Path, core: int) -> tuple[Child, int]:
    """Starts the provider; returns it and its port."""
    output = directory / "upstream.port"
    child = start_child("the upstream", pinned([core], [str(directory / "upstream")]), output=output, quick_signal=None)
    while not (text := output.read_text()).endswith("\n"):
        child.raise_if_ended()
    return child, int(text)


@dataclass(frozen=True)
class Load:
    """A job for the load generator; see native/load.c.

    Attributes:
        body: the body of each request; None for GET requests.
        events: how many events each stream has; 0 without streaming.
        ramp_s: the time over which the connections are opened, in seconds.
        warmup_s: the time between that and the measurement, in seconds.
        seconds: the length of the measurement.
    """

    port: int
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    connections: int = 1
    events: int = 0
    ramp_s: float = 0.0
    warmup_s: float = 0.5
    seconds: float = 3.0


class LoadRun:
    """A running load generator; `result` waits for its end."""

    def __init__(self, directory: Path, core: int, load: Load) -> None:
        self.load = load
        self._body = tempfile.NamedTemporaryFile(dir=directory)  # noqa: SIM115
        self._process = subprocess.Popen(
            pinned([core], [str(directory / "load"), *self._options()]), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def _options(self) -> Sequence[str]:
        load = self.load
        options: dict[str, Any] = {
            "--port": load.port,
            "--path": load.path,
            "--connections": load.connections,
            "--events": load.events,
            "--ramp": load.ramp_s,
            "--warmup": load.warmup_s,
            "--seconds": load.seconds,
        }
        if load.body is not None:
            self._body.write(load.body)
            self._body.flush()
            options["--body"] = self._body.name
        words = [str(word) for pair in options.items() for word in pair]
        for name, value in load.headers.items():
            words += ["--header", f"{name}: {value}"]
        return words

    def result(self) -> dict[str, Any]:
        """Returns name → measured value; times are in milliseconds.

        Raises:
            CannotRun: hardly any request succeeded.
        """
        try:
            output, errors = self._process.communicate()
        finally:
            self._process.kill()
            self._body.close()
        if self._process.returncode != 0:
            raise CannotRun(f"The load at {self.load.path} failed: {errors.decode().strip()}")
        measured: dict[str, Any] = json.loads(output)
        return measured
