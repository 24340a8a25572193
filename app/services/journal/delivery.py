"""Writes rows of a journal to PostgreSQL together with the ledger line of their worker.

A delivery tracks the position up to which a journal is delivered, and makes the worker's ledger line for the next rows.
There is one for the process's own journal (shipper.py) and one for each dead worker's (orphans.py).
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import msgspec

from app.db import Database, time_limit
from app.db.activity import UnacceptableRows, insert_activity
from app.db.clock import Clocks, read_clocks
from app.db.ledger import LedgerLine, upsert_ledger
from app.logs import log_event
from app.metrics import count_rejected_row
from app.runtime import Runtime
from app.services.journal.repair import RepairedRow, repair_row
from app.services.journal.segment_reader import Row
from app.yielding import with_pauses

# Above the 10 s after which the server ends a statement. If a statement takes longer, the server is frozen or
# unreachable, and the connection is closed.
STATEMENT_TIME_LIMIT_S = 12.0

_MAX_LOGGED_BYTES = 4_000


class Delivery(ABC):
    """The delivery of one worker's journal.

    Args:
        runtime: gives the database and JOURNAL_DIR.
        worker_id: the worker that wrote the journal.

    Attributes:
        version: the version of the ledger line; each statement has a higher one.
        rejected: rows that PostgreSQL has refused so far, repaired or not.
    """

    def __init__(self, runtime: Runtime, worker_id: str) -> None:
        self.runtime = runtime
        self.worker_id = worker_id
        self.version = 0
        self.rejected = 0
        self._written_line: LedgerLine | None = None
        # Read only once, so that a row that is repaired again gets the same time and is not inserted twice.
        self._clocks: Clocks | None = None

    @abstractmethod
    def make_ledger_line(self, rows: Sequence[Row]) -> LedgerLine:
        """Returns the ledger line that is true once `rows`, the next ones, are in the database."""

    @abstractmethod
    def mark_delivered(self, rows: Sequence[Row]) -> None:
        """Moves the position past `rows`, the next ones, which are in the database or rejected by it."""

    def deliver(self, rows: Sequence[Row]) -> None:
        """Writes the next rows to the database; rows that PostgreSQL refuses are repaired first.

        Raises:
            Exception: the database is unavailable. Some rows may be in it; those are marked as delivered.
        """
        if not rows:
            return
        try:
            self._insert(rows, [row.content for row in rows])
        except UnacceptableRows as error:
            self._deliver_repaired(rows, error)

    def _insert(self, rows: Sequence[Row], contents: Sequence[bytes]) -> None:
        self.version += 1
        line = self.make_ledger_line(rows)
        with time_limit(STATEMENT_TIME_LIMIT_S):
            insert_activity(self.runtime.get(Database).engine, contents, line)
        self._written_line = line
        self.mark_delivered(rows)

    def _deliver_repaired(self, rows: Sequence[Row], error: UnacceptableRows) -> None:
        repaired = [repair_row(row.content, self._select_clocks()) for row in with_pauses(rows)]
        try:
            self._insert(rows, [each.content for each in repaired])
        except UnacceptableRows as second:
            self._deliver_halves(rows, second)
            return
        for row, each in zip(rows, repaired, strict=True):
            if each.changed:
                _log_repaired(row, each, str(error))

    def _select_clocks(self) -> Clocks:
        if self._clocks is None:
            with time_limit(STATEMENT_TIME_LIMIT_S), self.runtime.get(Database).engine.connect() as connection:
                self._clocks = read_clocks(connection)
        return self._clocks

    def _deliver_halves(self, rows: Sequence[Row], error: UnacceptableRows) -> None:
        """Finds the row that is refused although it was repaired. That means a bug in the checks of repair.py."""
        if len(rows) == 1:
            self._deliver_bare(rows[0], error)
            return
        # The first half is marked before the second is tried, so that the position never skips a row.
        middle = len(rows) // 2
        self.deliver(rows[:middle])
        self.deliver(rows[middle:])

    def _deliver_bare(self, row: Row, error: UnacceptableRows) -> None:
        """Delivers a row without its details. If even that is refused, keeps it in rejected.jsonl."""
        bare = repair_row(row.content, self._select_clocks(), is_bare=True)
        try:
            self._insert([row], [bare.content])
        except UnacceptableRows as last:
            _write_rejected(self.runtime.settings.journal_dir, row, str(last))
            count_rejected_row()
            self.rejected += 1
            self.mark_delivered([row])
        else:
            _log_repaired(row, bare, str(error))

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


def _log_repaired(row: Row, repaired: RepairedRow, reason: str) -> None:
    content = row.content[:_MAX_LOGGED_BYTES].decode(errors="replace")
    log_event("activity_row_repaired", level="error", reason=reason, columns=repaired.changed, row=content)


def _write_rejected(root: Path, row: Row, reason: str) -> None:
    # The row is logged too, because the file may be on the full disk.
    content = row.content.decode(errors="replace")
    log_event("activity_row_rejected", level="error", reason=reason, row=content)
    try:
        # Rows name keys and models, so only the gateway's user may read them, as in the directories of the workers.
        descriptor = os.open(root / "rejected.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with open(descriptor, "ab", buffering=0) as file:
            os.fchmod(descriptor, 0o600)  # An earlier version made it readable for all.
            file.write(msgspec.json.encode({"reason": reason, "row": content}) + b"\n")
    except OSError as error:
        log_event("rejected_file_write_failed", level="error", error=error)
