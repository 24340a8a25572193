"""Ships the records of this process from its journal to PostgreSQL, in the background.

The journal's files are the queue. Rows are read in batches, and the position advances after a batch is in the database.
So a slow or unavailable database delays no request and costs no memory.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence

from app.db import Database, time_limit
from app.db.ledger import LedgerLine, select_ledger_line
from app.logs import log_event
from app.runtime import Runtime
from app.services.journal.delivery import STATEMENT_TIME_LIMIT_S, Delivery
from app.services.journal.folder import Folder
from app.services.journal.kept import return_directories
from app.services.journal.orphan_adopter import OrphanAdopter
from app.services.journal.orphan_backlog import OrphanMeter, count_finals
from app.services.journal.recorder import REPORT_INTERVAL_S, Recorder
from app.services.journal.registration import WorkerRegistration
from app.services.journal.retry_links import RetryLinker
from app.services.journal.segment_format import segment_numbers, segment_path
from app.services.journal.segment_reader import BATCH_ROWS, Position, Row, SegmentReader

# The time between two batches, and about the delay of the statistics. Two small batches a second cost next to nothing.
BATCH_INTERVAL_S = 0.5

# The pause after a failure doubles up to this, so that a recovered database is used again within seconds.
MAX_PAUSE_S = 5.0

# How often a worker checks whether the database has lost data; a worker that ships rows checks before each batch.
CHECK_INTERVAL_S = 10.0

# After this many seconds without shipping, a worker is idle; by then its earlier rows are folded.
IDLE_AFTER_S = 10.0


class OwnDelivery(Delivery):
    """The delivery of the journal that this process writes.

    Attributes:
        is_known: whether the database still knew this worker after it had lost data.
    """

    def __init__(self, runtime: Runtime, recorder: Recorder) -> None:
        super().__init__(runtime, recorder.worker_id)
        self.recorder = recorder
        self.reader = SegmentReader(recorder.writer.directory, Position(1, 0))
        self.is_known = False
        self._delivered_from_memory = 0

    def read_rows(self) -> list[Row]:
        """Returns the next rows to deliver. While the disk fails, rows that are only in memory come first.

        Raises:
            OSError: a segment cannot be read.
        """
        if self.recorder.error is not None:
            in_memory = self.recorder.get_memory_rows(BATCH_ROWS)
            if in_memory:
                return [Row(content, None) for content in in_memory]
        return self.reader.read_batch()

    def read_oldest(self) -> bytes | None:
        """Returns the oldest row that is not in the database; None if there is none."""
        row = self.reader.read_first()
        if row is not None:
            return row
        return next(iter(self.recorder.get_memory_rows(1)), None)

    def rewind_if_reverted(self) -> bool:
        """Continues from the database's position if the database has lost data: after a restore or a failover.

        The database's ledger line of this worker is then older than the last one written. Rows that the database still
        has are skipped by the statement that inserts them. Rows of removed segments are lost; then the ledger counts
        more requests than the database has rows, until `bin/gateway db reconcile-ledger`.

        Returns:
            Whether the database had lost data.

        Raises:
            Exception: the database is unavailable, or a segment cannot be read.
        """
        if self._written_line is None:
            return False
        with time_limit(STATEMENT_TIME_LIMIT_S):
            line = select_ledger_line(self.runtime.get(Database).engine, self.worker_id)
        if line is not None and line.version >= self._written_line.version:
            return False
        numbers = segment_numbers(self.reader.directory)
        start = Position(1, 0) if line is None else Position(line.segment, line.byte_offset)
        if numbers and start.segment not in numbers:
            start = Position(numbers[0], 0)
        shipped = count_finals(segment_path(self.reader.directory, start.segment), start.offset) if numbers else 0
        again = self.recorder.shipped_lines - shipped if numbers else 0
        if again > 0:
            self.recorder.shipped_lines = shipped
            self.reader.position = start
            self.recorder.writer.write_position(*start)
        self.is_known = line is not None
        self.rejected = 0 if line is None else line.rejected
        self._written_line = None
        log_event(
            "database_reverted",
            level="error",
            rows_again=again,
            next_step="The database lost rows, by a restore or a failover. Those that the journal still has are"
            " delivered again. Run `bin/gateway db reconcile-ledger`, which says what is lost.",
        )
        return True

    def make_ledger_line(self, rows: Sequence[Row]) -> LedgerLine:
        counts = self.recorder.get_counts()
        unshipped = counts.final_lines - self.recorder.shipped_lines + counts.in_memory
        position = (rows[-1].end if rows else None) or self.reader.position
        return LedgerLine(
            worker_id=self.worker_id,
            version=self.version,
            started=counts.begun,
            in_flight=counts.in_flight,
            unshipped=unshipped - len(rows),
            unrecorded=counts.unrecorded,
            rejected=self.rejected,
            direct=self._delivered_from_memory + sum(row.end is None for row in rows),
            segment=position.segment,
            byte_offset=position.offset,
        )

    def mark_delivered(self, rows: Sequence[Row]) -> None:
        end = rows[-1].end
        if end is None:
            self.recorder.remove_memory_rows(len(rows))
            self._delivered_from_memory += len(rows)
        else:
            self.recorder.shipped_lines += len(rows)
            self.reader.advance(end)
            self.recorder.writer.write_position(*end)


class Shipper:
    """Ships from `start` to `stop` in a thread of its own (a greenlet if gevent has patched threads).

    Attributes:
        own: the delivery of this process's journal.
        registration: this worker's row in the registry.
        orphans: measures the backlog of dead workers.
        error: the error of the last attempt; None if it succeeded.
    """

    def __init__(self, runtime: Runtime, recorder: Recorder) -> None:
        self.own = OwnDelivery(runtime, recorder)
        self.registration = WorkerRegistration(runtime, recorder.worker_id)
        self.orphans = OrphanMeter(runtime.settings.journal_dir, recorder.worker_id)
        self.error: Exception | None = None
        self._recorder = recorder
        self._adopter = OrphanAdopter(runtime, recorder.worker_id)
        self._folder = Folder(runtime)
        self._retry_linker = RetryLinker(runtime)
        self._failures = 0
        self._shipped_s = float("-inf")
        self._retry_at_s = 0.0
        self._check_at_s = 0.0
        self._report_at_s = 0.0
        self._stopping = threading.Event()
        self._deadline_s = float("inf")
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Starts shipping; later calls do nothing."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="journal-shipper", daemon=True)
            self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Ships for up to `timeout_s` seconds more, this process's rows first and then those of dead workers.

        Returns:
            Whether all rows of this process are shipped.
        """
        self._deadline_s = time.monotonic() + timeout_s
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(timeout_s)
            if self._thread.is_alive():  # Another worker continues with the dead workers' rows.
                return self._is_drained()
        self._adopter.close()
        return self._is_drained()

    def _is_drained(self) -> bool:
        line = self.own.make_ledger_line([])
        return not (line.in_flight or line.unshipped or self.error)

    def _run(self) -> None:
        while not self._stopping.is_set():
            more = self._ship_round()  # First, because it creates the directory that the registry names.
            self.registration.update_if_due()
            self.orphans.measure_if_due()
            self._stopping.wait(0 if more else BATCH_INTERVAL_S)
        self._adopter.search_now()
        self._check_at_s = 0.0
        while time.monotonic() < self._deadline_s and self._ship_round():
            pass
        if self.error is None:
            # Half of the remaining time, so that `stop` need not wait until its deadline.
            self._folder.fold_rest((self._deadline_s - time.monotonic()) / 2)

    def _ship_round(self) -> bool:
        """Ships a batch of this process's rows and one of a dead worker's; returns whether more rows are waiting."""
        try:
            self._recorder.flush_and_probe()
            if time.monotonic() < self._retry_at_s and not self._stopping.is_set():
                return False
            more = self._ship_batches()
        except Exception as error:
            self._on_failure(error)
            return False
        self._on_success()
        if not self._stopping.is_set():
            is_idle = time.monotonic() - self._shipped_s > IDLE_AFTER_S
            self._folder.fold_if_due(is_idle=is_idle)
            self._retry_linker.link_if_due(is_idle=is_idle)
        return more

    def _ship_batches(self) -> bool:
        rows = self.own.read_rows()
        is_due = time.monotonic() >= self._check_at_s
        went_back = (rows or is_due) and self.own.rewind_if_reverted()
        if went_back:
            rows = self.own.read_rows()
        if went_back or is_due:
            self._check_at_s = time.monotonic() + CHECK_INTERVAL_S
            return_directories(self.own.runtime, went_back=bool(went_back) and self.own.is_known)
        self.own.deliver(rows)
        if len(rows) < BATCH_ROWS:
            self.own.write_ledger()
        has_more = len(rows) >= BATCH_ROWS
        if has_more and self._stopping.is_set():
            return True  # At a stop this process's own rows come first.
        is_adopting = self._adopter.deliver_next()
        if rows or is_adopting:
            self._shipped_s = time.monotonic()
        return is_adopting or has_more

    def _on_failure(self, error: Exception) -> None:
        self.error = error
        self._failures += 1
        # The pause is random, so that workers that failed together do not retry together.
        pause_s = min(MAX_PAUSE_S, BATCH_INTERVAL_S * 2 ** min(self._failures, 10)) * random.uniform(0.5, 1.0)
        self._retry_at_s = time.monotonic() + pause_s
        if time.monotonic() >= self._report_at_s:
            self._report_at_s = time.monotonic() + REPORT_INTERVAL_S
            backlog = self.own.make_ledger_line([]).unshipped
            log_event("shipping_failed", level="error", reason=_describe(error), backlog_rows=backlog)

    def _on_success(self) -> None:
        if self.error is not None:
            log_event("shipping_resumed", backlog_rows=self.own.make_ledger_line([]).unshipped)
        self.error, self._failures, self._report_at_s = None, 0, 0.0


def _describe(error: Exception) -> str:
    # The first line is enough; SQLAlchemy's further lines repeat the statement.
    text = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {text}"
