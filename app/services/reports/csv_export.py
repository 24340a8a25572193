"""Activity as CSV of any size: RFC 4180, UTF-8, one line of names, in pieces that each take little time."""

from __future__ import annotations

import csv
import errno
import io
import time
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any

import msgspec

from app.db.errors import DatabaseError, describe_error
from app.db.tables import activity
from app.errors import GatewayShutdown
from app.logs import log_event
from app.services.reports.totals import plain_usd
from app.shutdown import raise_if_drained

COLUMNS = tuple(column.name for column in activity.columns)

# Spreadsheets take a cell that begins so for a formula, and models' names are a caller's words. An apostrophe makes
# it text (OWASP, "CSV Injection").
_FORMULA_BEGINS = ("=", "+", "-", "@", "\t", "\r")

# Encoding so many takes about a millisecond, after which other requests of the worker have their turn.
_PIECE_ROWS = 50

# The csv module writes these as they should be, None as nothing; two cells of three are such.
_AS_THEY_ARE = frozenset({int, float, type(None)})

_encode_json = msgspec.json.Encoder().encode


def encode_csv(pages: Iterable[list[dict[str, Any]]]) -> Iterator[bytes]:
    """Yields the rows of the pages as CSV; the first piece has the line of names and the first rows, if any."""
    lines: list[Iterable[object]] = [COLUMNS]
    for page in pages:
        for begin in range(0, len(page), _PIECE_ROWS):
            lines += map(_line, page[begin : begin + _PIECE_ROWS])
            yield _encode_lines(lines)
            lines = []
            time.sleep(0)
    if lines:
        yield _encode_lines(lines)


def _encode_lines(lines: Iterable[Iterable[object]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(lines)
    return text.getvalue().encode()


def _line(row: dict[str, Any]) -> list[object]:
    return [value if type(value) in _AS_THEY_ARE else _cell(value) for value in map(row.__getitem__, COLUMNS)]


def _cell(value: Any) -> object:
    if isinstance(value, str):
        return "'" + value if value.startswith(_FORMULA_BEGINS) else value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Decimal):
        return format(plain_usd(value), "f")  # Spreadsheets round what has an exponent.
    if isinstance(value, (list, dict)):
        return _encode_json(value).decode()
    return value.isoformat() if hasattr(value, "isoformat") else value


def unfinished_on_failure(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Yields the pieces, and ends so that the client's HTTP library sees an unfinished answer if not all come.

    Raises:
        BrokenPipeError: the database failed or the gateway stops; gunicorn then closes the connection.
    """
    try:
        for piece in pieces:
            yield piece
            raise_if_drained()
    except (DatabaseError, GatewayShutdown) as error:
        log_event("export broken off", level="warning", reason=describe_error(error)[:300])
        raise BrokenPipeError(errno.EPIPE, "the export did not complete") from error
