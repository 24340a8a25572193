"""What a token costs: one price per provider, model and service tier, in USD per token, and where it comes from.

Asked in this order: the operator's price file, the provider's own list (handed over by the catalog at each refresh),
the `genai-prices` package, else unknown. Everything is a Decimal in USD **per token**; a list in another unit is
converted where it is read, and nowhere else.

DeepInfra also states `usage.estimated_cost` with each completion; where an answer carries it, it is a better figure
for that request than any list.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from decimal import Decimal
from functools import cache, lru_cache
from importlib.metadata import version
from typing import Any

import msgspec

from app.config import Settings
from app.runtime import get_settings
from app.services.pricing.price_file import read_price_file

# The tier of a request that names none, or one that is billed alike.
STANDARD = "standard"

# PRICE_FILE's entry for every model of a provider that has none of its own.
ANY_MODEL = "*"

# Fireworks' price page: "cached input tokens are priced at 50 % of input tokens" unless a model lists its own price.
FIREWORKS_CACHED_SHARE = Decimal("0.5")

# No provider has asked more than a tenth of this for a token. A higher price is a price per million tokens that was
# read as a price per token, and unknown is better than a bill that is a million times too high.
MAX_USD_PER_TOKEN = Decimal("0.01")

# The package's prices are asked for by model id, which callers choose; this bounds what they can make us keep.
_KEPT_PACKAGED_PRICES = 4_096


class Price(msgspec.Struct, frozen=True, gc=False):
    """What a model costs, in USD per token.

    Attributes:
        prompt: a prompt token that was not in the provider's cache.
        completion: a completion token.
        input_cache_read: a prompt token from the provider's cache; None where the provider names no such price, and
            then it costs as much as any other prompt token.
        source: `price_file`, the provider's name for its own list, or `genai-prices <version>`. `+half-price-cache`
            at its end says that `input_cache_read` is Fireworks' general rule, not a price listed for the model.
        date: the day the price was stated or fetched; None where the source does not tell.
    """

    prompt: Decimal
    completion: Decimal
    input_cache_read: Decimal | None
    source: str
    date: datetime.date | None


PriceTable = Mapping[tuple[str, str], Price]  # (model id, service tier) → price

_listed: dict[str, PriceTable] = {}
_operator: tuple[Settings, dict[tuple[str, str, str], Price]] | None = None


def get_price(provider_name: str, model_id: str, service_tier: str | None = None) -> Price | None:
    """Returns the price of a model, or None when it is not known: never zero, never another model's.

    Args:
        provider_name: who serves it.
        model_id: the id that was asked for; a Fireworks router has its own price, whatever model answers.
        service_tier: the request's `service_tier`.

    Raises:
        SettingsError: PRICE_FILE cannot be read; `load_operator_prices` at boot finds this first.
    """
    tier = _billed_tier(provider_name, service_tier)
    operator = load_operator_prices()
    if operator:
        for key in ((provider_name, model_id, tier), (provider_name, ANY_MODEL, tier)):
            if key in operator:
                return operator[key]
    listed = _listed.get(provider_name, {}).get((model_id, tier))
    if listed is not None or tier != STANDARD:
        return listed
    return _get_packaged_price(provider_name, model_id)


def _billed_tier(provider_name: str, service_tier: str | None) -> str:
    if service_tier in (None, "auto", "default"):
        return STANDARD
    # Fireworks takes every other word as `default`; what the others do with theirs is on no list, hence unknown.
    if provider_name == "fireworks" and service_tier != "priority":
        return STANDARD
    return str(service_tier)


def compute_cost(price: Price, prompt_tokens: int, cached_tokens: int | None, completion_tokens: int) -> Decimal:
    """Returns the cost of one request in USD, exactly.

    (prompt − cached) · prompt price + cached · cached price + completion · completion price, as every provider here
    bills. Without a cached price, cached tokens cost as much as the others.

    Args:
        price: in USD per token.
        prompt_tokens: all prompt tokens, cached ones included.
        cached_tokens: those of them that came from the provider's cache; None when it does not say.
        completion_tokens: reasoning included, as providers count.
    """
    cached = min(cached_tokens or 0, prompt_tokens)
    cached_price = price.prompt if price.input_cache_read is None else price.input_cache_read
    return (prompt_tokens - cached) * price.prompt + cached * cached_price + completion_tokens * price.completion


def set_listed_prices(provider_name: str, prices: PriceTable) -> None:
    """Replaces what the provider's own list says. The catalog calls it with each list that it accepts."""
    _listed[provider_name] = prices


