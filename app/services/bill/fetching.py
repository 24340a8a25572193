"""Fetches a provider's bill, and stores it in the database with the prices of that time."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta

from app.config import Settings
from app.db import get_engine, read_connection, time_limit, write_connection
from app.db.bills import BillDayRow, BillLineRow, replace_bill
from app.db.partitions import select_partition_days
from app.db.stated_costs import select_stated_costs
from app.errors import ConfigurationMissing, GatewayError
from app.runtime import get_settings
from app.services.models import get_model_list
from app.services.pricing import get_price
from app.services.providers import PROVIDERS, Bill, BilledUse, Provider, is_configured

# For reading one day of a busy gateway, at night or while an operator waits.
_DAY_TIME_LIMIT_S = 60.0


def get_billed_providers(settings: Settings) -> list[Provider]:
    """Returns the configured providers whose bill the gateway can read."""
    return [
        provider
        for provider in PROVIDERS.values()
        if provider.bill is not None and is_configured(provider) and provider.bill.is_readable(settings)
    ]


def fetch_bill(provider: Provider, first: date, last: date) -> str | None:
    """Fetches the bill of some UTC days and replaces the stored one.

    Args:
        provider: one that has a `bill`.
        first, last: both included, at most 31 days.

    Returns:
        Why the provider did not state the cost; None if it did.

    Raises:
        ConfigurationMissing: the key that may read the bill is not set.
        UpstreamError: the provider's answer was not the expected one.
        DatabaseError: the database is unavailable or slow.
    """
    settings, source = get_settings(), provider.bill
    if source is None or not source.is_readable(settings):
        raise make_unreadable(provider)
    days = [first + timedelta(days=number) for number in range((last - first).days + 1)]
    if source.fetch is None:
        days = _select_kept(days)
        lines = [line for day in days for line in _select_stated(provider, day)]
        bill = Bill(account="", uses=())
    else:
        bill = source.fetch(settings, first, last, settings.gateway_name)
        _load_prices(provider)
        lines = [_make_line(provider, use) for use in bill.uses if first <= use.day <= last]
    tag = settings.gateway_name if bill.named is not None else None
    with write_connection() as connection:
        replace_bill(connection, provider.name, [_make_day(day, bill, tag) for day in days], lines)
    return bill.costs_refusal


def make_unreadable(provider: Provider) -> ConfigurationMissing:
    """Returns the error for a provider whose bill cannot be read."""
    setting = None if provider.bill is None else provider.bill.key_setting
    if setting is None:
        return ConfigurationMissing(f"The bill of {provider.title} cannot be read by programs.", param="gateway")
    return ConfigurationMissing(
        f"{setting} is not set. Set it to a key of an administrator of the account, which may read its bill.",
        param=setting,
    )


def _select_kept(days: Sequence[date]) -> list[date]:
    """Returns the days whose records retention has not dropped; the bill of other days stays as it is."""
    with read_connection() as connection:
        kept = set(select_partition_days(connection))
    return [day for day in days if day in kept]


def _select_stated(provider: Provider, day: date) -> Sequence[BillLineRow]:
    start = datetime.combine(day, time(), UTC)
    with time_limit(_DAY_TIME_LIMIT_S), get_engine().connect() as connection:
        return select_stated_costs(connection, provider.name, start, start + timedelta(days=1))


def _load_prices(provider: Provider) -> None:
    try:
        get_model_list(provider)
    except GatewayError:
        return  # Then the lines have no listed price, and the recorded cost per token is compared.


def _make_line(provider: Provider, use: BilledUse) -> BillLineRow:
    price = get_price(provider.billing, use.model) if use.model else None
    prices = (None, None, None) if price is None else (price.prompt, price.input_cache_read, price.completion)
    return BillLineRow(use.day, use.model, use.prompt_tokens, use.completion_tokens, use.cost_usd, None, None, *prices)


def _make_day(day: date, bill: Bill, tag: str | None) -> BillDayRow:
    prompt, completion = (bill.named or {}).get(day, (0, 0))
    has_costs = bill.costs_refusal is None
    account = bill.account or None
    if tag is None:
        return BillDayRow(day, account, has_costs, None, None, None)
    return BillDayRow(day, account, has_costs, tag, prompt, completion)
