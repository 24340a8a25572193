"""`GET /api/catalog/models` and `/api/catalog/model/<id>`: what can be asked for, at what price, without a key."""

from __future__ import annotations

from flask import Blueprint, Response, request

from app.errors import BadRequest
from app.services.inference.routing import resolve_entry
from app.services.models import MAX_MODEL_NAME_CHARACTERS, ListQuery, render_list, render_model
from app.services.providers import ALL_GATEWAYS, PROVIDERS, Provider, get_configured_providers
from app.web.conditional import conditional_answer

bp = Blueprint("catalog", __name__)

# A page is encoded in one go, 2 ms for this many, and held up streams would notice much more.
MAX_LIMIT = 1_000

# Beyond every list there is; a larger number is an error worth telling.
_MAX_OFFSET = 10_000_000

_MAX_SEARCH_LENGTH = 200


@bp.get("/api/catalog/models")
def list_models() -> Response:
    """Lists models: `gateway` (all that are on when not given), `provider`, `search`, `limit`, `offset`."""
    return conditional_answer(render_list(_read_query()))


@bp.get("/api/catalog/model/<path:model_id>")
def get_model(model_id: str) -> Response:
    """Shows one model, by its id or by a name that people write for it."""
    if len(model_id) > MAX_MODEL_NAME_CHARACTERS:
        raise BadRequest(f"A model's name has at most {MAX_MODEL_NAME_CHARACTERS} characters.", param="model")
    return conditional_answer(render_model(*resolve_entry(model_id, _providers(_read_gateway()))))


def _read_query() -> ListQuery:
    search = request.args.get("search", "").strip()
    if len(search) > _MAX_SEARCH_LENGTH:
        raise BadRequest(f"search has at most {_MAX_SEARCH_LENGTH} characters.", param="search")
    return ListQuery(
        gateway=_read_gateway(),
        provider=request.args.get("provider", "").strip().lower()[:_MAX_SEARCH_LENGTH],
        search=search.lower(),
        limit=_read_number("limit", MAX_LIMIT, 1, MAX_LIMIT),
        offset=_read_number("offset", 0, 0, _MAX_OFFSET),
    )


def _read_gateway() -> str:
    gateway = request.args.get("gateway") or ALL_GATEWAYS
    if gateway != ALL_GATEWAYS and gateway not in PROVIDERS:
        raise BadRequest(
            f"Unknown gateway {gateway[:100]!r}. Use one of: {', '.join(PROVIDERS)}, {ALL_GATEWAYS}.",
            param="gateway",
            code="unknown_gateway",
        )
    return gateway


def _read_number(name: str, default: int, least: int, most: int) -> int:
    text = request.args.get(name)
    if text is None:
        return default
    # int() also takes "１", "1_0" and " 1", none of which anybody means.
    if not text.isascii() or not text.isdigit() or len(text) > 9 or not least <= int(text) <= most:
        raise BadRequest(f"{name} is {text[:100]!r}; it must be a whole number from {least} to {most}.", param=name)
    return int(text)


def _providers(gateway: str) -> list[Provider]:
    return get_configured_providers() if gateway == ALL_GATEWAYS else [PROVIDERS[gateway]]
