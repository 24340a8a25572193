"""Statements: the use of keys of a group, a holder, or all keys in a month, for passing the cost on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, Literal, TypeVar

import msgspec

from app.db import read_connection
from app.db.clock import select_now
from app.db.day_usage import KeyUsageRow, select_key_usage
from app.db.key_sums import KeyOwner, select_key_owners
from app.db.sums import Sums, sum_up
from app.runtime import get_settings
from app.services.bill.compared import Reconciliation
from app.services.bill.fetching import get_billed_providers
from app.services.bill.months import Month, choose_month
from app.services.bill.reconciliation import select_reconciliation
from app.services.reports import Owned, make_totals, normalize_usd

Group = TypeVar("Group", bound=Hashable)


class StatementRow(msgspec.Struct, frozen=True, kw_only=True):
    """The use of one key, model or day, or of a combination; a part that does not divide the rows is None.

    Tokens and costs are those of `GET /api/usage`.

    Attributes:
        key, key_name, holder: the id of a key, its name, and who has it now; the last two are None for GATEWAY_API_KEY.
        gateway, model: the provider, and the model that served; None also where none was confirmed.
        total_cost, estimated_cost: USD, exact and estimated, apart.
        sum_cost: USD, both together.
        unpriced_requests: requests without a known cost, which the costs lack.
    """

    key: str | None = None
    key_name: str | None = None
    holder: str | None = None
    day: date | None = None
    gateway: str | None = None
    model: str | None = None
    requests: int
    total_tokens: int | None
    prompt_tokens: int | None
    completion_tokens: int | None
    cached_tokens: int | None
    total_cost: Decimal | None
    estimated_cost: Decimal | None
    sum_cost: Decimal | None
    unpriced_requests: int


class StatedReconciliation(msgspec.Struct, frozen=True, kw_only=True):
    """How the bill of a provider compares with all records of the month, not only with those of the statement.

    `Reconciliation` and `Compared` say what the fields are.

    Attributes:
        settled_days: how many days of the month are settled.
        findings: how many differences are outside of the band.
    """

    gateway: str
    account: str | None
    fetched_at: datetime | None
    settled_days: int
    is_in_band: bool | None
    token_capture: float | None
    cost_capture: float | None
    price_drift: float | None
    findings: int
    problem: str | None


class Statement(msgspec.Struct, frozen=True, kw_only=True):
    """The statement of a month.

    Attributes:
        of: whose it is: "group", "holder", or "all" for all keys; `name` is that of the group or the holder.
        start, end: the first day, and the day after the last, `from` and `to` in JSON. Days are UTC.
        made_at: when it was made.
        is_final: whether the month was over then.
        total: of all rows.
        keys, models, days: the same by key, by model, and by day; the most costly first, days in their order.
        lines: by key, day and model, in this order.
        reconciliations: one for each provider whose bill the gateway can read.
    """

    of: Literal["group", "holder", "all"]
    name: str | None
    month: str
    start: date = msgspec.field(name="from")
    end: date = msgspec.field(name="to")
    made_at: datetime
    is_final: bool
    total: StatementRow
    keys: list[StatementRow]
    models: list[StatementRow]
    days: list[StatementRow]
    lines: list[StatementRow]
    reconciliations: list[StatedReconciliation]


def select_statement(month: str | None, owned: Owned | None, now: datetime | None = None) -> Statement:
    """Returns the statement of a month.

    Args:
        month: such as "2026-11"; by default yesterday's.
        owned: whose keys to include, by their current owners; None for all keys.
        now: the current time, with a timezone; by default PostgreSQL's.

    Raises:
        BadRequest: the month is invalid or has not begun.
        DatabaseError: the database is unavailable or slow.
    """
    with read_connection() as connection:
        now = (now or select_now(connection)).astimezone(UTC)
        chosen = choose_month(month, now.date())
        rows = select_key_usage(connection, first=chosen.start, last=chosen.last)
        if owned is not None:
            keys = frozenset(owned.keys)
            rows = [row for row in rows if row.key_id in keys]
        owners = select_key_owners(connection, sorted({row.key_id for row in rows}))
    return _make_statement(chosen, owned, now, rows, owners)


def _make_statement(
    month: Month, owned: Owned | None, now: datetime, rows: Sequence[KeyUsageRow], owners: Mapping[str, KeyOwner]
) -> Statement:
    keys = _sum_up(rows, lambda row: row.key_id)
    models = _sum_up(rows, lambda row: (row.gateway, row.model))
    days = _sum_up(rows, lambda row: row.day)
    lines = sorted(rows, key=lambda row: (row.key_id, row.day, row.gateway, row.model))
    providers = get_billed_providers(get_settings())
    return Statement(
        of="all" if owned is None else owned.kind,
        name=None if owned is None else owned.name,
        month=month.name,
        start=month.start,
        end=month.end,
        made_at=now.replace(microsecond=0),
        is_final=now.date() >= month.end,
        total=_make_row(sum_up(row.sums for row in rows)),
        keys=_sort([_make_row(sums, **_name(key, owners)) for key, sums in keys.items()]),
        models=_sort(
            [_make_row(sums, gateway=name[0] or None, model=name[1] or None) for name, sums in models.items()]
        ),
        days=[_make_row(days[day], day=day) for day in sorted(days)],
        lines=[
            _make_row(
                row.sums, **_name(row.key_id, owners), day=row.day, gateway=row.gateway or None, model=row.model or None
            )
            for row in lines
        ],
        reconciliations=[_state(select_reconciliation(each.name, month.name, now)) for each in providers],
    )


def _sum_up(rows: Sequence[KeyUsageRow], key: Callable[[KeyUsageRow], Group]) -> dict[Group, Sums]:
    parts: dict[Group, list[Sums]] = defaultdict(list)
    for row in rows:
        parts[key(row)].append(row.sums)
    return {group: sum_up(each) for group, each in parts.items()}


def _name(key: str, owners: Mapping[str, KeyOwner]) -> dict[str, Any]:
    owner = owners.get(key)
    return {"key": key, "key_name": owner and owner.name, "holder": owner and owner.holder}


def _make_row(sums: Sums, **by: Any) -> StatementRow:
    totals = make_totals(sums)
    costs = totals["total_cost"], totals["estimated_cost"]
    total = None if None in costs else normalize_usd(sum(costs, Decimal(0)))
    return StatementRow(**by, requests=sums.requests, **totals, sum_cost=total)


def _sort(rows: Sequence[StatementRow]) -> list[StatementRow]:
    return sorted(rows, key=lambda row: (-(row.sum_cost or Decimal(0)), -row.requests, row.key or "", row.model or ""))


def _state(report: Reconciliation) -> StatedReconciliation:
    return StatedReconciliation(
        gateway=report.gateway,
        account=report.account,
        fetched_at=report.fetched_at,
        settled_days=sum(day.billed_tokens is not None for day in report.days),
        is_in_band=report.is_in_band,
        token_capture=report.total.token_capture,
        cost_capture=report.total.cost_capture,
        price_drift=report.total.price_drift,
        findings=len(report.findings),
        problem=report.problem,
    )
