"""Looks up the price of a model.

Sources, in this order: the operator's price file, the provider's own list (set by the catalog at each refresh), the
`genai-prices` package. If none of them has a model, its price is unknown.

DeepInfra also states `usage.estimated_cost` in each completion. It is recorded beside the cost and compared with it
(`app/services/bill/`); the cost itself is always based on one of these lists.
"""

from __future__ import annotations

from app.config import provider_names
from app.runtime import Component, Runtime, get_component
from app.services.pricing.packaged import get_packaged_price
from app.services.pricing.price import STANDARD_TIER, Billing, Price, PriceTable, per_million_to_per_token
from app.services.pricing.price_file import ANY_MODEL, FilePrice, read_price_file


class Prices(Component):
    """The prices that this process knows.

    PRICE_FILE is read when the component is made, so changes to the file need a restart.

    Raises:
        SettingsError: PRICE_FILE is missing or wrong; the message names the entry.
    """

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        path = self.settings.price_file
        rows = [] if path is None else read_price_file(path, provider_names())
        self._operator = {(row.provider, row.model_id, row.tier or STANDARD_TIER): _to_price(row) for row in rows}
        self._listed: dict[str, PriceTable] = {}

    def get_price(self, billing: Billing, model_id: str, service_tier: str | None = None) -> Price | None:
        """Returns the price of a model; see the function `get_price`."""
        tier = billing.get_billed_tier(service_tier)
        if self._operator:
            for key in ((billing.name, model_id, tier), (billing.name, ANY_MODEL, tier)):
                if key in self._operator:
                    # Completed once, so that it is always the same object: limits cache their calculations by it.
                    price = self._operator[key] = billing.complete(self._operator[key])
                    return price
        listed = self._listed.get(billing.name, {}).get((model_id, tier))
        if tier != STANDARD_TIER or (listed is not None and listed.completion is not None):
            return listed
        return get_packaged_price(billing, model_id) or listed

    def get_operator_price(self, billing: Billing, model_id: str) -> Price | None:
        """Returns the standard price of a model in PRICE_FILE; None if it has none."""
        found = (self._operator.get((billing.name, each, STANDARD_TIER)) for each in (model_id, ANY_MODEL))
        price = next((each for each in found if each is not None), None)
        return None if price is None else billing.complete(price)

    def get_provider_price(self, billing: Billing, model_id: str) -> Price | None:
        """Returns the standard price of a model in the provider's list or the package, ignoring PRICE_FILE."""
        listed = self._listed.get(billing.name, {}).get((model_id, STANDARD_TIER))
        if listed is not None and listed.completion is not None:
            return listed
        return get_packaged_price(billing, model_id) or listed

    def set_listed_prices(self, provider_name: str, prices: PriceTable) -> None:
        """Replaces the prices of one provider's own list."""
        self._listed[provider_name] = prices


def _to_price(row: FilePrice) -> Price:
    cached = row.input_cache_read
    return Price(
        prompt=per_million_to_per_token(row.prompt),
        completion=per_million_to_per_token(row.completion),
        input_cache_read=None if cached is None else per_million_to_per_token(cached),
        source="price_file",
        date=row.date,
    )


def get_price(billing: Billing, model_id: str, service_tier: str | None = None) -> Price | None:
    """Returns the price of a model, or None if it is not known. An unknown price is never zero or another model's.

    Args:
        billing: the rules of the provider that serves it.
        model_id: the requested id; a router has its own price, whichever model responds.
        service_tier: the request's `service_tier`.

    Raises:
        SettingsError: PRICE_FILE is missing or wrong; `load_operator_prices` finds this at boot.
    """
    return get_component(Prices).get_price(billing, model_id, service_tier)


def load_operator_prices() -> None:
    """Reads PRICE_FILE, unless that is done already. Called at boot, so that a wrong file stops the boot.

    Raises:
        SettingsError: the file is missing or wrong; the message names the entry.
    """
    get_component(Prices)
