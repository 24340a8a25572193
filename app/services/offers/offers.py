"""The providers that serve one model, in the form of OpenRouter's `/api/v1/models/<id>/endpoints`.

An offer is one provider's listing under one id. The requested model comes first, then its equivalents. All data is read
from memory: the lists, the quality of the last half hour, and the circuit breakers of this process.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from app.services.inference import get_open_breaker
from app.services.models import (
    Architecture,
    Model,
    Pricing,
    Rendered,
    Served,
    get_equivalents,
    get_model_lists,
    make_digest,
    make_times,
)
from app.services.providers import Provider
from app.services.quality import Latencies, get_quality
from app.services.routing import find_model


class BreakerState(msgspec.Struct, frozen=True):
    """The circuit breaker that the model's requests meet in the worker that answers.

    Attributes:
        state: whether requests fail fast ("open").
        kind: the class of failure that opened it; None while it is closed.
        retry_in_s: seconds until the next request is tried; None while it is closed.
    """

    state: Literal["closed", "open"] = "closed"
    kind: str | None = None
    retry_in_s: float | None = None


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """One provider's offer of a model; null is unknown.

    Attributes:
        name: the provider's title and the model's name, for people.
        tag: the provider's name, which a request sends as `provider`.
        model_id: what a request sends as `model` beside it.
        max_prompt_tokens: null; no provider states one apart from the context.
        status: 0, or -1 while the circuit breaker is open.
        uptime_last_30m: the percentage of requests that were served, 0 to 100.
        latency_last_30m: milliseconds to the first token of streams.
        throughput_last_30m: null, because no percentiles of speeds are kept; `tokens_per_second` has the mean.
        error_share: the share of requests that the provider failed to serve, 0 to 1.
        ttft_ms: the median of `latency_last_30m`.
    """

    name: str
    model_id: str
    model_name: str
    provider_name: str
    tag: str
    quantization: str | None
    context_length: int | None
    max_completion_tokens: int | None
    max_prompt_tokens: int | None = None
    pricing: Pricing
    pricing_source: str | None
    supported_parameters: tuple[str, ...] | None
    status: int
    uptime_last_30m: float | None
    latency_last_30m: Latencies | None
    throughput_last_30m: None = None
    error_share: float | None
    ttft_ms: float | None
    tokens_per_second: float | None
    breaker: BreakerState


class OfferedModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model and everybody who offers it.

    Attributes:
        weights: by which its equivalents were found; null if nothing is known for certain, and then there are none.
    """

    id: str
    name: str
    created: int | None
    description: str | None
    weights: str | None
    architecture: Architecture
    endpoints: list[Offer]


def find_offered_model(name: str, providers: Sequence[Provider]) -> Served:
    """Returns the model that `name` means; of several providers that list the same one, the first.

    Args:
        name: the name as the caller wrote it.
        providers: the providers whose lists are searched.

    Raises:
        BadRequest: the name matches several models that are not the same; the message lists them.
        NotFound: it matches none; the message names the most similar ones.
        Unavailable: it matches none, and a list is missing.
    """
    lists, _ = get_model_lists(providers)
    found = [Served(provider, model) for provider, models in lists if (model := models.get(name)) is not None]
    found = found or [Served(provider, model) for provider, models in lists for model in models.find(name)]
    if len(found) > 1:
        same = get_equivalents(found[0].provider, found[0].model.id)
        if {_get_key(each) for each in found[1:]} <= {_get_key(each) for each in same}:
            return found[0]
    return Served(*find_model(name, providers))


def _get_key(served: Served) -> tuple[str, str]:
    return served.provider.name, served.model.id


def get_offers(served: Served) -> list[Offer]:
    """Returns a provider's offers for a model, followed by those of other providers for the same model.

    Args:
        served: the model, from `find_offered_model`.
    """
    same = get_equivalents(served.provider, served.model.id)
    return [_make_offer(each.provider, each.model) for each in (served, *same)]


def render_offers(served: Served) -> Rendered:
    """Returns `{"data": model with "endpoints", "fetched_at", "age_s", "stale", "timestamp"}`.

    Args:
        served: the model, from `find_offered_model`.
    """
    all_served = [served, *get_equivalents(served.provider, served.model.id)]
    model = served.model
    data = OfferedModel(
        id=model.id,
        name=model.name,
        created=model.created,
        description=model.description,
        weights=model.weights,
        architecture=model.architecture,
        endpoints=get_offers(served),
    )
    body = {"data": data, **make_times([each.provider for each in all_served])}
    return Rendered(f'W/"{make_digest(msgspec.json.encode(data))}"', msgspec.json.encode(body))


def _make_offer(provider: Provider, model: Model) -> Offer:
    quality, breaker = get_quality(provider.name, model.id), get_open_breaker(provider.name, model.id)
    share = quality.error_share
    return Offer(
        name=f"{provider.title} | {model.name}",
        model_id=model.id,
        model_name=model.name,
        provider_name=provider.title,
        tag=provider.name,
        quantization=model.quantization,
        context_length=model.context_length,
        max_completion_tokens=model.max_output_tokens,
        pricing=model.pricing,
        pricing_source=model.pricing_source,
        supported_parameters=model.supported_parameters,
        status=0 if breaker is None else -1,
        uptime_last_30m=None if share is None else round(100 * (1 - share), 3),
        latency_last_30m=quality.ttft_ms,
        error_share=None if share is None else round(share, 5),
        ttft_ms=None if quality.ttft_ms is None else quality.ttft_ms.p50,
        tokens_per_second=quality.tokens_per_second,
        breaker=BreakerState() if breaker is None else BreakerState("open", breaker.kind, breaker.retry_in_s),
    )
