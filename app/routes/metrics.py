"""`GET /metrics`: the metrics in Prometheus' text format."""

from __future__ import annotations

from flask import Blueprint

from app.metrics import render_metrics
from app.web import Response

bp = Blueprint("metrics", __name__)


@bp.get("/metrics")
def metrics() -> Response:
    """Returns the metrics of all workers."""
    return Response(render_metrics(), content_type="text/plain; version=0.0.4; charset=utf-8")
