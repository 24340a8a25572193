"""The times in the ids of requests, which are UUIDs of version 7: rows of an id are found by its time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

# The id and the start of a request are read from the same clock, one right after the other.
ID_TOLERANCE = timedelta(seconds=1)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# An id has 48 bits of milliseconds, which are more than a datetime holds. This is in the year 5138.
_MAX_MS = 10**14


def read_id_time(request_id: UUID) -> datetime:
    """Returns the time at which an id of version 7 was made; later times than the year 5138 become that year."""
    return _EPOCH + timedelta(milliseconds=min(request_id.int >> 80, _MAX_MS))
