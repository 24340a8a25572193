"""`POST /v1/messages/count_tokens`: an estimate, without a provider, a record or a place among the live requests."""

from __future__ import annotations

from flask import Blueprint

from app.routes.inference import read_body
from app.runtime import get_settings
from app.services.inference import count_message_tokens
from app.web import Response, get_early_request_id, json_response

bp = Blueprint("token_count", __name__)


@bp.post("/v1/messages/count_tokens")
def count_tokens() -> Response:
    """Returns `{"input_tokens": n}` for a request in Anthropic's form."""
    response = json_response({"input_tokens": count_message_tokens(read_body(get_settings().max_body_bytes))})
    response.headers["request-id"] = get_early_request_id()  # Anthropic's SDKs look for it in this header.
    return response
