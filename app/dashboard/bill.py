"""Bill: a provider's bill beside the records, by day and model, and the differences."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from typing import Annotated, Any

import msgspec

from app.dashboard.charts import Chart, Line, Steps, draw_lines
from app.dashboard.frame import pages, require_operator, show
from app.layout import FILTERS
from app.services.bill import (
    MONTH_PATTERN,
    Month,
    Reconciliation,
    get_bill_names,
    make_month,
    parse_month,
    select_reconciliation,
)
from app.web import Response, matching, one_of, read_query

# Kind of finding → its heading.
_KINDS = {
    "day_not_billed": "Not billed",
    "day_not_recorded": "Not recorded",
    "model_not_billed": "Model not billed",
    "model_not_recorded": "Model not recorded",
    "tokens_differ": "Other tokens",
    "price_differs": "Another price",
}
_STATES = {"settled": "settled", "costs_open": "costs still open", "open": "still open", "not_fetched": "not fetched"}


class BillQuery(msgspec.Struct, frozen=True, kw_only=True):
    """The month and the provider; by default yesterday's month, and the first provider whose bill can be read."""

    month: Annotated[str, matching(MONTH_PATTERN, "must be a month such as 2026-11")] | None = None
    gateway: Annotated[str, one_of(get_bill_names(), any_case=True)] | None = None


@pages.get("/dashboard/bill")
def show_bill() -> Response:
    """Shows the report of `GET /api/bill/reconciliation`."""
    require_operator()
    query = read_query(BillQuery)
    report = select_reconciliation(query.gateway, query.month)
    month = parse_month(report.month)
    return show(
        "bill.html",
        "dashboard/bill",
        report=report,
        gateways=get_bill_names(),
        before=_move(month, -1),
        after=_move(month, 1) if report.end <= _now().date() else None,
        kinds=_KINDS,
        states=_STATES,
        charts=_draw_charts(report),
    )


def _now() -> datetime:
    return datetime.now(UTC)


def _move(month: Month, by: int) -> str:
    return make_month(month.start - timedelta(days=1) if by < 0 else month.end).name


def _draw_charts(report: Reconciliation) -> list[Chart]:
    days = [(datetime.combine(row.day, time(), UTC), row) for row in report.days if row.day is not None]
    if not days:
        return []
    steps = Steps([start for start, _ in days], timedelta(days=1), _now())
    tokens = [
        Line("recorded", "a", [row.recorded_tokens for _, row in days]),
        Line("billed", "c", [row.billed_tokens for _, row in days]),
    ]
    costs = [
        Line("recorded", "a", [float(row.recorded_cost) for _, row in days]),
        Line("billed", "c", [_to_float(row.billed_cost) for _, row in days]),
    ]
    return [
        draw_lines("Tokens by day", steps, tokens, FILTERS["short"]),
        draw_lines("Cost by day", steps, costs, FILTERS["usd"]),
    ]


def _to_float(value: Any) -> float | None:
    return None if value is None else float(value)
