"""The report of a reconciliation, from the records and the last fetched bill. No provider is asked."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal

from app.db import Connection, read_connection
from app.db.bills import BillDayRow, BillLineRow, BillRunRow, select_bill_days, select_bill_lines, select_bill_run
from app.db.clock import select_now
from app.db.day_outcomes import select_day_outcomes
from app.db.day_usage import select_day_usage
from app.db.sums import Sums
from app.errors import BadRequest
from app.runtime import get_settings
from app.services.bill.compared import Compared, DayState, Reconciliation
from app.services.bill.comparison import Place, Sides, compare_days, compare_lines, compare_models, count_others, merge
from app.services.bill.fetching import get_billed_providers, make_unreadable
from app.services.bill.findings import Band, find_differences
from app.services.bill.months import Month, choose_month
from app.services.providers import PROVIDERS, BillSource, Provider, get_provider

# Outcomes after which the provider may not have stated the usage; output until then is billed nevertheless.
UNFINISHED = ("client_gone", "upstream_cut", "upstream_timeout", "gateway_shutdown", "lost")


def choose_provider(name: str | None) -> Provider:
    """Returns the provider with this name or, without one, the first whose bill the gateway can read, if there is one.

    Raises:
        BadRequest: there is no such provider, or it has no bill.
    """
    if name is not None:
        provider = get_provider(name, param="gateway")
        if provider.bill is None:
            raise BadRequest(
                f"The bill of {provider.title} cannot be read by programs. Use one of: {', '.join(get_bill_names())}.",
                param="gateway",
            )
        return provider
    readable = get_billed_providers(get_settings())
    return readable[0] if readable else PROVIDERS[get_bill_names()[0]]


def get_bill_names() -> list[str]:
    """Returns the names of the providers whose bills are known."""
    return [provider.name for provider in PROVIDERS.values() if provider.bill is not None]


def select_reconciliation(
    gateway: str | None = None, month: str | None = None, now: datetime | None = None
) -> Reconciliation:
    """Returns a month's last fetched bill beside the records.

    Args:
        gateway: the provider's name; by default the first whose bill can be read.
        month: such as "2026-11"; by default yesterday's.
        now: the current time, with a timezone; by default PostgreSQL's.

    Raises:
        BadRequest: the month is invalid or has not begun, or the provider has no bill.
        DatabaseError: the database is unavailable or slow.
    """
    provider = choose_provider(gateway)
    with read_connection() as connection:
        today = (now or select_now(connection)).astimezone(UTC).date()
        chosen = choose_month(month, today)
        sides = _select_sides(connection, provider, chosen.start, min(chosen.last, today))
        run = select_bill_run(connection, provider.name)
    return _make_reconciliation(provider, chosen, sides, run)


def select_days(provider: Provider, first: date, last: date) -> list[Compared]:
    """Returns some days, both ends included, in the report's comparison."""
    with read_connection() as connection:
        sides = _select_sides(connection, provider, first, last)
    return compare_days(sides, compare_lines(sides))


def _select_sides(connection: Connection, provider: Provider, first: date, last: date) -> Sides:
    assert provider.bill is not None
    rows = select_day_usage(connection, first=first, last=last)
    recorded = {(row.day, row.model): row.sums for row in rows if row.gateway == provider.name}
    unfinished: dict[Place, int] = defaultdict(int)
    for row in select_day_outcomes(connection, provider.name, UNFINISHED, first=first, last=last):
        unfinished[row.day, row.model] += row.requests
    bill_days = select_bill_days(connection, provider.name, first, last)
    days = [first + timedelta(days=number) for number in range((last - first).days + 1)]
    return Sides(
        days=days,
        states={day: get_state(provider.bill, day, bill_days.get(day)) for day in days},
        recorded=recorded,
        unfinished=unfinished,
        bill_days=bill_days,
        bill_lines=_match(provider, recorded, select_bill_lines(connection, provider.name, first, last)),
    )


def get_state(source: BillSource, day: date, row: BillDayRow | None) -> DayState:
    """Returns how complete the bill of a day was when it was fetched."""
    if row is None or row.fetched_at is None:
        return "not_fetched"
    age = row.fetched_at - datetime.combine(day + timedelta(days=1), time(), UTC)
    if age < source.tokens_settle_after:
        return "open"
    return "settled" if age >= source.costs_settle_after else "costs_open"


