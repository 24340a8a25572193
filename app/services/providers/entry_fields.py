"""Converts a provider's list entry to the catalog's form: the builder and the readers shared by the normalisers.

A catalog entry is a dict with the fields of `Model` in app/services/models/entry.py. A field that the provider does not
state is None, never zero or a guess. Prices are decimal strings in USD per token, whatever unit the list has.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from app.services.pricing import drop_implausible, parse_number, parse_text, per_million_to_per_token, to_plain_text
from app.services.providers.provider import Provider
from app.services.providers.weights import read_quantization

Entry = dict[str, Any]

# The parameters that each provider's reference documents for chat, under OpenRouter's names where those exist.
COMMON_PARAMETERS = (
    "frequency_penalty",
    "max_tokens",
    "min_p",
    "presence_penalty",
    "repetition_penalty",
    "seed",
    "stop",
    "stream",
    "temperature",
    "top_k",
    "top_p",
)
_TOOL_PARAMETERS = ("tool_choice", "tools")


def make_entry(
    provider: Provider,
    model_id: str,
    raw: Mapping[str, Any],
    *,
    context_length: int | None,
    inputs: Sequence[str] | None,
    outputs: Sequence[str] | None,
    parameters: Sequence[str] | None,
    capabilities: tuple[bool | None, ...],
    prices: tuple[Decimal | None, Decimal | None, Decimal | None] = (None, None, None),
    canonical_slug: str | None = None,
    name: str | None = None,
    description: str | None = None,
    publisher: str | None = None,
    max_output_tokens: int | None = None,
    weights: str | None = None,
    quantization: object = None,
    expiration_date: datetime.date | None = None,
) -> Entry:
    """Returns a catalog entry.

    Args:
        provider: the provider that serves the model.
        model_id: the provider's id.
        raw: the provider's own entry; only `created` is read from it.
        context_length: in tokens.
        inputs, outputs: modalities.
        parameters: names of the supported request fields.
        capabilities: chat, tools, vision, embeddings, rerank.
        prices: of a prompt token, a completion token and a cached prompt token, in USD.
        canonical_slug: the short form of the id; the id itself if not given.
        name: a name for people; the last part of the id if not given.
        description: a description for people.
        publisher: the publisher of the model; the owner in the id if not given.
        max_output_tokens: the most that the provider lets it write, if that is less than its context has room for.
        weights: the name of its weights, from weights.py.
        quantization: the entry's own statement, if it has one; the name may state one too.
        expiration_date: the day from which it is no longer served.
    """
    slug = canonical_slug or model_id.lower()
    known = _is_price(prices)
    texts = [to_plain_text(price) if known and price is not None else None for price in prices]
    return {
        "id": model_id,
        "canonical_slug": slug,
        "name": name or model_id.rpartition("/")[2],
        "created": read_count(raw.get("created")),
        "description": description,
        "context_length": context_length,
        "max_output_tokens": max_output_tokens,
        "architecture": {
            "modality": f"{'+'.join(inputs)}->{'+'.join(outputs)}" if inputs and outputs else None,
            "input_modalities": inputs,
            "output_modalities": outputs,
        },
        "pricing": dict(zip(("prompt", "completion", "input_cache_read"), texts, strict=True)),
        "pricing_source": provider.name if known else None,
        "pricing_date": None,
        "supported_parameters": parameters,
        "capabilities": dict(zip(("chat", "tools", "vision", "embeddings", "rerank"), capabilities, strict=True)),
        "provider_slug": publisher or get_owner(model_id) or provider.name,
        "provider_site_url": provider.site_url,
        "source_gateway": provider.name,
        # Most are equal to the slug. Sharing one text takes less memory.
        "weights": slug if weights == slug else weights,
        "quantization": read_quantization(quantization, weights or model_id),
        "expiration_date": expiration_date,
    }


def _is_price(prices: tuple[Decimal | None, Decimal | None, Decimal | None]) -> bool:
    """Returns whether both token prices are stated; zero for both means unknown."""
    prompt, completion, _ = prices
    return prompt is not None and completion is not None and (prompt > 0 or completion > 0)


def read_usd_per_million(value: object) -> Decimal | None:
    """Returns USD per token for a JSON number of USD per million tokens."""
    amount = parse_number(value)
    return None if amount is None else drop_implausible(per_million_to_per_token(amount))


def read_usd_per_token(value: object) -> Decimal | None:
    """Returns USD per token for a JSON string of USD per token."""
    return drop_implausible(parse_text(value))


def make_parameters(names: Sequence[str], tools: bool | None) -> list[str]:
    """Returns the sorted names of a model's request fields, including those of tools if it has tools."""
    return sorted({*names, *(_TOOL_PARAMETERS if tools else ())})


def get_owner(model_id: str) -> str | None:
    """Returns the part before the first slash, or None without one."""
    return model_id.partition("/")[0] if "/" in model_id else None


def read_mapping(value: object) -> Mapping[str, Any]:
    """Returns a JSON object, or an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def read_date(value: object) -> datetime.date | None:
    """Returns a date that is a JSON object of `year`, `month` and `day`, or None for anything else."""
    parts = [read_count(read_mapping(value).get(name)) for name in ("year", "month", "day")]
    try:
        return datetime.date(*[part or 0 for part in parts])
    except (ValueError, OverflowError):
        return None


def read_words(value: object) -> list[str]:
    """Returns the strings of a JSON list, none for anything else."""
    return [word for word in value if isinstance(word, str)] if isinstance(value, list) else []


def read_text(value: object) -> str | None:
    """Returns a JSON string that is not empty, or None for anything else."""
    return value if isinstance(value, str) and value else None


def read_flag(value: object, default: bool | None = None) -> bool | None:
    """Returns a JSON boolean, `default` for anything else."""
    return value if isinstance(value, bool) else default


def read_count(value: object) -> int | None:
    """Returns a whole JSON number above zero, or None for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
