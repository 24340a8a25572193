"""`GET /health` and `GET /ready`: whether the process is alive, and whether it should get requests."""

from __future__ import annotations

from flask import Blueprint, Response

from app.services.health import get_readiness
from app.web import json_response

bp = Blueprint("health", __name__)


@bp.get("/health")
def health() -> Response:
    """Returns 200 from any living process. It checks nothing else, so that no outage elsewhere causes a restart."""
    return json_response({"status": "ok"})


@bp.get("/ready")
def ready() -> Response:
    """Returns whether this process should get requests (else 503), and the state of what it depends on."""
    readiness = get_readiness()
    return json_response(readiness, status=200 if readiness.ready else 503)
