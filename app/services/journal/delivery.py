"""Takes rows of a journal into the database together with the ledger's line, whatever the rows are.

A delivery knows where in a journal it stands and what its worker's line in the ledger says once more rows are in.
There is one of the worker itself (shipper.py) and one for each dead worker (orphans.py).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import msgspec

from app.db.activity import UnacceptableRows, insert_activity
from app.db.engine import get_engine
from app.db.errors import bounded
from app.db.ledger import LedgerLine, upsert_ledger
from app.logs import log_event
from app.services.journal.segment_reader import Row

# Above the 10 s after which the server itself ends a statement: what reaches this is a server that is frozen or cut
# off, and the connection to it is given up.
DATABASE_PATIENCE_S = 12.0


class Delivery(ABC):
    """What is to be delivered of one worker's journal.

    Attributes:
        root: JOURNAL_DIR.
        worker_id: whose journal it is.
        rejected: rows that PostgreSQL refused so far.
    """

    def __init__(self, root: Path, worker_id: str) -> None:
        self.root = root
        self.worker_id = worker_id
        self.version = 0
        self.rejected = 0
        self._written: LedgerLine | None = None

    @abstractmethod
    def make_line(self, rows: Sequence[Row]) -> LedgerLine:
        """Returns the ledger's line that is true once `rows`, the next ones, are in the database."""

    @abstractmethod
    def settle(self, rows: Sequence[Row]) -> None:
        """Takes note that nothing more is to be done for `rows`, the next ones."""

    def deliver(self, rows: Sequence[Row]) -> None:
        """Delivers the next rows; a row that PostgreSQL will never take goes to rejected.jsonl.

        Raises:
            Exception: the database is away; some of the rows may be in, and are settled then.
        """
        if not rows:
            return
        self.version += 1
        line = self.make_line(rows)
        try:
            with bounded(DATABASE_PATIENCE_S):
                insert_activity(get_engine(), [row.content for row in rows], line)
        except UnacceptableRows as error:
            self._divide(rows, error)
            return
        self._written = line
        self.settle(rows)

    def _divide(self, rows: Sequence[Row], error: UnacceptableRows) -> None:
        if len(rows) == 1:
            _keep_rejected(self.root, rows[0], str(error))
            self.rejected += 1
            self.settle(rows)
            return
        # The first half is settled before the second is tried, so that the position never leaves out a row.
        middle = len(rows) // 2
        self.deliver(rows[:middle])
        self.deliver(rows[middle:])

    def deliver_line(self) -> None:
        """Writes the ledger's line if it says anything new.

        Raises:
            Exception: the database is away.
        """
        line = self.make_line([])
        if not line.started or line == self._written:
            return
        self.version += 1
        line = self.make_line([])
        with bounded(DATABASE_PATIENCE_S):
            upsert_ledger(get_engine(), line)
        self._written = line


def _keep_rejected(root: Path, row: Row, reason: str) -> None:
    # The log has the row too: the file may be on the very disk that is full.
    content = row.content.decode(errors="replace")
    log_event("activity_row_rejected", level="error", reason=reason, row=content)
    try:
        with (root / "rejected.jsonl").open("ab", buffering=0) as file:
            file.write(msgspec.json.encode({"reason": reason, "row": content}) + b"\n")
    except OSError as error:
        log_event("rejected_file_not_writable", level="error", error=error)
