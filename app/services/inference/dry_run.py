"""A dry run: describes the outcome of a request without sending, reserving or recording anything.

It runs the pipeline's steps up to the sending, so a real request would meet the same outcome.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any, cast
from urllib.parse import urlsplit

import msgspec

from app.metrics import count_dry_run
from app.runtime import Component, Runtime
from app.services.endpoints import Endpoint
from app.services.inference.adaptation import UpstreamRequest
from app.services.inference.ceiling import make_ceiling
from app.services.inference.circuit_breaker import CircuitBreakers
from app.services.inference.exchange import Exchange
from app.services.inference.limited import LimitedRequest
from app.services.inference.pipeline import Pipeline
from app.services.journal import ActivityRecord
from app.services.limits import Binding, LimitWaiting, Policy, format_amount
from app.services.models import get_catalog_states
from app.services.pricing import Price, to_plain_text

_NO_LIMITS = Policy(subjects=(), models=(), max_output_tokens=None)


class DryPrice(msgspec.Struct, frozen=True):
    """A price in USD per token, as texts like those of the catalog; see Price."""

    prompt: str
    completion: str | None
    input_cache_read: str | None
    source: str
    date: str | None


class DryTarget(msgspec.Struct, frozen=True, kw_only=True):
    """A target that the request may be sent to.

    Attributes:
        provider, model: where, and the model's id there.
        path: the path at the provider; its host is the operator's matter.
        headers: those of the caller that would be passed on.
        body: what would be sent, byte for byte.
        stream: whether the provider is asked for a stream.
        dropped, applied: as in `x-gateway-dropped-params` and `x-gateway-applied-params`.
        context_length: how many tokens the model's context has; None if that is not known.
        price: None if it is not known.
        prompt_tokens_estimate: an estimate of the prompt.
        prompt_tokens_bound, output_tokens_bound: the most that the provider can count; None if nothing bounds them.
        ceiling_usd, ceiling_tokens: the most that one attempt can cost and use, which budgets reserve; None if a bound
            or the price is missing.
        fails_fast: whether a circuit breaker would refuse the request here now.
        catalog_age_s: seconds since this worker fetched the provider's list of models; None without a list.
    """

    provider: str
    model: str
    path: str
    headers: dict[str, str]
    body: msgspec.Raw
    stream: bool
    dropped: list[str]
    applied: list[str]
    context_length: int | None
    price: DryPrice | None
    prompt_tokens_estimate: int
    prompt_tokens_bound: int | None
    output_tokens_bound: int | None
    ceiling_usd: Decimal | None
    ceiling_tokens: int | None
    fails_fast: bool
    catalog_age_s: float | None


class LeftOut(msgspec.Struct, frozen=True):
    """A target, or the name of a model without one, that would not be tried; `error` says why."""

    provider: str | None
    model: str
    error: str


class DryRun(msgspec.Struct, frozen=True, kw_only=True):
    """The way that a request would take.

    Attributes:
        endpoint: the path that was called.
        model: the model as it was requested.
        stream: whether the caller would get a stream.
        targets: at least one, in the order in which failures would lead from one to the next.
        left_out: the others.
        budgets: what is left of the key's budgets, as in GET /v1/key; [] without any; None while the database is away.
    """

    object: str = "gateway.dry_run"
    endpoint: str
    model: str | None
    stream: bool
    targets: list[DryTarget]
    left_out: list[LeftOut]
    budgets: list[Any] | None = []


class _Unreserved(LimitedRequest):
    """Limits of a dry run: reserves nothing, but computes the ceilings like a real request."""

    __slots__ = ()

    def reserve_for(self, endpoint: Endpoint, request: UpstreamRequest, record: ActivityRecord) -> None:
        """Takes nothing."""
        policy = self.binding.policy
        if any(each.budgets or each.tokens_per_minute is not None for each in policy.subjects):
            make_ceiling(policy, endpoint, request)


class DryRuns(Component):
    """Describes requests with the components of this process."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self._pipeline = runtime.get(Pipeline)
        self._breakers = runtime.get(CircuitBreakers)

    def describe(self, exchange: Exchange, read_body: Callable[[], bytes]) -> DryRun:
        """Returns the outcome that a request would have. It has no record; the caller sets `budgets`.

        Args:
            exchange: the request; it ends here.
            read_body: as in `Pipeline.serve`.

        Raises:
            GatewayError: the request would be refused before it is sent.
        """
        pipeline, policy, record = self._pipeline, exchange.policy, exchange.record
        exchange.is_dry_run = True
        count_dry_run(exchange.endpoint.path)
        try:
            pipeline.admission.admit(exchange)
            if policy is not None:
                # A binding without pots, so nothing is taken from any.
                exchange.limited = _Unreserved(cast(LimitWaiting, None), Binding(policy, [], [], []), [])
            body, fields = pipeline.read(exchange, read_body)
            requests = [pipeline.select(exchange, body, fields), *pipeline.selection.take_others(exchange)]
            return DryRun(
                endpoint=exchange.endpoint.path,
                model=record.model_requested,
                stream=record.stream,
                targets=[self._describe(exchange, request) for request in requests],
                left_out=[
                    LeftOut(each["provider"], each["model"], each["error"]) for each in record.attempts if each["error"]
                ],
            )
        finally:
            exchange.withdraw()

    def _describe(self, exchange: Exchange, request: UpstreamRequest) -> DryTarget:
        target, endpoint = request.target, exchange.endpoint
        ceiling = make_ceiling(_NO_LIMITS, endpoint, request)
        prompt, _, output, _ = endpoint.bound_tokens(request.body, len(request.content), target.context_length)
        return DryTarget(
            provider=target.provider.name,
            model=target.model,
            path=urlsplit(request.path).path,
            headers=request.headers,
            body=msgspec.Raw(request.content),
            stream=request.stream,
            dropped=request.dropped,
            applied=request.applied,
            context_length=target.context_length,
            price=None if request.price is None else _describe_price(request.price),
            prompt_tokens_estimate=request.prompt_tokens_estimate,
            prompt_tokens_bound=prompt,
            output_tokens_bound=output,
            ceiling_usd=None if ceiling.cost is None else Decimal(format_amount(ceiling.cost, "usd")).normalize(),
            ceiling_tokens=ceiling.tokens,
            fails_fast=self._breakers.is_open(target.provider.name, target.model, exchange.record.key_id),
            catalog_age_s=get_catalog_states()[target.provider.name].age_s,
        )


def _describe_price(price: Price) -> DryPrice:
    completion, cached = price.completion, price.input_cache_read
    return DryPrice(
        prompt=to_plain_text(price.prompt),
        completion=None if completion is None else to_plain_text(completion),
        input_cache_read=None if cached is None else to_plain_text(cached),
        source=price.source,
        date=None if price.date is None else price.date.isoformat(),
    )
