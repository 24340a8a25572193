"""The stored facts of a model in a provider's list, and the differences between them that count as changes."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from app.db.catalog import Facts
from app.services.models import Model
from app.services.pricing import Price, to_plain_text

PRICE_NAMES = ("prompt", "completion", "input_cache_read")

# Kind of change → the facts that belong to it.
NAMES: dict[str, tuple[str, ...]] = {
    "price": PRICE_NAMES,
    "context": ("context_length", "max_output_tokens"),
    "deprecation": ("expiration_date",),
}

# The package in `genai-prices <version>` of `Price.source`; it is older than the provider's list.
_PACKAGED = "genai-prices"


def make_facts(model: Model, price: Price | None) -> Facts:
    """Returns the facts of a model, as app/db/catalog_tables.py describes them.

    Args:
        model: the entry of the provider's list.
        price: the provider's price; None if not known.
    """
    amounts = [None, None, None] if price is None else [price.prompt, price.completion, price.input_cache_read]
    facts: dict[str, Any] = {
        **{name: _make_text(amount) for name, amount in zip(PRICE_NAMES, amounts, strict=True)},
        "price_source": None if price is None else price.source,
        "context_length": model.context_length,
        "max_output_tokens": model.max_output_tokens,
        "expiration_date": None if model.expiration_date is None else model.expiration_date.isoformat(),
    }
    return {name: value for name, value in facts.items() if value is not None}


def _make_text(amount: Decimal | None) -> str | None:
    return None if amount is None else to_plain_text(amount)


def complete_price(before: Facts, after: Facts) -> Facts:
    """Returns the new facts of a model, with its earlier price if the new list has less information about it.

    A provider's list of prices may fail to load while its list of models does not. Then prices are missing or come from
    the package, although the provider's prices have not changed.
    """
    if "prompt" not in before or ("prompt" in after and not (_is_packaged(after) and not _is_packaged(before))):
        return after
    names = (*PRICE_NAMES, "price_source")
    kept = {name: before[name] for name in names if name in before}
    return {name: value for name, value in after.items() if name not in names} | kept


def _is_packaged(facts: Facts) -> bool:
    return str(facts.get("price_source", "")).startswith(_PACKAGED)


def find_kinds(before: Facts, after: Facts) -> list[str]:
    """Returns the kinds of changes between a model's facts before and after."""
    return [kind for kind, names in NAMES.items() if any(before.get(name) != after.get(name) for name in names)]


def find_rises(before: Facts, after: Facts) -> list[str]:
    """Returns the prices that have risen. A price that was unknown before has not."""
    return [
        name
        for name in PRICE_NAMES
        if name in before and name in after and Decimal(after[name]) > Decimal(before[name])
    ]
