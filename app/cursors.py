"""Cursors of lists in pages: the position where a page ends, as an opaque text that callers send back."""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from app.errors import BadRequest

# PostgreSQL's bigint has 19 digits, and no id is near its end.
_MAX_ID_DIGITS = 18

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

T = TypeVar("T")


def encode_cursor(place: bytes) -> str:
    """Returns the cursor for a position."""
    return base64.urlsafe_b64encode(place).decode()


def decode_cursor(text: str, read: Callable[[bytes], T]) -> T:
    """Returns the position from a cursor that `encode_cursor` made.

    Args:
        text: the cursor as sent by a caller.
        read: returns the position for these bytes; raises ValueError, struct.error or OverflowError for invalid ones.

    Raises:
        BadRequest: the cursor is not one that the gateway made.
    """
    try:
        return read(base64.b64decode(text, altchars=b"-_", validate=True))
    except (struct.error, ValueError, OverflowError) as error:  # Invalid base64 raises ValueError too.
        raise _make_error() from error


def encode_time(moment: datetime) -> int:
    """Returns a time for a cursor: the microseconds since 1970, PostgreSQL's precision."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def decode_time(microseconds: int) -> datetime:
    """Returns the time of `encode_time`.

    Raises:
        OverflowError: it is after all dates, so `encode_time` did not make it.
    """
    return _EPOCH + timedelta(microseconds=microseconds)


def read_id_cursor(text: str | None) -> int | None:
    """Returns the id in the cursor of a list that is ordered by id; None for the first page.

    Raises:
        BadRequest: the cursor is not one that the gateway made.
    """
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= _MAX_ID_DIGITS):
        raise _make_error()
    return int(text)


def _make_error() -> BadRequest:
    return BadRequest(
        "`cursor` must be the `next_cursor` of an earlier response.", param="cursor", code="invalid_parameter"
    )
