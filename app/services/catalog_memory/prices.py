"""The price of a model at a past time, from the stored lists."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

from app.db import Connection
from app.db.catalog import select_price_points
from app.services.pricing import Price


class KnownPrice(NamedTuple):
    """A price, and the time since when the lists had it."""

    since: datetime
    price: Price


def select_known_prices(connection: Connection, provider_name: str, model_id: str) -> list[KnownPrice]:
    """Returns the prices of a model in a provider's lists, the oldest first; [] if none was ever known."""
    found: list[KnownPrice] = []
    for since, facts in select_price_points(connection, provider_name, model_id):
        if "prompt" not in facts:
            continue
        completion, cached = facts.get("completion"), facts.get("input_cache_read")
        price = Price(
            prompt=Decimal(facts["prompt"]),
            completion=None if completion is None else Decimal(completion),
            input_cache_read=None if cached is None else Decimal(cached),
            source=facts.get("price_source") or provider_name,
            date=since.date(),
        )
        found.append(KnownPrice(since, price))
    return found


def find_price_at(prices: Sequence[KnownPrice], at: datetime) -> tuple[KnownPrice, bool] | None:
    """Returns the price at a time or, if none was known then, the first one that became known later.

    Args:
        prices: the prices of one model, the oldest first.
        at: the time.

    Returns:
        The price, and whether it was valid at that time; None if no price is known.
    """
    held = [each for each in prices if each.since <= at]
    if held:
        return held[-1], True
    return (prices[0], False) if prices else None
