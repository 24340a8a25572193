"""The files of the journal: directories with a lock, counters, and segments of lines.

    JOURNAL_DIR/
        rejected.jsonl            rows that PostgreSQL refused
        <worker id>/
            lock                  locked (flock) for as long as the worker lives
            counters              see `Counters`
            0000000001.journal    segments, numbered upwards; the last one is being written

A line is one record: a letter, a JSON object, a line feed.

    H {"finished": n}             the head of a segment: how many F lines the segments before it held
    S {row of activity}           a request is about to go to a provider; the row says what is true if it never ends
    F {row of activity}           a request has ended

A request has at most one F line in all segments. Its S line may be repeated at the head of later segments.
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

COUNTERS = "counters"
_COUNTERS = struct.Struct("<3Q")

SUFFIX = ".journal"
_NUMBER_DIGITS = 10

# One read: some 400 records, two milliseconds of a worker's time with their parsing.
READ_BYTES = 256 * 1024


class Counters(NamedTuple):
    """Counts of a worker that its death by any signal does not take along.

    Attributes:
        begun: requests that it began.
        unrecorded: those that ended without a row, because neither disk nor memory had room.
        uncovered: those that went to a provider although their S line could not be written.
    """

    begun: int = 0
    unrecorded: int = 0
    uncovered: int = 0


class Lines(NamedTuple):
    """Whole lines read from a segment, without their line feeds; `end` is the offset behind the last of them."""

    lines: list[bytes]
    end: int


def read_counters(directory: Path) -> Counters:
    """Returns the counts of a dead worker; zeros where it did not live to write them."""
    try:
        content = (directory / COUNTERS).read_bytes()
    except FileNotFoundError:
        content = b""
    return Counters(*_COUNTERS.unpack(content[: _COUNTERS.size].ljust(_COUNTERS.size, b"\0")))


def encode_counters(begun: int, unrecorded: int, uncovered: int) -> bytes:
    """Returns what is to stand in the file of counters. Within one page, the kernel writes it whole or not at all."""
    return _COUNTERS.pack(begun, unrecorded, uncovered)


def lock_directory(directory: Path, *, create: bool = False) -> int | None:
    """Locks a worker's directory and returns the descriptor that holds the lock; None if another process has it.

    None too where the directory is not there, or was removed while we came for the lock.
    """
    if create:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Whoever had it before may have removed the file: then the lock is on a file that nobody else can find.
        if os.stat(directory / "lock").st_ino == os.fstat(descriptor).st_ino:
            return descriptor
    except OSError:
        pass
    os.close(descriptor)
    return None


def remove_directory(directory: Path) -> None:
    """Removes a worker's directory whose lock the caller holds; what is missing is fine."""
    for path in sorted(directory.iterdir(), key=lambda path: path.name == "lock"):
        path.unlink(missing_ok=True)
    try:
        directory.rmdir()
    except OSError:
        # Another process came for the lock in between and will find the directory empty.
        return


def segment_path(directory: Path, number: int) -> Path:
    """Returns the path of segment `number`."""
    return directory / f"{number:0{_NUMBER_DIGITS}}{SUFFIX}"


def segment_numbers(directory: Path) -> list[int]:
    """Returns the numbers of the segments in a worker's directory, ascending."""
    names = (path.name.removesuffix(SUFFIX) for path in directory.glob(f"*{SUFFIX}"))
    return sorted(int(name) for name in names if name.isdigit())


def encode_head(finished: int) -> bytes:
    """Returns the line that opens a segment."""
    return b'H{"finished":%d}\n' % finished


def read_lines(path: Path, offset: int, limit: int = READ_BYTES) -> Lines:
    """Reads whole lines from `offset` on: about `limit` bytes of them, and at least one if there is one.

    A last line without its line feed is not returned: it is still being written, or its writer died.

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


def iterate_lines(path: Path, offset: int = 0) -> Iterator[bytes]:
    """Yields the whole lines of a segment from `offset` on, in constant memory."""
    while True:
        read = read_lines(path, offset)
        if not read.lines:
            return
        yield from read.lines
        offset = read.end
        # Under gevent the requests get their turn: a gigabyte takes seconds.
        time.sleep(0)


class _Record(msgspec.Struct):
    request_id: str


class _Head(msgspec.Struct):
    finished: int


_decode_record = msgspec.json.Decoder(_Record).decode
_decode_head = msgspec.json.Decoder(_Head).decode


def parse_request_id(line: bytes) -> str | None:
    """Returns the request id of an S or F line, None where the line is torn or garbage."""
    try:
        return _decode_record(line[1:]).request_id
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def parse_head(line: bytes) -> int | None:
    """Returns the count in an H line, None where the line is something else."""
    try:
        return _decode_head(line[1:]).finished if line.startswith(b"H") else None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
