"""A process that records requests as a worker does, under gevent, and that a test starts and commands.

Its commands are in tests/support/recording_commands.py.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]


class RecordingProcess:
    """The process.

    Args:
        place: the directory of its journal, its log, and the file of the requests that its provider counted.
        database_url: the database it ships to.
        settings: further environment variables.
        name: part of the names of its files, different for each process that shares the place.
    """

    def __init__(
        self, place: Path, database_url: str, settings: Mapping[str, str] | None = None, name: str = "0"
    ) -> None:
        self.counted_file = place / f"counted-{name}"
        self.refused_file = place / f"refused-{name}"
        self.log_file = place / f"log-{name}"
        environment = {
            "PATH": os.environ["PATH"],
            "JOURNAL_DIR": str(place / "journal"),
            "DATABASE_URL": database_url,
            "COUNTED_FILE": str(self.counted_file),
            "REFUSED_FILE": str(self.refused_file),
            **(settings or {}),
        }
        (its_input, our_output), (our_input, its_output) = os.pipe(), os.pipe()
        with self.log_file.open("ab") as log:
            self.process = psutil.Process(_mould().make(environment, [its_input, its_output, log.fileno()]))
        os.close(its_input)
        os.close(its_output)
        self._input, self._output = os.fdopen(our_output, "wb"), os.fdopen(our_input, "rb")

    def __enter__(self) -> RecordingProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, command: str, *arguments: Any) -> Any:
        """Sends a command, waits for its result and returns it."""
        self.send(command, *arguments)
        return self.receive()

    def receive(self) -> Any:
        """Waits for the result of a command that was sent, and returns it."""
        line = self._output.readline()
        assert line, f"the process ended:\n{self.log_file.read_text()}"
        return json.loads(line)

    def send(self, command: str, *arguments: Any) -> None:
        """Sends a command without waiting."""
        self._input.write(json.dumps([command, *arguments]).encode() + b"\n")
        self._input.flush()

    def kill(self) -> None:
        """Kills it with SIGKILL."""
        self.process.kill()
        self.close()

    def close(self) -> None:
        """Closes its input, which ends it without stopping its journal, and waits for its end."""
        with suppress(BrokenPipeError):  # It has died during a command.
            self._input.close()
        self._output.close()
        self.process.wait(20)

    def counted(self) -> set[str]:
        """Returns the ids of the requests that its provider counted."""
        return _ids(self.counted_file)

    def refused(self) -> set[str]:
        """Returns the ids of the requests that were rejected before they were sent to a provider."""
        return _ids(self.refused_file)


def _ids(path: Path) -> set[str]:
    return set(path.read_text().split()) if path.exists() else set()


class _Mould:
    """The process that forks the others; it ends when its socket is closed."""

    def __init__(self) -> None:
        self._socket, its_socket = socket.socketpair()
        with its_socket:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.recording_commands"],
                stdin=its_socket,
                cwd=ROOT,
                env={"PATH": os.environ["PATH"]},
            )

    def make(self, environment: Mapping[str, str], files: list[int]) -> int:
        """Returns the id of a new process with this environment; `files` are its input, output and error output."""
        socket.send_fds(self._socket, [json.dumps(environment).encode()], files)
        return int(self._socket.recv(100))

    def close(self) -> None:
        """Ends the fork server; processes that it made go on."""
        self._socket.close()
        self._process.wait(20)


@functools.cache
def _mould() -> _Mould:
    mould = _Mould()
    atexit.register(mould.close)
    return mould
