"""`GET /api/bill/reconciliation`: a provider's bill beside the gateway's records."""

from __future__ import annotations

from typing import Annotated

import msgspec
from flask import Blueprint

from app.services.bill import MONTH_PATTERN, get_bill_names, select_reconciliation
from app.web import NO_STORE, Response, json_response, matching, one_of, read_query

bp = Blueprint("bill", __name__)


MonthName = Annotated[str, matching(MONTH_PATTERN, "must be a month such as 2026-11")]


class ReconciliationQuery(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters of `/api/bill/reconciliation`.

    Attributes:
        month: such as 2026-11; by default that of yesterday.
        gateway: the provider; by default the first whose bill the gateway can read.
    """

    month: MonthName | None = None
    gateway: Annotated[str, one_of(get_bill_names(), any_case=True)] | None = None


@bp.get("/api/bill/reconciliation")
def show_reconciliation() -> Response:
    """Returns a month's bill of a provider as it was last fetched, beside the gateway's records, by day and model."""
    query = read_query(ReconciliationQuery)
    return json_response(select_reconciliation(query.gateway, query.month), headers=NO_STORE)
