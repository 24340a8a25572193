"""The statistics of single models, endpoints and gateways in a window, most requests first; models are bounded."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

import msgspec

from app.db.rollups import EndpointRow, GatewayRow, ModelRow
from app.db.sums import Sums, sum_up
from app.services.reports.totals import compute_speed, make_totals

# More models than the users of a gateway seriously use. The others are summed in one entry with this name.
MAX_MODELS = 100
OTHER_MODELS = "other"

# The most models in each step of a series; a chart with more cannot be read.
MAX_TOP_MODELS = 20


class ModelStats(msgspec.Struct, frozen=True, kw_only=True):
    """Statistics of one model in a window.

    Attributes:
        model: the id of the model; None for requests whose model neither a list nor a response confirmed, and
            OTHER_MODELS for all models after the first MAX_MODELS.
        models: how many models the entry stands for: 1, 0 for None, and more for OTHER_MODELS.
        errors: requests with another outcome than ok.

    Tokens and costs are those of `totals.make_totals`.
    """

    model: str | None
    models: int
    requests: int
    errors: int
    total_tokens: int | None
    prompt_tokens: int | None
    completion_tokens: int | None
    cached_tokens: int | None
    total_cost: Decimal | None
    estimated_cost: Decimal | None
    unpriced_requests: int
    avg_speed_tokens_per_sec: float | None


class EndpointStats(msgspec.Struct, frozen=True, kw_only=True):
    """Statistics of one endpoint in a window.

    Attributes:
        endpoint: the path of its route.
        errors: requests with another outcome than ok.

    Tokens and costs are those of `totals.make_totals`.
    """

    endpoint: str
    requests: int
    errors: int
    total_tokens: int | None
    prompt_tokens: int | None
    completion_tokens: int | None
    cached_tokens: int | None
    total_cost: Decimal | None
    estimated_cost: Decimal | None
    unpriced_requests: int


class GatewayStats(msgspec.Struct, frozen=True, kw_only=True):
    """Statistics of one gateway in a window.

    Attributes:
        gateway: the provider's name; None for requests for which none was chosen.
        errors: requests with another outcome than ok.

    Tokens and costs are those of `totals.make_totals`.
    """

    gateway: str | None
    requests: int
    errors: int
    total_tokens: int | None
    prompt_tokens: int | None
    completion_tokens: int | None
    cached_tokens: int | None
    total_cost: Decimal | None
    estimated_cost: Decimal | None
    unpriced_requests: int
    avg_speed_tokens_per_sec: float | None


def make_gateways(rows: Sequence[GatewayRow]) -> list[GatewayStats]:
    """Returns the entries of `gateways`, in the order of the rows; there are few providers."""
    return [
        GatewayStats(
            gateway=gateway or None,
            requests=sums.requests,
            errors=sums.requests - sums.ok_requests,
            **make_totals(sums),
            avg_speed_tokens_per_sec=compute_speed(sums),
        )
        for gateway, sums in rows
    ]


def make_endpoints(rows: Sequence[EndpointRow]) -> list[EndpointStats]:
    """Returns the entries of `endpoints`, in the order of the rows; the gateway has few endpoints."""
    return [
        EndpointStats(
            endpoint=endpoint,
            requests=sums.requests,
            errors=sums.requests - sums.ok_requests,
            **make_totals(sums),
        )
        for endpoint, sums in rows
    ]


def make_models(rows: Sequence[ModelRow]) -> list[ModelStats]:
    """Returns the entries of `models`: MAX_MODELS models, one for the others, and one for requests without a model."""
    others = [row for row in rows if row.model][MAX_MODELS:]
    hidden = {row.model for row in others}
    entries = [
        _make_model_stats(row.model or None, int(bool(row.model)), row.sums) for row in rows if row.model not in hidden
    ]
    if others:
        entries.append(_make_model_stats(OTHER_MODELS, len(others), sum_up(row.sums for row in others)))
    return entries


def _make_model_stats(model: str | None, models: int, sums: Sums) -> ModelStats:
    return ModelStats(
        model=model,
        models=models,
        requests=sums.requests,
        errors=sums.requests - sums.ok_requests,
        **make_totals(sums),
        avg_speed_tokens_per_sec=compute_speed(sums),
    )
