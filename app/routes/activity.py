"""`GET /api/activity…` and `/api/usage`: a key's own records, or all for the operator."""

from __future__ import annotations

from datetime import date, datetime
from itertools import chain
from typing import Annotated

import msgspec
from flask import Blueprint, g

from app.errors import BadRequest, PermissionDenied
from app.services.endpoints import ENDPOINTS
from app.services.journal import select_integrity_report
from app.services.keys import raise_if_no_key
from app.services.providers import PROVIDERS
from app.services.reports import (
    MAX_PAGE_ROWS,
    OUTCOMES,
    STATUS_PATTERN,
    ActivityFilter,
    break_on_failure,
    encode_csv,
    select_activity_page,
    select_request_story,
    select_retry_report,
    select_usage_report,
    stream_activity_pages,
)
from app.web import NO_STORE, Response, choose_content_type, json_response, matching, one_of, read_query

bp = Blueprint("activity", __name__)

DEFAULT_PAGE_ROWS = 100

_JSON, _CSV = "application/json", "text/csv"
_FORMATS = {"csv": _CSV, "json": _JSON}


Status = Annotated[str, matching(STATUS_PATTERN, "must be a status such as 429, or a class of them such as 5xx")]
# Bounds far above any record.
Milliseconds = Annotated[float, msgspec.Meta(ge=0, le=1e11)]
Usd = Annotated[float, msgspec.Meta(ge=0, le=1e9)]


