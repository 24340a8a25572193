"""The record of a price, a provider's billing rules, and the arithmetic on both.

Every amount is a Decimal in USD **per token**. A list in another unit is converted only where it is read.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

import msgspec

# The tier of a request that names none, or names one that is billed the same.
STANDARD_TIER = "standard"

# No provider has charged more than a tenth of this for a token. A higher price is one per million tokens that was read
# as one per token, and an unknown price is better than a bill that is a million times too high.
MAX_USD_PER_TOKEN = Decimal("0.01")

# The most expensive output costs 0.0006 USD per token, so the text of an honest price is far shorter than this.
_MAX_TEXT_CHARACTERS = 40


class Price(msgspec.Struct, frozen=True, gc=False):
    """The price of a model, in USD per token.

    Attributes:
        prompt: a prompt token that was not in the provider's cache.
        completion: a completion token; None if the provider states no price, as for models without generated output.
        input_cache_read: a prompt token from the provider's cache; None if the provider states no such price, and
            then it costs as much as any other prompt token.
        source: `price_file`, the provider's name for its own list, or `genai-prices <version>`. `+<rule>` at its end
            says that `input_cache_read` comes from `Billing.cached_share` and is not a price listed for the model.
        date: the day the price was stated or fetched; None if the source does not say.
    """

    prompt: Decimal
    completion: Decimal | None
    input_cache_read: Decimal | None
    source: str
    date: datetime.date | None


PriceTable = Mapping[tuple[str, str], Price]  # (model id, service tier) → price


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Billing:
    """A provider's billing rules; compared by identity.

    Attributes:
        name: the provider's name, which PRICE_FILE and the `genai-prices` package use too.
        priced_tiers: the values of `service_tier` that have prices of their own; every other value is billed as
            standard. None if the provider's rules are not known: then a request that names a tier has no known
            price.
        cached_share: the price of a cached prompt token as a share of the prompt price, for models without a listed
            one; None without such a rule.
        cached_rule: the name of that rule in `Price.source`.
    """

    name: str
    priced_tiers: frozenset[str] | None = None
    cached_share: Decimal | None = None
    cached_rule: str = "cached-share"

    def get_billed_tier(self, service_tier: str | None) -> str:
        """Returns the tier whose price a request with this `service_tier` is billed at."""
        if service_tier is None or service_tier in ("auto", "default"):
            return STANDARD_TIER
        if self.priced_tiers is not None and service_tier not in self.priced_tiers:
            return STANDARD_TIER
        return service_tier

    def complete(self, price: Price) -> Price:
        """Returns `price` with `cached_share` applied if it states no price for cached tokens."""
        if self.cached_share is None or price.input_cache_read is not None:
            return price
        return msgspec.structs.replace(
            price,
            input_cache_read=price.prompt * self.cached_share,
            source=f"{price.source}+{self.cached_rule}",
        )


def compute_cost(price: Price, prompt_tokens: int, cached_tokens: int | None, completion_tokens: int) -> Decimal:
    """Returns the cost of one request in USD, exactly.

    (prompt − cached) · prompt price + cached · cached price + completion · completion price, by the rule of every
    provider here. Without a cached price, cached tokens cost as much as other prompt tokens.

    Args:
        price: in USD per token.
        prompt_tokens: all prompt tokens, including cached ones.
        cached_tokens: the prompt tokens from the provider's cache; None if it does not say.
        completion_tokens: all completion tokens, including reasoning, as providers count; 0 if the price has none.
    """
    cached = min(cached_tokens or 0, prompt_tokens)
    cached_price = price.prompt if price.input_cache_read is None else price.input_cache_read
    cost = (prompt_tokens - cached) * price.prompt + cached * cached_price
    return cost if price.completion is None else cost + completion_tokens * price.completion


def per_million_to_per_token(usd_per_million_tokens: Decimal) -> Decimal:
    """Returns USD per token for USD per million tokens, exactly."""
    return usd_per_million_tokens.scaleb(-6)


def parse_number(value: object) -> Decimal | None:
    """Returns a JSON *number* as a Decimal, or None for anything else.

    Lists that state prices per token write them as strings, and lists that state them per million write numbers. A
    reader that accepts only one of the two cannot mistake one unit for the other.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # The shortest decimal text of a float is the number in the list; its exact binary value is not
    # (0.27 is 0.270000000000000017…).
    return Decimal(str(value))


def parse_text(value: object) -> Decimal | None:
    """Returns a JSON *string* that holds a decimal number as a Decimal, or None for anything else."""
    if not isinstance(value, str) or len(value) > _MAX_TEXT_CHARACTERS:
        return None
    try:
        return Decimal(value)
    except ArithmeticError:
        return None


def drop_implausible(usd_per_token: Decimal | None) -> Decimal | None:
    """Returns the price, or None if it cannot be one: negative, not a number, or above MAX_USD_PER_TOKEN."""
    if usd_per_token is None or not usd_per_token.is_finite() or not 0 <= usd_per_token <= MAX_USD_PER_TOKEN:
        return None
    return usd_per_token


def to_plain_text(price: Decimal) -> str:
    """Returns a price as a decimal string without an exponent and without padding: 0.0000014, never 1.4E-6."""
    return format(price.normalize(), "f")
