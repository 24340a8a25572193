"""Delivers the journal of a dead worker: ships ended requests, and records unfinished ones as `lost`.

Delivery can be interrupted at any point: if the process dies, another worker continues from the position in the ledger.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

from app.db import Database, describe_error, time_limit
from app.db.ledger import LedgerLine, select_ledger_line
from app.db.workers import select_boot_id, upsert_closed
from app.logs import log_event
from app.runtime import Runtime
from app.services.journal.boot import read_boot_id, read_boot_note
from app.services.journal.delivery import STATEMENT_TIME_LIMIT_S, Delivery
from app.services.journal.kept import put_away
from app.services.journal.lease_closing import close_leases_of
from app.services.journal.segment_format import (
    COUNTERS,
    iterate_lines,
    parse_head,
    parse_request_id,
    read_counters,
    segment_numbers,
    segment_path,
    write_position,
)
from app.services.journal.segment_reader import BATCH_ROWS, LOST_ROWS_OFFSET, Position, Row, SegmentReader

# A statement of the dead worker may be executed late, with a version a little above the one in the ledger.
_VERSION_MARGIN = 1_000_000


class OrphanDelivery(Delivery):
    """The delivery of a dead worker's journal; `lock` is the descriptor that holds its lock.

    Attributes:
        directory: the journal.
        delivered: the number of rows delivered so far.
        lost: how many of them are of requests that the worker sent to a provider and did not finish.
    """

    def __init__(self, runtime: Runtime, directory: Path, lock: int) -> None:
        super().__init__(runtime, directory.name)
        self.directory = directory
        self.delivered = 0
        self.lost = 0
        self._lock = lock
        self._journal: _OrphanedJournal | None = None

    def deliver_next(self) -> bool:
        """Delivers the next batch; returns False if there is none.

        Raises:
            Exception: the database is unavailable.
        """
        journal = self._read_journal() if self._journal is None else self._journal
        rows = journal.reader.read_batch() or journal.make_lost_rows()
        if rows:
            self.deliver(rows)
            return True
        self.write_ledger()
        return False

    def finish(self, *, keeps: bool) -> bool:
        """Closes the dead worker and its leases in the database, removes its journal, and releases the lock.

        Args:
            keeps: whether to keep its files for some days, in case the database is restored.

        Returns:
            Whether that succeeded. If not, the journal stays for a later attempt.
        """
        assert self._journal is not None
        try:
            engine = self.runtime.get(Database).engine
            with time_limit(STATEMENT_TIME_LIMIT_S):
                ran_in = read_boot_note(self.directory) or select_boot_id(engine, self.worker_id)
                upsert_closed(engine, self.worker_id, "adopted")
            # After a power cut, lines that were written may be missing.
            keep = ran_in != read_boot_id() or self._journal.has_gaps or self.rejected > 0
            close_leases_of(self.runtime, self.worker_id, keep=keep, time_limit_s=STATEMENT_TIME_LIMIT_S)
        except Exception as error:
            log_event("worker_close_failed", level="error", reason=describe_error(error), worker_id=self.worker_id)
            return False
        else:
            if not put_away(self.directory, keeps=keeps):
                return False
            started, lost = self._journal.started, self._journal.lost
            log_event("journal_adopted", worker_id=self.worker_id, started=started, lost=lost)
            return True
        finally:
            self.release()

    def _read_journal(self) -> _OrphanedJournal:
        with time_limit(STATEMENT_TIME_LIMIT_S):
            line = select_ledger_line(self.runtime.get(Database).engine, self.worker_id)
        journal = _OrphanedJournal(self.directory, line or LedgerLine(worker_id=self.worker_id, version=0))
        self.version = journal.last_line.version + _VERSION_MARGIN
        self.rejected = journal.last_line.rejected
        self._journal = journal
        return journal

    def make_ledger_line(self, rows: Sequence[Row]) -> LedgerLine:
        assert self._journal is not None
        return self._journal.make_ledger_line(rows, self.version, self.rejected)

    def mark_delivered(self, rows: Sequence[Row]) -> None:
        assert self._journal is not None
        self._journal.mark_delivered(rows)
        self.delivered += len(rows)
        self.lost += sum(row.end is None for row in rows)
        if rows[-1].end is not None:
            _write_position(self.directory, rows[-1].end)

    def release(self) -> None:
        """Releases the lock, so that other workers may adopt the journal; later calls do nothing."""
        if self._lock >= 0:
            os.close(self._lock)
        self._lock = -1  # The number may be another file's from now on.


class _OrphanedJournal:
    """The state of a dead worker's requests, from its files and its last ledger line.

    Attributes:
        last_line: the last line that the worker wrote into the ledger.
        reader: reads its F lines after the position in `last_line`.
        started: the number of requests that it began.
        lost: the number of requests that it sent to a provider and did not finish.
        has_gaps: whether requests were served that left no trace, or segments are missing.
    """

    def __init__(self, directory: Path, last_line: LedgerLine) -> None:
        self.last_line = last_line
        self.reader = SegmentReader(directory, Position(last_line.segment, last_line.byte_offset))
        self._starts: dict[str, bytes] = {}
        self._final_lines = 0
        self._unshipped = 0
        self._read_segments(directory)
        self.lost = len(self._starts)
        self._last_segment = max(segment_numbers(directory), default=0)
        self._delivered_lost = 0
        if last_line.segment == self._last_segment:
            # A count suffices: each segment begins with the S lines still needed, in their order.
            self._mark_lost_delivered(max(0, last_line.byte_offset - LOST_ROWS_OFFSET))
        counters = read_counters(directory)
        self._unrecorded = counters.unrecorded
        accounted = self._final_lines + self.lost + self._unrecorded + last_line.direct
        # After a power cut the counters may be older than the lines.
        self.started = max(counters.begun, accounted)
        self._unsent = self.started - accounted
        if counters.sent_without_start:
            # Some requests were sent to a provider without an S line; they may be among the unaccounted ones.
            self._unrecorded, self._unsent = self._unrecorded + self._unsent, 0
        self.has_gaps = self._unrecorded > 0 or counters.sent_without_start > 0 or self._misses_segment(directory)

    def _misses_segment(self, directory: Path) -> bool:
        """Returns whether a segment was deleted before its rows were delivered."""
        numbers = segment_numbers(directory)
        expected = max(self.reader.position.segment, 1)
        if not numbers:
            return self.reader.position.segment > 0
        return numbers[0] > expected + 1 or numbers != list(range(numbers[0], numbers[-1] + 1))

    def _read_segments(self, directory: Path) -> None:
        numbers = segment_numbers(directory)
        for number in numbers:
            end = 0
            for line in iterate_lines(segment_path(directory, number)):
                end += len(line) + 1
                if number == numbers[0] and end == len(line) + 1:
                    self._final_lines += parse_head(line) or 0
                self._count_line(line, Position(number, end))

    def _count_line(self, line: bytes, end: Position) -> None:
        if not line.startswith((b"S", b"F")):
            return
        request_id = parse_request_id(line)
        if request_id is None:
            return
        if line.startswith(b"S"):
            self._starts[request_id] = line[1:]
            return
        self._starts.pop(request_id, None)
        self._final_lines += 1
        self._unshipped += end > self.reader.position

    def make_lost_rows(self) -> list[Row]:
        """Returns the next rows of requests that did not end, made from their S lines."""
        return [Row(content, None) for content in islice(self._starts.values(), BATCH_ROWS)]

    def make_ledger_line(self, rows: Sequence[Row], version: int, rejected: int) -> LedgerLine:
        """Returns the ledger line that is true once `rows` are in the database."""
        lost = sum(row.end is None for row in rows)
        position = (rows[-1].end if rows else None) or self.reader.position
        if self._delivered_lost + lost:
            position = Position(self._last_segment, LOST_ROWS_OFFSET + self._delivered_lost + lost)
        return LedgerLine(
            worker_id=self.last_line.worker_id,
            version=version,
            started=self.started,
            in_flight=len(self._starts) - lost,
            unshipped=self._unshipped - (len(rows) - lost),
            unrecorded=self._unrecorded,
            rejected=rejected,
            unsent=self._unsent,
            direct=self.last_line.direct,
            segment=position.segment,
            byte_offset=position.offset,
        )

    def mark_delivered(self, rows: Sequence[Row]) -> None:
        """Moves the position past `rows`, the next ones."""
        if rows[-1].end is None:
            self._mark_lost_delivered(len(rows))
        else:
            self._unshipped -= len(rows)
            self.reader.advance(rows[-1].end)

    def _mark_lost_delivered(self, count: int) -> None:
        for request_id in list(islice(self._starts, count)):
            del self._starts[request_id]
        self._delivered_lost += count


def _write_position(directory: Path, position: Position) -> None:
    with suppress(OSError):  # The ledger has the position too.
        descriptor = os.open(directory / COUNTERS, os.O_WRONLY)
        try:
            write_position(descriptor, *position)
        finally:
            os.close(descriptor)
