"""Measures the journals of dead workers that wait for delivery, even while the database is away.

Of the live workers that share a JOURNAL_DIR, one measures: the one with the lock of the file `orphans`. It writes the
result into that file, where the others read it. When it dies, the kernel releases the lock, and another one takes over.

Nothing is parsed twice: a dead journal changes only when it is delivered. Whatever a journal's length, only two
segments are read, because each begins with the number of rows before it and with the requests that had not ended.
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from app.logs import log_event
from app.services.journal.recorder import REPORT_INTERVAL_S
from app.services.journal.segment_format import (
    is_adopted,
    iterate_lines,
    list_directories,
    parse_head,
    parse_request_id,
    read_position,
    segment_numbers,
    segment_path,
)
from app.services.journal.segment_reader import Position, SegmentReader, measure_size, parse_ended_at
from app.yielding import PAUSE_S, with_pauses

# As often as the gauges are updated.
MEASURE_INTERVAL_S = 5.0

FILE = "orphans"
_TOTALS = struct.Struct("<3Qd")


class OrphanBacklog(msgspec.Struct, frozen=True, kw_only=True):
    """The journals that dead workers have left in JOURNAL_DIR and no live worker has delivered yet.

    Attributes:
        journals: their number.
        rows: requests that have ended, or that will be recorded as lost, without a row in the database.
        bytes: the size of the files that hold them.
        oldest_age_s: seconds since the oldest of these requests ended; None without any.
    """

    journals: int
    rows: int
    bytes: int
    oldest_age_s: float | None


class Measured(NamedTuple):
    """The size of one journal: rows, the bytes of their files, and the end of the oldest, in seconds since 1970."""

    rows: int
    bytes: int
    ended_at: float  # 0 without any.


class OrphanMeter:
    """Measures the backlog, or reads the result of another worker.

    Args:
        root: JOURNAL_DIR.
        own_id: the worker id of this process.

    Attributes:
        is_chosen: whether this worker measures; then its gauges have the result.
    """

    def __init__(self, root: Path, own_id: str) -> None:
        self.is_chosen = False
        self._root = root
        self._own_id = own_id
        self._descriptor = -1
        self._next_s = 0.0
        self._report_at_s = 0.0
        self._measured: dict[str, tuple[object, Measured]] = {}

    def measure_if_due(self) -> None:
        """Measures every MEASURE_INTERVAL_S if no other worker does. It never raises."""
        if time.monotonic() < self._next_s:
            return
        self._next_s = time.monotonic() + MEASURE_INTERVAL_S
        try:
            self.is_chosen = self._holds_lock()
            if self.is_chosen:
                os.pwrite(self._descriptor, self._measure(), 0)
        except Exception as error:
            if time.monotonic() >= self._report_at_s:
                self._report_at_s = time.monotonic() + REPORT_INTERVAL_S
                log_event("orphans_measure_failed", level="error", error=error)

    def _holds_lock(self) -> bool:
        if self._descriptor >= 0:
            if os.fstat(self._descriptor).st_nlink:
                return True
            self.abandon()  # The file was deleted, so other workers cannot see this lock.
        descriptor = os.open(self._root / FILE, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    def _measure(self) -> bytes:
        found: dict[str, tuple[object, Measured]] = {}
        for path in with_pauses(list_directories(self._root)):
            if path.name != self._own_id and is_orphaned(path):
                with suppress(FileNotFoundError):  # Its delivery has ended meanwhile.
                    found[path.name] = self._measure_again(path)
                time.sleep(PAUSE_S)
        self._measured = found
        results = [measured for _, measured in found.values()]
        ended_at = min((one.ended_at for one in results if one.rows), default=0.0)
        return _TOTALS.pack(len(results), sum(one.rows for one in results), sum(one.bytes for one in results), ended_at)

    def _measure_again(self, directory: Path) -> tuple[object, Measured]:
        numbers = segment_numbers(directory)
        position = read_position(directory)
        state = (position, [(number, measure_size(segment_path(directory, number))) for number in numbers])
        known = self._measured.get(directory.name)
        if known is not None and known[0] == state:
            return known
        return state, measure_journal(directory)

    def read_backlog(self) -> OrphanBacklog:
        """Returns the newest result; zeros before the first."""
        try:
            content = (self._root / FILE).read_bytes()
        except OSError:
            content = b""
        return _read_totals(content[: _TOTALS.size].ljust(_TOTALS.size, b"\0"))

    def measure_now(self) -> OrphanBacklog:
        """Returns the current backlog of dead workers.

        Raises:
            OSError: a file cannot be read.
        """
        return _read_totals(self._measure())

    def abandon(self) -> None:
        """Closes the file, which releases the lock if no other process has it open."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor, self.is_chosen = -1, False


