"""The field `provider` as an object: which providers may serve a request, and in which order. As at OpenRouter."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

# The criteria for comparing providers of one model; the least price and latency and the greatest throughput are best.
Sort = Literal["price", "latency", "throughput"]

# Suffixes of a model's name that set the order of its providers, as at OpenRouter.
SORT_SUFFIXES: dict[str, Sort] = {":floor": "price", ":nitro": "throughput"}

_Usd = Annotated[float, Meta(ge=0)]

# The most names in `order`, `only` and `ignore`; it bounds what a request makes the gateway remember.
MAX_PROVIDER_NAMES = 32

_Names = Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=100)], ...], Meta(max_length=MAX_PROVIDER_NAMES)]


class MaxPrice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The most that a provider may ask for, in USD per million tokens of each kind; None means no bound."""

    prompt: _Usd | None = None
    completion: _Usd | None = None


class ProviderChoice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which providers may serve a request. None is the default.

    Attributes:
        order: these come first, in this order.
        only: no others may serve it.
        ignore: these may not serve it.
        allow_fallbacks: whether, after `order` or after the best provider, others may serve it; true by default.
        sort: how those are compared that `order` does not name; the setting ROUTING_SORT by default.
        max_price: dearer ones, and those whose price is not known, may not serve it.
        require_parameters: whether a provider or a model may serve it only if it knows all fields of the request; by
            default, unknown ones are left out and named.
    """

    order: _Names | None = None
    only: _Names | None = None
    ignore: _Names | None = None
    allow_fallbacks: bool | None = None
    sort: Sort | None = None
    max_price: MaxPrice | None = None
    require_parameters: bool | None = None
