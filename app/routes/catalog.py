"""`GET /api/catalog/models` and `/api/catalog/model/<id>`: the models and their prices, without a key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
from flask import Blueprint

from app.config import ALL_GATEWAYS, MAX_NAME_CHARACTERS
from app.errors import BadRequest
from app.services.models import (
    MAX_OFFSET,
    MAX_SEARCH_CHARACTERS,
    MAX_SEARCH_WORDS,
    ListQuery,
    render_list,
    render_model,
)
from app.services.providers import PROVIDERS, Provider, get_configured_providers
from app.services.routing import find_model
from app.web import Response, conditional_response, one_of, read_query

bp = Blueprint("catalog", __name__)

GATEWAYS = (*PROVIDERS, ALL_GATEWAYS)
UNKNOWN_GATEWAY = "Unknown gateway {value!r}. Use one of: {choices}."

# A page is encoded without a pause. That takes 2 ms for this many models; more would delay the worker's streams.
MAX_PAGE_MODELS = 1_000


class GatewayQuery(msgspec.Struct, frozen=True, kw_only=True):
    """The parameter of one model: the gateway that serves it, by default all that are configured."""

    gateway: Annotated[str, one_of(GATEWAYS, message=UNKNOWN_GATEWAY, code="unknown_gateway", any_case=True)] = (
        ALL_GATEWAYS
    )


class CatalogQuery(GatewayQuery, frozen=True, kw_only=True):
    """The parameters of the list.

    Attributes:
        provider: the publisher of the models, in upper or lower case.
        search: words that a model's id, name or description must contain, in any order, in upper or lower case.
        limit, offset: the page.
    """

    provider: str = ""
    search: Annotated[str, msgspec.Meta(max_length=MAX_SEARCH_CHARACTERS)] = ""
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_PAGE_MODELS)] = MAX_PAGE_MODELS
    offset: Annotated[int, msgspec.Meta(ge=0, le=MAX_OFFSET)] = 0


@bp.get("/api/catalog/models")
def list_models() -> Response:
    """Returns a page of the models that match the query."""
    query = read_query(CatalogQuery, refuse_empty_numbers=True)
    if len(query.search.split()) > MAX_SEARCH_WORDS:
        raise BadRequest(
            f"`search` may have at most {MAX_SEARCH_WORDS} words. Leave some out.",
            param="search",
            code="invalid_parameter",
        )
    chosen = ListQuery(
        gateway=query.gateway,
        provider=query.provider.strip().lower()[:MAX_SEARCH_CHARACTERS],
        search=query.search.strip().lower(),
        limit=query.limit,
        offset=query.offset,
    )
    return conditional_response(render_list(chosen))


@bp.get("/api/catalog/model/<path:model_id>")
def get_model(model_id: str) -> Response:
    """Returns one model, by its id or by another name that people use for it."""
    return conditional_response(render_model(*find_model(model_id, read_providers(model_id))))


def read_providers(model_id: str) -> Sequence[Provider]:
    """Returns the providers whose lists to search for `model_id`: that of `gateway`, or all configured ones.

    Raises:
        BadRequest: the id is too long, or the query is wrong.
        ConfigurationMissing: no provider's key is set.
    """
    if len(model_id) > MAX_NAME_CHARACTERS:
        raise BadRequest(
            f"A model name may have at most {MAX_NAME_CHARACTERS} characters.", param="model", code="invalid_parameter"
        )
    gateway = read_query(GatewayQuery).gateway
    return get_configured_providers() if gateway == ALL_GATEWAYS else [PROVIDERS[gateway]]
