"""Fireworks' price list, which is on the host of its inference API."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any

from app.errors import UpstreamError
from app.services.pricing import (
    STANDARD_TIER,
    Billing,
    Price,
    PriceTable,
    drop_implausible,
    parse_text,
    per_million_to_per_token,
)
from app.services.providers.entry_fields import read_words
from app.services.providers.pages import read_page
from app.upstream import UpstreamClient

BILLING = Billing(
    name="fireworks",
    # Fireworks treats every unknown tier as `default`.
    priced_tiers=frozenset({"priority"}),
    # Its price page: "cached input tokens are priced at 50 % of input tokens" unless a model lists its own price.
    cached_share=Decimal("0.5"),
    cached_rule="half-price-cache",
)

_SKUS = {
    "LLM input tokens (uncached)": "prompt",
    "LLM input tokens (cached)": "input_cache_read",
    "LLM output tokens": "completion",
}


def fetch_prices(client: UpstreamClient, timeout_s: float) -> PriceTable:
    """Fetches Fireworks' price list, which is on the same host as the inference API.

    Raises:
        UpstreamError: the request failed, or the list contains no price.
    """
    root = client.base_url.removesuffix("/inference/v1")
    rows = read_page(client, client.fetch_json(root + "/v1/serverless/models", timeout_s=timeout_s))
    prices = normalize_fireworks_prices(rows, datetime.datetime.now(datetime.UTC).date())
    if not prices:
        raise UpstreamError(f"The price list of {client.title} contains no price.")
    return prices


def normalize_fireworks_prices(rows: Iterable[Any], today: datetime.date) -> PriceTable:
    """Returns the prices of Fireworks' `/v1/serverless/models`, one row for each way of serving a model.

    Amounts are strings in USD per 1M tokens. A row's price applies to what is *sent* as `model`, its
    `usage_identifier` (a router) if it has one, or else its `id`; to its `aliases`; and to its `service_tier`.
    """
    valid = [row for row in rows if isinstance(row, dict) and isinstance(row.get("id"), str)]
    aliases = {row["id"]: read_words(row.get("aliases")) for row in valid if _is_standard(row)}
    prices: dict[tuple[str, str], Price] = {}
    for row in valid:
        price = _read_price(row, today)
        if price is not None:
            prices.update({(sent, _read_tier(row)): price for sent in _get_sent_names(row, aliases)})
    return prices


def _is_standard(row: Mapping[str, Any]) -> bool:
    return bool(row.get("serverless_mode", "standard") == "standard")


def _read_tier(row: Mapping[str, Any]) -> str:
    tier = row.get("service_tier")
    return tier if isinstance(tier, str) and tier != "default" else STANDARD_TIER


def _get_sent_names(row: Mapping[str, Any], aliases: Mapping[str, list[str]]) -> Iterator[str]:
    router = row.get("usage_identifier")
    if isinstance(router, str):
        yield router
    elif _is_standard(row) or _read_tier(row) != STANDARD_TIER:
        yield row["id"]
        # An alias has the price of its model in each tier.
        yield from aliases.get(row["id"], [])
    # A row with neither is a mode that no request can select, so its price applies to no request.


def _read_price(row: Mapping[str, Any], today: datetime.date) -> Price | None:
    amounts: dict[str, Decimal] = {}
    names: set[str] = set()
    pricing = row.get("pricing")
    for part in pricing if isinstance(pricing, list) else []:
        name = _SKUS.get(str(part.get("sku"))) if isinstance(part, dict) else None
        names |= {name} if name else set()
        amount = parse_text(part.get("amount")) if name and part.get("unit") == "1M tokens" else None
        price = None if amount is None else drop_implausible(per_million_to_per_token(amount))
        if name and price is not None:
            amounts[name] = price
    if "prompt" not in amounts or ("completion" in names and "completion" not in amounts):
        return None
    stated = Price(
        prompt=amounts["prompt"],
        completion=amounts.get("completion"),  # Embedding models have none.
        input_cache_read=amounts.get("input_cache_read"),
        source=BILLING.name,
        date=today,
    )
    return BILLING.complete(stated)
