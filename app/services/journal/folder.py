"""Folds the counts of shipped rows into the sums from time to time; the statistics do not depend on the time."""

from __future__ import annotations

import time

from app.db import Database, describe_error, time_limit
from app.db.fold import MIN_AGE_S, fold_deltas
from app.logs import log_event
from app.runtime import Runtime
from app.services.journal.delivery import STATEMENT_TIME_LIMIT_S
from app.services.journal.recorder import REPORT_INTERVAL_S

# How often a process checks whether a fold is due. All processes together fold about once a second.
LOOK_INTERVAL_S = 1.0

# A worker that has shipped nothing lately checks later by this many seconds: workers that ship check themselves, so it
# would only find deltas of a killed one.
IDLE_PAUSE_S = 4.0

# The pause after a failure. Readers add deltas that are not folded, so nothing is urgent.
FAILURE_PAUSE_S = 5.0


class Folder:
    """Calls the fold at most once a second, or again at once while many deltas wait. It never raises."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._next_at_s = 0.0
        self._report_at_s = 0.0

    def fold_if_due(self, *, is_idle: bool) -> None:
        """Folds if a check is due; another process may be folding, or nothing may be waiting.

        Args:
            is_idle: whether this process has shipped nothing lately.
        """
        if time.monotonic() < self._next_at_s + (IDLE_PAUSE_S if is_idle else 0.0):
            return
        self._next_at_s = time.monotonic() + LOOK_INTERVAL_S
        if self._fold(MIN_AGE_S, STATEMENT_TIME_LIMIT_S):
            self._next_at_s = 0.0

    def fold_rest(self, timeout_s: float) -> None:
        """Folds waiting deltas for up to `timeout_s` seconds, at a stop: code before migration 0007 needs that."""
        deadline_s = time.monotonic() + timeout_s
        while (left_s := deadline_s - time.monotonic()) > 0 and self._fold(0, left_s):
            pass

    def _fold(self, min_age_s: float, limit_s: float) -> bool:
        """Returns whether more deltas wait."""
        try:
            with time_limit(min(limit_s, STATEMENT_TIME_LIMIT_S)):
                return fold_deltas(self._runtime.get(Database).engine, min_age_s=min_age_s).has_more
        except Exception as error:
            self._next_at_s = time.monotonic() + FAILURE_PAUSE_S
            if time.monotonic() >= self._report_at_s:
                self._report_at_s = time.monotonic() + REPORT_INTERVAL_S
                log_event("sums_fold_failed", level="error", reason=describe_error(error))
            return False
