"""`GET /v1/models` and `/v1/models/<id>`: the catalog in OpenAI's form, for OpenAI's SDKs."""

from __future__ import annotations

from flask import Blueprint, Response

from app.config import MAX_NAME_CHARACTERS
from app.errors import BadRequest
from app.services.inference import find_model
from app.services.models import make_openai_model, render_openai_list
from app.services.providers import get_configured_providers
from app.web import conditional_response, json_response

bp = Blueprint("models", __name__)


@bp.get("/v1/models")
def list_models() -> Response:
    """Returns every model of every provider that is configured."""
    return conditional_response(render_openai_list())


@bp.get("/v1/models/<path:model_id>")
def retrieve_model(model_id: str) -> Response:
    """Returns one model, by its id or by another name that people use for it."""
    if len(model_id) > MAX_NAME_CHARACTERS:
        raise BadRequest(f"A model name may have at most {MAX_NAME_CHARACTERS} characters.", param="model")
    _, model = find_model(model_id, get_configured_providers())
    return json_response(make_openai_model(model, model.id))
