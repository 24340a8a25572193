"""The prices that providers' lists state, brought into USD per token."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any

from app.services.models.entry import Model, Pricing
from app.services.pricing.lookup import (
    STANDARD,
    Price,
    PriceTable,
    complete_price,
    get_plausible,
    parse_text,
    per_token,
)
from app.yielding import with_pauses

_SKUS = {
    "LLM input tokens (uncached)": "prompt",
    "LLM input tokens (cached)": "input_cache_read",
    "LLM output tokens": "completion",
}


def normalize_fireworks_prices(rows: Iterable[Any], today: datetime.date) -> PriceTable:
    """Returns the prices of Fireworks' `/v1/serverless/models`, one row for each way to be served.

    Amounts are strings in USD per 1M tokens. A row's price holds for what is *sent* as `model`: its
    `usage_identifier` (a router) where it has one, else its `id`; its `aliases`; and its `service_tier`.
    """
    good = [row for row in rows if isinstance(row, dict) and isinstance(row.get("id"), str)]
    aliases = {row["id"]: _texts(row.get("aliases")) for row in good if _is_standard(row)}
    prices: dict[tuple[str, str], Price] = {}
    for row in good:
        price = _row_price(row, today)
        if price is None:
            continue
        for sent in _sent_names(row, aliases.get(row["id"], [])):
            prices[sent, _tier(row)] = price
    return prices


def _is_standard(row: Mapping[str, Any]) -> bool:
    return bool(row.get("serverless_mode", "standard") == "standard")


def _tier(row: Mapping[str, Any]) -> str:
    tier = row.get("service_tier")
    return tier if isinstance(tier, str) and tier != "default" else STANDARD


def _sent_names(row: Mapping[str, Any], aliases: list[str]) -> Iterator[str]:
    router = row.get("usage_identifier")
    if isinstance(router, str):
        yield router
    elif _is_standard(row) or _tier(row) != STANDARD:
        yield row["id"]
        # An alias costs what its model costs, in each tier.
        yield from aliases
    # A row with neither is a mode that nothing in a request can ask for, so no request has its price.


def _row_price(row: Mapping[str, Any], today: datetime.date) -> Price | None:
    amounts: dict[str, Decimal] = {}
    pricing = row.get("pricing")
    for part in pricing if isinstance(pricing, list) else []:
        name = _SKUS.get(str(part.get("sku"))) if isinstance(part, dict) else None
        amount = parse_text(part.get("amount")) if name and part.get("unit") == "1M tokens" else None
        price = None if amount is None else get_plausible(per_token(amount))
        if name and price is not None:
            amounts[name] = price
    if "prompt" not in amounts or "completion" not in amounts:
        return None
    stated = Price(
        prompt=amounts["prompt"],
        completion=amounts["completion"],
        input_cache_read=amounts.get("input_cache_read"),
        source="fireworks",
        date=today,
    )
    return complete_price("fireworks", stated)


def get_carried_prices(models: Iterable[Model], today: datetime.date) -> PriceTable:
    """Returns the prices that the models of one provider's list carry themselves."""
    # A list of 22,000 models has some dozens of prices, and their objects are shared.
    known: dict[Pricing, Price | None] = {}
    prices: dict[tuple[str, str], Price] = {}
    for model in with_pauses(models):
        if model.pricing not in known:
            known[model.pricing] = _to_price(model.pricing, model.source_gateway, today)
        price = known[model.pricing]
        if price is not None:
            prices[model.id, STANDARD] = price
    return prices


def _to_price(pricing: Pricing, source: str, today: datetime.date) -> Price | None:
    if pricing.prompt is None or pricing.completion is None:
        return None
    return Price(
        prompt=Decimal(pricing.prompt),
        completion=Decimal(pricing.completion),
        input_cache_read=None if pricing.input_cache_read is None else Decimal(pricing.input_cache_read),
        source=source,
        date=today,
    )


def _texts(value: object) -> list[str]:
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []
