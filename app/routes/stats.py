"""`GET /api/catalog/gateway/<gateway>/stats`: statistics of a gateway over a window of time."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import msgspec
from flask import Blueprint, Response

from app.errors import NotFound
from app.routes.catalog import GATEWAYS, UNKNOWN_GATEWAY
from app.services.reports import DEFAULT_TIME_RANGE, TIME_RANGES, Stats, select_stats
from app.web import json_response, one_of, read_query

bp = Blueprint("stats", __name__)

# The numbers are current to the minute, so browsers and proxies must not cache them.
_HEADERS = {"cache-control": "no-store"}


class StatsQuery(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters of the statistics: the length of the window, which ends now."""

    time_range: Annotated[str, one_of(TIME_RANGES)] = DEFAULT_TIME_RANGE


class StatsBody(msgspec.Struct, frozen=True, kw_only=True):
    """The response: the statistics, and when they were read."""

    success: bool = True
    timestamp: datetime
    data: Stats


@bp.get("/api/catalog/gateway/<gateway>/stats")
def show_stats(gateway: str) -> Response:
    """Returns the statistics of one gateway, or of all of them together."""
    name = gateway.lower()
    if name not in GATEWAYS:
        message = UNKNOWN_GATEWAY.format(value=gateway[:100], choices=", ".join(GATEWAYS))
        raise NotFound(message, param="gateway", code="unknown_gateway")
    data = select_stats(name, read_query(StatsQuery).time_range)
    body = StatsBody(timestamp=datetime.now(UTC), data=data)
    return json_response(body, headers=_HEADERS)
