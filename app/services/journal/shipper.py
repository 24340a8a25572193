"""Takes this worker's records from its journal to PostgreSQL, beside its requests and for as long as it lives.

The file is the queue. A batch is read, written with one statement, and only then forgotten; how long that takes or
how often it fails costs no request anything, and no memory.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from app.db.ledger import LedgerLine
from app.logs import log_event
from app.services.journal.delivery import Delivery
from app.services.journal.orphans import Orphanage
from app.services.journal.recorder import Recorder
from app.services.journal.segment_reader import BATCH_ROWS, Position, Row, SegmentReader

# How old a row is when the statistics see it, on average. A batch twice a second costs next to nothing.
TICK_S = 0.5

# The pause after a failure doubles up to this, so that a database that is back is noticed within seconds.
MOST_PAUSE_S = 5.0

# A database that stays away is complained about at this pace.
COMPLAINT_PAUSE_S = 60.0


class OwnDelivery(Delivery):
    """The delivery of the journal that this process is writing."""

    def __init__(self, root: Path, recorder: Recorder) -> None:
        super().__init__(root, recorder.worker_id)
        self.recorder = recorder
        self.reader = SegmentReader(recorder.writer.directory, Position(1, 0))
        self.direct = 0

    def next_rows(self) -> list[Row]:
        """Returns the next rows to deliver.

        Rows that are in memory because the disk takes nothing go first, past the journal.
        """
        if self.recorder.error is not None:
            in_memory = self.recorder.get_memory_rows(BATCH_ROWS)
            if in_memory:
                return [Row(content, None) for content in in_memory]
        return self.reader.read_batch()

    def peek(self) -> bytes | None:
        """Returns the oldest row that is not in the database, None if there is none."""
        row = self.reader.peek()
        if row is not None:
            return row
        return next(iter(self.recorder.get_memory_rows(1)), None)

    def make_line(self, rows: Sequence[Row]) -> LedgerLine:
        counts = self.recorder.get_counts()
        on_their_way = counts.final_lines - self.recorder.shipped_lines + counts.in_memory
        position = (rows[-1].end if rows else None) or self.reader.position
        return LedgerLine(
            worker_id=self.worker_id,
            version=self.version,
            started=counts.begun,
            in_flight=counts.in_flight,
            unshipped=on_their_way - len(rows),
            unrecorded=counts.unrecorded,
            rejected=self.rejected,
            direct=self.direct + sum(row.end is None for row in rows),
            segment=position.segment,
            byte_offset=position.offset,
        )

    def settle(self, rows: Sequence[Row]) -> None:
        last = rows[-1].end
        if last is None:
            self.recorder.forget_memory_rows(len(rows))
            self.direct += len(rows)
        else:
            self.recorder.shipped_lines += len(rows)
            self.reader.settle(last)


class Shipper:
    """Ships from a thread of its own (a greenlet, where gevent has patched threads) until it is stopped.

    Attributes:
        own: the delivery of this process's journal.
        error: why the last attempt failed, None when it did not.
    """

    def __init__(self, root: Path, recorder: Recorder) -> None:
        self.own = OwnDelivery(root, recorder)
        self.error: Exception | None = None
        self._orphanage = Orphanage(root, recorder.worker_id)
        self._recorder = recorder
        self._failures = 0
        self._retry_at_s = 0.0
        self._complain_at_s = 0.0
        self._stopping = threading.Event()
        self._deadline_s = float("inf")
        self._thread = threading.Thread(target=self._run, name="journal-shipper", daemon=True)
        self._thread.start()

    def stop(self, patience_s: float) -> bool:
        """Ships what can be shipped within `patience_s` seconds, and returns whether that was everything."""
        self._deadline_s = time.monotonic() + patience_s
        self._stopping.set()
        self._thread.join(patience_s)
        ended = not self._thread.is_alive()
        if ended:
            self._orphanage.close()
        return ended and self._is_drained()

    def _is_drained(self) -> bool:
        line = self.own.make_line([])
        return not (line.in_flight or line.unshipped or self.error)

    def _run(self) -> None:
        while not self._stopping.is_set():
            more = self._step()
            self._stopping.wait(0 if more else TICK_S)
        while time.monotonic() < self._deadline_s and self._step():
            pass

    def _step(self) -> bool:
        """Does one round of work; returns whether there is more to do at once."""
        try:
            self._recorder.check()
            if time.monotonic() < self._retry_at_s and not self._stopping.is_set():
                return False
            more = self._ship()
        except Exception as error:
            self._note_failure(error)
            return False
        self._note_success()
        return more

    def _ship(self) -> bool:
        rows = self.own.next_rows()
        self.own.deliver(rows)
        if len(rows) < BATCH_ROWS:
            self.own.deliver_line()
        adopted = not self._stopping.is_set() and self._orphanage.deliver_next()
        return len(rows) >= BATCH_ROWS or adopted

    def _note_failure(self, error: Exception) -> None:
        self.error = error
        self._failures += 1
        # Workers that failed together must not come back together.
        pause_s = min(MOST_PAUSE_S, TICK_S * 2 ** min(self._failures, 10)) * random.uniform(0.5, 1.0)
        self._retry_at_s = time.monotonic() + pause_s
        if time.monotonic() >= self._complain_at_s:
            self._complain_at_s = time.monotonic() + COMPLAINT_PAUSE_S
            backlog = self.own.make_line([]).unshipped
            log_event("shipping_failed", level="error", reason=_reason(error), backlog_rows=backlog)

    def _note_success(self) -> None:
        if self.error is not None:
            log_event("shipping_resumed", backlog_rows=self.own.make_line([]).unshipped)
        self.error, self._failures, self._complain_at_s = None, 0, 0.0


def _reason(error: Exception) -> str:
    # The first line says it; SQLAlchemy's others repeat the statement.
    text = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {text}"
