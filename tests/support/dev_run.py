"""Runs `python -m app.dev` in a copy of the project, as `make run` does, and finds its processes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil

from tests.support.gateway import clean_environment, free_port
from tests.support.waiting import wait_until

# PostgreSQL makes its data directory, tables are migrated and gunicorn boots: some seconds, more on a busy machine.
_START_TIMEOUT_S = 90.0
_STOP_TIMEOUT_S = 60.0


class DevRun:
    """One run; `wait_for_banner` returns once the gateway is up.

    Args:
        root: the copy of the project.
        settings: environment variables.
        port: where the gateway listens; a free port if none is given.

    Attributes:
        url: the address of the gateway.
        output: the file with everything that was printed.
    """

    def __init__(self, root: Path, settings: Mapping[str, str] | None = None, port: int | None = None) -> None:
        self.root = root
        self.port = port or free_port()
        self.url = f"http://localhost:{self.port}"
        self.output = root.parent / f"run-{self.port}.log"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "app.dev"],
                cwd=root,
                env=clean_environment() | {"PORT": str(self.port)} | dict(settings or {}),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # The tests may run under nohup, and a run inherits the signals that its parent ignores.
                preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
            )

    def text(self) -> str:
        """Returns what has been printed so far."""
        return self.output.read_text(errors="replace")

    def wait_for_banner(self) -> str:
        """Waits until the gateway is up, and returns the output so far.

        Raises:
            AssertionError: the run ended instead.
        """
        wait_until(self._has_banner, _START_TIMEOUT_S, "the banner")
        return self.text()

    def find(self, pattern: str) -> str:
        """Returns the first group of the first match of `pattern` in the output.

        Raises:
            AssertionError: there is no match.
        """
        match = re.search(pattern, self.text(), re.DOTALL | re.MULTILINE)
        assert match is not None, f"no {pattern!r} in:\n{self.text()}"
        return match[1]

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """Sends a signal to the process group, as a terminal does, and returns the exit code."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, number)
        return self.wait()

    def wait(self) -> int:
        """Waits for the end and returns the exit code."""
        return self.process.wait(_STOP_TIMEOUT_S)

    def processes(self) -> list[str]:
        """Returns the command lines of the processes that run in the copy's directory, the run itself included."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.cwd().startswith(str(self.root)) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(" ".join(process.cmdline()))
            except psutil.Error:
                continue
        return found

    def _has_banner(self) -> bool:
        assert self.process.poll() is None, f"it ended with code {self.process.returncode}:\n{self.text()}"
        return "Ctrl-C stops everything" in self.text()
