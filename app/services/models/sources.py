"""Where each provider's list comes from and how it is read: one row a provider."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from app.errors import UpstreamError, UpstreamTimeout
from app.logs import log_event
from app.services.models.entry import Model, Packer
from app.services.models.names import (
    CHUTES_NAMING,
    DEEPINFRA_NAMING,
    FEATHERLESS_NAMING,
    FIREWORKS_NAMING,
    Naming,
)
from app.services.models.normalize import (
    Entry,
    normalize_chutes_model,
    normalize_deepinfra_model,
    normalize_featherless_model,
    normalize_fireworks_model,
)
from app.services.models.prices import normalize_fireworks_prices
from app.services.pricing.lookup import PriceTable
from app.upstream import UpstreamClient
from app.yielding import with_pauses

Page = list[Any]

# A page of 1,000 models comes in a second or two; a whole list of 22 MB in one answer within this.
_PAGE_TIMEOUT_S = 20.0

# All pages together. Featherless' 23 take about ten seconds; beyond this something is wrong, and the old list stays.
_LIST_TIMEOUT_S = 120.0

_PER_PAGE = 1_000  # The most that Featherless gives.

# Featherless' last page is known by its emptiness alone; four times its size is where we stop believing in one.
_MOST_PAGES = 100


def _fetch_whole(client: UpstreamClient) -> Iterator[Page]:
    """Yields the one page of a list that is not paged."""
    yield _page(client, client.fetch_json("/models", timeout_s=_PAGE_TIMEOUT_S))


def _fetch_paged(client: UpstreamClient) -> Iterator[Page]:
    """Yields page after page, and never ends by itself: `total_pages` counts models that are not there."""
    for number in range(1, _MOST_PAGES + 1):
        params = {"page": str(number), "per_page": str(_PER_PAGE)}
        yield _page(client, client.fetch_json("/models", params, timeout_s=_PAGE_TIMEOUT_S))
    raise UpstreamError(f"The model list of {client.title} has no end: page {_MOST_PAGES} still holds models.")


def _page(client: UpstreamClient, answer: Any) -> Page:
    if not isinstance(answer, dict) or not isinstance(answer.get("data"), list):
        raise UpstreamError(f"The model list of {client.title} is not a list.")
    page: Page = answer["data"]
    return page


def _fetch_fireworks_prices(client: UpstreamClient, timeout_s: float) -> PriceTable:
    """Fetches Fireworks' price list, which stands beside the inference API on the same host."""
    root = client.base_url.removesuffix("/inference/v1")
    rows = _page(client, client.fetch_json(root + "/v1/serverless/models", timeout_s=timeout_s))
    prices = normalize_fireworks_prices(rows, datetime.datetime.now(datetime.UTC).date())
    if not prices:
        raise UpstreamError(f"The price list of {client.title} holds no price.")
    return prices


@dataclass(frozen=True, slots=True)
class Source:
    """One provider's list.

    Attributes:
        fetch_pages: yields the list's raw entries, page by page; one without anything new is the end of a paged list.
        normalize: one raw entry → our entry.
        naming: the names its models go by.
        is_paged: whether the list takes many requests, too many to ask for one unknown name.
        fetch_prices: (client, timeout in seconds) → prices from a list of their own; None where the models carry them.
    """

    fetch_pages: Callable[[UpstreamClient], Iterator[Page]]
    normalize: Callable[[Mapping[str, Any]], Entry]
    naming: Naming
    is_paged: bool = False
    fetch_prices: Callable[[UpstreamClient, float], PriceTable] | None = None


SOURCES: dict[str, Source] = {
    "fireworks": Source(
        _fetch_whole, normalize_fireworks_model, FIREWORKS_NAMING, fetch_prices=_fetch_fireworks_prices
    ),
    "featherless": Source(_fetch_paged, normalize_featherless_model, FEATHERLESS_NAMING, is_paged=True),
    "deepinfra": Source(_fetch_whole, normalize_deepinfra_model, DEEPINFRA_NAMING),
    "chutes": Source(_fetch_whole, normalize_chutes_model, CHUTES_NAMING),
}


def fetch_models(client: UpstreamClient, source: Source, packer: Packer) -> list[Model]:
    """Fetches the whole list, each id once, in the provider's order.

    Memory is bounded by one raw page besides the models themselves.

    Raises:
        UpstreamError: one of its subclasses; also when the list is garbled, or not complete within two minutes.
    """
    models: dict[str, Model] = {}
    deadline_s = time.monotonic() + _LIST_TIMEOUT_S
    for number, page in enumerate(source.fetch_pages(client), start=1):
        before = len(models)
        _add_page(models, page, source, packer)
        if source.is_paged:
            if len(models) == before:
                break  # The page is empty; or, from a server that does not page, the same as the one before.
            log_event("catalog page", provider=client.title, page=number, models=len(models))
        if time.monotonic() > deadline_s:
            raise UpstreamTimeout(f"The model list of {client.title} did not end within {_LIST_TIMEOUT_S:.0f} s.")
    return list(models.values())


def _add_page(models: dict[str, Model], page: Page, source: Source, packer: Packer) -> None:
    unreadable = 0
    for raw in with_pauses(page):
        if not isinstance(raw, dict) or not isinstance(raw.get("id"), str) or not raw["id"]:
            unreadable += 1
        elif raw["id"] not in models:
            models[raw["id"]] = packer.pack(source.normalize(raw))
    if unreadable:
        log_event("catalog entries without an id", level="warning", count=unreadable)
