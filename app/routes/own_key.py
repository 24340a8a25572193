"""`GET /v1/key`, also `/api/key`: a key's view of itself."""

from __future__ import annotations

from flask import Blueprint, g

from app.services.administration import select_own_key
from app.web import NO_STORE, Response, json_response

bp = Blueprint("own_key", __name__)


@bp.get("/v1/key")
@bp.get("/api/key")
def show_own_key() -> Response:
    """Returns the limits of the key that asks, what is used of them, and what is left."""
    return json_response({"data": select_own_key(g.key)}, headers=NO_STORE)
