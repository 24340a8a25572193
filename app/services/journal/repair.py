"""Makes refused rows acceptable to PostgreSQL: an absurd value costs only that value, never the row.

The checks are those of the table activity. A value that fails them is removed if the column may be NULL, and otherwise
replaced with the most cautious one; the column `repaired` names the columns. Repairing a row twice gives the same row,
so a row whose delivery is repeated is not counted twice.
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple

from app.config import MAX_NAME_CHARACTERS
from app.db.clock import Clocks
from app.db.insert_sql import WRITTEN_LATER
from app.db.request_ids import read_id_time
from app.db.tables import COST_KINDS, MAX_MS, MAX_TOKENS, OUTCOMES, USAGE_SOURCES, activity
from app.services.journal.record import LOST_STATUS, MAX_ATTEMPTS

# Days outside this range get no partition (app/db/insert_sql.py).
_FIRST_TIME, _LAST_TIME = datetime(2020, 1, 1, tzinfo=UTC), datetime(2119, 12, 31, tzinfo=UTC)

# The columns are Numeric(30, 15) and Numeric(30, 12).
_MAX_COST_USD = Decimal(10) ** 14
_MAX_CHARGE_USD = Decimal(10) ** 17

# Twice the number of an attempt's fields.
_MAX_ATTEMPT_FIELDS = 14

# A request has a handful of budgets, each with one period.
_MAX_PERIODS = 100

# These columns are set below, by the statement that inserts the row, or after it.
_NOT_CHECKED = {"request_id", "started_at", "repaired", "worker_id", *WRITTEN_LATER}
_COLUMNS = [column.name for column in activity.columns if column.name not in _NOT_CHECKED]

# A number with more digits is out of every range, and the time to read it grows with the square of their number.
_MAX_DIGITS = 40

_INT_4, _INT_8 = 2**31 - 1, 2**63 - 1


class _Unusable(ValueError):
    """A value that the column does not accept."""


def _make_text(value: Any) -> str:
    if not isinstance(value, str):
        raise _Unusable
    # PostgreSQL can store neither NUL characters nor lone surrogates.
    return value.replace("\0", "\ufffd").encode(errors="replace").decode()


def _make_choice(*words: str) -> Callable[[Any], str]:
    def convert(value: Any) -> str:
        if value not in words:
            raise _Unusable
        return str(value)

    return convert


def _make_int(least: int, most: int) -> Callable[[Any], int]:
    def convert(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise _Unusable
        return value

    return convert


def _make_float(least: float, most: float) -> Callable[[Any], float]:
    def convert(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _Unusable
        if not least <= value <= most or not math.isfinite(value):
            raise _Unusable
        return value

    return convert


def _make_bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _Unusable
    return value


def _make_cost(most: Decimal) -> Callable[[Any], Any]:
    def convert(value: Any) -> Any:
        try:
            cost = Decimal(str(value))
        except InvalidOperation:
            raise _Unusable from None
        if not cost.is_finite() or not 0 <= cost < most:
            raise _Unusable
        return value

    return convert


def _make_date(value: Any) -> str:
    try:
        return date.fromisoformat(value).isoformat()
    except (TypeError, ValueError):
        raise _Unusable from None


def _make_attempts(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        raise _Unusable
    return [_make_attempt(each) for each in value[-MAX_ATTEMPTS:] if isinstance(each, dict)]


def _make_attempt(fields: dict[str, Any]) -> dict[str, Any]:
    """Returns an attempt with all its fields, including those of later code; an unacceptable value becomes None."""
    kept = list(fields.items())[:_MAX_ATTEMPT_FIELDS]
    return {_make_text(name)[:MAX_NAME_CHARACTERS]: _make_scalar(value) for name, value in kept}


def _make_scalar(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    try:
        return _make_text(value)[:MAX_NAME_CHARACTERS] if isinstance(value, str) else _FLOAT(value)
    except _Unusable:
        return None


def _make_periods(value: Any) -> list[int]:
    if not isinstance(value, list) or len(value) > _MAX_PERIODS:
        raise _Unusable
    return [_PERIOD(each) for each in value]


_PERIOD = _make_int(0, _INT_8)
_FLOAT = _make_float(-1e300, 1e300)
_MS = _make_float(0, MAX_MS)
_TOKENS = _make_int(0, MAX_TOKENS)
_SMALL_INT = _make_int(-_INT_4, _INT_4)

_TOKEN_COLUMNS = ("prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens")

# The check for each column's value, apart from the row's id and time. Columns not listed here are texts.
_CONVERTERS: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(_TOKEN_COLUMNS, _TOKENS),
    "stream": _make_bool,
    "status": _SMALL_INT,
    "outcome": _make_choice(*OUTCOMES),
    "usage_source": _make_choice(*USAGE_SOURCES),
    "cost_usd": _make_cost(_MAX_COST_USD),
    "stated_cost_usd": _make_cost(_MAX_COST_USD),
    "cost_kind": _make_choice(*COST_KINDS),
    "price_date": _make_date,
    "duration_ms": _MS,
    "ttft_ms": _MS,
    "tokens_per_second": _FLOAT,
    "upstream_status": _SMALL_INT,
    "attempts": _make_attempts,
    "events": _SMALL_INT,
    "bytes_out": _make_int(-_INT_8, _INT_8),
    "longest_gap_ms": _FLOAT,
    "client_retry": _SMALL_INT,
    "charged_usd": _make_cost(_MAX_CHARGE_USD),
    "charged_tokens": _TOKENS,
    "budget_periods": _make_periods,
    "replay_of": lambda value: str(uuid.UUID(_make_text(value))),
}

# Values for columns that may not be NULL, for rows without a usable one. The row's end is then unknown: `lost`.
_REQUIRED: dict[str, Any] = {
    "key_id": "unknown",
    "endpoint": "unknown",
    "stream": False,
    "status": LOST_STATUS,
    "outcome": "lost",
    "usage_source": "none",
    "cost_kind": "unknown",
}

# The columns that a row keeps even without its details, because the budgets need them.
_CHARGE = ("charged_usd", "charged_tokens", "budget_periods")


class RepairedRow(NamedTuple):
    """A row that PostgreSQL accepts, and the columns that had other values; [] if it was acceptable."""

    content: bytes
    changed: list[str]


def repair_row(content: bytes, clocks: Clocks, *, is_bare: bool = False) -> RepairedRow:
    """Returns the row with every value that PostgreSQL would refuse removed or replaced.

    Args:
        content: a row as JSON, or any other content in its place.
        clocks: read once for all rows of a delivery; they correct a time that only a wrong clock can cause.
        is_bare: whether to remove every value that may be absent.
    """
    row = _read_row(content)
    repaired = {name: _repair_value(name, row.get(name)) for name in _COLUMNS}
    if is_bare:
        repaired |= {name: None for name in _COLUMNS if name not in (*_REQUIRED, *_CHARGE)}
    changed = [name for name in _COLUMNS if repaired[name] != row.get(name)]
    _repair_cost(repaired, changed)
    _repair_identity(row, repaired, changed, content, clocks)
    if not changed:
        return RepairedRow(content, [])
    repaired["repaired"] = ", ".join(changed)[:MAX_NAME_CHARACTERS]
    return RepairedRow(json.dumps(repaired).encode(), changed)


def _read_row(content: bytes) -> dict[str, Any]:
    try:
        # The standard library's parser reads NaN and numbers of any size, which may be the reason for the refusal.
        row = json.loads(content.decode(errors="replace"), parse_int=_parse_int)
    except (ValueError, RecursionError):
        return {}
    return row if isinstance(row, dict) else {}


def _parse_int(text: str) -> float:
    return int(text) if len(text) <= _MAX_DIGITS else math.inf


def _repair_value(name: str, value: Any) -> Any:
    convert: Callable[[Any], Any] = _CONVERTERS.get(name) or _make_text
    try:
        return _REQUIRED.get(name) if value is None else convert(value)
    except ValueError:
        return _REQUIRED.get(name)


def _repair_cost(repaired: dict[str, Any], changed: list[str]) -> None:
    """Removes a cost that was computed from invalid token counts, and one that contradicts its kind."""
    is_known = repaired["cost_kind"] != "unknown" and not any(name in _TOKEN_COLUMNS for name in changed)
    if repaired["cost_usd"] is not None and not is_known:
        repaired["cost_usd"] = None
        changed.append("cost_usd")
    if repaired["cost_usd"] is None and repaired["cost_kind"] != "unknown":
        repaired["cost_kind"] = "unknown"
        changed.append("cost_kind")


def _repair_identity(
    row: dict[str, Any], repaired: dict[str, Any], changed: list[str], content: bytes, clocks: Clocks
) -> None:
    given_id, given_time = _parse_uuid(row.get("request_id")), _parse_time(row.get("started_at"))
    request_id = given_id or uuid.uuid5(uuid.NAMESPACE_OID, content.hex())
    repaired["request_id"] = str(request_id)
    if given_id is None:
        changed.append("request_id")
    if given_time is not None and _FIRST_TIME <= given_time < _LAST_TIME:
        repaired["started_at"] = given_time.astimezone(UTC).isoformat()
        return
    repaired["started_at"] = _find_time(given_time, given_id, clocks).isoformat()
    changed.append("started_at")


def _parse_uuid(value: Any) -> uuid.UUID | None:
    try:
        return uuid.UUID(value)
    except (TypeError, ValueError, AttributeError):
        return None


def _parse_time(value: Any) -> datetime | None:
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    return moment if moment.tzinfo else None


def _find_time(given: datetime | None, request_id: uuid.UUID | None, clocks: Clocks) -> datetime:
    """Returns the best estimate of a request's start: by its record, else by its id, corrected by the clock's error."""
    guesses = [given] if given else []
    if request_id is not None and request_id.version == 7:
        guesses.append(read_id_time(request_id))
    for guess in guesses:
        for moved in (guess, _move(guess, -clocks.skew)):
            if moved is not None and _FIRST_TIME <= moved < _LAST_TIME:
                return moved
    return clocks.database


def _move(moment: datetime, distance: timedelta) -> datetime | None:
    try:
        return moment + distance
    except OverflowError:
        return None
