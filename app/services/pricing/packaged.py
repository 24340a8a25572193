"""Prices from the `genai-prices` package, which holds dated price lists of many providers and needs no network."""

from __future__ import annotations

import datetime
from decimal import Decimal
from functools import cache, lru_cache
from importlib.metadata import version
from typing import Any

from app.services.pricing.price import Billing, Price, per_million_to_per_token

# A lookup in the package takes 42 µs, so prices are cached by model id; the cache is bounded, as callers choose ids.
_KEPT_PRICES = 4_096


def get_packaged_price(billing: Billing, model_id: str, day: datetime.date | None = None) -> Price | None:
    """Returns the package's price of a provider's model on a day, in USD per token, or None if it has none.

    Args:
        billing: the rules of the provider.
        model_id: the model's id there.
        day: a UTC day, by default today. The package's prices are dated, so a new day may bring a new one.
    """
    if _get_provider(billing.name) is None:
        return None
    return _look_up(billing, model_id, day or datetime.datetime.now(datetime.UTC).date())


@cache
def _get_provider(name: str) -> Any | None:
    # Imported here because the import takes 0.3 s and 28 MB, which a process that needs no price should be spared.
    from genai_prices.data_snapshot import get_snapshot

    return next((row for row in get_snapshot().providers if row.id == name), None)


@lru_cache(maxsize=_KEPT_PRICES)
def _look_up(billing: Billing, model_id: str, day: datetime.date) -> Price | None:
    provider = _get_provider(billing.name)
    model = provider.find_model(model_id) if provider else None
    if model is None:
        return None
    stated = model.get_prices(datetime.datetime.combine(day, datetime.time(12), datetime.UTC))
    prompt, completion, cached = stated.input_mtok, stated.output_mtok, stated.cache_read_mtok
    # Prices that depend on the length of the prompt have another type; no single number would be right for them.
    if not isinstance(prompt, Decimal) or not isinstance(completion, Decimal):
        return None
    price = Price(
        prompt=per_million_to_per_token(prompt),
        completion=per_million_to_per_token(completion),
        input_cache_read=per_million_to_per_token(cached) if isinstance(cached, Decimal) else None,
        source=f"genai-prices {version('genai-prices')}",
        date=None,
    )
    return billing.complete(price)
