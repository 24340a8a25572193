"""Counts the requests of this process and writes their lines to the journal.

Memory does not grow while PostgreSQL is unavailable. While the disk is full or broken, memory holds one line for each
request in flight and at most MAX_MEMORY_ROWS more rows; rows beyond that are counted as unrecorded.
"""

from __future__ import annotations

import itertools
import time
import uuid
from _thread import RLock
from collections import deque
from pathlib import Path
from typing import NamedTuple

from app.logs import log_event
from app.services.journal.segment_format import encode_counters, encode_head
from app.services.journal.segment_writer import SegmentWriter

# 6 MB at 600 bytes per row: a full disk must not fill the memory of a worker too.
MAX_MEMORY_ROWS = 10_000

# A lasting failure of the disk or the database is logged again after this many seconds.
REPORT_INTERVAL_S = 60.0


class Counts(NamedTuple):
    """Counts of the requests that this process began, all at one instant.

    begun = in_flight + final_lines + in_memory + unrecorded + rows delivered from memory.

    Attributes:
        begun: requests begun.
        in_flight: requests that have not ended.
        final_lines: F lines written, including those in removed segments.
        in_memory: rows that wait for the disk.
        unrecorded: requests without a row, because neither disk nor memory had room.
    """

    begun: int
    in_flight: int
    final_lines: int
    in_memory: int
    unrecorded: int