class ActivityQuery(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters of `/api/activity`. A parameter that is None does not filter the records.

    Attributes:
        start, end: `from` (included) and `to` (excluded) in the query.
        model: the whole name of the model that was served or, if none was, requested.
        endpoint: the path of an endpoint.
        outcomes: `outcome` in the query: one or several.
        statuses: `status` in the query: one or several, each a number or a class such as "5xx".
        error_type: the `type` of the error.
        stream: whether a stream was requested.
        min_duration_ms, max_duration_ms, min_cost_usd, max_cost_usd: included; records without a known duration or cost
            are left out.
        key: the id of a gateway key; only the operator may name a key other than their own.
        limit: the most records of a page, DEFAULT_PAGE_ROWS if None; not for an export.
        cursor: `next_cursor` of the previous page; not for an export.
        format: takes precedence over the Accept header.
    """

    start: datetime | None = msgspec.field(name="from", default=None)
    end: datetime | None = msgspec.field(name="to", default=None)
    model: str | None = None
    gateway: Annotated[str, one_of(PROVIDERS, any_case=True)] | None = None
    endpoint: Annotated[str, one_of([endpoint.path for endpoint in ENDPOINTS])] | None = None
    key: str | None = None
    outcomes: tuple[Annotated[str, one_of(OUTCOMES)], ...] | None = msgspec.field(name="outcome", default=None)
    statuses: tuple[Status, ...] | None = msgspec.field(name="status", default=None)
    error_type: str | None = None
    stream: bool | None = None
    min_duration_ms: Milliseconds | None = None
    max_duration_ms: Milliseconds | None = None
    min_cost_usd: Usd | None = None
    max_cost_usd: Usd | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_PAGE_ROWS)] | None = None
    cursor: str | None = None
    format: Annotated[str, one_of(_FORMATS)] | None = None

    def __post_init__(self) -> None:
        if self.start is not None and self.end is not None and self.start >= self.end:
            raise BadRequest(
                "`from` must be before `to`; `from` is included and `to` is not.",
                param="from",
                code="invalid_parameter",
            )
        for name in ("duration_ms", "cost_usd"):
            least, most = getattr(self, f"min_{name}"), getattr(self, f"max_{name}")
            if least is not None and most is not None and least > most:
                raise BadRequest(
                    f"`min_{name}` must not be above `max_{name}`.", param=f"min_{name}", code="invalid_parameter"
                )


class UsageQuery(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters of `/api/usage`.

    Attributes:
        start, end: `from` (included) and `to` (excluded) in the query; by default the last 30 days.
        key: the id of a gateway key; only the operator may name a key other than their own.
    """

    start: date | None = msgspec.field(name="from", default=None)
    end: date | None = msgspec.field(name="to", default=None)
    key: str | None = None


class RetriesQuery(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters of `/api/activity/retries`.

    Attributes:
        start, end: `from` (included) and `to` (excluded) in the query; by default the last seven days.
        key: the id of a gateway key; only the operator may name a key other than their own.
    """

    start: datetime | None = msgspec.field(name="from", default=None)
    end: datetime | None = msgspec.field(name="to", default=None)
    key: str | None = None


class NoQuery(msgspec.Struct, frozen=True):
    """A path that takes no parameters."""


@bp.get("/api/activity")
def list_activity() -> Response:
    """Returns records, newest first: a page as JSON, or all of them as CSV."""
    query = read_query(ActivityQuery)
    chosen = ActivityFilter(
        start=query.start,
        end=query.end,
        model=query.model,
        gateway=query.gateway,
        endpoint=query.endpoint,
        key_id=_select_readable_key(query.key),
        outcomes=query.outcomes,
        statuses=query.statuses,
        error_type=query.error_type,
        stream=query.stream,
        min_duration_ms=query.min_duration_ms,
        max_duration_ms=query.max_duration_ms,
        min_cost_usd=query.min_cost_usd,
        max_cost_usd=query.max_cost_usd,
    )
    if choose_content_type(query.format, _FORMATS) == _CSV:
        return _export(query, chosen)
    page = select_activity_page(chosen, query.cursor, query.limit or DEFAULT_PAGE_ROWS)
    return json_response(page, headers=NO_STORE | {"vary": "accept"})


@bp.get("/api/activity/integrity")
def show_integrity() -> Response:
    """Returns a report on what became of all requests that were ever started."""
    read_query(NoQuery)
    if not g.key.is_operator:
        raise PermissionDenied("This report covers all keys, so only the operator's key may read it.")
    return json_response(select_integrity_report(), headers=NO_STORE)


@bp.get("/api/activity/retries")
def show_retries() -> Response:
    """Returns what the retries of SDKs cost, by the client that sent them: its key and its User-Agent."""
    query = read_query(RetriesQuery)
    report = select_retry_report(_select_readable_key(query.key), query.start, query.end)
    return json_response(report, headers=NO_STORE)


@bp.get("/api/activity/<path:request_id>")
def show_request(request_id: str) -> Response:
    """Returns the record of one request; the id may be the gateway's, the provider's or the client's own."""
    read_query(NoQuery)
    return json_response(select_request_story(request_id, _select_readable_key(None)), headers=NO_STORE)


@bp.get("/api/usage")
def show_usage() -> Response:
    """Returns totals by day, gateway and model: of one key or, for the operator, of all keys."""
    query = read_query(UsageQuery)
    report = select_usage_report(_select_readable_key(query.key), query.start, query.end)
    return json_response(report, headers=NO_STORE)


def _select_readable_key(asked: str | None) -> str | None:
    """Returns the id of the key whose records the caller may read, or None for all keys.

    Raises:
        PermissionDenied: a caller who is not the operator asked for another key's records.
        NotFound: the operator asked for the records of a key that is not stored.
    """
    if g.key.is_operator:
        if asked is not None:
            raise_if_no_key(asked)
        return asked
    if asked not in {None, g.key.id}:
        raise PermissionDenied("A key may read only its own records. Omit `key`.")
    own: str = g.key.id
    return own


def _export(query: ActivityQuery, chosen: ActivityFilter) -> Response:
    for name, value in {"limit": query.limit, "cursor": query.cursor}.items():
        if value is not None:
            raise BadRequest(
                f"An export contains all records, so it has no `{name}`. Use `from` and `to`.",
                param=name,
                code="invalid_parameter",
            )
    pieces = encode_csv(stream_activity_pages(chosen))
    first = next(pieces)  # Read before the response starts, so that an unavailable database is an error response.
    headers = {**NO_STORE, "vary": "accept", "content-disposition": 'attachment; filename="activity.csv"'}
    body = break_on_failure(chain([first], pieces))
    return Response(body, content_type=f"{_CSV}; charset=utf-8; header=present", headers=headers)