def complete_price(provider_name: str, price: Price) -> Price:
    """Returns `price` with Fireworks' general rule for cached tokens applied where it names no price for them."""
    if provider_name != "fireworks" or price.input_cache_read is not None:
        return price
    return msgspec.structs.replace(
        price,
        input_cache_read=price.prompt * FIREWORKS_CACHED_SHARE,
        source=price.source + "+half-price-cache",
    )


def load_operator_prices() -> Mapping[tuple[str, str, str], Price]:
    """Returns PRICE_FILE's prices by (provider, model id, tier); read once, so a change needs a restart.

    Raises:
        SettingsError: the file is missing or wrong; the text names the entry. Call this at boot.
    """
    global _operator
    settings = get_settings()
    if _operator is None or _operator[0] is not settings:
        _operator = (settings, _read_operator_prices(settings))
    return _operator[1]


def _read_operator_prices(settings: Settings) -> dict[tuple[str, str, str], Price]:
    if settings.price_file is None:
        return {}
    prices = {}
    for row in read_price_file(settings.price_file):
        cached = row.input_cache_read
        price = Price(
            prompt=per_token(row.prompt),
            completion=per_token(row.completion),
            input_cache_read=None if cached is None else per_token(cached),
            source="price_file",
            date=row.date,
        )
        prices[row.provider, row.model_id, row.tier or STANDARD] = complete_price(row.provider, price)
    return prices


def _get_packaged_price(provider_name: str, model_id: str) -> Price | None:
    provider = _get_packaged_provider(provider_name)
    if provider is None:
        return None
    # The package's prices are dated, so a new day may bring a new one.
    return _look_up_packaged_price(provider_name, model_id, datetime.datetime.now(datetime.UTC).date())


@cache
def _get_packaged_provider(provider_name: str) -> Any | None:
    # Importing it takes 0.3 s and 28 MB, which a process that never asks for a price should not pay.
    from genai_prices.data_snapshot import get_snapshot

    return next((row for row in get_snapshot().providers if row.id == provider_name), None)


@lru_cache(maxsize=_KEPT_PACKAGED_PRICES)
def _look_up_packaged_price(provider_name: str, model_id: str, day: datetime.date) -> Price | None:
    provider = _get_packaged_provider(provider_name)
    model = provider.find_model(model_id) if provider else None
    if model is None:
        return None
    noon = datetime.datetime.combine(day, datetime.time(12), datetime.UTC)
    stated = model.get_prices(noon)
    prompt, completion = stated.input_mtok, stated.output_mtok
    # Prices that step with the prompt's length come as another type; no single figure would be right for them.
    if not isinstance(prompt, Decimal) or not isinstance(completion, Decimal):
        return None
    cached = stated.cache_read_mtok
    price = Price(
        prompt=per_token(prompt),
        completion=per_token(completion),
        input_cache_read=per_token(cached) if isinstance(cached, Decimal) else None,
        source=f"genai-prices {version('genai-prices')}",
        date=None,
    )
    return complete_price(provider_name, price)


def per_token(usd_per_million_tokens: Decimal) -> Decimal:
    """Returns USD per token for USD per million tokens, exactly."""
    return usd_per_million_tokens.scaleb(-6)


def parse_number(value: object) -> Decimal | None:
    """Returns a JSON *number* as a Decimal, None for anything else.

    Lists that state prices per token write them as strings and lists that state them per million as numbers, so a
    reader that takes only one of the two cannot take the one unit for the other.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # A float's shortest text is what the list said; its binary value is not (0.27 is 0.270000000000000017…).
    return Decimal(str(value))


def parse_text(value: object) -> Decimal | None:
    """Returns a JSON *string* that holds a decimal number as a Decimal, None for anything else."""
    if not isinstance(value, str) or len(value) > 40:
        return None
    try:
        return Decimal(value)
    except ArithmeticError:
        return None


def get_plausible(usd_per_token: Decimal | None) -> Decimal | None:
    """Returns the price, or None where no price can be so: negative, not a number, or in another unit."""
    if usd_per_token is None or not usd_per_token.is_finite() or not 0 <= usd_per_token <= MAX_USD_PER_TOKEN:
        return None
    return usd_per_token


def to_plain_text(price: Decimal) -> str:
    """Returns a price as a decimal string without an exponent and without padding: 0.0000014, never 1.4E-6."""
    return format(price.normalize(), "f")
