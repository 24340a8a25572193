"""Writes rows of a journal to PostgreSQL together with the ledger line of their worker.

A delivery keeps the position up to which a journal is delivered, and makes the worker's ledger line for the next rows.
There is one for the process's own journal (shipper.py) and one for each dead worker's (orphans.py).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import msgspec

from app.db import Database, time_limit
from app.db.activity import UnacceptableRows, insert_activity
from app.db.ledger import LedgerLine, upsert_ledger
from app.logs import log_event
from app.runtime import Runtime
from app.services.journal.segment_reader import Row

# Above the 10 s after which the server ends a statement. If a statement takes longer, the server is frozen or
# unreachable, and the connection is closed.
STATEMENT_TIME_LIMIT_S = 12.0


class Delivery(ABC):
    """The delivery of one worker's journal.

    Args:
        runtime: gives the database and JOURNAL_DIR.
        worker_id: whose journal it is.

    Attributes:
        version: the version of the ledger line; each statement has a higher one.
        rejected: rows that PostgreSQL has refused so far.
    """

    def __init__(self, runtime: Runtime, worker_id: str) -> None:
        self.runtime = runtime
        self.worker_id = worker_id
        self.version = 0
        self.rejected = 0
        self._written_line: LedgerLine | None = None

    @abstractmethod
    def make_ledger_line(self, rows: Sequence[Row]) -> LedgerLine:
        """Returns the ledger line that is true once `rows`, the next ones, are in the database."""

    @abstractmethod
    def mark_delivered(self, rows: Sequence[Row]) -> None:
        """Moves the position past `rows`, the next ones, which are in the database or rejected by it."""

    def deliver(self, rows: Sequence[Row]) -> None:
        """Writes the next rows to the database. Rows that PostgreSQL will never accept go to rejected.jsonl.

        Raises:
            Exception: the database is unavailable. Some rows may be in it; those are marked as delivered.
        """
        if not rows:
            return
        self.version += 1
        line = self.make_ledger_line(rows)
        try:
            with time_limit(STATEMENT_TIME_LIMIT_S):
                insert_activity(self.runtime.get(Database).engine, [row.content for row in rows], line)
        except UnacceptableRows as error:
            self._deliver_halves(rows, error)
            return
        self._written_line = line
        self.mark_delivered(rows)

    def _deliver_halves(self, rows: Sequence[Row], error: UnacceptableRows) -> None:
        if len(rows) == 1:
            _write_rejected(self.runtime.settings.journal_dir, rows[0], str(error))
            self.rejected += 1
            self.mark_delivered(rows)
            return
        # The first half is marked before the second is tried, so that the position never skips a row.
        middle = len(rows) // 2
        self.deliver(rows[:middle])
        self.deliver(rows[middle:])

    def write_ledger(self) -> None:
        """Writes the ledger line if it differs from the last one written.

        Raises:
            Exception: the database is unavailable.
        """
        line = self.make_ledger_line([])
        if not line.started or line == self._written_line:
            return
        self.version += 1
        line = self.make_ledger_line([])
        with time_limit(STATEMENT_TIME_LIMIT_S):
            upsert_ledger(self.runtime.get(Database).engine, line)
        self._written_line = line


def _write_rejected(root: Path, row: Row, reason: str) -> None:
    # The row is logged too, because the file may be on the disk that is full.
    content = row.content.decode(errors="replace")
    log_event("activity_row_rejected", level="error", reason=reason, row=content)
    try:
        with (root / "rejected.jsonl").open("ab", buffering=0) as file:
            file.write(msgspec.json.encode({"reason": reason, "row": content}) + b"\n")
    except OSError as error:
        log_event("rejected_file_write_failed", level="error", error=error)
