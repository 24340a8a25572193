"""Adopts the journals of dead workers, one after the other.

Every live worker looks for directories without a lock; the lock decides which worker adopts one.
"""

from __future__ import annotations

import time
from pathlib import Path

from app.logs import log_event
from app.runtime import Runtime
from app.services.journal.orphans import OrphanDelivery
from app.services.journal.segment_format import (
    list_directories,
    lock_directory,
    mark_adopted,
    remove_unnamed_directories,
)

# A dead worker's rows reach the statistics after at most this time. A search costs one lock call for each worker.
SEARCH_INTERVAL_S = 5.0

# The pause before another attempt to adopt a journal that could not be read, closed in the registry, or put away.
_RETRY_S = 60.0


class OrphanAdopter:
    """Finds the journals of dead workers and delivers them, one after the other.

    Args:
        runtime: gives the database and JOURNAL_DIR.
        own_id: the worker id of this process, whose own journal is not an orphan.
    """

    def __init__(self, runtime: Runtime, own_id: str) -> None:
        self._runtime = runtime
        self._own_id = own_id
        self._adopted: OrphanDelivery | None = None
        self._search_at_s = 0.0
        # Directory name → the time of its next check.
        self._later_s: dict[str, float] = {}

    def deliver_next(self) -> bool:
        """Delivers one batch of an orphaned journal; returns whether there was one.

        A journal that cannot be read is left for a minute, so that it stops neither the others nor the caller.

        Raises:
            Exception: the database is unavailable; the next call continues.
        """
        if self._adopted is None and time.monotonic() >= self._search_at_s:
            self._adopted = self._adopt()
        if self._adopted is None:
            return False
        try:
            if self._adopted.deliver_next():
                return True
        except OSError as error:
            self._postpone(self._adopted.directory, error)
            self.close()
            return True
        adopted, self._adopted = self._adopted, None
        if not adopted.finish(keeps=True):
            self._later_s[adopted.worker_id] = time.monotonic() + _RETRY_S
        return True

    def _postpone(self, directory: Path, error: OSError) -> None:
        self._later_s[directory.name] = time.monotonic() + _RETRY_S
        log_event(
            "journal_adoption_failed",
            level="error",
            reason=str(error),
            worker_id=directory.name,
            next_step=f"Let the gateway's user read and write {directory}; a worker tries again every minute.",
        )

    def search_now(self) -> None:
        """Makes the next call look for journals: at a stop, because the disk may not survive it."""
        self._search_at_s = 0.0

    def _adopt(self) -> OrphanDelivery | None:
        for directory in list_directories(self._runtime.settings.journal_dir):
            if directory.name == self._own_id or time.monotonic() < self._later_s.get(directory.name, 0.0):
                continue
            try:
                lock = lock_directory(directory)
            except OSError as error:
                self._postpone(directory, error)
                continue
            if lock is not None:
                mark_adopted(directory)
                return OrphanDelivery(self._runtime, directory, lock)
        remove_unnamed_directories(self._runtime.settings.journal_dir)
        self._search_at_s = time.monotonic() + SEARCH_INTERVAL_S
        return None

    def close(self) -> None:
        """Gives up an unfinished adoption, which another worker then continues."""
        if self._adopted is not None:
            self._adopted.release()
        self._adopted = None
