"""`GET /api/workers`: the state of all workers, of all hosts."""

from __future__ import annotations

import msgspec
from flask import Blueprint

from app.services.health import select_workers_report
from app.web import NO_STORE, Response, json_response, read_query

bp = Blueprint("workers", __name__)


class NoQuery(msgspec.Struct, frozen=True):
    """A path that takes no parameters."""


@bp.get("/api/workers")
def list_workers() -> Response:
    """Returns the workers that live, what each says of itself, and the circuit breakers that are open anywhere."""
    read_query(NoQuery)
    return json_response(select_workers_report(), headers=NO_STORE)
