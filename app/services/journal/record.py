"""The record of a request: its fields, its limits, and its JSON form. It never contains message contents."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from app.config import MAX_NAME_CHARACTERS
from app.db.tables import MAX_MESSAGE_CHARACTERS as MAX_MESSAGE_CHARACTERS
from app.logs import log_event

# The real status of a lost request is unknown. Its client saw a broken connection, which clients treat like a 500.
LOST_STATUS = 500

# UPSTREAM_RETRIES allows eleven attempts at most; if there are that many, the first is dropped.
MAX_ATTEMPTS = 10

# The version and the variant of a UUID in its last 80 bits, and a mask of all other bits.
_VERSION_BITS = 7 << 76 | 2 << 62
_RANDOM_BITS = 0xFFF << 64 | 0x3FFF_FFFF_FFFF_FFFF

# A record with a text over the limit has more bytes than this. Shorter ones, such as starts, are not searched.
_LONG_RECORD_BYTES = 500
_SHORTEST_LIMIT = min(MAX_NAME_CHARACTERS, MAX_MESSAGE_CHARACTERS)

# Fields with text from a client or a provider. All other values come from the gateway itself.
_EXTERNAL_TEXTS = (
    "model_requested",
    "model_served",
    "finish_reason",
    "error_code",
    "error_message",
    "error_param",
    "upstream_request_id",
    "client_request_id",
)


def _always(value: Any) -> Any:
    """Returns a field with a default that is in every line: msgspec writes defaults made by a function."""
    return msgspec.field(default_factory=lambda: value)


class ActivityRecord(msgspec.Struct, omit_defaults=True):
    """The record of one request. The fields are the columns of activity in app/db/tables.py; None is unknown.

    Some columns are missing: worker_id, which the insert statement takes from the ledger line, and those that are
    written to the row later.

    The defaults are those of a lost request, one that was sent to a provider and never ended. Unknown values are left
    out of the line: a start has 380 bytes in place of 840, an end 600 in place of 880, and the cost of writing,
    reading, quoting and parsing them in PostgreSQL grows with the bytes. Defaults other than None are in every line.
    """

    request_id: str
    started_at: str
    key_id: str
    endpoint: str
    gateway: str | None = None
    model_requested: str | None = None
    model_served: str | None = None
    stream: bool = _always(False)
    status: int = _always(LOST_STATUS)
    outcome: str = _always("lost")
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    usage_source: str = _always("none")
    cost_usd: str | None = None
    cost_kind: str = _always("unknown")
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
    attempts: list[Any] = msgspec.field(default_factory=lambda: [])  # noqa: PIE807 - `list` would be left out if empty.
    events: int | None = None
    bytes_out: int | None = None
    longest_gap_ms: float | None = None
    client_retry: int | None = None
    client_request_id: str | None = None
    error_message: str | None = None
    error_param: str | None = None
    repaired: str | None = None
    charged_usd: str | UnsetType = UNSET
    charged_tokens: int | UnsetType = UNSET
    budget_periods: list[int] | UnsetType = UNSET
    body_digest: str | UnsetType = UNSET
    client_agent: str | UnsetType = UNSET
    replay_of: str | UnsetType = UNSET
    stated_cost_usd: float | UnsetType = UNSET
    trace_id: str | UnsetType = UNSET


def make_record(key_id: str, endpoint: str) -> ActivityRecord:
    """Returns the record of a request that begins now.

    Args:
        key_id: the public id of the gateway key.
        endpoint: the path of the route.
    """
    return ActivityRecord(
        request_id=make_request_id(),
        started_at=_format_now(),
        key_id=key_id,
        endpoint=endpoint,
        # Sets the defaults directly; calling the functions that make them would take half a microsecond.
        stream=False,
        status=LOST_STATUS,
        outcome="lost",
        usage_source="none",
        cost_kind="unknown",
        attempts=[],
    )


def make_request_id() -> str:
    """Returns a UUID of version 7 (RFC 9562): 48 bits of milliseconds, then 74 random bits.

    The random bits alone make it unique, so the clock may step back. The system seeds Python's generator, again after
    each fork; request ids are not secret.
    """
    number = time.time_ns() // 1_000_000 << 80 | random.getrandbits(80) & _RANDOM_BITS | _VERSION_BITS
    text = number.to_bytes(16, "big").hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def _format_now() -> str:
    """Returns the time in ISO 8601, UTC, with microseconds. Formatting it with datetime takes four times as long."""
    second, rest_ns = divmod(time.time_ns(), 1_000_000_000)
    return f"{_format_second(second)}.{rest_ns // 1000:06d}+00:00"


@lru_cache(maxsize=2)
def _format_second(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


_encode = msgspec.json.Encoder().encode


def encode_record(record: ActivityRecord) -> bytes:
    """Returns the record as one line of JSON that PostgreSQL accepts.

    Also truncates the texts of a long record to MAX_NAME_CHARACTERS and its attempts to the last MAX_ATTEMPTS. Changes
    the record itself, so that the log and the metrics have the same texts. The database truncates texts of all records.
    """
    try:
        line = _encode(record)
        if len(line) > _LONG_RECORD_BYTES and _may_exceed_limits(record):
            _truncate(record)
            line = _encode(record)
    except UnicodeEncodeError:
        _truncate(record)
        _replace_surrogates(record)
        line = _encode(record)
    except Exception as error:
        # A value that JSON cannot represent is a bug in the gateway. The request still gets a record, without details.
        log_event("record_encoding_failed", level="error", error=error, request_id=record.request_id)
        line = _encode(_without_details(record))
    # PostgreSQL's text type cannot store NUL.
    return line.replace(b"\\u0000", b"\\ufffd") if b"\\u0000" in line else line


def _may_exceed_limits(record: ActivityRecord) -> bool:
    """Returns whether a text or the attempts may be over their limits, in half the time of a loop over the names."""
    if record.attempts:
        return True
    texts = (
        record.model_requested,
        record.model_served,
        record.finish_reason,
        record.error_code,
        record.error_message,
        record.error_param,
        record.upstream_request_id,
        record.client_request_id,
    )
    for text in texts:  # noqa: SIM110 - a generator would take longer than all else here.
        if text is not None and len(text) > _SHORTEST_LIMIT:
            return True
    return False


def _truncate(record: ActivityRecord) -> None:
    for name in _EXTERNAL_TEXTS:
        text = getattr(record, name)
        most = MAX_MESSAGE_CHARACTERS if name == "error_message" else MAX_NAME_CHARACTERS
        if text is not None and len(text) > most:
            setattr(record, name, text[:most])
    if record.attempts:
        record.attempts = _change_texts(record.attempts[-MAX_ATTEMPTS:], lambda text: text[:MAX_NAME_CHARACTERS])


def _change_texts(attempts: list[Any], change: Callable[[str], str]) -> list[Any]:
    """Returns the attempts with all their texts changed: providers choose the codes, and callers the model names."""
    return [
        {name: change(value) if isinstance(value, str) else value for name, value in attempt.items()}
        for attempt in attempts
    ]


def _replace_surrogates(record: ActivityRecord) -> None:
    """Replaces lone surrogates, which UTF-8 cannot represent, with question marks."""
    record.attempts = _change_texts(record.attempts, lambda text: text.encode(errors="replace").decode())
    for name in _EXTERNAL_TEXTS:
        text = getattr(record, name)
        if text is not None:
            setattr(record, name, text.encode(errors="replace").decode())


def _without_details(record: ActivityRecord) -> ActivityRecord:
    return ActivityRecord(
        request_id=record.request_id,
        started_at=record.started_at,
        key_id=record.key_id,
        endpoint=record.endpoint,
        status=record.status,
        outcome=record.outcome,
        charged_usd=record.charged_usd,
        charged_tokens=record.charged_tokens,
        budget_periods=record.budget_periods,
        replay_of=record.replay_of,
        trace_id=record.trace_id,
    )
