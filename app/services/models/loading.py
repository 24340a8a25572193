"""Fetches a provider's list of models and their prices, and makes a `ModelList` of them."""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterable, Mapping
from typing import Any

from app.errors import GatewayError, UpstreamError, UpstreamTimeout
from app.logs import log_event
from app.services.models.entry import Model, ModelPacker, Pricing, to_price
from app.services.models.model_list import ModelList
from app.services.pricing import STANDARD_TIER, Price, Prices, PriceTable
from app.services.providers import Provider
from app.upstream import UpstreamClient
from app.yielding import with_pauses

# For all pages together. Featherless' 23 take about ten seconds; a list that takes longer is abandoned.
_LIST_TIMEOUT_S = 120.0

# The wait for the price list is shorter if callers wait for the process's first list.
_PRICES_TIMEOUT_COLD_S = 2.0
_PRICES_TIMEOUT_S = 20.0

# A list of less than half its former length counts as a fault of the provider, unless it stays so for a day.
_SHRUNK_SHARE = 0.5
_SHRUNK_ACCEPTED_AFTER_S = 86_400.0


def load_model_list(
    provider: Provider, client: UpstreamClient, prices: Prices, old: ModelList | None, old_age_s: float | None
) -> ModelList:
    """Fetches a provider's list with its prices.

    Args:
        provider: the provider of the list.
        client: the HTTP client for it.
        prices: receives the prices of the list, once the list is accepted.
        old: the current list, if any; a new one that is much shorter is refused.
        old_age_s: the seconds since `old` was fetched.

    Raises:
        UpstreamError: the fetch failed, or the list is empty or has shrunk by more than half.
    """
    started_s, packer = time.monotonic(), ModelPacker()
    models = fetch_models(client, provider, packer)
    _raise_if_shrunk(provider, len(models), old, old_age_s)
    _set_listed_prices(provider, client, prices, models, is_cold=old is None)
    priced = [packer.set_price(model, prices.get_price(provider.billing, model.id)) for model in with_pauses(models)]
    loaded = ModelList(priced, provider.naming)
    duration_s = round(time.monotonic() - started_s, 3)
    log_event("catalog_loaded", provider=provider.name, models=len(loaded), duration_s=duration_s)
    return loaded


def fetch_models(client: UpstreamClient, provider: Provider, packer: ModelPacker) -> list[Model]:
    """Fetches the whole list of a provider, with each id once, in the provider's order.

    At most one raw page is in memory besides the models themselves.

    Raises:
        UpstreamError: the fetch failed, or the list is malformed, or it is not complete within two minutes.
    """
    models: dict[str, Model] = {}
    deadline_s = time.monotonic() + _LIST_TIMEOUT_S
    for number, page in enumerate(provider.fetch_pages(client), start=1):
        before = len(models)
        _add_page(models, page, provider, packer)
        if provider.is_paged:
            if len(models) == before:
                break  # The page is empty; or a server without paging has sent the same list again.
            log_event("catalog_page_loaded", provider=client.title, page=number, models=len(models))
        if time.monotonic() > deadline_s:
            raise UpstreamTimeout(f"The model list of {client.title} was not complete within {_LIST_TIMEOUT_S:.0f} s.")
    return list(models.values())


def _add_page(models: dict[str, Model], page: list[Any], provider: Provider, packer: ModelPacker) -> None:
    without_id = 0
    for raw in with_pauses(page):
        if not _has_id(raw):
            without_id += 1
        elif raw["id"] not in models:
            models[raw["id"]] = packer.pack(provider.normalize(raw))
    if without_id:
        log_event("catalog_entries_skipped", level="warning", provider=provider.name, without_id=without_id)


def _has_id(raw: Any) -> bool:
    return isinstance(raw, Mapping) and isinstance(raw.get("id"), str) and bool(raw["id"])


def _raise_if_shrunk(provider: Provider, length: int, old: ModelList | None, old_age_s: float | None) -> None:
    if length == 0:
        raise UpstreamError(f"The model list of {provider.title} is empty.")
    if old is None or old_age_s is None or old_age_s > _SHRUNK_ACCEPTED_AFTER_S:
        return
    if length < len(old) * _SHRUNK_SHARE:
        raise UpstreamError(f"The model list of {provider.title} shrank from {len(old)} to {length} models.")


def _set_listed_prices(
    provider: Provider, client: UpstreamClient, prices: Prices, models: list[Model], *, is_cold: bool
) -> None:
    if provider.fetch_prices is None:
        today = datetime.datetime.now(datetime.UTC).date()
        prices.set_listed_prices(provider.name, get_entry_prices(models, today))
        return
    timeout_s = _PRICES_TIMEOUT_COLD_S if is_cold else _PRICES_TIMEOUT_S
    try:
        prices.set_listed_prices(provider.name, provider.fetch_prices(client, timeout_s))
    except GatewayError as error:
        # A list without new prices is better than no list, and the old prices are kept.
        log_event("price_list_failed", level="warning", provider=provider.name, reason=error.message)


def get_entry_prices(models: Iterable[Model], today: datetime.date) -> PriceTable:
    """Returns the prices in the entries of one provider's list."""
    # A list of 22,000 models has a few dozen different prices, whose objects are shared.
    known: dict[Pricing, Price | None] = {}
    prices: dict[tuple[str, str], Price] = {}
    for model in with_pauses(models):
        if model.pricing not in known:
            known[model.pricing] = to_price(model.pricing, model.source_gateway, today)
        price = known[model.pricing]
        if price is not None:
            prices[model.id, STANDARD_TIER] = price
    return prices
