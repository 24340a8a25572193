"""The files of the journal: a directory for each worker, with a lock, counters, and segments of lines.

    JOURNAL_DIR/
        rejected.jsonl            rows that PostgreSQL refused
        keys.snapshot             not part of the journal, see app/services/keys/snapshot_file.py
        orphans                   the backlog of dead workers (orphan_backlog.py)
        <worker id>/
            lock                  locked (flock) for as long as the worker lives
            counters              see `Counters`; then the position up to which its rows are delivered
            boot                  the boot of the host in which the worker ran (boot.py)
            adopted               created by a worker that adopts the journal of this one, which is dead
            0000000001.journal    segments, numbered upwards; the last one is being written
        delivered/<worker id>/    the same, of workers that have ended (kept.py)

A line is one record: a letter, a JSON object, a line feed.

    H {"finished": n}             the head of a segment: the number of F lines in all segments before it
    S {row of activity}           a request is about to be sent to a provider; its record if it never ends
    F {row of activity}           a request has ended

A request has at most one F line in all segments. Its S line may be repeated at the head of later segments.
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from app.services.journal.boot import write_boot_note
from app.yielding import PAUSE_S

COUNTERS = "counters"
_COUNTERS = struct.Struct("<3Q")
_POSITION = struct.Struct("<2Q")

_ADOPTED = "adopted"

# The temporary suffix of a directory that is being created or removed, so that nobody takes it for a journal.
_UNNAMED = ".tmp"
_MAX_UNNAMED_S = 60.0

SUFFIX = ".journal"
_NUMBER_DIGITS = 10

# About 400 records; reading and parsing them takes two milliseconds.
READ_BYTES = 256 * 1024


class Counters(NamedTuple):
    """Counts of a worker's requests that survive its death by any signal.

    Attributes:
        begun: requests begun.
        unrecorded: requests that ended without a row, because neither disk nor memory had room.
        sent_without_start: requests sent to a provider although their S line could not be written.
    """

    begun: int = 0
    unrecorded: int = 0
    sent_without_start: int = 0


class Lines(NamedTuple):
    """Whole lines of a segment without their line feeds; `end` is the offset after the last one, in bytes."""

    lines: list[bytes]
    end: int


def read_counters(directory: Path) -> Counters:
    """Returns the counts of a dead worker; zeros if it died before it wrote any."""
    try:
        content = (directory / COUNTERS).read_bytes()
    except FileNotFoundError:
        content = b""
    return Counters(*_COUNTERS.unpack(content[: _COUNTERS.size].ljust(_COUNTERS.size, b"\0")))


def encode_counters(begun: int, unrecorded: int, sent_without_start: int) -> bytes:
    """Returns the content of the counters file. It lies within one page, so the kernel writes all of it or none."""
    return _COUNTERS.pack(begun, unrecorded, sent_without_start)


def write_position(counters: int, segment: int, offset: int) -> None:
    """Writes the position up to which rows are delivered; `counters` is a descriptor of the counters file.

    The ledger has the same position and decides what is delivered again. This one serves while the database is away.

    Raises:
        OSError: it cannot be written.
    """
    os.pwrite(counters, _POSITION.pack(segment, offset), _COUNTERS.size)


def read_position(directory: Path) -> tuple[int, int]:
    """Returns the segment and the offset up to which a dead worker's rows are delivered; zeros if it wrote neither."""
    try:
        content = (directory / COUNTERS).read_bytes()[_COUNTERS.size :]
    except FileNotFoundError:
        content = b""
    segment, offset = _POSITION.unpack(content[: _POSITION.size].ljust(_POSITION.size, b"\0"))
    return segment, offset


def list_directories(root: Path) -> list[Path]:
    """Returns the directories of all workers, dead or alive, in JOURNAL_DIR."""
    return sorted(root.glob("[0-9a-f]" * 32))


def mark_adopted(directory: Path) -> None:
    """Marks the lock of this directory as that of a worker that adopts the journal."""
    with suppress(OSError):  # On a full disk, its rows are missing in the gauges until they are delivered.
        (directory / _ADOPTED).touch(0o600)


def is_adopted(directory: Path) -> bool:
    """Returns whether a worker has begun to adopt the journal in this directory."""
    return (directory / _ADOPTED).exists()


