"""Starts the sandbox beside the gateway, and the settings that point the gateway at it."""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path

from app.config import ROOT
from app.dev.processes import Child, Stopped, start_child

# Plainly no key: it goes to the sandbox alone, which takes any.
SANDBOX_KEY = "sandbox"
# Importing it takes a few tenths of a second; a busy machine may need many times that.
_START_TIMEOUT_S = 30.0


def start_sandbox(log: Path) -> tuple[Child, str]:
    """Starts the sandbox on a port that the system chooses.

    Args:
        log: the file that gets its output, begun anew.

    Returns:
        The process, and the sandbox's address, such as `http://127.0.0.1:4711`.

    Raises:
        Stopped: it ended before it listened.
    """
    command = [sys.executable, "-m", "app.sandbox", "--port", "0", "--die-with-parent"]
    child = start_child("the sandbox", command, environment=dict(os.environ), output=log, cwd=ROOT)
    deadline = time.monotonic() + _START_TIMEOUT_S
    try:
        while not (said := re.search(r"listening on (http://\S+)\n", log.read_text())):
            child.check()
            if time.monotonic() > deadline:
                raise Stopped(f"The sandbox did not start within {_START_TIMEOUT_S:g} s; see {log}.")
            time.sleep(0.02)
    except BaseException:
        child.stop()
        raise
    return child, said[1]


def sandbox_settings(url: str) -> dict[str, str]:
    """Returns the settings that make the sandbox at `url` stand in for Fireworks."""
    return {"FIREWORKS_BASE_URL": f"{url}/inference/v1", "FIREWORKS_API_KEY": SANDBOX_KEY}
