"""Waits for a condition with a time limit, so that a test never sleeps for a guessed time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

# Long enough even for a busy machine with two cores.
PATIENCE_S = 60.0


def wait_until(condition: Callable[[], T], timeout_s: float = PATIENCE_S, what: str = "the condition") -> T:
    """Calls `condition` until it returns something true, and returns that.

    Raises:
        AssertionError: it was still false after `timeout_s` seconds.
    """
    deadline = time.monotonic() + timeout_s
    pause_s = 0.005
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {timeout_s} s in vain for {what}; last value {value!r}"
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, 0.1)
    return value
