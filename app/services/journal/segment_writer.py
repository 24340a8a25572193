"""Appends records to the segments of one directory, each record whole or not at all.

A record is one `write` to a file opened for appending, about 1.5 µs. It is then in the kernel's page cache: it
survives the death of the process by any signal, and of PostgreSQL, but not of the machine's kernel or power, because
nothing waits for the disk (`fsync`). The kernel writes it out within half a minute.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from app.services.journal.segment_format import COUNTERS, lock_directory, segment_path

# Large enough that carrying over the requests in flight is rare, small enough that a segment is read in 20 ms.
SEGMENT_BYTES = 4 * 1024 * 1024

# Where no new segment can be made the old one goes on for so long until the next try.
_RETRY_ROTATION_BYTES = SEGMENT_BYTES // 4

# A directory that cannot be made is tried again at this pace, not by each request.
_OPEN_PAUSE_S = 1.0

# A record is mostly under 1 kB. Free space within the last block must not pass for room.
_PROBE_BYTES = 4096


class SegmentWriter:
    """Writes one directory, which it makes and locks at the first append; it is not thread-safe.

    Args:
        directory: the worker's directory.
        get_opening: returns what a new segment begins with: its head and the S lines still needed.
        get_counters: returns what the file of counters is to hold.

    Attributes:
        segment: the number of the segment being written, 0 before the first.
        size: its length in bytes.
    """

    def __init__(self, directory: Path, get_opening: Callable[[], bytes], get_counters: Callable[[], bytes]) -> None:
        self.directory = directory
        self.segment = 0
        self.size = 0
        self._get_opening = get_opening
        self._get_counters = get_counters
        self._descriptor = -1
        self._counters_descriptor = -1
        self._lock_descriptor = -1
        self._rotate_at = 0
        self._torn = False
        self._opening_error: OSError | None = None
        self._open_at_s = 0.0

    def append(self, record: bytes) -> None:
        """Writes one record, which ends in a line feed.

        Raises:
            OSError: it could not be written; nothing of it will be read.
        """
        if self.size >= self._rotate_at:
            self._rotate()
        if self._torn:
            record = b"\n" + record
        written = os.write(self._descriptor, record)
        if written != len(record):
            # The disk became full on the way.
            self._take_back(written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.size += written
        self._torn = False

    def _take_back(self, written: int) -> None:
        try:
            os.ftruncate(self._descriptor, self.size)
        except OSError:
            # A line feed before the next record will end it, and no reader takes it for a record.
            self.size += written
            self._torn = True

    def _rotate(self) -> None:
        if self._lock_descriptor < 0:
            self._open()
        opening = self._get_opening()
        try:
            descriptor = _create_file(segment_path(self.directory, self.segment + 1), opening)
        except OSError:
            if self._descriptor < 0:
                raise
            self._rotate_at = self.size + _RETRY_ROTATION_BYTES
            return
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor, self._torn = descriptor, False
        self.segment += 1
        self.size = len(opening)
        self._rotate_at = self.size + SEGMENT_BYTES

    def _open(self) -> None:
        now_s = time.monotonic()
        if self._opening_error is not None and now_s < self._open_at_s:
            raise self._opening_error
        self._open_at_s = now_s + _OPEN_PAUSE_S
        try:
            self._lock_descriptor = _lock_new_directory(self.directory)
            self._counters_descriptor = os.open(self.directory / COUNTERS, os.O_WRONLY | os.O_CREAT, 0o600)
        except OSError as error:
            self._opening_error = error
            self._close_lock()
            raise
        self._opening_error = None
        self.save_counters()

    def save_counters(self) -> None:
        """Writes the counters, 1 µs; where that fails they go with the next change."""
        if self._counters_descriptor >= 0:
            with suppress(OSError):
                os.pwrite(self._counters_descriptor, self._get_counters(), 0)

    def probe(self) -> None:
        """Raises OSError where there is no room for another record; writes none."""
        if self._descriptor < 0:
            self._rotate()
        # Without a line feed no reader takes it for a line.
        written = os.write(self._descriptor, b" " * _PROBE_BYTES)
        self._take_back(written)
        if written != _PROBE_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def is_open(self) -> bool:
        """Tells whether there is a segment that records are appended to."""
        return self._descriptor >= 0

    def is_removed(self) -> bool:
        """Tells whether somebody has deleted the segment being written, so that appending to it is in vain."""
        return self._descriptor >= 0 and os.fstat(self._descriptor).st_nlink == 0

    def close(self) -> None:
        """Lets go of the directory and its lock; the next append makes and locks it again."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor, self._rotate_at, self._torn = -1, 0, False
        self._close_lock()

    def _close_lock(self) -> None:
        for descriptor in (self._counters_descriptor, self._lock_descriptor):
            if descriptor >= 0:
                os.close(descriptor)
        self._counters_descriptor = self._lock_descriptor = -1


def _lock_new_directory(directory: Path) -> int:
    # A directory without its lock looks abandoned, and another worker may remove it before we have the lock.
    for _ in range(3):
        descriptor = lock_directory(directory, create=True)
        if descriptor is not None:
            return descriptor
    raise OSError(errno.EBUSY, f"{directory} is locked by another process")


def _create_file(path: Path, content: bytes) -> int:
    """Makes a file that holds `content`, and returns a descriptor that appends to it; on OSError there is no file."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        if os.write(descriptor, content) != len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError:
        os.close(descriptor)
        path.unlink(missing_ok=True)
        raise
    return descriptor
