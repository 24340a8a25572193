"""Prices of tokens, and the cost of a request.

price.py       the record of a price, a provider's billing rules, the arithmetic
lookup.py      the price of a model, from all sources
price_file.py  the operator's own list (PRICE_FILE)
packaged.py    the prices of the `genai-prices` package
"""

from __future__ import annotations

from app.services.pricing.lookup import Prices, get_price, load_operator_prices
from app.services.pricing.packaged import get_packaged_price
from app.services.pricing.price import (
    STANDARD_TIER,
    Billing,
    Price,
    PriceTable,
    compute_cost,
    drop_implausible,
    parse_number,
    parse_text,
    per_million_to_per_token,
    to_plain_text,
)

__all__ = [
    "STANDARD_TIER", "Billing", "Price", "PriceTable", "Prices", "compute_cost", "drop_implausible",
    "get_packaged_price", "get_price", "load_operator_prices", "parse_number", "parse_text",
    "per_million_to_per_token", "to_plain_text",
]  # fmt: skip
