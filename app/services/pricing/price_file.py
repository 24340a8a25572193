"""The operator's own price list: the format of PRICE_FILE, and a reader that names every wrong entry.

unit = "usd_per_million_tokens"          # the only unit; the file states it so that it cannot be mistaken
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

The file is read by `tomllib` and checked here, not by `msgspec.toml`: that reads an amount as a float, which rounds it
to 17 digits, takes a number in quotes for a number, and does not name the table in its errors
(`$[...][...].prompt`).
"""

from __future__ import annotations

import datetime
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from app.config import SettingsError

UNIT = "usd_per_million_tokens"

# The model id for an entry that applies to every model of its provider without an entry of its own.
ANY_MODEL = "*"

# The most expensive models cost 600 USD per million tokens, and cached tokens of the cheapest 0.0028. A number outside
# these limits is in another unit, and a cost that is wrong by a power of ten is worse than a failed start.
_MIN_USD_PER_MILLION = Decimal("0.0005")
_MAX_USD_PER_MILLION = Decimal("10000")

_HEAD_FIELDS = ("unit", "date")
_AMOUNT_FIELDS = ("prompt", "completion", "input_cache_read")


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


def read_price_file(path: Path, provider_names: Sequence[str]) -> list[FilePrice]:
    """Returns the entries of the file.

    Args:
        path: the file.
        provider_names: the providers for which it may contain tables.

    Raises:
        SettingsError: the file cannot be read, or an entry is wrong; the message names the entry.
    """
    try:
        document = tomllib.loads(path.read_text("utf-8"), parse_float=Decimal)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"PRICE_FILE {path} cannot be read: {error}.") from error
    try:
        return list(_read_entries(document, provider_names))
    except ValueError as error:
        raise SettingsError(f"PRICE_FILE {path}: {error}") from error


def _read_entries(document: dict[str, Any], provider_names: Sequence[str]) -> Iterator[FilePrice]:
    date = _read_head(document)
    for provider, models in document.items():
        if provider in _HEAD_FIELDS:
            continue
        if provider not in provider_names:
            raise ValueError(f"unknown provider {provider!r}; use {', '.join(provider_names)}.")
        for model_id, tier, table in _read_tables(provider, models):
            where = f"{provider}.{model_id!r}" + (f".{tier}" if tier else "")
            yield FilePrice(provider, model_id, tier, *_read_amounts(where, table), date)


def _read_head(document: dict[str, Any]) -> datetime.date | None:
    if document.get("unit") != UNIT:
        raise ValueError(f'it must begin with unit = "{UNIT}"; unit is {document.get("unit")!r}.')
    date = document.get("date")
    if isinstance(date, datetime.datetime) or not isinstance(date, datetime.date | None):
        raise ValueError(f"date is {date!r}; write a date, as in date = 2026-11-01.")
    return date


def _read_tables(provider: str, models: Any) -> Iterator[tuple[str, str | None, dict[str, Any]]]:
    """Yields (model id, tier, table); the tier is None for the model's own table."""
    if not isinstance(models, dict):
        raise ValueError(f'{provider} must contain tables, as in [{provider}."model id"].')
    for model_id, table in models.items():
        if not isinstance(table, dict):
            raise ValueError(f'{provider}.{model_id!r} must be a table, as in [{provider}."model id"].')
        yield model_id, None, {key: value for key, value in table.items() if not isinstance(value, dict)}
        yield from ((model_id, key, value) for key, value in table.items() if isinstance(value, dict))


def _read_amounts(where: str, table: dict[str, Any]) -> tuple[Decimal, Decimal, Decimal | None]:
    """Returns the amounts of one table in the order of _AMOUNT_FIELDS; the last may be missing."""
    unknown = sorted(table.keys() - set(_AMOUNT_FIELDS))
    if unknown:
        raise ValueError(f"{where}: unknown field {unknown[0]!r}; use {', '.join(_AMOUNT_FIELDS)}.")
    for name in ("prompt", "completion"):
        if name not in table:
            # An id with a dot and without quotes makes nested tables, which also end here.
            raise ValueError(f"{where}: {name} is missing. (Is the model id in quotes?)")
    amounts = {name: _read_amount(f"{where}: {name}", value) for name, value in table.items()}
    return amounts["prompt"], amounts["completion"], amounts.get("input_cache_read")


def _read_amount(where: str, value: Any) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise ValueError(f"{where} is {value!r}; write a number of USD per million tokens.")
    amount = Decimal(value)
    if amount.is_nan() or (amount != 0 and not _MIN_USD_PER_MILLION <= amount <= _MAX_USD_PER_MILLION):
        raise ValueError(
            f"{where} is {value}; that is not a plausible price in USD per million tokens "
            f"({_MIN_USD_PER_MILLION} to {_MAX_USD_PER_MILLION}, or 0 if it is free)."
        )
    return amount
