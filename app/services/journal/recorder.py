"""What this worker knows of its requests: each is on the local disk before a provider sees it, and when it ends.

Nothing grows in memory while PostgreSQL is away. While the disk is full or broken, memory holds at most
MOST_ROWS_IN_MEMORY rows beside those of the requests in flight; what finds no room there is counted.

shipper.py takes the records to PostgreSQL; orphans.py does so for workers that died.
"""

from __future__ import annotations

import itertools
import threading
import time
import uuid
from collections import deque
from pathlib import Path
from typing import NamedTuple

from app.logs import log_event
from app.runtime import get_settings
from app.services.journal.segment_format import encode_counters, encode_head
from app.services.journal.segment_writer import SegmentWriter

# 8 MB of rows of 800 bytes: a worker's memory must not decide how long a disk may be full.
MOST_ROWS_IN_MEMORY = 10_000

# A journal that cannot be written is complained about at this pace for as long as that lasts.
COMPLAINT_PAUSE_S = 60.0


class Counts(NamedTuple):
    """What became of the requests that this worker began, all taken at one instant.

    begun = in_flight + final_lines + in_memory + unrecorded + what went from memory to the database directly.

    Attributes:
        begun: requests that were begun.
        in_flight: those that have not ended.
        final_lines: F lines in the segments, those that are gone included.
        in_memory: rows that wait for the disk.
        unrecorded: requests without a row, because neither disk nor memory had room.
    """

    begun: int
    in_flight: int
    final_lines: int
    in_memory: int
    unrecorded: int


class Recorder:
    """The books of one process; `app.services.journal.start_journal` makes them.

    Attributes:
        worker_id: the name of its directory.
        writer: its segments.
        error: why the last write failed, None when it succeeded.
        shipped_lines: F lines whose fate in the database is settled; the shipper counts them.
    """

    def __init__(self, root: Path) -> None:
        self.worker_id = uuid.uuid4().hex
        self.writer = SegmentWriter(root / self.worker_id, self._opening, self._counters)
        self.error: OSError | None = None
        self.shipped_lines = 0
        self._begun = 0
        self._in_flight = 0
        self._unrecorded = 0
        self._uncovered = 0
        self._final_lines = 0
        # The S lines of requests whose F line is not on the disk: the next segment begins with them.
        self._starts: dict[str, bytes] = {}
        # F lines that could not be written although their S line is: as many as requests were in flight, at most.
        self._late: dict[str, bytes] = {}
        # F lines without an S line that could not be written: refused requests, and all with JOURNAL_FULL=serve.
        self._memory: deque[bytes] = deque()
        self._complain_at_s = 0.0
        self._complained = False
        # Under gevent a lock of greenlets. Nothing that switches greenlets is done while it is held.
        self._lock = threading.Lock()

    def begin(self) -> None:
        """Counts a request as begun and in flight."""
        with self._lock:
            self._begun += 1
            self._in_flight += 1
            self.writer.save_counters()

    def start(self, request_id: str, row: bytes) -> None:
        """Records that a request is about to go to a provider; `row` is what is true if it never ends.

        Raises:
            OSError: the journal cannot be written.
        """
        line = b"S" + row + b"\n"
        with self._lock:
            self._append(line)
            self._starts[request_id] = line

    def go_uncovered(self) -> None:
        """Counts a request that goes to a provider although `start` failed."""
        with self._lock:
            self._uncovered += 1
            self.writer.save_counters()

    def end(self, request_id: str, row: bytes) -> None:
        """Records how a request ended, once for each `begin`; a row that finds no room is counted."""
        line = b"F" + row + b"\n"
        with self._lock:
            self._in_flight -= 1
            try:
                self._append(line)
            except OSError:
                self._keep(request_id, line)
            else:
                self._final_lines += 1
                self._starts.pop(request_id, None)

    def _append(self, record: bytes) -> None:
        try:
            self.writer.append(record)
        except OSError as error:
            self.error = error
            raise
        self.error = None

    def _keep(self, request_id: str, line: bytes) -> None:
        if request_id in self._starts:
            self._late[request_id] = line
        elif len(self._memory) < MOST_ROWS_IN_MEMORY:
            self._memory.append(line)
        else:
            self._unrecorded += 1
            self.writer.save_counters()

    def _counters(self) -> bytes:
        return encode_counters(self._begun, self._unrecorded, self._uncovered)

    def _opening(self) -> bytes:
        return encode_head(self._final_lines) + b"".join(self._starts.values())

    def get_counts(self) -> Counts:
        """Returns the counts of this instant."""
        with self._lock:
            return Counts(
                begun=self._begun,
                in_flight=self._in_flight,
                final_lines=self._final_lines,
                in_memory=len(self._late) + len(self._memory),
                unrecorded=self._unrecorded,
            )

    def get_memory_rows(self, limit: int) -> list[bytes]:
        """Returns up to `limit` rows that are in memory alone, oldest first; `forget_memory_rows` takes them out."""
        with self._lock:
            return [line[1:-1] for line in itertools.islice(self._memory, limit)]

    def forget_memory_rows(self, count: int) -> None:
        """Takes out the `count` oldest rows in memory, because they are in the database."""
        with self._lock:
            for _ in range(count):
                self._memory.popleft()

    def check(self) -> None:
        """Writes what waits in memory once the disk takes it again, and says in the log how the journal fares.

        The shipper calls it at once and then twice a second, so that a journal that cannot be written is known before
        the first request, and one that can be written again is known although requests stay away.
        """
        with self._lock:
            failed_before = self.error
            removed = self._leave_removed_segment()
            try:
                self._flush()
                if failed_before is not None or not self.writer.is_open():
                    self.writer.probe()
                self.error = None
            except OSError as error:
                self.error = error
        if removed is not None:
            log_event("journal_deleted", level="error", directory=str(self.writer.directory), rows=removed)
        self._complain(failed_before)

    def _flush(self) -> None:
        for request_id in list(self._late):
            self.writer.append(self._late[request_id])
            self._final_lines += 1
            del self._late[request_id], self._starts[request_id]
        while self._memory:
            self.writer.append(self._memory[0])
            self._final_lines += 1
            self._memory.popleft()

    def _leave_removed_segment(self) -> int | None:
        """Begins anew where somebody has deleted the files; returns how many rows went with them."""
        if not self.writer.is_removed():
            return None
        self.writer.close()
        lost = self._final_lines - self.shipped_lines
        self._final_lines = self.shipped_lines
        self._unrecorded += lost
        return lost

    def _complain(self, failed_before: OSError | None) -> None:
        error = self.error or failed_before
        if error is None:
            return
        counts = self.get_counts()
        if time.monotonic() >= self._complain_at_s:
            self._complain_at_s = time.monotonic() + COMPLAINT_PAUSE_S
            self._complained = True
            log_event(
                "journal_not_writable",
                level="error",
                reason=str(error),
                directory=str(self.writer.directory),
                policy=get_settings().journal_full,
                rows_in_memory=counts.in_memory,
                unrecorded=counts.unrecorded,
            )
        if self.error is None and self._complained:
            self._complained = False
            log_event("journal_writable_again", unrecorded=counts.unrecorded)

    def close(self) -> None:
        """Lets go of the directory, which other workers may adopt from then on."""
        with self._lock:
            self.writer.close()
