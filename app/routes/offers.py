"""`GET /api/catalog/model/<id>/endpoints`: all providers that serve a model, with prices and measured quality.

Measurements come from requests of all keys, so the path needs a key unless PUBLIC_STATS is true. It contains no numbers
of requests, which only the operator may see.
"""

from __future__ import annotations

from flask import Blueprint

from app.routes.catalog import read_providers
from app.services.offers import find_offered_model, render_offers
from app.web import Response, conditional_response

bp = Blueprint("offers", __name__)


@bp.get("/api/catalog/model/<path:model_id>/endpoints")
def list_offers(model_id: str) -> Response:
    """Returns one model, by its id or by another name that people use for it, with everybody who serves it."""
    return conditional_response(render_offers(find_offered_model(model_id, read_providers(model_id))))
