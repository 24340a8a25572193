"""A worker's estimate of PostgreSQL's clock, which all workers share to decide the period of a request."""

from __future__ import annotations

import time
from collections.abc import Callable

# A slower answer says less about the clock than an earlier fast one, so it is ignored.
_MAX_ANSWER_S = 0.25
# Smaller differences are due to the varying time of answers.
_MIN_STEP_S = 0.05


class DatabaseClock:
    """Estimates PostgreSQL's time between its answers; before the first, this machine's clock counts.

    Args:
        on_step: called after the clock was set forward or back.
    """

    def __init__(self, on_step: Callable[[], None]) -> None:
        self._on_step = on_step
        self._ahead_s = time.time() - time.monotonic()
        self._is_known = False

    def read(self, monotonic_s: float) -> float:
        """Returns the seconds since 1970 at an instant of the monotonic clock."""
        return monotonic_s + self._ahead_s

    def note(self, now_at_s: float, asked_s: float) -> None:
        """Notes that PostgreSQL's time was `now_at_s` between `asked_s`, on the monotonic clock, and now."""
        answered_s = time.monotonic()
        if self._is_known and answered_s - asked_s > _MAX_ANSWER_S:
            return
        ahead_s = now_at_s - (asked_s + answered_s) / 2
        step_s = abs(ahead_s - self._ahead_s)
        self._is_known = True
        if step_s > _MIN_STEP_S:
            self._ahead_s = ahead_s
            self._on_step()
