"""A request under way and its record."""

from __future__ import annotations

import time

from app.runtime import get_component
from app.services.journal import ActivityRecord, Journal


class Activity:
    """A request that is under way.

    Attributes:
        row: its record; fill it in before `dispatch` and before `finish`.
        request_id: its id, a UUID of version 7.
        started_s: when it began, on the monotonic clock.
        dispatched: whether it was about to be sent to a provider; until then it has cost nothing.
    """

    __slots__ = ("_finished", "_journal", "dispatched", "request_id", "row", "started_s")

    def __init__(self, journal: Journal, row: ActivityRecord) -> None:
        self.row = row
        self.request_id = row.request_id
        self.started_s = time.monotonic()
        self._journal = journal
        self._finished = False
        self.dispatched = False

    def dispatch(self) -> None:
        """Writes the record's start; call it right before the provider is called.

        Raises:
            Unavailable: the journal cannot be written, and JOURNAL_FULL is "refuse".
        """
        self._journal.write_start(self.row)
        self.dispatched = True

    def finish(self, outcome: str, status: int) -> bool:
        """Ends the record; calls after the first change nothing and return False.

        Args:
            outcome: one of app.db.tables.OUTCOMES.
            status: the HTTP status that the client got.
        """
        if self._finished:
            return False
        self._finished = True
        row = self.row
        row.outcome, row.status = outcome, status
        row.duration_ms = (time.monotonic() - self.started_s) * 1000
        self._journal.write_final(row)
        return True


def begin_activity(key_id: str, endpoint: str) -> Activity:
    """Counts a request as begun and returns it.

    Args:
        key_id: the public id of the gateway key.
        endpoint: the path of the route.
    """
    journal = get_component(Journal)
    return Activity(journal, journal.begin(key_id, endpoint))
