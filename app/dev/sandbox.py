"""Starts the sandbox beside the gateway, and returns the settings with which the gateway uses it."""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path

from app.config import ROOT
from app.dev.processes import Child, RunError, start_child
from app.run_file import SANDBOX_KEY

# A start takes a few tenths of a second, and many times that on a busy machine.
_START_TIMEOUT_S = 30.0


def start_sandbox(log: Path) -> tuple[Child, str]:
    """Starts the sandbox on a port that the system chooses.

    Args:
        log: a file for its output, emptied first.

    Returns:
        The process, and the sandbox's address, such as `http://127.0.0.1:4711`.

    Raises:
        RunError: it ended before it listened, or took too long.
    """
    command = [sys.executable, "-m", "app.sandbox", "--port", "0", "--die-with-parent"]
    child = start_child("the sandbox", command, environment=dict(os.environ), output=log, cwd=ROOT)
    deadline_s = time.monotonic() + _START_TIMEOUT_S
    try:
        while not (listening := re.search(r"listening on (http://\S+)\n", log.read_text())):
            child.raise_if_ended()
            if time.monotonic() > deadline_s:
                raise RunError(f"The sandbox did not start within {_START_TIMEOUT_S:g} s; see {log}.")
            time.sleep(0.02)
    except BaseException:
        child.stop()
        raise
    return child, listening[1]


def sandbox_settings(url: str) -> dict[str, str]:
    """Returns the settings that replace Fireworks with the sandbox at `url`."""
    return {
        "FIREWORKS_BASE_URL": f"{url}/inference/v1",
        "FIREWORKS_API_KEY": SANDBOX_KEY,
        "FIREWORKS_BILLING_KEY": SANDBOX_KEY,
    }
