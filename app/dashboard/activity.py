"""Activity: the records of requests, filtered, newest first; and the record of one request."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Annotated, Any

import msgspec
from flask import g

from app.dashboard.charts import Chart
from app.dashboard.frame import pages, show
from app.dashboard.overview import ACTIVITY, draw_requests, make_steps
from app.dashboard.window import ENDPOINT_PATHS, RANGE_NAMES, Window, select_key_id, select_window_stats, write_time
from app.errors import BadRequest
from app.layout import PAGE_HEADERS, make_address, redirect_to
from app.services.administration import select_names
from app.services.providers import PROVIDERS
from app.services.reports import (
    OUTCOMES,
    STATUS_PATTERN,
    TIME_RANGES,
    ActivityFilter,
    Stats,
    break_on_failure,
    encode_csv,
    select_activity_page,
    stream_activity_pages,
)
from app.web import NO_STORE, Response, matching, one_of, read_query

_PAGE_ROWS = 50

Status = Annotated[str, matching(STATUS_PATTERN, "must be a status such as 429, or a class of them such as 5xx")]


class ActivityChoice(Window, frozen=True, kw_only=True):
    """The chosen records, and the page of them. A filter that is None does not apply.

    Attributes:
        request: an id of a request; the page of that request is shown.
        slower_s: only requests that took at least this many seconds.
        dearer_usd: only requests that cost at least this much.
        cursor: the position where the page begins.
    """

    outcomes: tuple[Annotated[str, one_of(OUTCOMES)], ...] | None = msgspec.field(name="outcome", default=None)
    statuses: tuple[Status, ...] | None = msgspec.field(name="status", default=None)
    error_type: str | None = None
    stream: bool | None = None
    slower_s: Annotated[float, msgspec.Meta(ge=0, le=1e6)] | None = None
    dearer_usd: Annotated[float, msgspec.Meta(ge=0, le=1e9)] | None = None
    request: str | None = None
    cursor: str | None = None

    def get_parameters(self) -> dict[str, Any]:
        """Returns the parameters that choose the same records, except those with their usual value."""
        given: dict[str, Any] = {
            "outcome": self.outcomes,
            "status": self.statuses,
            "error_type": self.error_type,
            "stream": None if self.stream is None else str(self.stream).lower(),
            "slower_s": self.slower_s,
            "dearer_usd": self.dearer_usd,
        }
        return super().get_parameters() | {name: value for name, value in given.items() if value is not None}


def make_filter(choice: ActivityChoice, key_id: str | None) -> ActivityFilter:
    """Returns the filter for a choice."""
    start = choice.start
    length = TIME_RANGES[choice.time_range].length
    if start is None and length is not None:
        # As in statistics, the window ends with the current minute.
        start = datetime.now(UTC).replace(second=0, microsecond=0) + timedelta(minutes=1) - length
    return ActivityFilter(
        start=start,
        end=choice.end,
        model=choice.model,
        gateway=choice.gateway,
        endpoint=choice.endpoint,
        key_id=key_id,
        outcomes=choice.outcomes,
        statuses=choice.statuses,
        error_type=choice.error_type,
        stream=choice.stream,
        min_duration_ms=None if choice.slower_s is None else choice.slower_s * 1000,
        min_cost_usd=choice.dearer_usd,
    )


@pages.get("/dashboard/activity")
def show_activity() -> Response:
    """Shows a page of records, with a chart of all requests of the window."""
    choice = read_query(ActivityChoice)
    parameters = choice.get_parameters()
    if choice.request:
        return redirect_to(make_address(f"dashboard/requests/{choice.request.strip()}", parameters))
    key_id = select_key_id(choice.key)
    page = select_activity_page(make_filter(choice, key_id), choice.cursor, _PAGE_ROWS)
    stats = _select_stats(choice, key_id)
    return show(
        "activity.html",
        ACTIVITY,
        choice=choice,
        parameters=parameters,
        page=page,
        stats=stats,
        key_names=select_names({row["key_id"] for row in page.data}) if g.key.is_operator else {},
        chart=_draw(stats, parameters),
        ranges=RANGE_NAMES,
        outcomes=OUTCOMES,
        providers=list(PROVIDERS),
        endpoints=ENDPOINT_PATHS,
        error_types=list(stats.errors) if stats else [],
        models=[row.model for row in stats.models if row.models == 1] if stats else [],
    )


def _select_stats(choice: ActivityChoice, key_id: str | None) -> Stats | None:
    """Returns the statistics of the window; None if there are no sums for the choice."""
    try:
        return select_window_stats(choice, key_id)
    except BadRequest:
        if choice.model is None or key_id is None:
            raise
        return None


def _draw(stats: Stats | None, parameters: dict[str, Any]) -> Chart | None:
    return draw_requests(stats, make_steps(stats, parameters)) if stats is not None and stats.series else None


@pages.get("/dashboard/activity.csv")
def export_activity() -> Response:
    """Returns all records of a choice as CSV, like `/api/activity`."""
    choice = read_query(ActivityChoice)
    pieces = encode_csv(stream_activity_pages(make_filter(choice, select_key_id(choice.key))))
    first = next(pieces)  # Read before the response starts, so that an unavailable database is an error page.
    name = f"activity-{write_time(datetime.now(UTC))}.csv".replace(":", "")
    headers = NO_STORE | {"content-disposition": f'attachment; filename="{name}"'}
    body = break_on_failure(chain([first], pieces))
    headers["content-security-policy"] = PAGE_HEADERS["content-security-policy"]
    return Response(body, content_type="text/csv; charset=utf-8; header=present", headers=headers)
