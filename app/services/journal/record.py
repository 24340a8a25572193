"""What is recorded of a request: its row, when it is written down first, and when for good.

`begin_activity` counts the request, `Activity.dispatch` puts it into the journal before the provider is called, and
`Activity.finish` ends it exactly once. No contents of messages are ever recorded.
"""

from __future__ import annotations

import random
import time
from functools import lru_cache
from typing import Any

import msgspec

from app.errors import Unavailable
from app.logs import log_event
from app.runtime import get_settings
from app.services.journal.lifecycle import start_journal
from app.services.journal.recorder import Recorder

# What a client that saw its connection break may take it for; of a lost request nobody knows what was sent.
LOST_STATUS = 500

# A full disk takes an operator, and a disk that is briefly full is looked at twice a second.
RETRY_AFTER_S = 5.0

# Rows have about 800 bytes. One above this has texts that no honest client or provider sends.
_MOST_ROW_BYTES = 16_384
_MOST_CHARACTERS = 200
_MOST_ATTEMPTS = 10


class ActivityRow(msgspec.Struct):
    """One row of the table activity, by the names of its columns; None is unknown. See app/db/tables.py."""

    request_id: str
    started_at: str
    key_id: str
    endpoint: str
    gateway: str | None = None
    model_requested: str | None = None
    model_served: str | None = None
    stream: bool = False
    status: int = LOST_STATUS
    outcome: str = "lost"
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    usage_source: str = "none"
    cost_usd: str | None = None
    cost_kind: str = "unknown"
    price_source: str | None = None
    price_date: str | None = None
    duration_ms: float | None = None
    ttft_ms: float | None = None
    tokens_per_second: float | None = None
    finish_reason: str | None = None
    error_type: str | None = None
    error_code: str | None = None
    upstream_request_id: str | None = None
    upstream_status: int | None = None
    attempts: list[Any] = []
    events: int | None = None
    bytes_out: int | None = None
    longest_gap_ms: float | None = None
    client_retry: int | None = None


class Activity:
    """The record of one request that is under way.

    Attributes:
        row: what is known so far; fill it in before `dispatch` and before `finish`.
        request_id: its id, a UUID of version 7.
        started_s: when it began, on the clock of time.monotonic.
        dispatched: whether it was about to be sent to a provider; until then it has cost nothing.
    """

    __slots__ = ("_finished", "dispatched", "_recorder", "request_id", "row", "started_s")

    def __init__(self, recorder: Recorder, row: ActivityRow) -> None:
        self.row = row
        self.request_id = row.request_id
        self.started_s = time.monotonic()
        self._recorder = recorder
        self._finished = False
        self.dispatched = False

    def dispatch(self) -> None:
        """Puts the request into the journal; call it right before the provider is called.

        Raises:
            Unavailable: the journal cannot be written, and JOURNAL_FULL is "refuse".
        """
        try:
            self._recorder.start(self.request_id, _encode_row(self.row))
        except OSError as error:
            if get_settings().journal_full == "refuse":
                raise Unavailable(
                    "The gateway cannot record requests now, so it takes none. Retry; if it lasts, tell its operator.",
                    code="journal_unavailable",
                    retry_after_s=RETRY_AFTER_S,
                ) from error
            self._recorder.go_uncovered()
        self.dispatched = True

    def finish(self, outcome: str, status: int) -> bool:
        """Ends the record; calls after the first change nothing and return False.

        Args:
            outcome: one of app.db.tables.OUTCOMES.
            status: the HTTP status that the client got.
        """
        if self._finished:
            return False
        self._finished = True
        row = self.row
        row.outcome, row.status = outcome, status
        row.duration_ms = (time.monotonic() - self.started_s) * 1000
        try:
            self._recorder.end(self.request_id, _encode_row(row))
        except Exception as error:
            # A fault of ours must not cost the client its answer; the count of what is in flight will show it.
            log_event("activity_not_recorded", level="error", error=error, request_id=self.request_id)
        return True


def begin_activity(key_id: str, endpoint: str) -> Activity:
    """Counts a request as begun and returns its record.

    Args:
        key_id: the public id of the gateway key.
        endpoint: the path of the route.
    """
    recorder = start_journal()
    row = ActivityRow(request_id=new_request_id(), started_at=_format_now(), key_id=key_id, endpoint=endpoint)
    recorder.begin()
    return Activity(recorder, row)


def new_request_id() -> str:
    """Returns a UUID of version 7 (RFC 9562): 48 bits of milliseconds, then 74 random ones.

    It is unique by the random bits alone, so the clock may step back. Python's generator is seeded by the system and
    anew after each fork; an id is no secret.
    """
    milliseconds = time.time_ns() // 1_000_000
    bits = random.getrandbits(74)
    high, low = 0x8000 | bits >> 48 & 0x3FFF, bits & 0xFFFF_FFFF_FFFF
    return f"{milliseconds >> 16:08x}-{milliseconds & 0xFFFF:04x}-7{bits >> 62:03x}-{high:04x}-{low:012x}"


def _format_now() -> str:
    """Returns the time in ISO 8601, UTC, with microseconds; datetime takes four times as long for it."""
    second, rest_ns = divmod(time.time_ns(), 1_000_000_000)
    return f"{_format_second(second)}.{rest_ns // 1000:06d}+00:00"


@lru_cache(maxsize=2)
def _format_second(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


_encode = msgspec.json.Encoder().encode


def _encode_row(row: ActivityRow) -> bytes:
    """Returns the row as JSON on one line, with nothing in it that PostgreSQL refuses because of its form."""
    try:
        line = _encode(row)
    except Exception as error:
        line = _encode(_mended(row, error))
    if len(line) > _MOST_ROW_BYTES:
        line = _encode(_tamed(row))
    # PostgreSQL's text has no NUL character.
    return line.replace(b"\\u0000", b"\\ufffd") if b"\\u0000" in line else line


def _mended(row: ActivityRow, error: Exception) -> ActivityRow:
    if isinstance(error, UnicodeEncodeError):
        return _tamed(row)
    # A value of a type that JSON does not have is a fault of ours. The request keeps its row, without the details.
    log_event("activity_row_unencodable", level="error", error=error, request_id=row.request_id)
    return ActivityRow(
        request_id=row.request_id,
        started_at=row.started_at,
        key_id=row.key_id,
        endpoint=row.endpoint,
        status=row.status,
        outcome=row.outcome,
    )


def _tamed(row: ActivityRow) -> ActivityRow:
    """Returns the row with its texts cut and lone surrogates replaced, which no JSON can hold."""
    values = msgspec.structs.asdict(row)
    texts = {name: _tamed_text(value) for name, value in values.items() if isinstance(value, str)}
    return msgspec.structs.replace(row, **texts, attempts=row.attempts[-_MOST_ATTEMPTS:])


def _tamed_text(text: str) -> str:
    return text[:_MOST_CHARACTERS].encode(errors="replace").decode()