def _match(
    provider: Provider, recorded: Mapping[Place, Sums], lines: Sequence[BillLineRow]
) -> dict[Place, BillLineRow]:
    """Returns the lines by the records' names for the models, which may differ from those of the bill."""
    get_keys = provider.naming.get_keys
    ours = {model for _, model in recorded}
    by_key = {get_keys(model)[0]: model for model in sorted(ours) if model}
    matched: dict[Place, BillLineRow] = {}
    for line in lines:
        name = line.model
        if name and name not in ours:
            name = by_key.get(get_keys(name)[0], name)
        known = matched.get((line.day, name))
        matched[line.day, name] = line if known is None else _add(known, line)
    return matched


def _add(one: BillLineRow, other: BillLineRow) -> BillLineRow:
    costs = [line.cost_usd for line in (one, other) if line.cost_usd is not None]
    return one._replace(
        prompt_tokens=one.prompt_tokens + other.prompt_tokens,
        completion_tokens=one.completion_tokens + other.completion_tokens,
        cost_usd=sum(costs, Decimal(0)) if costs else None,
    )


def _make_reconciliation(provider: Provider, month: Month, sides: Sides, run: BillRunRow | None) -> Reconciliation:
    assert provider.bill is not None
    least, most = get_settings().reconcile_band
    band = Band(float(least), float(most))
    lines = compare_lines(sides)
    days = compare_days(sides, lines)
    settled = [day for day in days if day.billed_tokens is not None]
    total = merge(settled)
    fetched = [row.fetched_at for row in sides.bill_days.values() if row.fetched_at is not None]
    accounts = [row.account for row in sides.bill_days.values() if row.account is not None]
    requests = [line for line in sides.bill_lines.values() if line.requests is not None]
    of_answers = provider.bill.fetch is None
    return Reconciliation(
        gateway=provider.name,
        month=month.name,
        start=month.start,
        end=month.end,
        source="answers" if of_answers else "bill",
        account=accounts[-1] if accounts else None,
        fetched_at=min(fetched, default=None),
        band_from=band.least,
        band_to=band.most,
        is_in_band=is_in_band(total, band),
        total=total,
        estimated_share=_share(total.estimated_cost, total.recorded_cost),
        unfinished_share=_share(total.unfinished_requests, total.requests),
        differing_requests=sum(line.differing_requests or 0 for line in requests) if of_answers else None,
        compared_requests=sum(line.requests or 0 for line in requests) if of_answers else None,
        other_tokens=_sum_others(sides, lines, settled),
        problem=_find_problem(provider, sides, run),
        findings=find_differences(days, lines, band),
        days=days,
        models=compare_models(lines),
        lines=lines,
    )


def is_in_band(row: Compared, band: Band) -> bool | None:
    """Returns whether the captures of tokens and costs lie in the band; None if there is nothing to compare."""
    if row.token_capture is None and row.cost_capture is None:
        return False if row.recorded_tokens and row.billed_tokens == 0 else None
    return band.holds(row.token_capture) and band.holds(row.cost_capture)


def _share(part: object, whole: object) -> float | None:
    return round(float(part) / float(whole), 6) if whole else None  # type: ignore[arg-type]


def _sum_others(sides: Sides, lines: Sequence[Compared], settled: Sequence[Compared]) -> int | None:
    tagged = [day.day for day in settled if day.day is not None and sides.bill_days[day.day].tag is not None]
    if not tagged:
        return None
    accounts = {day: merge([line for line in lines if line.day == day]) for day in tagged}
    return sum(count_others(sides.bill_days[day], account) for day, account in accounts.items())


def _find_problem(provider: Provider, sides: Sides, run: BillRunRow | None) -> str | None:
    if run is not None and run.error is not None:
        return f"The last fetch failed: {run.error}"
    assert provider.bill is not None
    if not sides.bill_days:
        if not provider.bill.is_readable(get_settings()):
            return make_unreadable(provider).message
        return (
            "The bill of this month has not been fetched. `bin/gateway bill reconcile --month …` fetches it, and"
            " the gateway fetches the last days every night."
        )
    if not any(row.has_costs for row in sides.bill_days.values()):
        return (
            "The provider does not tell this key what was paid. Set"
            f" {provider.bill.key_setting} to an administrator's key."
        )
    return None