def lock_directory(directory: Path) -> int | None:
    """Locks a worker's directory and returns the descriptor that holds the lock.

    Returns None if another process has the lock, or if the directory is missing or being removed.

    Raises:
        OSError: the lock file cannot be created.
    """
    try:
        descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The previous owner may have removed the file. Then this lock is on a file that no other process can open.
        if os.stat(directory / "lock").st_ino == os.fstat(descriptor).st_ino:
            return descriptor
    except OSError:
        pass
    os.close(descriptor)
    return None


def make_directory(directory: Path) -> int | None:
    """Creates a worker's directory and returns the descriptor that holds its lock.

    A directory without a lock is a dead worker's, which any live worker adopts. So the directory gets its name only
    once it is locked and has a note of its worker's boot. An existing directory is locked in place.

    Returns None if another process has the lock.

    Raises:
        OSError: the directory or its lock file cannot be created.
    """
    if directory.exists():
        return lock_directory(directory)
    unnamed = directory.with_name(directory.name + _UNNAMED)
    unnamed.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = lock_directory(unnamed)
    if descriptor is None:
        return None
    write_boot_note(unnamed)
    try:
        unnamed.rename(directory)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def remove_unnamed_directories(root: Path) -> None:
    """Removes directories in JOURNAL_DIR that workers left when they died while creating or removing one."""
    for directory in root.glob("*" + _UNNAMED):
        with suppress(OSError):
            if time.time() - directory.stat().st_mtime < _MAX_UNNAMED_S:
                continue
            descriptor = lock_directory(directory)
            if descriptor is not None:
                try:
                    _remove(directory)
                finally:
                    os.close(descriptor)


def remove_directory(directory: Path) -> None:
    """Removes a worker's directory, whose lock the caller holds. Missing files and a missing directory are fine.

    It loses its name first. Otherwise, after the removal of the files and before that of the directory, another worker
    could create its lock file again and take it for the journal of a killed worker. Files that cannot be removed then
    are left to `remove_unnamed_directories`: on NFS a file that is still open keeps its directory.

    Raises:
        OSError: it could not lose its name, so it is as before.
    """
    unnamed = directory.with_name(directory.name + _UNNAMED)
    try:
        directory.rename(unnamed)
    except FileNotFoundError:
        return
    with suppress(OSError):
        _remove(unnamed)


def _remove(directory: Path) -> None:
    for path in directory.glob("*"):
        path.unlink(missing_ok=True)
    with suppress(FileNotFoundError):
        directory.rmdir()


def segment_path(directory: Path, number: int) -> Path:
    """Returns the path of segment `number`."""
    return directory / f"{number:0{_NUMBER_DIGITS}}{SUFFIX}"


def segment_numbers(directory: Path) -> list[int]:
    """Returns the numbers of the segments in a worker's directory, ascending."""
    names = (path.name.removesuffix(SUFFIX) for path in directory.glob(f"*{SUFFIX}"))
    return sorted(int(name) for name in names if name.isdigit())


def encode_head(finished: int) -> bytes:
    """Returns the first line of a segment."""
    return b'H{"finished":%d}\n' % finished


def read_lines(path: Path, offset: int, limit: int = READ_BYTES) -> Lines:
    """Returns whole lines from `offset` on: about `limit` bytes, and at least one line if there is one.

    A last line without a line feed is left out: either it is still being written, or its writer died.

    Raises:
        OSError: the segment cannot be read.
    """
    with path.open("rb", buffering=0) as file:
        file.seek(offset)
        data = file.read(limit)
        while data and b"\n" not in data:
            more = file.read(limit)
            if not more:
                break
            data += more
    whole, line_feed, _ = data.rpartition(b"\n")
    return Lines(whole.split(b"\n") if line_feed else [], offset + len(whole) + len(line_feed))


def iterate_lines(path: Path) -> Iterator[bytes]:
    """Yields the whole lines of a segment, in constant memory."""
    offset = 0
    while True:
        read = read_lines(path, offset)
        if not read.lines:
            return
        yield from read.lines
        offset = read.end
        # Lets other greenlets run, because a gigabyte takes seconds.
        time.sleep(PAUSE_S)


class _Record(msgspec.Struct):
    request_id: str


class _Head(msgspec.Struct):
    finished: int


_decode_record = msgspec.json.Decoder(_Record).decode
_decode_head = msgspec.json.Decoder(_Head).decode


def parse_request_id(line: bytes) -> str | None:
    """Returns the request id of an S or F line; None if the line is torn or damaged."""
    try:
        return _decode_record(line[1:]).request_id
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def parse_head(line: bytes) -> int | None:
    """Returns the number in an H line; None for any other line."""
    try:
        return _decode_head(line[1:]).finished if line.startswith(b"H") else None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
