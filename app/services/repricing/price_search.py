"""Finds the price of a record whose price was not known when it was made.

The sources are those of every price, in the same order: PRICE_FILE, the stored lists of the provider, and the package.
A price that was valid when the request was made is preferred to one that became known later.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple

from app.db import Connection
from app.db.catalog import select_kept_models
from app.services.catalog_memory import KnownPrice, find_price_at, select_known_prices
from app.services.pricing import Price, Prices, get_packaged_price
from app.services.providers import PROVIDERS, Provider


class FoundPrice(NamedTuple):
    """A price, and the reason for using it."""

    price: Price
    reason: str


class PriceSearch:
    """Finds prices, and caches the lists that it has read.

    Args:
        prices: has the prices of PRICE_FILE.
    """

    def __init__(self, prices: Prices) -> None:
        self._prices = prices
        self._ids: dict[str, dict[str, set[str]]] = {}
        self._known: dict[tuple[str, str], list[KnownPrice]] = {}

    def find(
        self, connection: Connection, gateway: str, asked: str | None, served: str, at: datetime
    ) -> FoundPrice | str:
        """Returns the price of a request, or the reason why there is none.

        Args:
            connection: reads the stored lists.
            gateway: the provider that served it.
            asked, served: the requested model, and the one that the response named.
            at: when it was made.
        """
        provider = PROVIDERS.get(gateway)
        if provider is None:
            return "the provider is not known to this version"
        model = self._find_id(connection, provider, served)
        other = None if asked is None else self._find_id(connection, provider, asked)
        found = self._find_price(connection, provider, model or served, at)
        if other is not None and other != model:
            # A router has its own price, whichever model responds.
            of_other = self._find_price(connection, provider, other, at)
            if found is not None and of_other is not None and found.price != of_other.price:
                return "the models that were asked for and that answered have different prices"
            found = found or of_other
        return found or "no price is known"

    def _find_price(self, connection: Connection, provider: Provider, model: str, at: datetime) -> FoundPrice | None:
        own = self._prices.get_operator_price(provider.billing, model)
        if own is not None:
            holds = own.date is not None and own.date <= at.astimezone(UTC).date()
            when = f"since {own.date}" if holds else "which does not say that it held then"
            return FoundPrice(own, f"PRICE_FILE has a price, {when}")
        if (provider.name, model) not in self._known:
            known = select_known_prices(connection, provider.name, model)
            self._known[provider.name, model] = known
        kept = find_price_at(self._known[provider.name, model], at)
        if kept is not None and kept[1]:
            return FoundPrice(kept[0].price, f"the provider's list has this price since {kept[0].since:%Y-%m-%d %H:%M}")
        packaged = get_packaged_price(provider.billing, model, at.astimezone(UTC).date())
        if packaged is not None:
            return FoundPrice(packaged, "the package has a price for that day")
        if kept is None:
            return None
        first = f"{kept[0].since:%Y-%m-%d %H:%M}"
        return FoundPrice(kept[0].price, f"the first price that became known later, by the provider's list of {first}")

    def _find_id(self, connection: Connection, provider: Provider, name: str) -> str | None:
        """Returns the id of a model in the provider's stored list; None if no single model fits."""
        if provider.name not in self._ids:
            ids: dict[str, set[str]] = {}
            for model in select_kept_models(connection, provider.name):
                for key in (model, *provider.naming.get_keys(model)):
                    ids.setdefault(key, set()).add(model)
            self._ids[provider.name] = ids
        known = self._ids[provider.name]
        for key in (name, *provider.naming.get_asked_keys(name)):
            if key in known:
                return next(iter(known[key])) if len(known[key]) == 1 else None
        return None