class Recorder:
    """Writes the lines of one process into its own directory.

    Args:
        root: JOURNAL_DIR.
        policy: JOURNAL_FULL, for the log.
        worker_id: the id of this process; None makes one.

    Attributes:
        worker_id: the name of the directory.
        writer: its segments.
        error: the error of the last write; None if it succeeded.
        shipped_lines: F lines that are in the database or rejected by it. The shipper updates this.
    """

    def __init__(self, root: Path, policy: str, worker_id: str | None = None) -> None:
        self.worker_id = worker_id or uuid.uuid4().hex
        self.writer = SegmentWriter(root / self.worker_id, self._encode_opening, self._encode_counters)
        self.error: OSError | None = None
        self.shipped_lines = 0
        self._policy = policy
        self._begun = 0
        self._in_flight = 0
        self._unrecorded = 0
        self._sent_without_start = 0
        self._final_lines = 0
        # S lines of requests without an F line on the disk; each new segment begins with them.
        self._starts: dict[str, bytes] = {}
        # F lines that could not be written although their S line is on the disk. At most one for each request in
        # flight; they wait for the disk, because the S line alone would make the request lost.
        self._waiting_finals: dict[str, bytes] = {}
        # F lines that could not be written and have no S line: of refused requests, and of all with JOURNAL_FULL=serve.
        self._memory_finals: deque[bytes] = deque()
        self._report_at_s = 0.0
        self._reported = False
        # A thread lock even under gevent, whose own locks cost a request 8 µs. It does not protect greenlets of one
        # thread from each other, and need not, because code that holds it must not switch to another greenlet.
        self._lock = RLock()

    def count_begun(self) -> None:
        """Counts a request as begun and in flight."""
        with self._lock:
            self._begun += 1
            self._in_flight += 1
            self.writer.write_counters()

    def count_withdrawn(self) -> None:
        """Reverts one `count_begun`, for a request that has no line."""
        with self._lock:
            self._begun -= 1
            self._in_flight -= 1
            self.writer.write_counters()

    def write_start(self, request_id: str, row: bytes) -> None:
        """Writes the S line of a request that is about to be sent to a provider; `row` is its record if it never ends.

        Raises:
            OSError: the journal cannot be written.
        """
        line = b"S%b\n" % row
        with self._lock:
            self._append(line)
            self._starts[request_id] = line

    def count_sent_without_start(self) -> None:
        """Counts a request that is sent to a provider although its `write_start` failed."""
        with self._lock:
            self._sent_without_start += 1
            self.writer.write_counters()

    def write_final(self, request_id: str, row: bytes) -> None:
        """Writes the F line of a request, once for each `count_begun`. Keeps it in memory if the disk is full."""
        line = b"F%b\n" % row
        with self._lock:
            self._in_flight -= 1
            try:
                self._append(line)
            except OSError:
                self._hold_in_memory(request_id, line)
            else:
                self._final_lines += 1
                self._starts.pop(request_id, None)

    def _append(self, line: bytes) -> None:
        try:
            self.writer.append(line)
        except OSError as error:
            self.error = error
            raise
        self.error = None

    def _hold_in_memory(self, request_id: str, line: bytes) -> None:
        if request_id in self._starts:
            self._waiting_finals[request_id] = line
        elif len(self._memory_finals) < MAX_MEMORY_ROWS:
            self._memory_finals.append(line)
        else:
            self._unrecorded += 1
            self.writer.write_counters()

    def _encode_counters(self) -> bytes:
        return encode_counters(self._begun, self._unrecorded, self._sent_without_start)

    def _encode_opening(self) -> bytes:
        return encode_head(self._final_lines) + b"".join(self._starts.values())

    def get_counts(self) -> Counts:
        """Returns the current counts."""
        with self._lock:
            return Counts(
                begun=self._begun,
                in_flight=self._in_flight,
                final_lines=self._final_lines,
                in_memory=len(self._waiting_finals) + len(self._memory_finals),
                unrecorded=self._unrecorded,
            )

    def get_memory_rows(self, limit: int) -> list[bytes]:
        """Returns up to `limit` rows that are only in memory, oldest first."""
        with self._lock:
            return [line[1:-1] for line in itertools.islice(self._memory_finals, limit)]

    def remove_memory_rows(self, count: int) -> None:
        """Removes the `count` oldest rows that are only in memory; call it after their delivery."""
        with self._lock:
            for _ in range(count):
                self._memory_finals.popleft()

    def flush_and_probe(self) -> None:
        """Writes the lines held in memory if the disk accepts them, and sets `error` to the state of the disk.

        The shipper calls this at its start and then twice a second. So a journal that cannot be written is known before
        the first request, and its recovery is noticed even without requests.
        """
        with self._lock:
            previous_error = self.error
            lost_rows = self._restart_if_removed()
            try:
                self._flush()
                if previous_error is not None or not self.writer.is_open():
                    self.writer.probe()
                self.error = None
            except OSError as error:
                self.error = error
        if lost_rows is not None:
            log_event("journal_deleted", level="error", directory=str(self.writer.directory), rows=lost_rows)
        self._report(previous_error)

    def _flush(self) -> None:
        for request_id in list(self._waiting_finals):
            self.writer.append(self._waiting_finals[request_id])
            self._final_lines += 1
            del self._waiting_finals[request_id], self._starts[request_id]
        while self._memory_finals:
            self.writer.append(self._memory_finals[0])
            self._final_lines += 1
            self._memory_finals.popleft()

    def _restart_if_removed(self) -> int | None:
        """Closes the segments if they were deleted; returns the number of unshipped rows lost with them, else None."""
        if not self.writer.is_removed():
            return None
        self.writer.close()
        lost = self._final_lines - self.shipped_lines
        self._final_lines = self.shipped_lines
        self._unrecorded += lost
        return lost

    def _report(self, previous_error: OSError | None) -> None:
        """Logs a failing disk every REPORT_INTERVAL_S, and its recovery once."""
        error = self.error or previous_error
        if error is None:
            return
        counts = self.get_counts()
        if time.monotonic() >= self._report_at_s:
            self._report_at_s = time.monotonic() + REPORT_INTERVAL_S
            self._reported = True
            log_event(
                "journal_write_failed",
                level="error",
                reason=str(error),
                directory=str(self.writer.directory),
                policy=self._policy,
                rows_in_memory=counts.in_memory,
                unrecorded=counts.unrecorded,
            )
        if self.error is None and self._reported:
            self._reported = False
            log_event("journal_write_resumed", unrecorded=counts.unrecorded)

    def close(self) -> None:
        """Releases the directory, so that other workers may adopt it."""
        with self._lock:
            self.writer.close()
