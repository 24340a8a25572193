"""Maintains this worker's row in the registry: its identity, its reports, its state, and its end.

The shipper's thread calls it. A failure is logged and tried again later; it never stops shipping.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from app.db import Database, describe_error, time_limit
from app.db.workers import Registration, upsert_closed, upsert_seen
from app.logs import log_event
from app.runtime import Runtime
from app.services.journal.boot import read_boot_id
from app.services.journal.recorder import REPORT_INTERVAL_S
from app.version import compute_digest

# Often enough that a missing worker is reported after minutes; one small update per worker costs almost nothing.
SEEN_INTERVAL_S = 10.0
# Shipping waits meanwhile, so the attempt on a locked row ends soon.
SEEN_TIME_LIMIT_S = 2.0
# A stopping worker has only seconds, most of which belong to its rows.
CLOSE_TIME_LIMIT_S = 0.5


class WorkerRegistration:
    """The registration of one worker.

    Args:
        runtime: gives the database and JOURNAL_DIR.
        worker_id: the name of the worker's directory in the journal.

    Attributes:
        describe: returns the worker's state as JSON; called for each report.
    """

    def __init__(self, runtime: Runtime, worker_id: str) -> None:
        self._runtime = runtime
        self._worker_id = worker_id
        self.describe: Callable[[], bytes | None] = _say_nothing
        self._started_s = time.monotonic()
        self._registration: Registration | None = None
        self._is_registered = False
        self._next_s = 0.0
        self._report_at_s = 0.0

    def update_if_due(self) -> None:
        """Registers this worker or notes that it lives, every SEEN_INTERVAL_S."""
        if time.monotonic() < self._next_s:
            return
        self._next_s = time.monotonic() + SEEN_INTERVAL_S
        try:
            self._update()
        except Exception as error:
            self._report(error)

    def _update(self) -> None:
        if self._registration is None:
            self._registration = _make_registration(self._worker_id, self._runtime.settings.journal_dir)
        with time_limit(SEEN_TIME_LIMIT_S):
            engine = self._runtime.get(Database).engine
            upsert_seen(engine, self._registration, time.monotonic() - self._started_s, self._describe())
        self._is_registered = True

    def _describe(self) -> bytes | None:
        """Returns the state; None if making it fails, because that must not make this worker look dead."""
        try:
            return self.describe()
        except Exception as error:
            log_event("worker_description_failed", level="error", error=error)
            return None

    def close(self, how: Literal["drained", "left_rows"], *, has_begun: bool) -> bool:
        """Records how this worker ended.

        Args:
            how: see app/db/workers.py.
            has_begun: whether it has begun a request; an unregistered worker without requests needs no row.

        Returns:
            Whether the registry has it now.
        """
        if not self._is_registered and not has_begun:
            return True
        try:
            with time_limit(CLOSE_TIME_LIMIT_S):
                upsert_closed(self._runtime.get(Database).engine, self._worker_id, how)
        except Exception as error:
            self._report(error)
            return False
        return True

    def _report(self, error: Exception) -> None:
        if time.monotonic() >= self._report_at_s:
            self._report_at_s = time.monotonic() + REPORT_INTERVAL_S
            log_event("worker_registration_failed", level="error", reason=describe_error(error))


def _say_nothing() -> None:
    return None


def _make_registration(worker_id: str, journal_dir: Path) -> Registration:
    return Registration(
        worker_id=worker_id,
        host=socket.gethostname(),
        boot_id=read_boot_id(),
        pid=os.getpid(),
        version=compute_digest(),
        journal_dir=str(journal_dir.absolute()),
    )
