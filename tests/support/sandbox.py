"""Starts the sandbox as a subprocess, the way `make run` does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.dev import sandbox_settings, start_sandbox


class Sandbox:
    """A running sandbox.

    Attributes:
        url: its address, such as `http://127.0.0.1:4711`.
        settings: the settings that point a gateway at it.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.settings = sandbox_settings(url)


@contextmanager
def running_sandbox(log: Path) -> Iterator[Sandbox]:
    """A sandbox for the length of a `with` block; its output goes to `log`."""
    child, url = start_sandbox(log)
    try:
        yield Sandbox(url)
    finally:
        child.stop()
