"""Appends lines to the segments of one directory, each completely or not at all.

Appending a line is one `write` to a file opened for appending, about 1.5 µs. The line is then in the kernel's page
cache, so it survives the death of the process by any signal, but not a power cut or a crash of the kernel: there is no
`fsync`. The kernel writes it to the disk within half a minute.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from app.services.journal.segment_format import COUNTERS, make_directory, segment_path, write_position

# Large enough that the S lines of requests in flight are rarely repeated, small enough to be read in 20 ms.
SEGMENT_BYTES = 4 * 1024 * 1024

# If a new segment cannot be created, the old one takes this much more before the next attempt.
_RETRY_ROTATION_BYTES = SEGMENT_BYTES // 4

# If the directory cannot be created, the next attempt is this many seconds later, and not at each request.
_OPEN_RETRY_S = 1.0

# More than the free part of a file's last block, whose space is no sign of free disk space. Most lines are under 1 kB.
_PROBE_BYTES = 4096


class SegmentWriter:
    """Writes one directory, which it creates and locks at the first append. It is not thread-safe.

    Args:
        directory: the worker's directory.
        encode_opening: returns the beginning of a new segment: its head and the S lines still needed.
        encode_counters: returns the content of the counters file.

    Attributes:
        segment: the number of the segment being written, 0 before the first.
        size: its length in bytes.
    """

    def __init__(
        self, directory: Path, encode_opening: Callable[[], bytes], encode_counters: Callable[[], bytes]
    ) -> None:
        self.directory = directory
        self.segment = 0
        self.size = 0
        self._encode_opening = encode_opening
        self._encode_counters = encode_counters
        self._descriptor = -1
        self._counters_descriptor = -1
        self._lock_descriptor = -1
        self._rotate_at = 0
        self._torn = False
        self._opening_error: OSError | None = None
        self._retry_open_at_s = 0.0

    def append(self, line: bytes) -> None:
        """Writes one line, which ends in a line feed.

        Raises:
            OSError: it could not be written; no part of it will be read.
        """
        if self.size >= self._rotate_at:
            self._rotate()
        if self._torn:
            line = b"\n" + line
        written = os.write(self._descriptor, line)
        if written != len(line):
            # The disk became full in the middle of the line.
            self._undo_write(written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.size += written
        self._torn = False

    def _undo_write(self, written: int) -> None:
        try:
            os.ftruncate(self._descriptor, self.size)
        except OSError:
            # The next line begins with a line feed, which makes this part a line of its own; readers skip it.
            self.size += written
            self._torn = True

    def _rotate(self) -> None:
        if self._lock_descriptor < 0:
            self._open()
        opening = self._encode_opening()
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
        if self._opening_error is not None and now_s < self._retry_open_at_s:
            raise self._opening_error
        self._retry_open_at_s = now_s + _OPEN_RETRY_S
        try:
            descriptor = make_directory(self.directory)
            if descriptor is None:
                raise OSError(errno.EBUSY, f"{self.directory} is locked by another process")
            self._lock_descriptor = descriptor
            self._counters_descriptor = os.open(self.directory / COUNTERS, os.O_WRONLY | os.O_CREAT, 0o600)
        except OSError as error:
            self._opening_error = error
            self._close_lock()
            raise
        self._opening_error = None
        self.write_counters()

    def write_counters(self) -> None:
        """Writes the counters (1 µs). If that fails, the next change writes them."""
        if self._counters_descriptor >= 0:
            try:
                os.pwrite(self._counters_descriptor, self._encode_counters(), 0)
            except OSError:  # `suppress` would take as long as the write.
                return

    def write_position(self, segment: int, offset: int) -> None:
        """Writes the position up to which rows are delivered (1 µs). If that fails, the next call writes it."""
        if self._counters_descriptor >= 0:
            with suppress(OSError):
                write_position(self._counters_descriptor, segment, offset)

    def probe(self) -> None:
        """Writes some bytes and removes them again, to check whether the disk has room.

        Raises:
            OSError: there is no room, or the directory cannot be created.
        """
        if self._descriptor < 0:
            self._rotate()
        # Without a line feed, readers ignore it.
        written = os.write(self._descriptor, b" " * _PROBE_BYTES)
        self._undo_write(written)
        if written != _PROBE_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def is_open(self) -> bool:
        """Returns whether there is a segment to append to."""
        return self._descriptor >= 0

    def is_removed(self) -> bool:
        """Returns whether the segment being written has been deleted, so that lines in it would be lost."""
        return self._descriptor >= 0 and os.fstat(self._descriptor).st_nlink == 0

    def close(self) -> None:
        """Closes the files and releases the lock; the next append makes and locks the directory again."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor, self._rotate_at, self._torn = -1, 0, False
        self._close_lock()

    def _close_lock(self) -> None:
        for descriptor in (self._counters_descriptor, self._lock_descriptor):
            if descriptor >= 0:
                os.close(descriptor)
        self._counters_descriptor = self._lock_descriptor = -1


def _create_file(path: Path, content: bytes) -> int:
    """Creates a file with `content` and returns a descriptor that appends to it.

    Raises:
        OSError: the file cannot be created or written; then there is no file.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        if os.write(descriptor, content) != len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError:
        os.close(descriptor)
        path.unlink(missing_ok=True)
        raise
    return descriptor
