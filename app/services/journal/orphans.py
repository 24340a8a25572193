"""Takes over the journals of workers that died: what they finished is shipped, what they did not finish is `lost`.

Every live worker looks for directories whose lock is free; the lock decides who gets one. Nothing here has to happen
only once: an adopter that dies in the middle leaves a directory that the next one adopts from where the ledger says.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from app.db.engine import get_engine
from app.db.errors import bounded
from app.db.ledger import LedgerLine, select_ledger
from app.logs import log_event
from app.services.journal.delivery import DATABASE_PATIENCE_S, Delivery
from app.services.journal.segment_format import (
    iterate_lines,
    lock_directory,
    parse_head,
    parse_request_id,
    read_counters,
    remove_directory,
    segment_numbers,
    segment_path,
)
from app.services.journal.segment_reader import BATCH_ROWS, Position, Row, SegmentReader

# A dead worker's rows are in the statistics after this, and a look costs one lock call for each worker.
SEARCH_PAUSE_S = 5.0

# A statement that the dead worker had sent may still be carried out with a version a little above what we read.
_VERSION_MARGIN = 1_000_000


class Orphanage:
    """Finds and delivers the journals of dead workers, one after the other."""

    def __init__(self, root: Path, own_id: str) -> None:
        self._root = root
        self._own_id = own_id
        self._adopted: AdoptedDelivery | None = None
        self._search_at_s = 0.0

    def deliver_next(self) -> bool:
        """Delivers one batch of an abandoned journal, if there is any; returns whether there was one.

        Raises:
            Exception: the database is away; the next call goes on.
        """
        if self._adopted is None and time.monotonic() >= self._search_at_s:
            self._adopted = self._find()
        if self._adopted is None:
            return False
        if not self._adopted.deliver_next():
            self._adopted = None
        return True

    def _find(self) -> AdoptedDelivery | None:
        for directory in sorted(self._root.glob("[0-9a-f]" * 32)):
            if directory.name == self._own_id:
                continue
            lock = lock_directory(directory)
            if lock is not None:
                return AdoptedDelivery(self._root, directory, lock)
        self._search_at_s = time.monotonic() + SEARCH_PAUSE_S
        return None

    def close(self) -> None:
        """Leaves what is being adopted to others."""
        if self._adopted is not None:
            self._adopted.release()
        self._adopted = None


class AdoptedDelivery(Delivery):
    """The delivery of a journal whose worker is dead; `lock` is the descriptor of its lock."""

    def __init__(self, root: Path, directory: Path, lock: int) -> None:
        super().__init__(root, directory.name)
        self.directory = directory
        self._lock = lock
        self._books: _Books | None = None

    def deliver_next(self) -> bool:
        """Delivers the next batch; removes the journal and returns False when there is none.

        Raises:
            Exception: the database is away.
        """
        if self._books is None:
            with bounded(DATABASE_PATIENCE_S):
                base = select_ledger(get_engine(), self.worker_id)
            self._books = _Books(self.directory, base or LedgerLine(worker_id=self.worker_id, version=0))
            self.version = self._books.base.version + _VERSION_MARGIN
            self.rejected = self._books.base.rejected
        rows = self._books.reader.read_batch() or self._books.lost_rows()
        if rows:
            self.deliver(rows)
            return True
        self.deliver_line()
        log_event("journal_adopted", worker_id=self.worker_id, started=self._books.started, lost=self._books.lost)
        remove_directory(self.directory)
        self.release()
        return False

    def make_line(self, rows: Sequence[Row]) -> LedgerLine:
        assert self._books is not None
        return self._books.make_line(rows, self.version, self.rejected)

    def settle(self, rows: Sequence[Row]) -> None:
        assert self._books is not None
        self._books.settle(rows)

    def release(self) -> None:
        """Lets others have the journal."""
        os.close(self._lock)


class _Books:
    """What the files and the ledger say of a dead worker.

    Attributes:
        base: the last line that it wrote into the ledger.
        reader: its F lines behind the place that `base` names.
        started: requests that it began.
        lost: requests that it did not finish after a provider had been asked.
    """

    def __init__(self, directory: Path, base: LedgerLine) -> None:
        self.base = base
        self.reader = SegmentReader(directory, Position(base.segment, base.byte_offset))
        self._starts: dict[str, bytes] = {}
        self._final_lines = 0
        self._unshipped = 0
        self._scan(directory)
        self.lost = len(self._starts)
        counters = read_counters(directory)
        self._unrecorded = counters.unrecorded
        accounted = self._final_lines + self.lost + self._unrecorded + base.direct
        # After a power cut the counters may be older than the lines.
        self.started = max(counters.begun, accounted)
        self._unsent = self.started - accounted
        if counters.uncovered:
            # Some went to a provider although the journal could not be written: these may be among them.
            self._unrecorded, self._unsent = self._unrecorded + self._unsent, 0

    def _scan(self, directory: Path) -> None:
        numbers = segment_numbers(directory)
        for number in numbers:
            end = 0
            for line in iterate_lines(segment_path(directory, number)):
                end += len(line) + 1
                if number == numbers[0] and end == len(line) + 1:
                    self._final_lines += parse_head(line) or 0
                self._take(line, Position(number, end))

    def _take(self, line: bytes, end: Position) -> None:
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

    def lost_rows(self) -> list[Row]:
        """Returns the next rows of requests that did not end: their S rows, as they stand."""
        return [Row(content, None) for content in islice(self._starts.values(), BATCH_ROWS)]

    def make_line(self, rows: Sequence[Row], version: int, rejected: int) -> LedgerLine:
        """Returns the ledger's line that is true once `rows` are in the database."""
        lost = sum(row.end is None for row in rows)
        position = (rows[-1].end if rows else None) or self.reader.position
        return LedgerLine(
            worker_id=self.base.worker_id,
            version=version,
            started=self.started,
            in_flight=len(self._starts) - lost,
            unshipped=self._unshipped - (len(rows) - lost),
            unrecorded=self._unrecorded,
            rejected=rejected,
            unsent=self._unsent,
            direct=self.base.direct,
            segment=position.segment,
            byte_offset=position.offset,
        )

    def settle(self, rows: Sequence[Row]) -> None:
        """Takes note that `rows`, the next ones, are in the database."""
        if rows[-1].end is not None:
            self._unshipped -= len(rows)
            self.reader.settle(rows[-1].end)
            return
        for request_id in list(islice(self._starts, len(rows))):
            del self._starts[request_id]
