"""What was recorded, read back: pages of activity, and what a key has used day by day."""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from typing import Any
from uuid import UUID

from app.db.activity import ActivityCursor, select_activity, stream_activity
from app.db.activity import ActivityFilter as ActivityFilter  # Routes say with it what is wanted.
from app.db.day_usage import DayUsageRow, select_day_usage
from app.db.engine import reading
from app.db.rollups import KeyUsageRow, select_key_usage, sum_up
from app.db.tables import OUTCOMES as OUTCOMES
from app.services.reports.totals import describe_totals, plain_usd

# A page is read and encoded in one go, some 40 ms for this many, which every stream of the worker waits for.
MAX_PAGE_ROWS = 1_000

# An export reads page after page, so its pages hold up the streams for some 5 ms only.
EXPORT_PAGE_ROWS = 200

# The microseconds since the epoch and the id, 24 bytes that base64 turns into 32 characters without padding.
_CURSOR = struct.Struct(">q16s")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class CursorInvalid(ValueError):
    """The text is no cursor of ours."""


def read_page(wanted: ActivityFilter, cursor: str | None, limit: int) -> tuple[list[dict[str, Any]], str | None]:
    """Returns up to `limit` rows, newest first, and the cursor of the page after them, None when there is none.

    Args:
        wanted: which rows.
        cursor: what an earlier call returned; None begins with the newest row.
        limit: at most MAX_PAGE_ROWS.

    Raises:
        CursorInvalid: the cursor was not made here.
        DatabaseError: the database is away or slow.
    """
    after = None if cursor is None else _decode_cursor(cursor)
    with reading() as connection:
        # One row more tells whether there is a next page.
        rows = select_activity(connection, wanted, after=after, limit=limit + 1)
    last = rows[limit - 1] if len(rows) > limit else None
    return [_plain(row) for row in rows[:limit]], None if last is None else _encode_cursor(last)


def _decode_cursor(text: str) -> ActivityCursor:
    try:
        microseconds, request_id = _CURSOR.unpack(base64.b64decode(text, altchars=b"-_", validate=True))
        started_at = _EPOCH + timedelta(microseconds=microseconds)
    except (binascii.Error, struct.error, ValueError, OverflowError) as error:
        raise CursorInvalid(text) from error
    return ActivityCursor(started_at, UUID(bytes=request_id))


def _encode_cursor(row: dict[str, Any]) -> str:
    microseconds = (row["started_at"] - _EPOCH) // timedelta(microseconds=1)
    return base64.urlsafe_b64encode(_CURSOR.pack(microseconds, row["request_id"].bytes)).decode()


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    cost = row["cost_usd"]
    return row if cost is None else row | {"cost_usd": plain_usd(cost)}


def stream_pages(wanted: ActivityFilter) -> Iterator[list[dict[str, Any]]]:
    """Yields all rows wanted, newest first, some hundred at a time; nothing is held open in between.

    Raises:
        DatabaseError: the database is away or slow.
    """
    rows = stream_activity(reading, wanted, page_rows=EXPORT_PAGE_ROWS)
    while page := list(islice(rows, EXPORT_PAGE_ROWS)):
        yield page


def get_usage(key_id: str | None, first: date, end: date) -> dict[str, Any]:
    """Returns what a key used by UTC day, gateway and model, newest day first, and the totals.

    Args:
        key_id: the key, or None for all keys together.
        first, end: the first day, and the one after the last.

    Raises:
        DatabaseError: the database is away or slow.
    """
    rows = _select_days(key_id, first, end - timedelta(days=1))
    total = sum_up(row.sums for row in rows)
    return {
        "key": key_id,
        "from": first,
        "to": end,
        "total_requests": total.requests,
        **describe_totals(total),
        "days": [_describe_day(row) for row in rows],
    }


def _select_days(key_id: str | None, first: date, last: date) -> Sequence[DayUsageRow | KeyUsageRow]:
    rows: list[DayUsageRow | KeyUsageRow] = []
    with reading() as connection:
        if key_id is None:
            rows += select_day_usage(connection, first=first, last=last)
        else:
            rows += select_key_usage(connection, first=first, last=last, key_id=key_id)
    return sorted(rows, key=lambda row: (row.day, row.sums.requests), reverse=True)


def _describe_day(row: DayUsageRow | KeyUsageRow) -> dict[str, Any]:
    return {
        "day": row.day,
        "gateway": row.gateway or None,
        "model": row.model or None,
        "requests": row.sums.requests,
        "errors": row.sums.requests - row.sums.ok_requests,
        **describe_totals(row.sums),
    }
