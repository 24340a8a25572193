"""Reads a worker's segments in order and removes fully delivered ones."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import msgspec

from app.logs import log_event
from app.services.journal.segment_format import parse_request_id, read_lines, segment_numbers, segment_path

# A statement with this many rows takes PostgreSQL about 20 ms and this process 2 ms. Larger ones gain little and make
# the statements of other workers wait longer.
BATCH_ROWS = 500


# Delivered segments to keep, so that a database that lost its last minutes can get their rows again (shipper.py).
KEPT_SEGMENTS = 1


# Beyond the end of any segment; see `Position`. It does not depend on the size of a file, because after a power cut a
# file may be shorter than the ledger says.
LOST_ROWS_OFFSET = 1 << 40


class Position(NamedTuple):
    """A position in a journal: byte `offset` of segment number `segment`.

    A dead worker's requests that did not end are delivered after all F lines, in the order of their S lines. Once n of
    them are delivered, the ledger has offset LOST_ROWS_OFFSET + n of the last segment.
    """

    segment: int
    offset: int


class Row(NamedTuple):
    """A row of activity as JSON.

    Attributes:
        content: the JSON object.
        end: the end of its F line; None for a row without one.
    """

    content: bytes
    end: Position | None


class SegmentReader:
    """Reads the F lines of one directory, from a position on.

    Attributes:
        position: all rows before it are delivered; the caller moves it with `advance`.
    """

    def __init__(self, directory: Path, position: Position) -> None:
        self.directory = directory
        self.position = position

    def read_batch(self) -> list[Row]:
        """Returns about BATCH_ROWS final rows after the position; [] if there are none now.

        Raises:
            OSError: a segment cannot be read.
        """
        rows: list[Row] = []
        place = self.position
        while len(rows) < BATCH_ROWS:
            # Listed before the segment is read: if it has a successor now, it is complete.
            later = [number for number in segment_numbers(self.directory) if number > place.segment]
            try:
                lines, end = read_lines(segment_path(self.directory, place.segment), place.offset)
            except FileNotFoundError:
                lines, end = [], 0
            if lines:
                rows += _final_rows(lines, place)
                place = Position(place.segment, end)
            elif later:
                place = Position(later[0], 0)
            else:
                break
            if not rows:
                self.advance(place)
        return rows

    def read_first(self) -> bytes | None:
        """Returns the first final row after the position; None if there is none within READ_BYTES."""
        path = segment_path(self.directory, self.position.segment)
        try:
            lines = read_lines(path, self.position.offset).lines
        except OSError:
            return None
        return next((line[1:] for line in lines if line.startswith(b"F") and parse_request_id(line)), None)

    def advance(self, position: Position) -> None:
        """Moves the position forward and removes the segments before it, except KEPT_SEGMENTS."""
        if position.segment != self.position.segment:
            for number in segment_numbers(self.directory):
                if number < position.segment - KEPT_SEGMENTS:
                    segment_path(self.directory, number).unlink(missing_ok=True)
        self.position = position

    def measure_backlog_bytes(self) -> int:
        """Returns the bytes of all segments after the position, S lines included."""
        numbers = [number for number in segment_numbers(self.directory) if number >= self.position.segment]
        sizes = {number: measure_size(segment_path(self.directory, number)) for number in numbers}
        return sum(sizes.values()) - (self.position.offset if self.position.segment in sizes else 0)


class _EndedRow(msgspec.Struct):
    started_at: datetime
    duration_ms: float | None = None


def parse_ended_at(content: bytes) -> float:
    """Returns the end time of a row's request, in seconds since the epoch.

    Raises:
        msgspec.DecodeError: the content is not a row.
    """
    row = msgspec.json.decode(content, type=_EndedRow)
    return row.started_at.timestamp() + (row.duration_ms or 0) / 1000


def _final_rows(lines: list[bytes], place: Position) -> list[Row]:
    rows = []
    offset = place.offset
    for line in lines:
        offset += len(line) + 1
        if not line.startswith(b"F"):
            continue
        if parse_request_id(line) is None:
            # Either the disk was full in the middle of the line and the whole line follows, or the file is damaged.
            text = line[:1000].decode(errors="replace")
            log_event("journal_line_skipped", level="error", line=text, segment=place.segment, end=offset)
            continue
        rows.append(Row(line[1:], Position(place.segment, offset)))
    return rows


def measure_size(path: Path) -> int:
    """Returns the length of a segment in bytes; 0 if it has been removed."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
