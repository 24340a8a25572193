"""Activity as CSV of any size: RFC 4180, UTF-8, a header line, encoded in pieces that each take little time."""

from __future__ import annotations

import csv
import errno
import io
import time
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any

import msgspec

from app.db import DatabaseError, describe_error
from app.db.tables import activity
from app.errors import GatewayShutdown
from app.logs import log_event
from app.services.reports.totals import normalize_usd
from app.shutdown import raise_if_drained
from app.yielding import PAUSE_S

COLUMNS = tuple(column.name for column in activity.columns)

# Spreadsheets read a cell that starts with one of these as a formula, and callers choose model names. A preceding
# apostrophe makes the cell text (OWASP, "CSV Injection").
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")

# Encoding this many takes about a millisecond; then the worker's other requests get a turn.
_PIECE_ROWS = 50

# The csv module writes values of these types correctly, None as an empty cell. Two cells in three have such values.
_UNCHANGED_TYPES = frozenset({int, float, type(None)})

_encode_json = msgspec.json.Encoder().encode


def encode_csv(pages: Iterable[list[dict[str, Any]]]) -> Iterator[bytes]:
    """Yields the rows of the pages as CSV; the first piece has the header line and the first rows, if any."""
    lines: list[Iterable[object]] = [COLUMNS]
    for page in pages:
        for start in range(0, len(page), _PIECE_ROWS):
            lines += map(_make_line, page[start : start + _PIECE_ROWS])
            yield _encode_lines(lines)
            lines = []
            time.sleep(PAUSE_S)
    if lines:
        yield _encode_lines(lines)


def encode_table(rows: Iterable[Iterable[object]]) -> bytes:
    """Returns a small table as CSV, with its header line as the first row, and cells as in the export of records."""
    return _encode_lines([[_make_cell(value) for value in row] for row in rows])


def _encode_lines(lines: Iterable[Iterable[object]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(lines)
    return text.getvalue().encode()


def _make_line(row: dict[str, Any]) -> list[object]:
    return [value if type(value) in _UNCHANGED_TYPES else _make_cell(value) for value in map(row.__getitem__, COLUMNS)]


def _make_cell(value: Any) -> object:
    if isinstance(value, str):
        return "'" + value if value.startswith(_FORMULA_STARTS) else value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Decimal):
        return format(normalize_usd(value), "f")  # Spreadsheets round a number with an exponent.
    if isinstance(value, (list, dict)):
        return _encode_json(value).decode()
    return value.isoformat() if hasattr(value, "isoformat") else value


def break_on_failure(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Yields the pieces; if one cannot be made, breaks the connection, so that the client sees a broken transfer.

    Raises:
        BrokenPipeError: the database failed or the gateway stops; gunicorn then closes the connection.
    """
    try:
        for piece in pieces:
            yield piece
            raise_if_drained()
    except (DatabaseError, GatewayShutdown) as error:
        log_event("export_cut", level="warning", reason=describe_error(error))
        raise BrokenPipeError(errno.EPIPE, "the export was not completed") from error
