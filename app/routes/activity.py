"""`GET /api/activity`, `/api/activity/integrity` and `/api/usage`: what was recorded, to the key that it was about."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from itertools import chain

from flask import Blueprint, Response, g, request

from app.errors import BadRequest, PermissionDenied
from app.services.journal.lifecycle import get_integrity
from app.services.providers import PROVIDERS
from app.services.reports.csv_export import encode_csv, unfinished_on_failure
from app.services.reports.records import (
    MAX_PAGE_ROWS,
    OUTCOMES,
    ActivityFilter,
    CursorInvalid,
    get_usage,
    read_page,
    stream_pages,
)
from app.web.query import choose, read_arguments, read_number, read_time
from app.web.responses import json_answer

bp = Blueprint("activity", __name__)

DEFAULT_PAGE_ROWS = 100
DEFAULT_USAGE_DAYS = 30
# A year of fifty models is 18,000 rows of 300 bytes.
MAX_USAGE_DAYS = 366

_CSV, _JSON = "text/csv", "application/json"
_FORMATS = {"csv": _CSV, "json": _JSON}

# It is one key's own business, and what is true changes with every request.
_HEADERS = {"cache-control": "no-store"}


@bp.get("/api/activity")
def list_activity() -> Response:
    """Lists records, newest first: a page as JSON, or all of them as CSV."""
    given = read_arguments("from", "to", "model", "gateway", "key", "outcome", "limit", "cursor", "format")
    wanted = _read_filter(given)
    if _wants_csv(given):
        return _export(given, wanted)
    limit = read_number(given, "limit", DEFAULT_PAGE_ROWS, 1, MAX_PAGE_ROWS)
    try:
        rows, next_cursor = read_page(wanted, given.get("cursor"), limit)
    except CursorInvalid:
        raise BadRequest("cursor must be the next_cursor of an earlier answer.", param="cursor") from None
    body = {"object": "list", "data": rows, "has_more": next_cursor is not None, "next_cursor": next_cursor}
    return json_answer(body, headers=_HEADERS | {"vary": "accept"})


@bp.get("/api/activity/integrity")
def show_integrity() -> Response:
    """Shows what became of every request that was ever begun."""
    if not g.key.is_admin:
        raise PermissionDenied("The books are about all keys, so only the operator's key may read them.")
    return json_answer(get_integrity(), headers=_HEADERS)


@bp.get("/api/usage")
def show_usage() -> Response:
    """Shows totals by day, gateway and model: a key's own or, for the operator, one key's or everyone's."""
    given = read_arguments("from", "to", "key")
    today = datetime.combine(datetime.now(UTC), time(), UTC)
    end = read_time(given, "to") or today + timedelta(days=1)
    first = read_time(given, "from") or end - timedelta(days=DEFAULT_USAGE_DAYS)
    for name, moment in {"from": first, "to": end}.items():
        if moment.time() != time():
            raise BadRequest(f"{name} must be a whole day (UTC), such as 2026-03-14.", param=name)
    if not timedelta(0) < end - first <= timedelta(days=MAX_USAGE_DAYS):
        raise BadRequest(f"from must be before to, by at most {MAX_USAGE_DAYS} days.", param="from")
    return json_answer(get_usage(_read_key(given), first.date(), end.date()), headers=_HEADERS)


def _read_filter(given: dict[str, str]) -> ActivityFilter:
    start, end = read_time(given, "from"), read_time(given, "to")
    if start is not None and end is not None and start >= end:
        raise BadRequest("from must be before to; from is included and to is not.", param="from")
    return ActivityFilter(
        start=start,
        end=end,
        model=given.get("model"),
        gateway=choose(given, "gateway", PROVIDERS),
        key_id=_read_key(given),
        outcome=choose(given, "outcome", OUTCOMES),
    )


def _read_key(given: dict[str, str]) -> str | None:
    """Returns the id of the key whose records are wanted, None for all of them."""
    asked = given.get("key")
    if g.key.is_admin:
        return asked
    if asked not in {None, g.key.id}:
        raise PermissionDenied("A key may read its own records only. Leave `key` out.")
    own: str = g.key.id
    return own


def _wants_csv(given: dict[str, str]) -> bool:
    name = choose(given, "format", _FORMATS)
    if name is not None:
        return _FORMATS[name] == _CSV
    return request.accept_mimetypes.best_match([_JSON, _CSV], _JSON) == _CSV


def _export(given: dict[str, str], wanted: ActivityFilter) -> Response:
    for name in ("limit", "cursor"):
        if name in given:
            raise BadRequest(f"An export has all records, so it takes no {name}. Use from and to.", param=name)
    pieces = encode_csv(stream_pages(wanted))
    first = next(pieces)  # A database that is away is told before the answer has begun.
    headers = {**_HEADERS, "vary": "accept", "content-disposition": 'attachment; filename="activity.csv"'}
    body = unfinished_on_failure(chain([first], pieces))
    return Response(body, content_type=f"{_CSV}; charset=utf-8; header=present", headers=headers)
