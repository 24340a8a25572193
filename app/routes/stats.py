"""`GET /api/catalog/gateway/<gateway>/stats`: what went through a gateway in a window of time."""

from __future__ import annotations

from datetime import UTC, datetime

from flask import Blueprint, Response

from app.errors import NotFound
from app.services.providers import PROVIDERS
from app.services.reports.stats import ALL_GATEWAYS, TIME_RANGES, get_stats
from app.web.query import choose, read_arguments
from app.web.responses import json_answer

bp = Blueprint("stats", __name__)

DEFAULT_TIME_RANGE = "24h"

# Numbers of this minute: neither a browser nor a proxy may keep them.
_HEADERS = {"cache-control": "no-store"}


@bp.get("/api/catalog/gateway/<gateway>/stats")
def show_stats(gateway: str) -> Response:
    """Shows the statistics of one gateway, or of `all`; `time_range` is one of TIME_RANGES."""
    if gateway != ALL_GATEWAYS and gateway not in PROVIDERS:
        raise NotFound(
            f"Unknown gateway {gateway[:100]!r}. Use one of: {', '.join(PROVIDERS)}, {ALL_GATEWAYS}.",
            param="gateway",
            code="unknown_gateway",
        )
    time_range = choose(read_arguments("time_range"), "time_range", TIME_RANGES) or DEFAULT_TIME_RANGE
    now = datetime.now(UTC)
    return json_answer(
        {"success": True, "timestamp": now, "data": get_stats(gateway, time_range, now)}, headers=_HEADERS
    )
