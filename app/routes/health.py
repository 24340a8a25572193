"""`GET /health` and `GET /ready`: is the process alive, and should it get requests."""

from __future__ import annotations

from flask import Blueprint, Response

from app.services.health.readiness import get_readiness
from app.web.responses import json_answer

bp = Blueprint("health", __name__)


@bp.get("/health")
def health() -> Response:
    """Says that the process answers; it looks at nothing else, so that an outage elsewhere restarts nothing."""
    return json_answer({"status": "ok"})


@bp.get("/ready")
def ready() -> Response:
    """Says whether this process should get requests, and shows what it depends on."""
    readiness = get_readiness()
    return json_answer(readiness, status=200 if readiness["ready"] else 503)
