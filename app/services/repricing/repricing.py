"""Computes the costs of records that have none, and writes them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from uuid import UUID

import msgspec

from app.db import Connection, read_connection, write_connection
from app.db.partitions import select_partition_days
from app.db.repricing import NewCost, UnpricedRow, count_unpriced_without_tokens, select_unpriced, update_costs
from app.runtime import get_component
from app.services.pricing import Prices, compute_cost
from app.services.repricing.price_search import FoundPrice, PriceSearch

# A page is read, priced and written in about 0.1 s.
PAGE_ROWS = 1_000

_WITHOUT_TOKENS = "tokens or model are not known"


class RepricedModel(msgspec.Struct, frozen=True, kw_only=True):
    """The cost of records of one model at one price.

    Attributes:
        gateway, model: the provider, and the model that served.
        requests: how many records.
        cost_usd: what they cost together.
        price_source: where the price is from.
        reason: why it was taken.
    """

    gateway: str
    model: str
    requests: int
    cost_usd: Decimal
    price_source: str
    reason: str


class RepriceReport(msgspec.Struct, frozen=True, kw_only=True):
    """The result of repricing or, as a dry run, what it would be.

    Attributes:
        requests, cost_usd: how many records got a cost, and what they cost together.
        models: the same by model and price, the most costly first.
        left: why others have none → how many.
    """

    requests: int
    cost_usd: Decimal
    models: list[RepricedModel]
    left: dict[str, int]


def reprice(
    start: datetime,
    end: datetime,
    gateway: str | None,
    *,
    is_dry: bool,
) -> RepriceReport:
    """Adds a cost to records that started in [start, end) and whose price was not known then.

    A record keeps its earlier values in `repriced`, and the sums follow in the same transaction. Records that already
    have a cost are not touched, so this can be repeated. It is an estimate: the record does not contain the requested
    service tier.

    Args:
        start, end: with a timezone.
        gateway: the provider that served them; None for all.
        is_dry: whether to write nothing.

    Raises:
        DatabaseError: the database is unavailable or slow. Costs written before stay.
    """
    search = PriceSearch(get_component(Prices))
    sums: dict[tuple[str, str, str, str], list[Decimal]] = {}
    left: Counter[str] = Counter()
    for first, last in _cut_window(start, end):
        after: tuple[datetime, UUID] | None = None
        while True:
            with read_connection() as connection:
                rows = select_unpriced(connection, first, last, after, PAGE_ROWS, gateway)
                priced = _price(search, connection, rows, left)
                if after is None:
                    left[_WITHOUT_TOKENS] += count_unpriced_without_tokens(connection, first, last, gateway)
            if not is_dry and priced:
                with write_connection() as connection:
                    update_costs(connection, [cost for _, cost in priced])
            for row, cost in priced:
                key = (row.gateway, row.model_served, cost.price_source, cost.reason)
                sums.setdefault(key, []).append(Decimal(cost.cost_usd))
            if len(rows) < PAGE_ROWS:
                break
            after = rows[-1].started_at, rows[-1].request_id
    return _make_report(sums, left)


def _cut_window(start: datetime, end: datetime) -> Iterator[tuple[datetime, datetime]]:
    """Yields the hours of a window that have records, because no index finds records without a cost."""
    with read_connection() as connection:
        days = select_partition_days(connection)
    for day in days:
        midnight = datetime.combine(day, time(), UTC)
        for hour in range(24):
            first, last = (midnight + timedelta(hours=each) for each in (hour, hour + 1))
            if first < end and last > start:
                yield max(first, start), min(last, end)


def _price(
    search: PriceSearch, connection: Connection, rows: list[UnpricedRow], left: Counter[str]
) -> list[tuple[UnpricedRow, NewCost]]:
    priced = []
    for row in rows:
        found = search.find(connection, row.gateway, row.model_requested, row.model_served, row.started_at)
        if isinstance(found, FoundPrice) and found.price.completion is None and row.completion_tokens:
            found = "the price does not say what output costs"
        if isinstance(found, str):
            left[found] += 1
        else:
            priced.append((row, _make_cost(row, found)))
    return priced


def _make_cost(row: UnpricedRow, found: FoundPrice) -> NewCost:
    price = found.price
    cost = compute_cost(price, row.prompt_tokens, row.cached_tokens or 0, row.completion_tokens)
    return NewCost(
        request_id=row.request_id,
        started_at=row.started_at,
        cost_usd=format(cost, "f"),
        price_source=price.source,
        price_date=None if price.date is None else price.date.isoformat(),
        reason=found.reason,
    )


def _make_report(sums: dict[tuple[str, str, str, str], list[Decimal]], left: Counter[str]) -> RepriceReport:
    models = [
        RepricedModel(
            gateway=gateway,
            model=model,
            requests=len(costs),
            cost_usd=sum(costs, Decimal()),
            price_source=source,
            reason=reason,
        )
        for (gateway, model, source, reason), costs in sums.items()
    ]
    models.sort(key=lambda each: (-each.cost_usd, each.gateway, each.model))
    return RepriceReport(
        requests=sum(each.requests for each in models),
        cost_usd=sum((each.cost_usd for each in models), Decimal()),
        models=models,
        left={reason: count for reason, count in left.most_common() if count},
    )