def _read_totals(content: bytes) -> OrphanBacklog:
    journals, rows, size, ended_at = _TOTALS.unpack(content)
    age_s = max(0.0, time.time() - ended_at) if rows else None
    return OrphanBacklog(journals=journals, rows=rows, bytes=size, oldest_age_s=age_s)


def is_orphaned(directory: Path) -> bool:
    """Returns whether a directory's worker is dead: no process has the lock, or only one that adopts the journal."""
    lock = directory / "lock"
    try:
        if is_adopted(directory):
            return True
        descriptor = os.open(lock, os.O_RDONLY)
    except OSError:
        return False  # It is being created or removed.
    try:
        # Shared, and only for microseconds: a worker that wants to adopt the journal just then retries after seconds.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def measure_journal(directory: Path) -> Measured:
    """Returns the size of the rows in a dead worker's journal that are not in the database yet."""
    position = Position(*read_position(directory))
    numbers = [number for number in segment_numbers(directory) if number >= position.segment]
    if not numbers:
        return Measured(0, 0, 0.0)
    if numbers[0] != position.segment:
        position = Position(numbers[0], 0)
    delivered = count_finals(segment_path(directory, position.segment), position.offset)
    finished, unfinished = _read_last(segment_path(directory, numbers[-1]))
    rows = max(0, finished - delivered) + len(unfinished)
    if not rows:
        return Measured(0, 0, 0.0)
    oldest = _read_oldest(directory, numbers, position) or next(iter(unfinished.values()), None)
    ended_at = 0.0
    with suppress(msgspec.DecodeError, UnicodeDecodeError):
        ended_at = time.time() if oldest is None else parse_ended_at(oldest)
    size = SegmentReader(directory, position).measure_backlog_bytes()
    # Requests that have not ended may be before the position.
    return Measured(rows, max(size, sum(len(row) for row in unfinished.values())), ended_at)


def count_finals(path: Path, end: int) -> int:
    """Returns the number of F lines in all segments before this one and in its first `end` bytes.

    Raises:
        OSError: the segment cannot be read.
    """
    finished, offset = 0, 0
    for line in iterate_lines(path):
        if offset == 0:
            finished = parse_head(line) or 0
        if offset >= end:
            break
        finished += line.startswith(b"F")
        offset += len(line) + 1
    return finished


def _read_last(path: Path) -> tuple[int, dict[str, bytes]]:
    """Returns the number of F lines up to the end of the last segment, and request id → row of those without one."""
    finished, unfinished = 0, dict[str, bytes]()
    for line in iterate_lines(path):
        if line.startswith(b"H"):
            finished += parse_head(line) or 0
        elif line.startswith((b"S", b"F")) and (request_id := parse_request_id(line)) is not None:
            if line.startswith(b"S"):
                unfinished[request_id] = line[1:]
            else:
                finished += 1
                unfinished.pop(request_id, None)
    return finished, unfinished


def _read_oldest(directory: Path, numbers: list[int], position: Position) -> bytes | None:
    for number in numbers:
        start = position if number == position.segment else Position(number, 0)
        row = SegmentReader(directory, start).read_first()
        if row is not None:
            return row
    return None
