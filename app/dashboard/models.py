"""Models: the providers' models, their prices, and their recent use."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Annotated, Any, NamedTuple

import msgspec
from flask import g

from app.config import ALL_GATEWAYS, SettingsError
from app.dashboard.calls import write_calls
from app.dashboard.frame import get_origin, pages, show
from app.db import DatabaseError, time_limit
from app.errors import BadRequest, NotFound
from app.services.models import (
    MAX_OFFSET,
    MAX_SEARCH_CHARACTERS,
    MAX_SEARCH_WORDS,
    Model,
    Pricing,
    Served,
    get_model_lists,
    peek_model_list,
)
from app.services.offers import Offer, get_offers
from app.services.providers import PROVIDERS, get_configured_providers
from app.services.reports import ModelStats, select_stats
from app.web import Response, one_of, read_query
from app.yielding import with_pauses

_PAGE_ROWS = 50
_USE_RANGE = "7d"
# The lists are in memory and the use is only an addition, so a database that hangs must not hide the lists for long.
_USE_TIME_LIMIT_S = 2.0

EXAMPLE: dict[str, Any] = {"model": "", "messages": [{"role": "user", "content": "Hello!"}]}

SORTS = {
    "list": "the provider's order",
    "name": "name",
    "input": "input price",
    "output": "output price",
    "context": "context",
}
KINDS = {"chat": "chat", "embeddings": "embeddings", "rerank": "rerank", "vision": "sees images", "tools": "tools"}


class ModelsQuery(msgspec.Struct, frozen=True, kw_only=True):
    """The chosen models, their order, and the page of them."""

    search: Annotated[str, msgspec.Meta(max_length=MAX_SEARCH_CHARACTERS)] = ""
    gateway: Annotated[str, one_of(PROVIDERS, any_case=True)] | None = None
    kind: Annotated[str, one_of(KINDS)] | None = None
    sort: Annotated[str, one_of(SORTS)] = "list"
    offset: Annotated[int, msgspec.Meta(ge=0, le=MAX_OFFSET)] = 0

    def get_parameters(self) -> dict[str, Any]:
        """Returns the parameters that choose the same models."""
        sort = None if self.sort == "list" else self.sort
        return {"search": self.search, "gateway": self.gateway, "kind": self.kind, "sort": sort}


class ModelQuery(msgspec.Struct, frozen=True, kw_only=True):
    """One model, by its id at a provider."""

    id: str = ""
    gateway: Annotated[str, one_of(PROVIDERS, any_case=True)] | None = None


class PricedModel(NamedTuple):
    """A model with its prices in USD per million tokens; None if unknown."""

    model: Model
    input: Decimal | None
    output: Decimal | None
    cached: Decimal | None


class PricedOffer(NamedTuple):
    """A provider's offer of a model: its prices and its recent quality."""

    offer: Offer
    input: Decimal | None
    output: Decimal | None
    cached: Decimal | None


@pages.get("/dashboard/models")
def show_models() -> Response:
    """Shows a page of the models that match the query."""
    query = read_query(ModelsQuery)
    if len(query.search.split()) > MAX_SEARCH_WORDS:
        raise BadRequest(f"Search for at most {MAX_SEARCH_WORDS} words.", param="search")
    chosen, missing = _find(query)
    _sort(chosen, query.sort)
    use = select_use()
    return show(
        "models.html",
        "dashboard/models",
        query=query,
        parameters=query.get_parameters(),
        rows=[price_model(model) for model in chosen[query.offset : query.offset + _PAGE_ROWS]],
        total=len(chosen),
        page_rows=_PAGE_ROWS,
        missing=missing,
        use=use,
        providers=[provider.name for provider in get_configured_providers()],
        kinds=KINDS,
        sorts=SORTS,
    )


@pages.get("/dashboard/models/one")
def show_model() -> Response:
    """Shows one model with the call that uses it."""
    query = read_query(ModelQuery)
    found = [
        Served(provider, model)
        for name, provider in PROVIDERS.items()
        if query.gateway in {None, name} and (models := peek_model_list(provider)) is not None
        if (model := models.get(query.id)) is not None
    ]
    if not found:
        raise NotFound("No list has this model now. Search for it on the page Models.")
    model, use = found[0].model, select_use()
    return show(
        "model.html",
        "dashboard/models",
        row=price_model(model),
        offers=[PricedOffer(offer, *price(offer.pricing)) for offer in get_offers(found[0])],
        use=use.get(model.id) if use is not None else None,
        has_use=use is not None,
        calls=write_calls(get_origin() + "/v1/chat/completions", EXAMPLE | {"model": model.id}),
    )


def _find(query: ModelsQuery) -> tuple[list[Model], str | None]:
    """Returns the models that match, and the problem if the list of a provider is missing."""
    providers = [each for each in get_configured_providers() if query.gateway in {None, each.name}]
    lists, error = get_model_lists(providers)
    found: list[Model] = []
    for _, models in lists:
        matching: Sequence[Model] = models.search(query.search) if query.search.strip() else models
        if query.kind is not None:
            matching = [each for each in with_pauses(matching) if getattr(each.capabilities, query.kind)]
        found.extend(matching)
    return found, None if error is None else error.message


def _sort(models: list[Model], order: str) -> None:
    """Sorts models in place; unknown values come last."""
    if order == "name":
        models.sort(key=lambda model: model.canonical_slug)
    elif order == "context":
        models.sort(key=lambda model: -(model.context_length or 0))
    elif order in {"input", "output"}:
        field = {"input": "prompt", "output": "completion"}[order]
        # Prices are shared by many models, so each text is converted once.
        amounts = {text: float(text) for model in models if (text := getattr(model.pricing, field)) is not None}
        models.sort(key=lambda model: amounts.get(getattr(model.pricing, field), float("inf")))


def price_model(model: Model) -> PricedModel:
    """Returns a model with its prices in USD per million tokens."""
    return PricedModel(model, *price(model.pricing))


def price(pricing: Pricing) -> tuple[Decimal | None, Decimal | None, Decimal | None]:
    """Returns the prices of input, output and cached input in USD per million tokens; None if unknown."""
    texts = (pricing.prompt, pricing.completion, pricing.input_cache_read)
    prompt, completion, cached = (None if text is None else Decimal(text) * 1_000_000 for text in texts)
    return prompt, completion, cached


def select_use() -> dict[str, ModelStats] | None:
    """Returns model id → its use in the last seven days by the signed-in key; an operator sees all use.

    None if the database is unavailable or slow: the page's data on models is in memory.
    """
    key_id = None if g.key.is_operator else g.key.id
    try:
        with time_limit(_USE_TIME_LIMIT_S):
            stats = select_stats(ALL_GATEWAYS, _USE_RANGE, key_id=key_id)
    except (DatabaseError, SettingsError):
        return None
    return {row.model: row for row in stats.models if row.model is not None and row.models == 1}


def find_example_model() -> str:
    """Returns the id of a model for a first request: a chat model of the first available list."""
    for provider in PROVIDERS.values():
        for model in peek_model_list(provider) or ():
            if model.capabilities.chat:
                return model.id
    return "MODEL"
