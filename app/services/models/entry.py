"""The catalog's entry for one model, with the field names of OpenRouter's `/api/v1/models`."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

import msgspec

from app.services.pricing import Price, to_plain_text

# (provider's name, the model's id there) → whether the caller may use it
Allows = Callable[[str, str], bool]

# None of these objects can be part of a reference cycle, so the garbage collector need not scan 22,000 of them
# (gc=False).


class Architecture(msgspec.Struct, frozen=True, gc=False):
    """Input and output: `modality` is in OpenRouter's notation (`text+image->text`); None if unknown."""

    modality: str | None
    input_modalities: tuple[str, ...] | None
    output_modalities: tuple[str, ...] | None


class Pricing(msgspec.Struct, frozen=True, gc=False):
    """Decimal strings in USD per token; None if unknown."""

    prompt: str | None
    completion: str | None
    input_cache_read: str | None


class Capabilities(msgspec.Struct, frozen=True, gc=False):
    """The abilities of the model; None where the provider does not say."""

    chat: bool | None
    tools: bool | None
    vision: bool | None
    embeddings: bool | None
    rerank: bool | None


class Model(msgspec.Struct, frozen=True, gc=False):
    """One entry.

    Attributes:
        id: what to send as `model`, exactly as the provider writes it.
        canonical_slug: the id in its short form and in lower case; unique within a provider.
        created: seconds since 1970; None if unknown.
        context_length: tokens; None if unknown.
        max_output_tokens: the most that the provider lets it write; None if only the context limits it, or unknown.
        pricing_source: see `Price.source`; None if the price is unknown.
        pricing_date: the day the price was stated or fetched.
        supported_parameters: None if the provider does not say.
        provider_slug: the publisher of the model: the account, or the owner in a Hugging Face id.
        source_gateway: the provider that serves it.
        weights: the owner and the name of its weights, as on Hugging Face but in lower case, if the provider's entry
            says for certain which they are; None in doubt. Models of other providers with equal weights are the same,
            unless their quantisations contradict each other (app/services/models/equivalents.py).
        expiration_date: the day from which the provider does not serve it any more; None if it does not say.
        quantization: as the entry or the name of the weights states it, in lower case; None if neither does.
    """

    id: str
    canonical_slug: str
    name: str
    created: int | None
    description: str | None
    context_length: int | None
    max_output_tokens: int | None
    architecture: Architecture
    pricing: Pricing
    pricing_source: str | None
    pricing_date: datetime.date | None
    supported_parameters: tuple[str, ...] | None
    capabilities: Capabilities
    provider_slug: str
    provider_site_url: str
    source_gateway: str
    weights: str | None = None
    quantization: str | None = None
    expiration_date: datetime.date | None = None


_UNKNOWN_PRICING = Pricing(None, None, None)


class ModelPacker:
    """Turns entries into `Model`s that share equal parts.

    A list of 22,000 has some dozens of distinct architectures, prices and parameter lists. Sharing them brings an
    entry from 2.6 KB as dicts to about 0.4 KB.
    """

    def __init__(self) -> None:
        self._shared: dict[Any, Any] = {}

    def pack(self, entry: Mapping[str, Any]) -> Model:
        """Returns an entry, given as a dict by the normalisers, as a `Model`."""
        model = msgspec.convert(entry, Model)
        share = self._shared.setdefault
        changes: dict[str, Any] = {
            "architecture": share(model.architecture, model.architecture),
            "pricing": share(model.pricing, model.pricing),
            "capabilities": share(model.capabilities, model.capabilities),
            "supported_parameters": share(model.supported_parameters, model.supported_parameters),
            "provider_slug": share(model.provider_slug, model.provider_slug),
            "provider_site_url": share(model.provider_site_url, model.provider_site_url),
            "source_gateway": share(model.source_gateway, model.source_gateway),
            "quantization": share(model.quantization, model.quantization),
        }
        return msgspec.structs.replace(model, **changes)

    def set_price(self, model: Model, price: Price | None) -> Model:
        """Returns the model with `price` as its price; None means unknown."""
        if price is None:
            return msgspec.structs.replace(model, pricing=_UNKNOWN_PRICING, pricing_source=None, pricing_date=None)
        if price not in self._shared:
            self._shared[price] = to_pricing(price)
        return msgspec.structs.replace(
            model, pricing=self._shared[price], pricing_source=price.source, pricing_date=price.date
        )


def to_pricing(price: Price) -> Pricing:
    """Returns a price as the decimal strings of an entry."""
    completion, cached = price.completion, price.input_cache_read
    return Pricing(
        prompt=to_plain_text(price.prompt),
        completion=None if completion is None else to_plain_text(completion),
        input_cache_read=None if cached is None else to_plain_text(cached),
    )


def to_price(pricing: Pricing, source: str, date: datetime.date) -> Price | None:
    """Returns the decimal strings of an entry as a price, or None if they do not state one."""
    if pricing.prompt is None or pricing.completion is None:
        return None
    return Price(
        prompt=Decimal(pricing.prompt),
        completion=Decimal(pricing.completion),
        input_cache_read=None if pricing.input_cache_read is None else Decimal(pricing.input_cache_read),
        source=source,
        date=date,
    )
