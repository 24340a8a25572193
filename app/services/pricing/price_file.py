"""The operator's own price list: what PRICE_FILE may hold, and a reader that names whatever is wrong in it.

unit = "usd_per_million_tokens"          # the only unit; it stands here so that nobody has to remember it
date = 2026-11-01                        # optional: since when these prices hold

[fireworks."accounts/fireworks/models/glm-5p3"]
prompt = 1.40
completion = 4.40
input_cache_read = 0.26                  # optional

[fireworks."accounts/fireworks/models/glm-5p3".priority]      # optional: for this service_tier
prompt = 1.75
completion = 5.50

[featherless."*"]                        # every model of a provider without an entry of its own: a flat plan
prompt = 0
completion = 0
"""

from __future__ import annotations

import datetime
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from app.config import SettingsError
from app.services.providers.provider import PROVIDERS

UNIT = "usd_per_million_tokens"

# The dearest models cost 600 USD per million tokens and the cheapest cached ones 0.0028. Outside of these limits a
# number is in another unit, and a bill wrong by a power of ten is worse than a refused start.
_LEAST_USD_PER_MILLION = Decimal("0.0005")
_MOST_USD_PER_MILLION = Decimal("10000")

_PRICE_KEYS = ("prompt", "completion", "input_cache_read")


@dataclass(frozen=True, slots=True)
class FilePrice:
    """One entry of the file, in USD per million tokens; `tier` is None for requests without a service tier."""

    provider: str
    model_id: str
    tier: str | None
    prompt: Decimal
    completion: Decimal
    input_cache_read: Decimal | None
    date: datetime.date | None


def read_price_file(path: Path) -> list[FilePrice]:
    """Returns the file's entries.

    Raises:
        SettingsError: it cannot be read, or an entry is wrong; the text names it.
    """
    try:
        document = tomllib.loads(path.read_text("utf-8"), parse_float=Decimal)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"PRICE_FILE {path} cannot be read: {error}.") from error
    try:
        return list(_entries(document))
    except ValueError as error:
        raise SettingsError(f"PRICE_FILE {path}: {error}") from error


def _entries(document: dict[str, Any]) -> Iterator[FilePrice]:
    date = _checked_head(document)
    for provider, models in document.items():
        if provider in ("unit", "date"):
            continue
        for model_id, table in _tables(provider, models):
            for tier, values in _tiers(table):
                where = f"{provider}.{model_id!r}" + (f".{tier}" if tier else "")
                yield FilePrice(provider, model_id, tier, *_prices(where, values), date)


def _checked_head(document: dict[str, Any]) -> datetime.date | None:
    if document.get("unit") != UNIT:
        raise ValueError(f'it must say unit = "{UNIT}" at its top; it says {document.get("unit")!r}.')
    date = document.get("date")
    if isinstance(date, datetime.datetime) or not isinstance(date, datetime.date | None):
        raise ValueError(f"date is {date!r}; write a day, as in date = 2026-11-01.")
    return date


def _tables(provider: str, models: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    if provider not in PROVIDERS:
        raise ValueError(f"unknown provider {provider!r}; use {', '.join(PROVIDERS)}.")
    if not isinstance(models, dict):
        raise ValueError(f'{provider} must hold tables, as in [{provider}."model id"].')
    for model_id, table in models.items():
        if not isinstance(table, dict):
            raise ValueError(f'{provider}.{model_id!r} must be a table, as in [{provider}."model id"].')
        yield model_id, table


def _tiers(table: dict[str, Any]) -> Iterator[tuple[str | None, dict[str, Any]]]:
    yield None, {key: value for key, value in table.items() if not isinstance(value, dict)}
    yield from ((tier, values) for tier, values in table.items() if isinstance(values, dict))


def _prices(where: str, values: dict[str, Any]) -> tuple[Decimal, Decimal, Decimal | None]:
    unknown = sorted(values.keys() - set(_PRICE_KEYS))
    if unknown:
        raise ValueError(f"{where}: unknown {unknown[0]!r}; use {', '.join(_PRICE_KEYS)}.")
    for key in ("prompt", "completion"):
        if key not in values:
            # An id with a dot in it and without quotes makes nested tables, and ends here too.
            raise ValueError(f"{where}: {key} is missing. (Is the model id in quotes?)")
    prices = {key: _checked_price(f"{where}: {key}", value) for key, value in values.items()}
    return prices["prompt"], prices["completion"], prices.get("input_cache_read")


def _checked_price(where: str, value: Any) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise ValueError(f"{where} is {value!r}; write a number of USD per million tokens.")
    price = Decimal(value)
    if price.is_nan() or (price != 0 and not _LEAST_USD_PER_MILLION <= price <= _MOST_USD_PER_MILLION):
        raise ValueError(
            f"{where} is {value}; that is no price in USD per million tokens "
            f"({_LEAST_USD_PER_MILLION} to {_MOST_USD_PER_MILLION}, or 0 where it costs nothing)."
        )
    return price
