"""`GET /health` and `GET /ready`: whether the process is alive, and whether it should receive requests.

`/` and `/api/hello` are for clients that check, mostly with HEAD, whether a server is there before they send a request.
"""

from __future__ import annotations

from flask import Blueprint, request

from app.services.health import check_readiness, note_readiness
from app.version import get_version
from app.web import Response, is_for_operator, json_response

bp = Blueprint("health", __name__)


@bp.get("/health")
def health() -> Response:
    """Returns 200 and the version while the process runs.

    It checks nothing else, so that an outage elsewhere causes no restart.
    """
    return json_response({"status": "ok", "version": get_version()})


@bp.get("/")
@bp.get("/api/hello")
def hello() -> Response:
    """Returns 200 and what this is; at `/` a browser is sent to the dashboard."""
    if request.path == "/" and "text/html" in request.headers.get("Accept", ""):
        return Response(b"", status=303, headers={"location": "dashboard/", "vary": "accept"})
    return json_response({"service": "llm-gateway", "status": "ok"})


@bp.get("/ready")
def ready() -> Response:
    """Returns whether this process should receive requests (503 if not); for the operator also the state behind it."""
    is_told = is_for_operator()
    readiness = check_readiness(with_hosts=is_told)
    note_readiness(readiness)
    shown = readiness if is_told else {"ready": readiness.ready}
    return json_response(shown, status=200 if readiness.ready else 503)
